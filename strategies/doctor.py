"""Before the first round: whether an audit as it is set can come to a verdict, and what it lacks."""

import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from fl_privacy_audit.audit import Auditor
from fl_privacy_audit.audit.rehearsal import Rehearsal
from fl_privacy_audit.core.config import AuditConfig
from fl_privacy_audit.core.exchange import Arrays
from fl_privacy_audit.core.later import Later
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import LocalTraining, Observation
from fl_privacy_audit.ledger.spools import spools, waiting
from fl_privacy_audit.verdicts.verdict import FEWEST

from .app_source import AppSource

# Flower is loaded where something is replayed: `report/`, which asks here, does without.
REPLAY: Final = f"{__package__}.canary_replay"
in_some_run, rehearsal = Later(REPLAY, "in_some_run"), Later(REPLAY, "rehearsal")

State = Literal["well", "unknown", "missing"]
LEGACY: Final = "flwr.server.strategy"
"""Where an app of Flower's legacy API has its strategy from."""
NO_INSTALLATION: Final = "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"
"""Variable by which Flower runs an app in the environment that is there."""
STEPS_REHEARSED: Final = 33
"""Local steps of the client that is made up, at most: one more than any attack replays."""
FEW_IMAGES: Final = 8
"""Of a client; the audit of so few is never too long for one machine."""
MARGIN: Final = 2.0
"""Of the time that is advised: what an attack takes was measured once, on a machine that may be busier later."""
ASKED_FOR: Final = {"too few clients attacked": FEWEST, "too few clients": FEWEST}
"""What is said of the batches -> how many clients will be attacked in a round where that advice is followed."""
LONG: Final = 600.0
"""Seconds of a round beyond which smaller clients are the better advice than more time."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that a verdict needs.

    Attributes:
        about: What was looked at: a key of `fl_privacy_audit.report.words.EXAMINED`.
        state: Whether it is there; *unknown* where only a round can tell.
        reason: What was found, as a code with figures.
    """

    about: str
    state: State
    reason: Reason


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is known of the run to come; None where it is not.

    Attributes:
        rounds: Of the whole run.
        clients: That take part.
        num_examples: Images of one client.
    """

    rounds: int | None = None
    clients: int | None = None
    num_examples: int | None = None


def examine(
    auditor: Auditor,
    plan: Plan,
    *,
    sent: Arrays | None = None,
    app: AppSource | None = None,
    replay: bool = False,
) -> list[Finding]:
    """Rehearse an audit on a client that is made up, without training or data.

    Args:
        auditor: As it will run; nothing is written.
        plan: What is known of the run.
        sent: The weights that the server will send; by default those of the audited model.
        app: What the Flower app says of itself: whether it audits, whether its clients publish what
            they train on, and whether they train as described.
        replay: Whether there is time to replay the clients' app once, where the auditor has it, which trains
            a model, and to run closed forms.

    Returns:
        What was found, in the order in which it is needed.
    """
    examples = _rehearsed(auditor.config, plan)
    rehearsal = auditor.rehearse(sent=sent, num_examples=examples, closed_forms=replay)
    batches = _batches(auditor.config, plan)
    attacks = _Attacks(auditor.config, plan, rehearsal, batches).findings()
    findings = [*_model(rehearsal), *attacks]
    if app is not None:
        findings += [*_description(auditor.config, app), *_kept(auditor.config, plan, app)]
        findings += [_wrapper(app), *_environment(app)]
    if {*auditor.config.views} != {"canary"}:
        findings += [batches, _truth(auditor, app)]
    if "canary" in auditor.config.views:
        findings.append(_canaries(auditor, plan, replay=replay))
    return [*findings, *_spooled(auditor.config.directory)]


def _spooled(directory: Path) -> Iterator[Finding]:
    """Captures of earlier runs in the audit's directory."""
    for folder in spools(directory):
        if (left := waiting(directory, folder.name)) is not None:
            yield Finding(about="spool", state="unknown", reason=left)


def _model(rehearsal: Rehearsal) -> Iterator[Finding]:
    seen = rehearsal.seen
    if not isinstance(seen, Observation):
        yield Finding(about="model", state="missing", reason=seen)
        return
    size = sum(tensor.numel() for tensor in seen.parameters.values())
    fits = Reason.of(
        "model fits", weights=size, classes=seen.num_classes, shape=str(seen.image.shape)
    )
    yield Finding(about="model", state="well", reason=fits)
    if rehearsal.rough is not None:
        rough = Reason.of("no second derivatives", rehearsal.rough)
        yield Finding(about="derivatives", state="missing", reason=rough)
    else:
        yield Finding(about="derivatives", state="well", reason=Reason.of("second derivatives"))


def _rehearsed(config: AuditConfig, plan: Plan) -> int | None:
    """Images of the client that is made up: no more than it takes to see which attacks fit it."""
    if plan.num_examples is None or config.training.epochs is None:
        return plan.num_examples
    return min(plan.num_examples, STEPS_REHEARSED * config.training.batch_size)


@dataclass(frozen=True)
class _Attacks:
    """What would attack, and whether there is time for it.

    Attributes:
        config: Of the audit.
        plan: What is known of the run.
        rehearsal: What would run on one client.
        batches: Whether more clients have to be attacked, which share the time.
    """

    config: AuditConfig
    plan: Plan
    rehearsal: Rehearsal
    batches: Finding

    def findings(self) -> Iterator[Finding]:
        if self.rehearsal.unfit is not None:
            yield Finding(about="attack", state="missing", reason=self.rehearsal.unfit)
        for each in self.rehearsal.attacks:
            if each.refused is not None:
                reason = Reason.of("attack refuses", each.refused, attack=each.attack)
                yield Finding(about="attack", state="missing", reason=reason)
            elif each.needed is None:
                reason = Reason.of("attack fits", attack=each.attack)
                yield Finding(about="attack", state="well", reason=reason)
            elif self._images_are_unknown:
                reason = Reason.of("examples not known", attack=each.attack)
                yield Finding(about="attack", state="unknown", reason=reason)
            else:
                yield self._timed(each.attack, each.needed)

    @property
    def _images_are_unknown(self) -> bool:
        training = self.config.training
        return training.epochs is not None and not (self.plan.num_examples or training.images)

    def _timed(self, attack: str, needed: float) -> Finding:
        images = self.plan.num_examples or 0
        rehearsed = _rehearsed(self.config, self.plan) or 1
        needed *= max(1.0, images / rehearsed)
        attacked = self.config.clients_per_round or self.plan.clients or 1
        # Those that have to be attacked share the time.
        more = max(attacked, ASKED_FOR.get(self.batches.reason.code, 0))
        available = self.rehearsal.available * (self.config.clients_per_round or 1) / max(more, 1)
        figures: dict[str, Any] = {"attack": attack, "needed": needed, "available": available}
        if needed <= available:
            reason = Reason.of("attack has time", **figures)
            return Finding(about="attack", state="well", reason=reason)
        seconds = _rounded_up(MARGIN * self.config.seconds_per_round * needed / available)
        fewer = max(FEW_IMAGES, int(images * available / needed))
        code = "attack lacks time"
        if seconds > LONG and fewer < images:
            code = "attack lacks time for so many images"
        reason = Reason.of(code, seconds=seconds, images=images, fewer=fewer, **figures)
        return Finding(about="attack", state="missing", reason=reason)


def _rounded_up(seconds: float) -> int:
    """To two digits.

    >>> _rounded_up(236.1), _rounded_up(8.2)
    (240, 9)
    """
    unit: int = 10 ** max(0, math.floor(math.log10(seconds)) - 1)
    return math.ceil(seconds / unit) * unit


def _batches(config: AuditConfig, plan: Plan) -> Finding:
    """How many independent batches the run attacks: those of a client that repeat count once."""
    if plan.rounds is None or plan.clients is None:
        return Finding(about="batches", state="unknown", reason=Reason.of("run not known"))
    each = min(config.clients_per_round or plan.clients, plan.clients)
    due = -(-plan.rounds // config.every)
    repeats = _takes_all(config.training, plan.num_examples)
    # Clients are drawn anew in each round, so some come twice.
    different = plan.clients * (1 - (1 - each / plan.clients) ** due)
    batches = int(different) if repeats else each * due
    code, needed = "enough batches", FEWEST
    if batches < FEWEST and repeats:
        code = "too few clients" if plan.clients < FEWEST else "too few clients attacked"
    elif batches < FEWEST:
        needed = min(-(-FEWEST // due), plan.clients)
        code = "too few rounds to come" if needed * due < FEWEST else "too few batches to come"
    reason = Reason.of(
        code,
        batches=batches,
        needed=FEWEST,
        rounds=plan.rounds,
        clients=plan.clients,
        attacked=needed,
        enough=-(-FEWEST // needed),
    )
    state: State = "well" if batches >= FEWEST else "missing"
    noisy = config.training.noise_multiplier or config.defence.name != "none"
    if state == "well" and repeats and noisy and batches < 2 * FEWEST:
        reason = Reason.of("just enough batches", batches=batches, needed=FEWEST, enough=2 * FEWEST)
        state = "unknown"
    return Finding(about="batches", state=state, reason=reason)


def _takes_all(training: LocalTraining, num_examples: int | None) -> bool:
    """Whether a client trains on all its images in a round, and so on the same in every round."""
    if training.epochs is not None:
        return True
    if training.steps is None or num_examples is None:
        return False
    return training.steps * training.batch_size >= num_examples


def _description(config: AuditConfig, app: AppSource) -> Iterator[Finding]:
    """Whether the settings describe training as the app's own source does, where that says it."""
    for key, said in app.told.items():
        room, name = key.split(".")
        told = getattr(getattr(config, room), name)
        if not _same(said, told):
            words = "nothing" if told is None else _shown(told)
            reason = Reason.of("described otherwise", key=key, said=_shown(said), told=words)
            yield Finding(about="description", state="unknown", reason=reason)
    if "make_private" in app.names and config.training.noise_multiplier is None:
        yield Finding(about="description", state="unknown", reason=Reason.of("noise not told"))


def _same(said: Any, told: Any) -> bool:
    """One number for all channels may stand in the source for one for each."""
    if isinstance(told, tuple):
        said = tuple(said)
        return told in (said, said * len(told))
    return bool(said == told)


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _kept(config: AuditConfig, plan: Plan, app: AppSource) -> Iterator[Finding]:
    """Whether clients keep arrays from round to round, which the server does not send."""
    spot = app.spots.get("keep")
    if spot is None or plan.rounds is None or config.every >= plan.rounds:
        return
    reason = Reason.of("clients keep arrays", spot=str(spot), rounds=plan.rounds, needed=FEWEST)
    yield Finding(about="description", state="unknown", reason=reason)


def _environment(app: AppSource) -> Iterator[Finding]:
    """Whether Flower makes the app an environment in which there is no audit."""
    if app.dependencies is None or os.environ.get(NO_INSTALLATION) == "1":
        return
    names = [named.lower().replace("_", "-") for named in app.dependencies]
    if not any(name.startswith("fl-privacy-audit") for name in names):
        reason = Reason.of("audit is no dependency", variable=NO_INSTALLATION)
        yield Finding(about="environment", state="unknown", reason=reason)


def _wrapper(app: AppSource) -> Finding:
    if app.names & {"AuditedStrategy", "AuditedLegacyStrategy", "audit_round"}:
        return Finding(about="wrapper", state="well", reason=Reason.of("app audits"))
    wrapper = "AuditedLegacyStrategy" if LEGACY in app.names else "AuditedStrategy"
    spot = app.spots.get("start")
    figures = {"wrapper": wrapper, "strategy": "strategy" if spot is None else spot.name}
    place = "the server" if spot is None else str(spot)
    reason = Reason.of("wrapper missing", app=str(app.folder), place=place, **figures)
    return Finding(about="wrapper", state="missing", reason=reason)


def _truth(auditor: Auditor, app: AppSource | None) -> Finding:
    if not auditor.takes_published:
        return Finding(about="truth", state="well", reason=Reason.of("truth given"))
    if app is None:
        return Finding(about="truth", state="unknown", reason=Reason.of("app not given"))
    lacking = [name for name in ("audit_mod", "publish_batch") if name not in app.names]
    if not lacking:
        return Finding(about="truth", state="well", reason=Reason.of("clients publish"))
    alone = {"audit_mod": "mod missing", "publish_batch": "publish call missing"}
    code = "nothing is published" if len(lacking) == 2 else alone[lacking[0]]
    spot = app.spots.get("train")
    place = "the train function"
    if spot is not None:
        called = "with `context` as its first argument, here and where it is called"
        place = f"`{spot.name}` above {spot}, {called}"
    reason = Reason.of(code, app=str(app.folder), place=place)
    state: State = "unknown" if "canary" in auditor.config.views else "missing"
    return Finding(about="truth", state=state, reason=reason)


def _canaries(auditor: Auditor, plan: Plan, *, replay: bool) -> Finding:
    """Whether the app can be replayed, and whether canaries do for a verdict."""

    def found(state: State, reason: Reason) -> Finding:
        return Finding(about="canaries", state=state, reason=reason)

    canaries, config = auditor.canaries, auditor.config
    drawn = canaries.drawn(1, 1, plan.num_examples)
    if isinstance(drawn, Reason):
        return found("missing", drawn)
    if auditor.client_app is None:
        return found("missing", Reason.of("no client app"))
    due = None if plan.rounds is None else -(-plan.rounds // config.every)
    batches = canaries.batches(None if due is None else due * config.canary.replays)
    if batches is not None and batches < FEWEST:
        reason = Reason.of("too few canaries", batches=batches, needed=FEWEST)
        return found("missing", reason)
    if not replay:
        return found("unknown", Reason.of("not replayed yet"))
    started = time.monotonic()
    with in_some_run():
        made = rehearsal(auditor)
        planned = canaries.plan(1, [], made, started + config.seconds_per_round, replays=1)
        (slot,) = canaries.all_made(planned).slots
    if slot.reason is not None:
        # What the server will send is not known here, and an app may need it.
        lacks_something = slot.reason.figures.get("type") == "KeyError"
        return found("unknown" if lacks_something else "missing", slot.reason)
    took = time.monotonic() - started
    return found("well", Reason.of("replayed", images=len(drawn.images.labels), took=took))
