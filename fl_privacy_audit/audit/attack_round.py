"""One attack on the targets of a round and on their controls, side by side."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import torch
from torch import Tensor

from fl_privacy_audit.attacks import (
    AttackEntry,
    needed_seconds,
    reconstruct_each,
    refusal,
    shares_steps,
)
from fl_privacy_audit.core import clock
from fl_privacy_audit.core.config import AttackConfig, AuditConfig
from fl_privacy_audit.core.devices import cpu_threads
from fl_privacy_audit.core.errors import TimeUpError
from fl_privacy_audit.core.guard import Guard
from fl_privacy_audit.core.protocols import Attack, Progress
from fl_privacy_audit.core.reasons import Reason, message_of
from fl_privacy_audit.core.seeds import seed_of
from fl_privacy_audit.core.types import ControlKind, Observation, Reconstruction

from .controls import grey, noise_of_equal_norm, undefended
from .results import plain_result
from .schedule import Slot
from .targets import Target
from .truth import share_images

log = logging.getLogger("fl_privacy_audit")

OTHER: Final = "other client"


@dataclass(frozen=True, kw_only=True)
class ReadyAttack:
    """An attack that can run.

    Attributes:
        config: Its name and options, as in the ledger.
        attack: The object itself.
        entry: Its row in the table; None for an attack outside it.
    """

    config: AttackConfig
    attack: Attack
    entry: AttackEntry | None


@dataclass(frozen=True, kw_only=True)
class Control:
    """What is attacked as a control of a target; at most one of `seen`, `place` and `reason` is there.

    Attributes:
        kind: Which control; a grey picture needs none of the three.
        seen: An observation of its own.
        place: Else where another target stands whose reconstruction serves here too.
        reason: Else why there is none.
        seed: Seed of the noise; None where there is none.
    """

    kind: ControlKind
    seen: Observation | None = None
    place: int | None = None
    reason: Reason | None = None
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What one attack gave for one observation: the target's, or that of a control.

    Attributes:
        kind: Which control; None for the target itself.
        result: What the attack returned, or the error it raised, or why it was not run.
        attacked: Whether an attack made it; a grey picture needs none.
        seconds: Wall time; 0 where the reconstruction was there already.
        seed: Seed of the target's generator, or of the noise of a control.
    """

    kind: ControlKind | None
    result: Reconstruction | Exception | Reason
    attacked: bool = True
    seconds: float = 0.0
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Attempts:
    """One attack on one target, with its controls.

    Attributes:
        target: What was attacked.
        attack: By what.
        chosen: Why `auto` chose it; None where the settings name it.
        own: On the target itself.
        controls: One for each kind that the settings ask for; without a truth to score with, noise
            alone; none where the attack on the target failed.
        budget: Seconds it was allowed.
        needed: Seconds that all its steps take here; None where nobody knows.
    """

    target: Target
    attack: ReadyAttack
    chosen: Reason | None
    own: Attempt
    controls: tuple[Attempt, ...]
    budget: float
    needed: float | None = None

    def to_score(self) -> list[tuple[Tensor, Tensor]]:
        """Originals beside reconstructions: of the target, and of its controls."""
        if self.target.truth is None:
            return []
        results = [attempt.result for attempt in (self.own, *self.controls)]
        originals = self.target.truth.images
        images = [r.images for r in results if isinstance(r, Reconstruction)]
        alike = [one for one in images if one.shape[1:] == originals.shape[1:]]
        return [(originals, one) for one in alike if bool(one.isfinite().all())]


def find_partners(
    targets: Sequence[Target],
    spares: Sequence[Slot],
    observe: Callable[[Slot], Target | Reason],
) -> list[Control]:
    """Another client's update for each target, for a null control.

    One that is attacked anyway costs nothing; else one more update is attacked.

    Args:
        targets: Of one view.
        spares: Clients that are not attacked themselves.
        observe: Observes one of them.
    """
    partners = []
    for place, target in enumerate(targets):
        if target.slot.view == "release":
            reason = Reason.of("the release holds every client")
            partners.append(Control(kind=OTHER, reason=reason))
            continue
        if target.truth is None:
            partners.append(Control(kind=OTHER))
            continue
        order = [*range(place + 1, len(targets)), *range(place)]
        at = next((at for at in order if _is_foreign(target, targets[at])), None)
        if at is not None and targets[at].seen.num_images == target.seen.num_images:
            partners.append(Control(kind=OTHER, place=at))
        elif at is not None:
            partners.append(Control(kind=OTHER, seen=_as_if(targets[at], target)))
        else:
            partners.append(_spare_partner(target, spares, observe))
    return partners


def _spare_partner(
    target: Target, spares: Sequence[Slot], observe: Callable[[Slot], Target | Reason]
) -> Control:
    for slot in spares:
        if not slot.replies[0].is_readable:
            continue
        spare = observe(slot)
        if isinstance(spare, Target) and _is_foreign(target, spare):
            return Control(kind=OTHER, seen=_as_if(spare, target))
    return Control(kind=OTHER, reason=Reason.of("no other client"))


def partners_among(
    partners: Sequence[Control], targets: Sequence[Target], places: Sequence[int]
) -> list[Control]:
    """The partners of some of the targets, where an attack does not run on all of them."""
    found = []
    for place in places:
        partner = partners[place]
        if partner.place in places:
            partner = replace(partner, place=places.index(partner.place))
        elif partner.place is not None:
            partner = replace(
                partner, place=None, seen=_as_if(targets[partner.place], targets[place])
            )
        found.append(partner)
    return found


def _is_foreign(target: Target, other: Target) -> bool:
    """Whether another client's update holds none of the target's images, as far as is known."""
    if target.truth is None or other.truth is None:
        return True
    return not share_images(target.truth, other.truth)


def _as_if(other: Target, target: Target) -> Observation:
    """Another client's update, attacked as if it were this client's."""
    return replace(other.seen, num_images=target.seen.num_images)


def attack_targets(
    attack: ReadyAttack,
    targets: Sequence[Target],
    partners: Sequence[Control],
    *,
    config: AuditConfig,
    guard: Guard,
    seconds: float,
    progress: Progress,
    chosen: Sequence[Reason | None],
) -> list[Attempts]:
    """Attack every target and its controls.

    A control starts from the same seed as its target, so that only the update differs.

    Args:
        attack: What runs.
        targets: Of one round and view; at least one.
        partners: One for each target; see `find_partners`.
        config: The audit's settings.
        guard: Stands around the attack, and around the model where a control is made.
        seconds: For all targets and their controls; less than zero to attack none.
        progress: Called with steps done and in all.
        chosen: For each target, why `auto` chose the attack for it.

    Returns:
        One for each target, in order.

    Raises:
        Exception: Whatever went wrong, only with ``fail_fast``.
    """
    started = clock.now()
    deadline = started + seconds
    seeds = [_seed(attack, target, config) for target in targets]
    needs = None if attack.entry is None else attack.entry.needs

    def run(
        seen: Sequence[Observation],
        whose: Sequence[int],
        seconds: float,
        owners: Sequence[int] | None = None,
    ) -> list[Reconstruction | Exception]:
        with cpu_threads(config.threads):
            results = reconstruct_each(
                attack.attack,
                seen,
                rngs=[torch.Generator().manual_seed(seeds[at]) for at in whose],
                owners=owners,
                needs=needs,
                seconds=seconds,
                progress=progress,
                guard=guard,
            )
        return [plain_result(result, guard) for result in results]

    everybody = range(len(targets))
    own: dict[int, Reconstruction | Exception] = {}
    if shares_steps(attack.attack):
        refusals = [refusal(attack.attack, target.seen, needs) for target in targets]
        own = {at: error for at, error in enumerate(refusals) if error is not None}
    else:
        share = seconds / (1 + max(_expected(config, partner) for partner in partners))
        own = dict(enumerate(run([target.seen for target in targets], everybody, share)))
    if config.fail_fast:
        _raise_first(own.values())
    controls = [
        []
        if isinstance(own.get(at), Exception)
        else _controls(attack, target, partner, config, guard, deadline)
        for at, (target, partner) in enumerate(zip(targets, partners, strict=True))
    ]
    to_come = [at for at in everybody if at not in own]
    extra = [(at, c.seen) for at, each in enumerate(controls) for c in each if c.seen is not None]
    whose = [*to_come, *(at for at, _ in extra)]
    results = run(
        [*(targets[at].seen for at in to_come), *(seen for _, seen in extra)],
        whose,
        # Where no target has run yet one does, however late.
        max(deadline - clock.now(), 0.0 if to_come and seconds >= 0 else -1.0),
        [*range(len(to_come)), *(to_come.index(at) for at, _ in extra)] if to_come else None,
    )
    if config.fail_fast:
        _raise_first(results)
    own |= dict(zip(to_come, results[: len(to_come)], strict=True))
    attacked = max(len(targets) + len(extra), 1)
    taken = (clock.now() - started) / attacked
    of_controls = iter(results[len(to_come) :])
    attempts = []
    for at, target in enumerate(targets):
        made = [_attempt(control, target, own, of_controls, taken) for control in controls[at]]
        result = own[at]
        failed = isinstance(result, Exception)
        attempts.append(
            Attempts(
                target=target,
                attack=attack,
                chosen=chosen[at],
                own=Attempt(kind=None, result=result, seconds=taken, seed=seeds[at]),
                controls=() if failed else tuple(made),
                budget=max(seconds, 0.0) / attacked,
                needed=None if failed else _needed(attack, target.seen, guard),
            )
        )
    return attempts


def _needed(attack: ReadyAttack, seen: Observation, guard: Guard) -> float | None:
    seconds = guard.call("the clients' model", partial(needed_seconds, attack.attack, seen))
    if isinstance(seconds, Exception):
        log.warning("what %s needs is not known: %s", attack.config.name, message_of(seconds))
        return None
    return seconds


def times_attacked(config: AuditConfig) -> int:
    """How often one attack runs for a target, at most: on itself and on its controls."""
    return 1 + sum(kind != "grey" for kind in config.controls)


def _expected(config: AuditConfig, partner: Control) -> int:
    """How many controls of a target will be attacked, at most."""
    of_its_own = [kind for kind in config.controls if kind in ("noise", "undefended")]
    return len(of_its_own) + (partner.seen is not None)


def _seed(attack: ReadyAttack, target: Target, config: AuditConfig, *parts: str) -> int:
    return seed_of(config.seed, target.slot.round, target.name, *parts, attack.config.name)


def _raise_first(results: Iterable[object]) -> None:
    for result in results:
        if isinstance(result, Exception):
            raise result


def _controls(
    attack: ReadyAttack,
    target: Target,
    partner: Control,
    config: AuditConfig,
    guard: Guard,
    deadline: float,
) -> list[Control]:
    """The controls of one target. Without truth noise alone, for the attack's own objective."""
    kinds = config.controls
    if target.truth is None:
        kinds = tuple(kind for kind in kinds if kind == "noise")
    elif not len(target.truth.images):
        return []
    controls = []
    for kind in kinds:
        made = partial(_control, kind, attack, target, partner, config, deadline)
        control = guard.result("the clients' model", made)
        if isinstance(control, Reason):
            control = Control(kind=kind, reason=control)
        controls.append(control)
    return controls


def _control(
    kind: ControlKind,
    attack: ReadyAttack,
    target: Target,
    partner: Control,
    config: AuditConfig,
    deadline: float,
) -> Control:
    if kind in ("noise", "undefended") and clock.now() > deadline:
        raise TimeUpError("there was no time left to make this control")
    if kind == "noise":
        seed = _seed(attack, target, config, "noise")
        rng = torch.Generator().manual_seed(seed)
        return Control(kind=kind, seen=noise_of_equal_norm(target.seen, rng), seed=seed)
    if kind == "undefended" and target.truth is not None:
        return Control(kind=kind, seen=undefended(target.seen, target.truth, deadline=deadline))
    if kind == OTHER:
        return partner
    return Control(kind=kind)


def _attempt(
    control: Control,
    target: Target,
    results: Mapping[int, Reconstruction | Exception],
    of_controls: Iterator[Reconstruction | Exception],
    taken: float,
) -> Attempt:
    if control.reason is not None:
        return Attempt(kind=control.kind, result=control.reason, attacked=False)
    if control.place is not None:
        return Attempt(kind=control.kind, result=results[control.place])
    if control.seen is None:
        images = grey(target.seen.image, target.seen.num_images)
        picture = Reconstruction(
            images=images, labels=None, objective=0.0, steps=0, stopped="finished"
        )
        return Attempt(kind=control.kind, result=picture, attacked=False)
    result = next(of_controls)
    return Attempt(kind=control.kind, result=result, seconds=taken, seed=control.seed)
