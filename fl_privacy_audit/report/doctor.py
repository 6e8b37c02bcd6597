"""``fl-privacy-audit doctor``: what an audit lacks for a verdict, before anything is trained."""

import contextlib
import copy
import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click
import torch
from torch import nn

from fl_privacy_audit.audit import Auditor
from fl_privacy_audit.core.config import DP_SGD, RUN_CONFIG_PREFIX, AuditConfig
from fl_privacy_audit.core.console import print_rows, standard_output
from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.core.named_object import find_model, find_named
from fl_privacy_audit.strategies.app_source import read_app
from fl_privacy_audit.strategies.doctor import Finding, Plan, State, examine
from fl_privacy_audit.strategies.trial import strength

from .sentences import advise, say
from .words import EXAMINED

SOMETHING_LACKS = 3
"""Exit code where a verdict cannot come."""
READABLE: Final = 120
"""Columns where the output is piped."""
TRY_FIRST: Final = (
    "Before you cut clients down or give more time, `doctor --try 60`: nobody knows yet whether an attack shows anything of "
    "so many images."
)
SETTING: Final = re.compile(r"`([a-z_]+)((?:\.[a-z_]+)?)(?: = ([^`]+))?`")
"""A setting in a sentence, with its value or without."""
NAME: Final = re.compile(r"\w+")
MARKS: Final[Mapping[State, str]] = {"well": "✓", "unknown": "?", "missing": "✗"}


FIRST_SETTINGS = (
    'audit.directory = "~/audit"  # absolute: `flwr run` works in a folder of its own',
    "audit.clients-per-round = 2",
    "audit.seconds-per-round = 60",
)
"""Of an app that has none."""
NOT_SAID = ("?",)
"""What an app does not say, and is no setting either: a wrong normalisation quietly ruins attacks."""
USUAL_SHAPES = ((3, 32, 32), (1, 28, 28), (3, 64, 64), (3, 224, 224), (1, 32, 32), (1, 224, 224))


class NoSettingsError(ConfigError):
    """An app has no settings of an audit at all."""


@click.command("doctor")
@click.argument("app", type=click.Path(path_type=Path, exists=True), default=".")
@click.option(
    "--model", required=True, help="The clients' model: MODULE:NAME, a class or an object."
)
@click.option(
    "--client-app",
    help="The clients' app, MODULE:NAME, to be replayed on canaries; by default that of APP, where the "
    "settings name the canary view.",
)
@click.option("--rounds", type=click.IntRange(1), help="Of the run; by default the app's own.")
@click.option("--clients", type=click.IntRange(1), help="That take part.")
@click.option("--examples", type=click.IntRange(1), help="Training images of one client.")
@click.option(
    "--try",
    "seconds",
    type=click.FloatRange(0, min_open=True),
    help="Attack public pictures without a defence for so many seconds, to see if anything shows.",
)
def doctor_command(
    app: Path,
    model: str,
    client_app: str | None,
    rounds: int | None,
    clients: int | None,
    examples: int | None,
    seconds: float | None,
) -> None:
    """Say whether the audit of APP can come to a verdict, and what it lacks.

    APP is the folder of a Flower app whose run config has the settings of the audit, or a TOML file
    of them. Nothing is written, and nothing is trained but one replay on canaries, and what `--try` tries. Exit
    code 3 if something is missing.
    """
    folder = app if app.is_dir() else app.parent
    clients_model = find_model(model, folder)
    try:
        config, own = read_settings(app)
    except NoSettingsError as error:
        raise ConfigError(f"{error}\n\n{suggest(app, clients_model)}") from None
    if client_app is None and "canary" in config.views:
        client_app = _own_client_app(app)
    plan = Plan(
        rounds=rounds or _whole(own.get("num-server-rounds")),
        clients=clients,
        num_examples=examples,
    )
    auditor = Auditor(
        config,
        model=clients_model,
        client_app=find_named(client_app, folder, "`--client-app`") if client_app else None,
        run_config=own,
    )
    source = read_app(app, own) if app.is_dir() else None
    # Tried first, closed forms have a time that is known.
    tried = list(strength(config, clients_model, plan.num_examples, seconds))
    findings = [*examine(auditor, plan, app=source, replay=True), *tried]
    rows = list(map(_row, findings))
    if any(key.startswith(RUN_CONFIG_PREFIX) for key in own):
        rows = [(name, in_run_config(said), in_run_config(step)) for name, said, step in rows]
    print_rows(standard_output(READABLE), ("what", "found", "what to do"), rows)
    if seconds is None and any(finding.reason.code == "not tried yet" for finding in findings):
        click.echo(TRY_FIRST)
    if any(finding.state == "missing" for finding in findings):
        sys.exit(SOMETHING_LACKS)


def _row(finding: Finding) -> tuple[str, str, str]:
    step = "" if finding.state == "well" else advise(finding.reason)
    return f"{MARKS[finding.state]} {EXAMINED[finding.about]}", say(finding.reason), step


def in_run_config(sentence: str) -> str:
    """Settings in a sentence as a run config has them, to be pasted.

    >>> in_run_config('`every = 1`, `training.batch_size`; `views = ["server", "canary"]`')
    '`audit.every = 1`, `audit.training.batch-size`; `audit.views = "server, canary"`'
    """

    def written(found: re.Match[str]) -> str:
        room, below, value = found.groups()
        if room not in AuditConfig.model_fields:
            return found[0]
        if value is not None and value.startswith("["):
            value = '"' + ", ".join(NAME.findall(value)) + '"'
        key = f"{RUN_CONFIG_PREFIX}{room}{below}".replace("_", "-")
        return f"`{key}`" if value is None else f"`{key} = {value}`"

    return SETTING.sub(written, sentence)


def read_settings(app: Path) -> tuple[AuditConfig, Mapping[str, Any]]:
    """The settings of an audit, and the run config that they stand in.

    Args:
        app: Folder of a Flower app, or a TOML file of settings.

    Raises:
        NoSettingsError: There are none.
        ConfigError: They cannot be read, or one is wrong.
    """
    if app.is_file():
        return AuditConfig.from_toml(app), {}
    run_config = run_config_of(app)
    if any(key.startswith(RUN_CONFIG_PREFIX) for key in run_config):
        return AuditConfig.from_run_config(run_config), run_config
    if (app / "audit.toml").is_file():
        return AuditConfig.from_toml(app / "audit.toml"), run_config
    raise NoSettingsError(
        f"{app / 'pyproject.toml'} says nothing of an audit. Put this at the end of "
        "[tool.flwr.app.config], correct what does not fit, and call `doctor` again:"
    )


def run_config_of(app: Path) -> dict[str, Any]:
    """The run config in the ``pyproject.toml`` of a Flower app, as Flower hands it to the app.

    Raises:
        ConfigError: It cannot be read.
    """
    return flattened(_flower_app(app).get("config", {}))


def _flower_app(app: Path) -> dict[str, Any]:
    """``[tool.flwr.app]`` of an app in a folder."""
    path = app / "pyproject.toml"
    try:
        project = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    found: dict[str, Any] = project.get("tool", {}).get("flwr", {}).get("app", {})
    return found


def _own_client_app(app: Path) -> str | None:
    named = _flower_app(app).get("components", {}).get("clientapp") if app.is_dir() else None
    return named if isinstance(named, str) else None


def suggest(app: Path, model: nn.Module) -> str:
    """Settings of an audit for an app that has none, as far as its source and its model say them."""
    source = read_app(app, flattened(_flower_app(app).get("config", {})))
    told = {
        "image.shape": _shape_of(model),
        "image.mean": NOT_SAID,
        "image.std": NOT_SAID,
        "training.optimizer": "sgd",
        "training.batch_size": 1,
        **source.told,
        "training.mode": "train",
    }
    if "make_private" in source.names:
        told = dict.fromkeys((f"training.{name}" for name in DP_SGD), NOT_SAID) | told
    if not told.keys() & {"training.steps", "training.epochs"}:
        told["training.epochs"] = 1
    for key in ("image.mean", "image.std"):
        if len(told[key]) == 1 and told[key] != NOT_SAID:
            told[key] *= told["image.shape"][0]
    return "\n".join([*FIRST_SETTINGS, *(_setting(key, value) for key, value in told.items())])


def _setting(key: str, value: Any) -> str:
    unsaid = ""
    if value == NOT_SAID:
        unsaid = "  # put a number: the app's source does not say it"
        unsaid += "; where clients differ, the least" if key.startswith("training.") else ""
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else value
    shown = f'"{text}"' if isinstance(text, str) else text
    return f"{RUN_CONFIG_PREFIX}{key.replace('_', '-')} = {shown}{unsaid}"


def _shape_of(model: nn.Module) -> tuple[int, int, int]:
    """The first of the usual shapes of images that the model takes."""
    copied = copy.deepcopy(model).eval()
    for shape in USUAL_SHAPES:
        with contextlib.suppress(Exception), torch.no_grad():
            copied(torch.zeros(2, *shape))
            return shape
    return USUAL_SHAPES[0]


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``[tool.flwr.app.config]`` as Flower hands it to an app: tables within tables as ``a.b``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None
