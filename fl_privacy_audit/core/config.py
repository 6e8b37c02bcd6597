"""The settings of an audit: from Python, a TOML file, or a Flower run config."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from .config_text import elsewhere, explain, listed, read_options
from .errors import ConfigError
from .profiles import PROFILES, Profile
from .types import OPTIONS, Checked, ControlKind, ImageSpec, LocalTraining, Options, View

# As settings of an audit they are called this.
ImageConfig = ImageSpec
TrainingConfig = LocalTraining

RUN_CONFIG_PREFIX = "audit."
ALL_CONTROLS: tuple[ControlKind, ...] = get_args(ControlKind)
LISTS = ("attacks", "views", "controls")
"""Settings that are lists, and may be written as one text with commas between."""

AUTO = "auto"
"""In place of an attack's name: those that fit each update; see `fl_privacy_audit.attacks.choose`."""


class Chosen(Checked):
    """A row of a table, and options for it.

    Attributes:
        name: Its name in the table.
        options: Its keyword arguments; also as text, ``"std=1e-3"``. `settings` before version 0.3.
    """

    name: str
    options: Options = Field(default_factory=dict, validation_alias=OPTIONS)

    @field_validator("options", mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return read_options(value) if isinstance(value, str) else value


class AttackConfig(Chosen):
    """An attack from ``fl-privacy-audit attacks`` and the options that differ from its paper's, or `AUTO`."""

    @model_validator(mode="after")
    def _auto_has_no_options(self) -> Self:
        if self.name == AUTO and self.options:
            raise ValueError(f"`{AUTO}` takes no options; name the attack that they are for")
        return self


DP_SGD = ("max_grad_norm", "noise_multiplier")
"""Figures of DP-SGD, both of training and of the defence."""
Executor = Literal["inline", "process", "ray"]
Choose = Literal["random", "risk"]
Mechanism = Literal["dp-sgd", "local-gaussian", "central-gaussian"]
Span = Literal["run", "round"]
Neighbours = Literal["add-or-remove", "replace-one"]
Sampling = Literal["poisson", "fixed", "unknown"]
Accountant = Literal["persistent", "per-round", "unknown"]
Clipper = Literal["client", "server"]


class ClaimConfig(Checked):
    """What the federation claims of differential privacy, and how it gets there.

    `fl_privacy_audit.dp.DpClaim` has the same fields. What is left out here is taken from the
    audit's other settings or from the ledger, else from the defaults of that class.

    Attributes:
        mechanism: ``"dp-sgd"``, ``"local-gaussian"`` or ``"central-gaussian"``.
        delta: Strictly between zero and one.
        epsilon: The epsilon claimed; leave out if none is.
        epsilon_covers: The whole ``"run"``, or one ``"round"``.
        neighbours: What the claim calls neighbours.
        clipping_norm: By default ``training.max_grad_norm``.
        noise_multiplier: By default ``training.noise_multiplier``.
        sigma: Noise standard deviation, for local noise.
        sensitivity: What the noise was scaled to, if not to the clipping norm.
        sample_rate: Share of records in a step, or of clients in a round.
        sampling: How records or clients are drawn.
        steps_per_round: By default ``training.steps``, for DP-SGD.
        accountant: Whether one accountant counts all rounds.
        sampled_clients: Clients per round that central noise was scaled to.
        clipped_by: Who clips, for central DP.
    """

    mechanism: Mechanism = "dp-sgd"
    delta: float = Field(gt=0, lt=1)
    epsilon: float | None = Field(default=None, gt=0)
    epsilon_covers: Span = "run"
    neighbours: Neighbours = "add-or-remove"
    clipping_norm: float | None = Field(default=None, gt=0)
    noise_multiplier: float | None = Field(default=None, ge=0)
    sigma: float | None = Field(default=None, ge=0)
    sensitivity: float | None = Field(default=None, ge=0)
    sample_rate: float = Field(default=1.0, gt=0, le=1)
    sampling: Sampling = "unknown"
    steps_per_round: int | None = Field(default=None, ge=1)
    accountant: Accountant = "unknown"
    sampled_clients: int | None = Field(default=None, ge=1)
    clipped_by: Clipper = "client"


class DefenceConfig(Chosen):
    """The clients' defence as far as the attacker knows it, a row of `DEFENCES`: attacks adapt."""

    name: str = "none"


class CanaryConfig(Checked):
    """The canaries: public images on which the clients' app is replayed beside the server.

    Attributes:
        folder: Pictures in one sub-folder for each class, or with a table ``labels.csv`` of the columns
            ``file`` and ``label``; None for crops of the photographs that scikit-image ships. Classes
            are the sub-folders in order, by number where they are numbers.
        replays: Replays in each round that is due, each on images of its own.
        images: Images that a replayed client holds; by default as many as one trains on in a round, as
            far as that is known, and at most 256.
        clients: Clients of each round whose updates are replaced by canary clients, to measure what
            central differential privacy gives. **It changes training**; by default none are.
    """

    folder: Path | None = None
    replays: int = Field(default=2, ge=1, le=1000)
    images: int | None = Field(default=None, ge=1)
    clients: int | None = Field(default=None, ge=8, le=1000)

    @field_validator("folder", mode="after")
    @classmethod
    def _at_home(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser()


class AuditConfig(Checked):
    """Everything an audit needs to know. Unknown keys are refused.

    Attributes:
        image: Shape and normalisation of the training images.
        directory: Where the ledger goes; ``~`` is your home. Inside ``flwr run`` give an absolute
            path: the working directory is that of the first SuperLink, not yours.
        setting: Label of this run in tables: ``"no defence"``, ``"DP-SGD z=1"``.
        data: What the clients' images show, in a few words; it stands in the report.
        tester: Who tests: a person or a body; it stands in the report.
        retest_days: After how many days the report says to test again.
        profile: ``"smoke"``, ``"standard"`` or ``"thorough"`` fix attacks, rounds, controls and seed
            together, see `PROFILES`; a smoke run gets no verdict. What is set besides counts, and is said.
        attacks: Which attacks to run: names, a bare one takes the paper's options, or a table of
            name to options. ``"auto"`` stands for whichever fit each update, and may stand beside
            others.
        metrics: Which scores to compute, by name; see `fl-privacy-audit metrics`.
        every: Attack every N rounds, starting with round 1.
        clients_per_round: Number of clients to attack in such a round; ``"all"`` or None for all.
        choose: Which clients those are: drawn at ``"random"``, or those whose updates look as if they tell
            most, by ``"risk"``; what is found of the latter holds for no others.
        seed: Draws the clients and seeds the attacks.
        seconds_per_round: Time budget of one round, shared evenly by clients and attacks: for attacks,
            controls, scores and the replay check. What is not done by then is left out, and the record
            says so. An attack from elsewhere that does not return cannot be stopped.
        device: ``"auto"`` takes the GPU if there is one.
        threads: CPU threads of an attack. One is fastest beside busy clients.
        training: What is known of local training.
        views: ``"server"``: each client's update, as the server receives it. ``"release"``: what
            the aggregate that becomes the next global model tells about the images of all clients
            together. ``"canary"``: the update that the clients' own app makes of public images, when it
            is replayed beside the server. Each view gets an even share of the time budget.
        canary: Which public images, and how many replays.
        controls: Controls that a verdict needs, run for each attacked record whose truth is known:
            ``true`` for all, ``false`` for none, or a list of kinds. They are the same attack on
            something else, and share its time budget.
        claim: What the federation claims of differential privacy, to be checked.
        defence: What is known of the clients' defence; a bare name takes its usual options.
        keep_pictures: Write reconstructions beside the ledger. They are personal data.
        fail_fast: Raise when an audit fails, instead of recording it. Attacks then run inline.
        executor: Where attacks run. ``"process"``: in a worker beside the server, from a spool;
            ``"ray"``: likewise, on a Ray cluster; ``"inline"``: in the round, which waits.
        ray_address: Of the cluster; by default that of this process, else one of its own.
        ray_gpus: What one of its tasks takes of a GPU.
        spool_bytes: How much the spool may hold; what is due beyond that is not tested.
        at_end: Wait at the end of a run for what is in the spool, or leave it for ``attack``.
        keep_captures: Keep the spool for attacks to come. Images can be rebuilt from it.
    """

    image: ImageSpec
    directory: Path = Path("audit")
    setting: str = "audit"
    data: str | None = None
    tester: str | None = None
    retest_days: int = Field(default=365, ge=1, le=36500)
    profile: Profile | None = None
    attacks: tuple[AttackConfig, ...] = (AttackConfig(name=AUTO),)
    metrics: tuple[str, ...] = ("semsim", "recognised", "lpips", "mse", "psnr", "ssim")
    every: int = Field(default=1, ge=1)
    clients_per_round: int | None = Field(default=1, ge=1)
    choose: Choose = "random"
    seed: int = Field(default=0, ge=0)
    seconds_per_round: float = Field(default=60.0, gt=0)
    device: str = "auto"
    threads: int = Field(default=1, ge=1)
    training: LocalTraining = LocalTraining()
    views: tuple[View, ...] = ("server",)
    canary: CanaryConfig = CanaryConfig()
    controls: tuple[ControlKind, ...] = ALL_CONTROLS
    claim: ClaimConfig | None = None
    defence: DefenceConfig = DefenceConfig()
    keep_pictures: bool = False
    fail_fast: bool = False
    executor: Executor = "process"
    ray_address: str | None = None
    ray_gpus: float = Field(default=0.0, ge=0)
    spool_bytes: int = Field(default=2 * 10**9, ge=0)
    at_end: Literal["wait", "leave"] = "wait"
    keep_captures: bool = False

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        if isinstance(data, dict):
            profile = data.get("profile")
            data = {**(PROFILES.get(profile, {}) if isinstance(profile, str) else {}), **data}
            data = {k: listed(v) if k in LISTS else v for k, v in data.items()}
            attacks = data.get("attacks")
            if isinstance(attacks, Mapping):
                attacks = [
                    {"name": name, **(more if isinstance(more, Mapping) else {"options": more})}
                    for name, more in attacks.items()
                ]
            if isinstance(attacks, list | tuple):
                data["attacks"] = [{"name": a} if isinstance(a, str) else a for a in attacks]
            if isinstance(data.get("controls"), bool):
                data["controls"] = ALL_CONTROLS if data["controls"] else ()
        return data

    @field_validator("directory", mode="after")
    @classmethod
    def _at_home(cls, value: Path) -> Path:
        return value.expanduser()

    @field_validator("metrics", mode="before")
    @classmethod
    def _metric_names(cls, value: Any) -> Any:
        names = value.split(",") if isinstance(value, str) else value
        if not isinstance(names, (list, tuple)) or not names:
            raise ValueError("`metrics` must name at least one metric")
        return tuple(dict.fromkeys(n.strip() if isinstance(n, str) else n for n in names))

    @field_validator("defence", mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("clients_per_round", mode="before")
    @classmethod
    def _all_clients(cls, value: Any) -> Any:
        return None if value == "all" else value

    @field_validator("views", "controls", mode="after")
    @classmethod
    def _once(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(values))

    @model_validator(mode="after")
    def _has_views(self) -> Self:
        if not self.views:
            raise ValueError('`views` must name "server", "release" or "canary"')
        return self

    @model_validator(mode="after")
    def _has_attacks(self) -> Self:
        names = [attack.name for attack in self.attacks]
        twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        if twice:
            raise ValueError(
                f"`attacks` names {twice[0]!r} twice; audit once for each of its options"
            )
        if not self.attacks:
            raise ValueError(
                "`attacks` must name at least one attack; see `fl-privacy-audit attacks`"
            )
        return self

    @model_validator(mode="after")
    def _dp_sgd_is_told_once(self) -> Self:
        """In `training` or in the options of `defence`: attacks adapt to the one, claims to both."""
        if self.defence.name != "dp-sgd":
            return self
        options, training = self.defence.options, self.training
        figures = {name: options[name] for name in DP_SGD if name in options}
        for name in DP_SGD:
            value = getattr(training, name)
            if value is not None and figures.setdefault(name, value) != value:
                raise ValueError(
                    f"`{name}` is {value:g} in `training` and {figures[name]} in the options of "
                    "`defence`: clients have one"
                )
        if "noise_multiplier" not in figures:
            raise ValueError(
                "`defence` is dp-sgd, so `training` needs `max_grad_norm` and `noise_multiplier`: "
                "attacks adapt to those"
            )
        figures.setdefault("max_grad_norm", 1.0)
        told = self.defence.model_copy(update={"options": {**options, **figures}})
        object.__setattr__(self, "defence", told)
        object.__setattr__(self, "training", training.replace(**figures))
        return self

    @property
    def profile_changes(self) -> list[str]:
        """Settings that differ from what the profile fixes."""
        if self.profile is None:
            return []
        fixed = type(self).build({"image": self.image, "profile": self.profile})
        return [n for n in PROFILES[self.profile] if getattr(self, n) != getattr(fixed, n)]

    def attacked_by(self, ray: str | None) -> Self:
        """The same, attacked on the Ray cluster of this address; by workers beside this process if None."""
        if ray is None:
            return self.replace(executor="process")
        return self.replace(executor="ray", ray_address=ray)

    @classmethod
    def build(cls, settings: Mapping[str, Any]) -> Self:
        """Check a mapping of settings.

        Raises:
            ConfigError: With one line for each thing that is wrong.
        """
        try:
            return cls.model_validate(dict(settings))
        except ValidationError as error:
            raise ConfigError(explain(error)) from None

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """Read a TOML file whose top-level keys are the attributes above.

        Args:
            path: Under ``flwr run`` the app's files lie beside its modules, not in the working
                directory: ``Path(__file__).parents[1] / "audit.toml"``.

        Raises:
            ConfigError: The file cannot be read, or a setting is wrong.
        """
        try:
            settings = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(
                f"the audit settings in {path} cannot be read: {error}{elsewhere(path, error)}"
            ) from error
        return cls.build(settings)

    @classmethod
    def from_run_config(cls, run_config: Mapping[str, Any]) -> Self:
        """Read the keys of a Flower run config that start with ``audit.``.

        Flower's run config is flat and holds no lists, so ``audit.image.mean`` and its like are
        written as numbers with commas between, ``"0.5, 0.5, 0.5"``, and options as
        ``audit.attacks.NAME.options = "steps=300"``.

        Raises:
            ConfigError: A setting is wrong or missing.
        """
        settings: dict[str, Any] = {}
        for key, value in run_config.items():
            if not key.startswith(RUN_CONFIG_PREFIX):
                continue
            *rooms, leaf = key.removeprefix(RUN_CONFIG_PREFIX).replace("-", "_").split(".")
            place = settings
            for room in rooms:
                place = place.setdefault(room, {})
                if not isinstance(place, dict):
                    raise ConfigError(f"the run config sets both `{room}` and keys below it")
            if isinstance(place.get(leaf), dict):
                raise ConfigError(f"the run config sets both `{leaf}` and keys below it")
            in_list = rooms == ["image"] and isinstance(value, str)
            place[leaf] = [part.strip() for part in value.split(",")] if in_list else value
        return cls.build(settings)
