"""A plan: which federation, under which defences, audited how. All of it is checked at the start."""

import hashlib
import json
import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from fl_privacy_audit.attacks import make_attack
from fl_privacy_audit.core.config import AUTO, AuditConfig
from fl_privacy_audit.core.errors import AuditError, ConfigError
from fl_privacy_audit.core.types import OPTIONS, Checked, Option, Options
from fl_privacy_audit.defences import DEFENCES, make_defence
from fl_privacy_audit.simulate.federation.config import DATA, IMAGE, FederationConfig

UPDATE_UNITS = ("std", "scale", "norm", "clip_norm", "clipping_norm", "sensitivity")
"""Options of defences that are lengths in the units of the update."""
BY_THE_SWEEP = ("directory", "setting", "image", "training", "defence", "seed", "claim")
"""Keys of an audit that the sweep fills in."""
OWN_KEYS = (
    *("seed", "num_rounds", "noise_multiplier", "max_grad_norm"),
    *("reproducible_noise", "defence", "defence_options"),
)
"""Keys of the federation that a plan sets elsewhere."""


class DefencePlan(Checked):
    """One defence of a plan."""

    label: str = Field(min_length=1)  # its name in tables; its folder is named after it
    name: str  # its name in the table of defences
    options: Options = Field(default_factory=dict, validation_alias=OPTIONS)  # of the defence
    # Unit of the lengths in `options`. ``"update"``: the update as it leaves the client.
    # ``"gradient"``: the gradient of one step of local SGD; lengths are multiplied by the learning
    # rate.
    unit: Literal["update", "gradient"] = "update"


class Plan(Checked):
    """What a plan file holds."""

    # ``clients``, ``rounds``, and any field of `FederationConfig` not in `OWN_KEYS`.
    federation: dict[str, Option] = Field(default_factory=dict)
    # Any field of `AuditConfig` not in `BY_THE_SWEEP`.
    audit: dict[str, Any] = Field(default_factory=dict)
    # A whole set of runs for each; seeds data, weights, batches, noise and attacks.
    seeds: tuple[int, ...] = (0,)
    defence: tuple[DefencePlan, ...] = Field(min_length=1)  # the defences to compare


@dataclass(frozen=True, kw_only=True)
class Run:
    """One federation under one defence and one seed."""

    folder: Path  # its folder, relative to that of the sweep
    federation: FederationConfig  # the federation
    clients: int  # number of clients
    audit: AuditConfig  # its audit; the directory is filled in when it starts

    @property
    def label(self) -> str:
        """Its name in tables."""
        return self.audit.setting

    def to_json(self) -> dict[str, Any]:
        """Everything that decides the result."""
        return {
            "settings": self.federation.model_dump(),
            "clients": self.clients,
            "audit": self.audit.model_dump(mode="json", exclude={"directory"}),
        }

    @property
    def digest(self) -> str:
        """Fingerprint of `to_json`: tells whether a finished run is the one that the plan wants."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_plan(path: str | Path) -> list[Run]:
    """The runs of a plan file, as `plan_runs` gives them; ConfigError if it cannot be read."""
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"the plan {path} cannot be read: {error}") from error
    return plan_runs(data)


def plan_runs(data: Mapping[str, Any]) -> list[Run]:
    """The runs of a plan, seed by seed.

    Raises:
        ConfigError: With one line for each thing that is wrong.
    """
    try:
        plan = Plan.model_validate(dict(data))
    except ValidationError as error:
        raise _wrong([_explain(problem) for problem in error.errors()]) from None
    problems = _unlike(plan)
    runs: list[Run] = []
    for seed in plan.seeds:
        for defence in plan.defence:
            try:
                runs.append(_run(plan, defence, seed))
            except (AuditError, ValueError) as error:
                problems.append(f"{defence.label!r}: {_one_line(error)}")
    if problems:
        raise _wrong(list(dict.fromkeys(problems)))
    return runs


def _run(plan: Plan, defence: DefencePlan, seed: int) -> Run:
    values = dict(plan.federation)
    clients, rounds = values.pop("clients", 6), values.pop("rounds", 60)
    for name, value in (("clients", clients), ("rounds", rounds)):
        if type(value) is not int or value < 1:
            raise ConfigError(f"`federation.{name}` must be a whole number from 1, but got {value}")
    values |= {"num_rounds": rounds, "seed": seed, "reproducible_noise": True}
    base = FederationConfig.model_validate(values)
    options = _options(base, defence, int(clients))
    federation = FederationConfig.model_validate(values | _defence_keys(defence.name, options))
    audit = AuditConfig.build(
        {
            "data": DATA[base.dataset],
            **plan.audit,
            "setting": defence.label,
            "image": IMAGE,
            "training": federation.known_training,
            "defence": {"name": defence.name, "options": options},
            "claim": _claim(defence.name, options, base),
            "seed": seed,
        }
    )
    for attack in audit.attacks:
        if attack.name != AUTO:
            make_attack(attack.name, attack.options)
    folder = Path(_slug(defence.label))
    return Run(
        folder=Path(f"seed-{seed}") / folder if len(plan.seeds) > 1 else folder,
        federation=federation,
        clients=int(clients),
        audit=audit,
    )


def _options(base: FederationConfig, defence: DefencePlan, clients: int) -> dict[str, Option]:
    """The options of the defence in units of the update, checked against the table."""
    options = dict(defence.options)
    if defence.unit == "gradient":
        if base.local_steps > 1:
            raise ConfigError(
                "`unit` gradient is that of one local step; give lengths in units of the update"
            )
        for name in set(UPDATE_UNITS) & set(options):
            value = options[name]
            if isinstance(value, int | float):
                options[name] = value * base.learning_rate
    if defence.name in DEFENCES and DEFENCES[defence.name].where == "Flower's wrapper":
        options.setdefault("num_sampled_clients", clients)
    make_defence(defence.name, options)
    return options


def _defence_keys(name: str, options: dict[str, Option]) -> dict[str, Option]:
    """A defence as the federation takes it."""
    if name == "dp-sgd":
        return {"max_grad_norm": 1.0, **options}
    text = ", ".join(f"{option}={_text(value)}" for option, value in options.items())
    return {"defence": name, "defence_options": text}


def _claim(name: str, options: Options, base: FederationConfig) -> dict[str, Any] | None:
    """The fields of `ClaimConfig` for the audit to check; None for a defence that claims nothing.

    Every client takes part in every round, with a fixed number of images.
    """
    claim: dict[str, Any]
    if name == "dp-sgd":
        # Norm and noise are those of `training`. Every step is counted in full: see `train`.
        claim = {"mechanism": "dp-sgd", "delta": base.delta, "accountant": "persistent"}
    elif name == "local-dp":
        claim = {key: options[key] for key in ("delta", "epsilon", "clipping_norm", "sensitivity")}
        claim |= {"mechanism": "local-gaussian", "epsilon_covers": "round"}
        claim |= {"accountant": "per-round"}
    elif name in ("client-clipping", "server-clipping"):
        claim = {key: options[key] for key in ("clipping_norm", "noise_multiplier")}
        claim |= {"mechanism": "central-gaussian", "delta": base.delta}
        claim |= {
            "sampled_clients": options["num_sampled_clients"],
            "clipped_by": name.removesuffix("-clipping"),
        }
    else:
        return None
    return {**claim, "sampling": "fixed"}


def _unlike(plan: Plan) -> list[str]:
    """What would make runs that cannot be compared, or sets a thing twice."""
    known = {*FederationConfig.model_fields, "clients", "rounds"}
    problems = [
        f"`federation.{key}` is set by the plan: see `seeds`, `rounds`, defences"
        if key in OWN_KEYS
        else f"`federation.{key}` is not a key of the federation"
        for key in plan.federation
        if key in OWN_KEYS or key not in known
    ]
    if plan.federation.get("sampling", "fixed") != "fixed":
        problems.append(
            "`federation.sampling` must be 'fixed': Poisson sampling draws other images under "
            "DP-SGD than without, and the runs could not be compared"
        )
    problems += [
        f"`audit.{key}` is filled in by the sweep" for key in plan.audit if key in BY_THE_SWEEP
    ]
    slugs = Counter(_slug(defence.label) for defence in plan.defence)
    problems += [
        f"two defences go to the folder {slug!r}; set their labels apart"
        for slug, count in slugs.items()
        if count > 1
    ]
    if not plan.seeds or len(set(plan.seeds)) < len(plan.seeds):
        problems.append(f"`seeds` must be different numbers, but got {list(plan.seeds)}")
    return problems


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", label.lower()).strip("-.") or "defence"


def _text(value: Option) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _explain(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden" and problem["loc"][0] == "defence":
        return (
            f"`{place}` is no part of a defence: its options go into `options`, and the "
            "federation is the same for all, or the runs could not be compared"
        )
    if problem["type"] == "extra_forbidden":
        return f"`{place}` is not a part of a plan; there are federation, audit, seeds, defence"
    if problem["type"] == "missing":
        return f"`{place}` is missing"
    return f"`{place}`: {problem['msg']}, got {problem['input']!r}"


def _one_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(map(_explain, error.errors()))
    first, *rest = str(error).splitlines()
    return "; ".join([first, *(line.strip() for line in rest)]).replace(":;", ":")


def _wrong(problems: list[str]) -> ConfigError:
    return ConfigError("the plan is wrong:\n  " + "\n  ".join(problems))
