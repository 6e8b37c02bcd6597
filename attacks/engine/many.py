"""Several targets, one attack: side by side where the attack can, bounded in time and memory."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeGuard

import torch

from fl_privacy_audit.attacks.needs import Needs
from fl_privacy_audit.core import clock
from fl_privacy_audit.core.errors import AttackError, TimeUpError
from fl_privacy_audit.core.guard import Guard
from fl_privacy_audit.core.observe import private_copy
from fl_privacy_audit.core.protocols import Attack, Progress
from fl_privacy_audit.core.reasons import message_of
from fl_privacy_audit.core.types import Observation, Reconstruction

from .cost import MEASURED, kind_of
from .loop import NO_TURN, OptimisationAttack

log = logging.getLogger("fl_privacy_audit")

MEMORY = 1 << 30
"""Bytes that guesses side by side may take, roughly: larger groups run in chunks."""
COPIES = 16
"""Tensors of the size of weights and images that a guess needs at its peak, counted generously."""
A_MOMENT = 0.1
"""Seconds that an attack is tried for, if that takes longer than one step, to see what it costs."""
WARM = 5.0
"""Seconds of a first step, the only one there was time for, beyond which it is believed: none takes so long to warm up."""


def needed_seconds(attack: Attack, seen: Observation) -> float | None:
    """Seconds that all steps of an attack on an observation take here, restarts included.

    Measured on targets of this kind in this process, however far those attacks got. The first time
    an optimisation attack is tried for a moment, which takes one step at least, and once more where that
    was all: a process's first step takes many times as long as its next. Each control of the
    target takes as long again.

    Args:
        attack: Any attack.
        seen: What it would be given.

    Returns:
        None where nobody can tell: a closed form, or an attack from elsewhere, that has not yet run.

    Raises:
        UnmetNeedError: An optimisation attack refuses the observation.
        AttackError: It cannot run.
    """
    kind = kind_of(attack.name, seen)
    if not isinstance(attack, OptimisationAttack):
        return MEASURED.get(kind)
    if kind not in MEASURED:
        tried, began = replace(attack, restarts=1), clock.now()
        found = tried.reconstruct(seen, rng=torch.Generator().manual_seed(0), seconds=A_MOMENT)
        if found.steps == 1 and clock.now() - began < WARM:  # it may be what a first step takes
            tried.reconstruct(seen, rng=torch.Generator().manual_seed(0), seconds=A_MOMENT)
    return MEASURED[kind] * attack.steps * attack.restarts


def refusal(attack: Attack, seen: Observation, needs: Needs | None = None) -> Exception | None:
    """Why an attack will not take an observation, as far as it can be told before it starts."""
    try:
        (needs or Needs()).check(seen)
        if isinstance(attack, OptimisationAttack):
            attack.check(seen)
    except AttackError as error:
        return error
    return None


def shares_steps(attack: Attack) -> TypeGuard[OptimisationAttack]:
    """Whether the attack moves the guesses for several observations side by side."""
    return isinstance(attack, OptimisationAttack) and attack.separable


def reconstruct_each(
    attack: Attack,
    observations: Sequence[Observation],
    *,
    rngs: Sequence[torch.Generator],
    owners: Sequence[int] | None = None,
    needs: Needs | None = None,
    seconds: float = float("inf"),
    progress: Progress | None = None,
    guard: Guard | None = None,
) -> list[Reconstruction | Exception]:
    """Attack every observation; one that fails does not touch the others.

    Args:
        attack: Any attack.
        observations: Observations of one model; they may differ in how many images there are to rebuild, and
            in what is known of local training and defence.
        rngs: One for each.
        owners: For each the place of the target that it is a control of, or its own. Where the attack
            on a target has failed, its controls are not attacked and have its error.
        needs: What the attack needs; an observation that lacks it is not attacked.
        seconds: For all of them, shared evenly by those still to come. Without time for one step
            no other is begun; the first always is, unless this is less than zero.
        progress: Called with steps done and in all, over the chunk that is running.
        guard: Stands around the attack; None for one of its own.

    Returns:
        A result or the exception for each, in order.
    """
    deadline = clock.now() + seconds
    owners = range(len(observations)) if owners is None else owners
    guard = guard or Guard()
    results: dict[int, Reconstruction | Exception] = {}
    ran = False
    for index, seen in enumerate(observations):
        error = refusal(attack, seen, needs)
        if error is not None:
            results[index] = error
    able = [index for index in range(len(observations)) if index not in results]
    for chunk in _chunks(attack, observations, able):
        failed = {i: results.get(owners[i]) for i in chunk}
        results |= {i: error for i, error in failed.items() if isinstance(error, Exception)}
        going = [i for i in chunk if i not in results]
        least = sum(MEASURED.get(kind_of(attack.name, observations[i]), 0.0) for i in going)
        if clock.now() + least >= deadline and (seconds < 0 or ran):
            results |= {i: TimeUpError(NO_TURN) for i in going}
            continue
        if not going:
            continue
        ran = True
        to_come = len(observations) - len(results)
        share = max(deadline - clock.now(), 0.0) * len(going) / to_come
        targets, their_rngs = [observations[i] for i in going], [rngs[i] for i in going]
        reconstructions = _attack(attack, targets, their_rngs, share, progress, guard)
        results |= dict(zip(going, reconstructions, strict=True))
    return [results[index] for index in range(len(observations))]


def _attack(
    attack: Attack,
    targets: Sequence[Observation],
    rngs: Sequence[torch.Generator],
    seconds: float,
    progress: Progress | None,
    guard: Guard,
) -> Sequence[Reconstruction | Exception]:
    """Targets side by side; where that goes wrong one by one, so that it costs no other target."""

    def run() -> Sequence[Reconstruction | Exception]:
        if isinstance(attack, OptimisationAttack):
            return attack.reconstruct_many(targets, rngs=rngs, seconds=seconds, progress=progress)
        (target,), (rng,) = targets, rngs
        started = clock.now()
        seen = private_copy(target)
        result = attack.reconstruct(seen, rng=rng, seconds=seconds, progress=progress)
        if isinstance(result, Reconstruction) and result.stopped != "out of time":
            MEASURED[kind_of(attack.name, target)] = clock.now() - started
        return [result]

    started, states = clock.now(), [rng.get_state() for rng in rngs]
    results = guard.call(f"attack {attack.name}", run)
    if not isinstance(results, Exception):
        return results
    if len(targets) == 1 or guard.fail_fast:
        return [results] * len(targets)
    log.warning("attack %s takes targets one by one: %s", attack.name, message_of(results))
    left = max(seconds - (clock.now() - started), 0.0) / len(targets)
    for rng, state in zip(rngs, states, strict=True):
        rng.set_state(state)
    alone = zip(targets, rngs, strict=True)
    return [_attack(attack, [seen], [rng], left, progress, guard)[0] for seen, rng in alone]


def _chunks(
    attack: Attack, observations: Sequence[Observation], able: Sequence[int]
) -> list[list[int]]:
    """Indices of targets to attack together: alike, and no more than fit in memory."""
    if not shares_steps(attack):
        return [[index] for index in able]
    groups: dict[tuple[object, ...], list[int]] = {}
    for index in able:
        seen = observations[index]
        known = repr((seen.training, seen.defence))
        names = (*seen.update, *seen.returned_buffers)
        groups.setdefault((seen.num_images, known, names), []).append(index)
    chunks = []
    for alike in groups.values():
        seen = observations[alike[0]]
        size = sum(t.nbytes for t in seen.update.values())
        size += seen.num_images * math.prod(seen.image.shape) * seen.dtype.itemsize
        most = max(1, MEMORY // max(size * COPIES * attack.restarts, 1))
        chunks += [alike[at : at + most] for at in range(0, len(alike), most)]
    return chunks
