"""Known updates through a chain of client mods, or through a strategy that clips and adds noise.

The train function of the app is never called: one of ours stands in its place.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Strategy

from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.core.process_state import process_state_kept
from fl_privacy_audit.dp.probing import Update, measure_mechanism

from .app_source import read_app
from .canary_replay import in_some_run
from .capture import layers
from .defend import Mod
from .probe_run import Arrays, ProbeRun, quiet
from .stated import Probe, StatedMechanism, faults, name_of, stated_by


def probe_all(
    found: object,
    strategy: object | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    run_config: Mapping[str, Any] | None = None,
    delta: float | None = None,
) -> list[Probe]:
    """Measure what leaves a client, and what a strategy makes of it.

    Args:
        found: A ClientApp, a client mod, a list of them, a strategy, or a function that makes one.
        strategy: That gets the replies of such clients, if it is to be measured too.
        config: As in `probe_client_app`.
        run_config: As there.
        delta: As there.

    Raises:
        ConfigError: It is nothing of these, or cannot be probed.
    """
    found, strategy = _made(found), _made(strategy)
    mods: list[Any]
    if isinstance(found, Strategy):
        return [probe_strategy(found, delta=delta)]
    if isinstance(found, ClientApp):
        mods, *_ = chain_of(found)
        probes = [probe_client_app(found, config=config, run_config=run_config, delta=delta)]
    else:
        mods = list(found) if isinstance(found, list | tuple) else [found]
        if not all(map(callable, mods)):
            raise ConfigError(
                f"a {type(found).__name__} cannot be probed; name a ClientApp, a client mod, a list of "
                "them or a strategy"
            )
        probes = [probe_mods(mods, config=config, delta=delta)]
    if strategy is not None:
        if not isinstance(strategy, Strategy):
            raise ConfigError(f"a strategy is needed, but got a {type(strategy).__name__}")
        probes.append(probe_strategy(strategy, mods, delta=delta))
    return probes


def _made(found: Any) -> Any:
    """A function without arguments makes what it is named for."""
    code = getattr(found, "__code__", None)
    return found() if code is not None and not code.co_argcount else found


def probe_client_app(
    app: ClientApp,
    *,
    arrays: Arrays | None = None,
    config: Mapping[str, Any] | None = None,
    run_config: Mapping[str, Any] | None = None,
    delta: float | None = None,
) -> Probe:
    """Measure what the client mods of an app do to an update.

    Args:
        app: Its train function is not called.
        arrays: As the server sends them, to have their names, shapes and dtypes.
        config: What the server sends along; ``clipping_norm`` is 1 unless it is told.
        run_config: Of the app.
        delta: By default that of the mods, else 1e-5.

    Raises:
        ConfigError: The mods cannot be found, or do not work on what they are given.
    """
    mods, train, kind = chain_of(app)
    found = _probed_client(ProbeRun(mods, kind, arrays, config, run_config), delta)
    return replace(found, trains_privately=train is not None and _names_opacus(train))


def probe_mods(
    mods: Sequence[Mod],
    *,
    arrays: Arrays | None = None,
    config: Mapping[str, Any] | None = None,
    delta: float | None = None,
) -> Probe:
    """Measure what client mods do to an update; the first one is the outermost.

    The arguments are those of `probe_client_app`.

    Raises:
        ConfigError: They do not work on what they are given.
    """
    return _probed_client(ProbeRun(mods, arrays=arrays, config=config), delta)


def _probed_client(run: ProbeRun, delta: float | None) -> Probe:
    return _probed(run, run.leaves_client, stated_by(run.mods, run.config), delta, view="server")


def _probed(
    run: ProbeRun,
    leaves: Callable[[Update, int], Arrays],
    stated: StatedMechanism,
    delta: float | None,
    *,
    view: Literal["server", "release"],
) -> Probe:
    with process_state_kept(), in_some_run(), quiet():
        measured = measure_mechanism(leaves, run.shapes, delta=delta or stated.delta or 1e-5)
    return Probe(
        view=view,
        mods=tuple(map(name_of, run.mods)),
        measured=measured,
        stated=stated,
        faults=tuple(faults(stated, measured)),
    )


def probe_strategy(
    strategy: Strategy,
    mods: Sequence[Mod] = (),
    *,
    arrays: Arrays | None = None,
    delta: float | None = None,
) -> Probe:
    """Measure what a strategy makes of the update of one client among several that send nothing.

    Args:
        strategy: Flower's DP wrappers, say. A copy of it is asked, in a round of its own.
        mods: Of the clients.
        arrays: As in `probe_client_app`.
        delta: By default that of the strategy's accountant, else 1e-5.

    Raises:
        ConfigError: It cannot be copied, or releases nothing.
    """
    run = ProbeRun(mods, arrays=arrays)
    stated = stated_by([*mods, *layers(strategy)], {}, released=True)
    leaves = partial(run.leaves_strategy, strategy)
    return _probed(run, leaves, stated, delta, view="release")


def chain_of(app: ClientApp) -> tuple[list[Mod], Callable[..., Any] | None, str]:
    """The mods around the train function of an app, outermost first; that function; its message type.

    Flower wraps mods around a function and keeps no list of those of a decorator, so they are read
    from the wrapping.

    Raises:
        ConfigError: The app has no train function, or was made by a Flower that wraps otherwise.
    """
    registered = getattr(app, "_registered_funcs", {})
    kinds = sorted(k for k in registered if k.split(".")[0] == "train")
    kind = "train.default" if "train.default" in kinds else next(iter(kinds), "train")
    wrapped = registered.get(kind) or getattr(app, "_call", None)
    if wrapped is None:
        raise ConfigError("the ClientApp has no train function, so it has no mods to probe")
    mods: list[Mod] = []
    while (cells := _cells(wrapped)).keys() >= {"_mod", "_ffn"}:
        mods.append(cells["_mod"])
        wrapped = cells["_ffn"]
    listed = list(getattr(app, "_mods", []))
    if mods[: len(listed)] != listed or "make_ffn" in getattr(wrapped, "__qualname__", ""):
        raise ConfigError(
            "this version of Flower keeps mods where the probe does not find them; probe a list of "
            "the mods themselves"
        )
    return mods, wrapped, kind


def _cells(function: Any) -> dict[str, Any]:
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    cells = getattr(function, "__closure__", None) or ()
    return {name: cell.cell_contents for name, cell in zip(names, cells, strict=True)}


def _names_opacus(train: Callable[..., Any]) -> bool:
    """Whether the modules beside the train function name Opacus' engine."""
    try:
        path = Path(inspect.getfile(train))
    except TypeError:
        return False
    inside = "." in getattr(train, "__module__", "")
    names = read_app(path.parent if inside else path, {}).names
    return not names.isdisjoint({"PrivacyEngine", "make_private", "DPOptimizer"})
