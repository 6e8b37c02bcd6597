"""Before the first round: whether an audit as it is set can come to a verdict, and what it lacks."""

import ast
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from fl_privacy_audit.audit import Auditor
from fl_privacy_audit.audit.rehearsal import Rehearsal
from fl_privacy_audit.core.config import AuditConfig
from fl_privacy_audit.core.exchange import Arrays
from fl_privacy_audit.core.later import Later
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import LocalTraining, Observation
from fl_privacy_audit.verdicts.verdict import FEWEST

State = Literal["well", "unknown", "missing"]
REPLAY: Final = "fl_privacy_audit.strategies.canary_replay"
in_some_run, rehearsal = Later(REPLAY, "in_some_run"), Later(REPLAY, "rehearsal")
"""Flower is loaded where a replay is rehearsed, and not by whoever reads a ledger."""
MOST_MODULES: Final = 500
"""Modules of an app that are looked at; a folder that holds more is no app."""


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
    app: Path | None = None,
    replay: bool = False,
) -> list[Finding]:
    """Rehearse an audit on a client that is made up, without training or data.

    Args:
        auditor: As it will run; nothing is written.
        plan: What is known of the run.
        sent: The weights that the server will send; by default those of the audited model.
        app: Folder of the Flower app, to see whether its clients publish what they train on.
        replay: Whether to replay the clients' app once, where the auditor has it. That trains a model.

    Returns:
        What was found, in the order in which it is needed.
    """
    rehearsal = auditor.rehearse(sent=sent, num_examples=plan.num_examples)
    findings = [*_model(rehearsal), *_attacks(rehearsal)]
    if {*auditor.config.views} != {"canary"}:
        findings += [_batches(auditor.config, plan), _truth(auditor, app)]
    if "canary" in auditor.config.views:
        findings.append(_canaries(auditor, plan, replay=replay))
    return findings


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


def _attacks(rehearsal: Rehearsal) -> Iterator[Finding]:
    if rehearsal.unfit is not None:
        yield Finding(about="attack", state="missing", reason=rehearsal.unfit)
    for each in rehearsal.attacks:
        if each.refused is not None:
            reason = Reason.of("attack refuses", each.refused, attack=each.attack)
            yield Finding(about="attack", state="missing", reason=reason)
        elif each.needed is None:
            reason = Reason.of("attack fits", attack=each.attack)
            yield Finding(about="attack", state="well", reason=reason)
        else:
            enough = each.needed <= rehearsal.available
            reason = Reason.of(
                "attack has time" if enough else "attack lacks time",
                attack=each.attack,
                needed=each.needed,
                available=rehearsal.available,
                times=each.needed / rehearsal.available,
            )
            yield Finding(about="attack", state="well" if enough else "missing", reason=reason)


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
    code = "enough batches" if batches >= FEWEST else "too few batches to come"
    if repeats and code != "enough batches":
        code = "too few clients" if plan.clients < FEWEST else "too few clients attacked"
    reason = Reason.of(
        code, batches=batches, needed=FEWEST, rounds=plan.rounds, clients=plan.clients
    )
    state: State = "well" if batches >= FEWEST else "missing"
    return Finding(about="batches", state=state, reason=reason)


def _takes_all(training: LocalTraining, num_examples: int | None) -> bool:
    """Whether a client trains on all its images in a round, and so on the same in every round."""
    if training.epochs is not None:
        return True
    if training.steps is None or num_examples is None:
        return False
    return training.steps * training.batch_size >= num_examples


def _truth(auditor: Auditor, app: Path | None) -> Finding:
    if not auditor.takes_published:
        return Finding(about="truth", state="well", reason=Reason.of("truth given"))
    if app is None:
        return Finding(about="truth", state="unknown", reason=Reason.of("app not given"))
    names = _names_in(app)
    for name, code in (("audit_mod", "mod missing"), ("publish_batch", "publish call missing")):
        if name not in names:
            reason = Reason.of(code, app=str(app))
            return Finding(about="truth", state="missing", reason=reason)
    return Finding(about="truth", state="well", reason=Reason.of("clients publish"))


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
        plan_ = canaries.plan(1, [], made, started + config.seconds_per_round, replays=1)
    (slot,) = plan_.slots
    if slot.reason is not None:
        # What the server will send is not known here, and an app may need it.
        lacks_something = slot.reason.figures.get("type") == "KeyError"
        return found("unknown" if lacks_something else "missing", slot.reason)
    took = time.monotonic() - started
    return found("well", Reason.of("replayed", images=len(drawn.images.labels), took=took))


def _names_in(app: Path) -> set[str]:
    """Every name that the modules of an app use; what is no Python is passed over."""
    names: set[str] = set()
    for path in sorted(app.rglob("*.py"))[:MOST_MODULES]:
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, SyntaxError):
            continue
        nodes = list(ast.walk(tree))
        names |= {node.id for node in nodes if isinstance(node, ast.Name)}
        names |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return names
