"""Several targets, one attack: side by side where the attack can, bounded in time and memory."""

import time
from collections.abc import Sequence

import torch

from fl_privacy_audit.attacks.needs import Needs
from fl_privacy_audit.core.protocols import Attack, Progress
from fl_privacy_audit.core.types import Observation, Reconstruction

from .loop import OptimisationAttack

MEMORY = 1 << 30
"""Bytes that guesses side by side may take, roughly: larger groups run in chunks."""
COPIES = 16
"""Tensors of the size of the weights that a guess needs at its peak, counted generously."""


def reconstruct_each(
    attack: Attack,
    observations: Sequence[Observation],
    *,
    rngs: Sequence[torch.Generator],
    needs: Needs | None = None,
    seconds: float = float("inf"),
    progress: Progress | None = None,
) -> list[Reconstruction | Exception]:
    """Attack every observation; one that fails does not touch the others.

    Args:
        attack: Any attack.
        observations: Observations of one model; they may differ in how many images there are to rebuild, and
            in what is known of local training and defence.
        rngs: One for each.
        needs: What the attack needs; an observation that lacks it is not attacked.
        seconds: For all of them, shared evenly by those still to come.
        progress: Called with steps done and in all, over the chunk that is running.

    Returns:
        A result or the exception for each, in order.
    """
    deadline = time.monotonic() + seconds
    results: list[Reconstruction | Exception] = [AssertionError("never attacked")] * len(
        observations
    )
    able = []
    for index, seen in enumerate(observations):
        try:
            (needs or Needs()).check(seen)
            able.append(index)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this target's result
            results[index] = error
    chunks = _chunks(attack, observations, able)
    left = len(able)
    for chunk in chunks:
        share = max(deadline - time.monotonic(), 0.0) * len(chunk) / left
        left -= len(chunk)
        targets, their_rngs = [observations[i] for i in chunk], [rngs[i] for i in chunk]
        reconstructions = _attack(attack, targets, their_rngs, share, progress)
        for index, result in zip(chunk, reconstructions, strict=True):
            results[index] = result
    return results


def _attack(
    attack: Attack,
    targets: Sequence[Observation],
    rngs: Sequence[torch.Generator],
    seconds: float,
    progress: Progress | None,
) -> list[Reconstruction | Exception]:
    try:
        if isinstance(attack, OptimisationAttack):
            return attack.reconstruct_many(targets, rngs=rngs, seconds=seconds, progress=progress)
        (target,), (rng,) = targets, rngs
        return [attack.reconstruct(target, rng=rng, seconds=seconds, progress=progress)]
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this chunk's result
        return [error] * len(targets)


def _chunks(
    attack: Attack, observations: Sequence[Observation], able: Sequence[int]
) -> list[list[int]]:
    """Indices of targets to attack together: alike, and no more than fit in memory."""
    if not isinstance(attack, OptimisationAttack) or not attack.separable:
        return [[index] for index in able]
    groups: dict[tuple[object, ...], list[int]] = {}
    for index in able:
        seen = observations[index]
        known = repr((seen.training, seen.defence))
        names = (*seen.update, *seen.returned_buffers)
        groups.setdefault((seen.num_images, known, names), []).append(index)
    chunks = []
    for alike in groups.values():
        size = sum(t.nbytes for t in observations[alike[0]].update.values())
        most = max(1, MEMORY // max(size * COPIES * attack.restarts, 1))
        chunks += [alike[at : at + most] for at in range(0, len(alike), most)]
    return chunks
