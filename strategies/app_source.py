"""What a Flower app says of itself in its modules and its run config; nothing of it is run."""

import ast
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fl_privacy_audit.core.config import DP_SGD

MOST_MODULES: Final = 500
"""Modules of an app that are looked at; a folder that holds more is no app."""

RUN_CONFIG: Final[Mapping[str, tuple[str, ...]]] = {
    "training.learning_rate": ("learning-rate", "lr", "local-lr"),
    "training.batch_size": ("batch-size", "local-batch-size"),
    "training.epochs": ("local-epochs",),
    "training.steps": ("local-steps",),
    "training.momentum": ("momentum",),
    "training.weight_decay": ("weight-decay",),
    "training.proximal_mu": ("proximal-mu",),
    "training.max_grad_norm": ("max-grad-norm",),
    "training.noise_multiplier": ("noise-multiplier",),
}
"""Setting of an audit -> how apps call it in their run config."""

OPTIMISERS: Final[Mapping[str, str]] = {"SGD": "sgd", "Adam": "adam", "AdamW": "adamw"}
"""Class of `torch.optim` -> the setting ``training.optimizer``."""
OF_OPTIMISERS: Final = {
    "lr": "learning_rate",
    "momentum": "momentum",
    "weight_decay": "weight_decay",
}
"""Argument of those -> setting of training."""
LEGACY_STARTS: Final = ("ServerAppComponents", "LegacyContext")
"""What Flower's legacy API is handed a strategy in."""


@dataclass(frozen=True, kw_only=True)
class Spot:
    """A line of an app.

    Attributes:
        line: From 1.
        file: Below the app's folder.
        name: The object that matters there, as it is written.
    """

    line: int
    file: str
    name: str

    def __str__(self) -> str:
        """As people are pointed there."""
        return f"line {self.line} of {self.file}"


@dataclass(frozen=True, kw_only=True)
class AppSource:
    """What is read of an app.

    Attributes:
        folder: Where it lies.
        names: Every name that its modules use, and every module from which they import.
        told: Setting of an audit, ``training.momentum`` say -> its value as the app has it; only
            where it says one value alone.
        spots: What its audit has to go by -> where: ``"start"``, the strategy that runs; ``"train"``, the
            function that takes gradients; ``"keep"``, arrays that clients put into their state.
        dependencies: Which packages it says it needs; None where it does not say.
    """

    folder: Path
    names: frozenset[str] = frozenset()
    told: Mapping[str, Any] = field(default_factory=dict)
    spots: Mapping[str, Spot] = field(default_factory=dict)
    dependencies: tuple[str, ...] | None = None


def read_app(folder: Path, run_config: Mapping[str, Any]) -> AppSource:
    """Read the modules of an app; what is no Python is passed over.

    Args:
        folder: Of the app; or its only module.
        run_config: Its own, flat; what it says goes before what the modules say.
    """
    names: set[str] = set()
    found: defaultdict[str, list[Any]] = defaultdict(list)
    spots: dict[str, Spot] = {}
    paths = [folder] if folder.is_file() else sorted(folder.rglob("*.py"))
    for path in paths[:MOST_MODULES]:
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, SyntaxError):
            continue
        nodes = list(ast.walk(tree))
        names |= {node.id for node in nodes if isinstance(node, ast.Name)}
        names |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
        file = path.name if path == folder else path.relative_to(folder).as_posix()
        for kind, line, name in _spots(nodes):
            spots.setdefault(kind, Spot(line=line, file=file, name=name))
        for key, value in _told(nodes):
            if value not in found[key]:
                found[key].append(value)
    told = {key: values[0] for key, values in found.items() if len(values) == 1}
    for key, keys in RUN_CONFIG.items():
        for name in keys:
            if name in run_config:
                told[key] = run_config[name]
    return AppSource(
        folder=folder,
        names=frozenset(names),
        told=told,
        spots=spots,
        dependencies=_dependencies(folder),
    )


def _dependencies(folder: Path) -> tuple[str, ...] | None:
    try:
        text = (folder / "pyproject.toml").read_text(encoding="utf-8")
        return tuple(map(str, tomllib.loads(text)["project"]["dependencies"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _spots(nodes: list[ast.AST]) -> Iterator[tuple[str, int, str]]:
    """What is there of `AppSource.spots`: its key, the line, and the name there."""
    functions = [n for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    for node in nodes:
        if isinstance(node, ast.Call):
            keywords = {keyword.arg: keyword.value for keyword in node.keywords}
            called = _called(node)
            if called == "start" and "grid" in keywords and isinstance(node.func, ast.Attribute):
                yield "start", node.lineno, ast.unparse(node.func.value)
            elif called in LEGACY_STARTS and "strategy" in keywords:
                strategy = keywords["strategy"]
                yield "start", strategy.lineno, ast.unparse(strategy)
            elif called == "backward":
                around = [f for f in functions if f.lineno <= node.lineno <= (f.end_lineno or 0)]
                if around:
                    yield "train", node.lineno, max(around, key=lambda f: f.lineno).name
        elif isinstance(node, ast.Assign) and _called(node.value) == "ArrayRecord":
            kept = [t for t in node.targets if isinstance(t, ast.Subscript)]
            if kept and "state" in ast.unparse(kept[0].value):
                yield "keep", node.lineno, ast.unparse(kept[0])


def _called(node: ast.AST) -> str:
    """The last part of the name of what is called; empty where nothing is."""
    if not isinstance(node, ast.Call):
        return ""
    return str(getattr(node.func, "attr", None) or getattr(node.func, "id", ""))


def _told(nodes: list[ast.AST]) -> Iterator[tuple[str, Any]]:
    """Settings that a module writes down as literals or as constants of its own."""
    constants = {
        target.id: node.value
        for node in nodes
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in nodes:
        if isinstance(node, ast.Call):
            yield from _told_by_call(node, constants)
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value in ("lr", "learning-rate"):
                    yield from _literal("training.learning_rate", value, constants)


def _told_by_call(call: ast.Call, constants: Mapping[str, ast.expr]) -> Iterator[tuple[str, Any]]:
    name = _called(call)
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if name == "Normalize":
        for key, value in zip(("image.mean", "image.std"), _spread(call, constants), strict=False):
            yield from _literal(key, value, constants)
        for argument in ("mean", "std"):
            if argument in keywords:
                yield from _literal(f"image.{argument}", keywords[argument], constants)
    elif name in OPTIMISERS:
        yield "training.optimizer", OPTIMISERS[name]
        for argument, setting in OF_OPTIMISERS.items():
            if argument in keywords:
                yield from _literal(f"training.{setting}", keywords[argument], constants)
    elif name == "make_private":
        for setting in DP_SGD:  # Opacus calls them so too
            if setting in keywords:
                yield from _literal(f"training.{setting}", keywords[setting], constants)
    elif name == "DataLoader" and "shuffle" in keywords and "batch_size" in keywords:
        yield from _literal("training.batch_size", keywords["batch_size"], constants)


def _spread(call: ast.Call, constants: Mapping[str, ast.expr]) -> Iterator[ast.expr]:
    """The positional arguments, those behind a star included."""
    for argument in call.args:
        if not isinstance(argument, ast.Starred):
            yield argument
            continue
        spread = argument.value
        if isinstance(spread, ast.Name):
            spread = constants.get(spread.id, spread)
        if isinstance(spread, ast.Tuple | ast.List):
            yield from spread.elts


def _literal(
    key: str, value: ast.expr, constants: Mapping[str, ast.expr]
) -> Iterator[tuple[str, Any]]:
    """The value, if it is written down as numbers."""
    if isinstance(value, ast.Name):
        value = constants.get(value.id, value)
    try:
        found = ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return
    if key.startswith("image."):
        found = tuple(found) if isinstance(found, tuple | list) else (found,)
    parts = found if isinstance(found, tuple) else (found,)
    if parts and all(type(part) in (int, float) for part in parts):
        yield key, found
