"""One attack on the victims of a round, and on their controls, side by side."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from fl_privacy_audit.attacks import AttackEntry, reconstruct_each
from fl_privacy_audit.core.config import AttackConfig, AuditConfig
from fl_privacy_audit.core.devices import cpu_threads
from fl_privacy_audit.core.errors import UnmetNeedError
from fl_privacy_audit.core.protocols import Attack
from fl_privacy_audit.core.types import ControlKind, Observation, Reconstruction, Truth
from fl_privacy_audit.ledger.records import AttackOutcome, AttackStatus, ControlOutcome

from .controls import grey, noise_of_equal_norm, undefended
from .scoring import Answered, answer, score_all
from .targets import Victim, say

Result = Reconstruction | Exception


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One attack in one round and view.

    Attributes:
        server_round: Of the federation.
        config: The audit's settings.
        attack_config: The attack's name and settings.
        attack: Ready to run.
        entry: Its row in the table; None for an attack outside it.
        seconds: For all victims and their controls.
        pictures: Folder for pictures; None to keep none.
        picture_name: Victim's name -> file name.
        report: Called with steps done and in all.
    """

    server_round: int
    config: AuditConfig
    attack_config: AttackConfig
    attack: Attack
    entry: AttackEntry | None
    seconds: float
    pictures: Path | None
    picture_name: Callable[[str], str]
    report: Callable[[int, int], None]

    def seed(self, *parts: str) -> int:
        """Of a victim's generator, or of one of its controls."""
        return seed_of(self.config.seed, self.server_round, *parts, self.attack_config.name)


@dataclass(frozen=True)
class _Control:
    """A control of one victim: what is to be attacked, or was already, or why nothing is."""

    victim: int
    kind: ControlKind
    seen: Observation | None = None
    same_as: int | None = None
    reason: str | None = None
    seed: int | None = None


def run_trial(trial: Trial, victims: Sequence[Victim]) -> list[AttackOutcome]:
    """Attack every victim and its controls, and score them.

    A control starts from the same seed as its victim, so that only the update differs.

    Returns:
        One outcome for each victim, its controls within.

    Raises:
        Exception: Whatever went wrong, only with ``fail_fast``.
    """
    controls = [c for index in range(len(victims)) for c in _controls(trial, victims, index)]
    extra = [control for control in controls if control.seen is not None]
    attacked = [v.seen for v in victims] + [c.seen for c in extra if c.seen is not None]
    seeds = [trial.seed(v.name) for v in victims]
    owners = [*range(len(victims)), *(control.victim for control in extra)]
    started = time.monotonic()
    with cpu_threads(trial.config.threads):
        results = reconstruct_each(
            trial.attack,
            attacked,
            needs=None if trial.entry is None else trial.entry.needs,
            rngs=[torch.Generator().manual_seed(seeds[owner]) for owner in owners],
            seconds=trial.seconds,
            progress=trial.report,
        )
    took = (time.monotonic() - started) / len(attacked)
    share = trial.seconds / len(attacked)
    found = dict(zip(map(id, extra), results[len(victims) :], strict=True))
    answered = []
    for index, (victim, seed) in enumerate(zip(victims, seeds, strict=True)):
        blank = _blank(trial, victim, seed=seed, seconds=took, budget=share)
        name = trial.picture_name(victim.name)
        mine = [c for c in controls if c.victim == index]
        answered.append(
            [
                _answer(trial, blank, results[index], victim.truth, trial.pictures, name),
                *(_answer_of(trial, victim, c, results, found) for c in mine),
            ]
        )
    with cpu_threads(trial.config.threads):
        scored = score_all(
            answered,
            metrics=trial.config.metrics,
            device=victims[0].seen.device,
            strict=trial.config.fail_fast,
        )
    outcomes = []
    for index, (outcome, *theirs) in enumerate(scored):
        mine = [c for c in controls if c.victim == index]
        made = [
            _control_outcome(control, its, 0.0 if control.seen is None else round(took, 3))
            for control, its in zip(mine, theirs, strict=True)
        ]
        outcomes.append(outcome.model_copy(update={"controls": made}))
    return outcomes


def _controls(trial: Trial, victims: Sequence[Victim], index: int) -> list[_Control]:
    """The controls of one victim; none where nothing could be scored."""
    victim = victims[index]
    if victim.truth is None or not len(victim.truth.images):
        return []
    made = []
    for kind in trial.config.controls:
        try:
            made.append(_control(trial, victims, index, kind, victim.truth))
        except Exception as error:
            if trial.config.fail_fast:
                raise
            made.append(_Control(index, kind, reason=say(error)))
    return made


def _control(
    trial: Trial, victims: Sequence[Victim], index: int, kind: ControlKind, truth: Truth
) -> _Control:
    victim = victims[index]
    if kind == "noise":
        seed = trial.seed(victim.name, "noise")
        rng = torch.Generator().manual_seed(seed)
        return _Control(index, kind, seen=noise_of_equal_norm(victim.seen, rng), seed=seed)
    if kind == "undefended":
        return _Control(index, kind, seen=undefended(victim.seen, truth))
    if kind == "grey":
        return _Control(index, kind)
    if isinstance(victim.other, int):
        return _Control(index, kind, same_as=victim.other)
    if isinstance(victim.other, str):
        return _Control(index, kind, reason=victim.other)
    return _Control(index, kind, seen=victim.other)


def _blank(
    trial: Trial, victim: Victim, *, seed: int, seconds: float, budget: float
) -> AttackOutcome:
    entry = trial.entry
    return AttackOutcome(
        attack=trial.attack_config.name,
        threat_model=None if entry is None else entry.threat_model,
        settings=trial.attack_config.settings,
        status="not scored",
        reason=victim.no_truth,
        budget_seconds=round(budget, 3),
        seconds=round(seconds, 3),
        seed=seed,
    )


def _answer_of(
    trial: Trial,
    victim: Victim,
    control: _Control,
    results: Sequence[Result],
    found: dict[int, Result],
) -> Answered:
    """What a control gave, paired with the victim's truth."""
    blank = AttackOutcome(attack=trial.attack_config.name, status="not scored")
    if control.reason is not None:
        update = {"status": "not tested", "reason": control.reason}
        return Answered(outcome=blank.model_copy(update=update))
    result = found.get(id(control))
    if control.same_as is not None:
        result = results[control.same_as]
    if result is None:
        result = _picture(grey(victim.seen.image, victim.seen.num_images))
    return _answer(trial, blank, result, victim.truth, None, "")


def _control_outcome(control: _Control, outcome: AttackOutcome, seconds: float) -> ControlOutcome:
    attacked = control.seen is not None or control.same_as is not None
    return ControlOutcome(
        kind=control.kind,
        status=outcome.status,
        reason=outcome.reason,
        scores=outcome.scores,
        objective=outcome.objective if attacked else None,
        steps=outcome.steps,
        stopped=outcome.stopped if attacked else None,
        seconds=seconds,
        seed=control.seed,
    )


def _picture(images: torch.Tensor) -> Reconstruction:
    return Reconstruction(images=images, labels=None, objective=0.0, steps=0, stopped="finished")


def _answer(
    trial: Trial,
    outcome: AttackOutcome,
    result: Result,
    truth: Truth | None,
    pictures: Path | None,
    picture_name: str,
) -> Answered:
    """The outcome with what the attack returned, paired with the truth where there is any."""
    if isinstance(result, Exception):
        if trial.config.fail_fast:
            raise result
        unmet = isinstance(result, UnmetNeedError)
        status: Literal["not tested", "failed"] = "not tested" if unmet else "failed"
        update = {"status": status, "reason": say(result)}
        return Answered(outcome=outcome.model_copy(update=update))
    outcome = outcome.model_copy(
        update={
            "stopped": result.stopped,
            "objective": result.objective,
            "steps": result.steps,
            "details": dict(result.details),
        }
    )
    try:
        return answer(outcome, result, truth, pictures=pictures, picture_name=picture_name)
    except Exception as error:
        if trial.config.fail_fast:
            raise
        failed: AttackStatus = "failed"
        reason = f"the attack ran, but its result cannot be scored: {say(error)}"
        update = {"status": failed, "reason": reason}
        return Answered(outcome=outcome.model_copy(update=update))


def seed_of(*parts: int | str) -> int:
    """A seed from whatever names a place, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:6], "big")
