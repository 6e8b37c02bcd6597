"""The optimisation attack: a recipe and the loop that runs it, written once.

Many guesses move side by side: restarts of one target, and targets that share an architecture. How
the gradients of a step are computed is chosen in `gradients`; the loop does not know.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from torch import Tensor

from fl_privacy_audit.attacks.parts.randomness import own_random_numbers
from fl_privacy_audit.attacks.parts.replay import cast
from fl_privacy_audit.core import clock
from fl_privacy_audit.core.errors import AttackError, TimeUpError
from fl_privacy_audit.core.protocols import Progress
from fl_privacy_audit.core.types import Observation, Reconstruction

from .adaptation import adapt
from .batch import Guesses
from .consistency import GroupConsistency
from .cost import MEASURED, kind_of
from .gradients import choose_backend
from .recipe import Recipe
from .regularisation import regularised

Stopped = Literal["finished", "converged", "out of time"]
NO_TURN = "the time was up before this update's turn; allow more seconds"
NOT_FINITE = (
    "the update, or the gradient made of it, is not finite: the client's training diverged, or its "
    "weights overflow"
)


@final
@dataclass(frozen=True, kw_only=True)
class OptimisationAttack(Recipe):
    """A recipe that runs: see `Recipe` for what each slot does."""

    def reconstruct(
        self,
        seen: Observation,
        *,
        rng: torch.Generator,
        seconds: float = float("inf"),
        progress: Progress | None = None,
    ) -> Reconstruction:
        """See `fl_privacy_audit.core.protocols.Attack.reconstruct`."""
        (result,) = self.reconstruct_many([seen], rngs=[rng], seconds=seconds, progress=progress)
        if isinstance(result, Exception):
            raise result
        return result

    def check(self, seen: Observation) -> None:
        """Refuse, before anything is computed, what cannot be attacked.

        Raises:
            UnmetNeedError: The replay cannot be made.
            AttackError: The update is not finite.
        """
        if not finite(seen):
            raise AttackError(NOT_FINITE)
        self.replay(seen)

    def reconstruct_many(
        self,
        observations: Sequence[Observation],
        *,
        rngs: Sequence[torch.Generator],
        seconds: float = float("inf"),
        progress: Progress | None = None,
    ) -> list[Reconstruction | Exception]:
        """Attack several targets that share model, shapes, local training and defence.

        Args:
            observations: Alike but for their tensors.
            rngs: One for each.
            seconds: For all of them together.
            progress: Called with steps done and in all.

        Returns:
            One result for each target; an exception where its attack could not run.
        """
        results: list[Reconstruction | Exception] = [AttackError(NOT_FINITE) for _ in observations]
        sound = [index for index, seen in enumerate(observations) if finite(seen)]
        if not sound:
            return results
        targets = [observations[index] for index in sound]
        their_rngs = [rngs[index] for index in sound]
        with own_random_numbers(their_rngs[0].initial_seed(), (seen.device for seen in targets)):
            informed = replace(self, distance=adapt(self.distance, targets))
            reconstructions = informed._reconstruct_many(targets, their_rngs, seconds, progress)
        for index, result in zip(sound, reconstructions, strict=True):
            results[index] = result
        return results

    def _reconstruct_many(
        self,
        observations: Sequence[Observation],
        rngs: Sequence[torch.Generator],
        seconds: float,
        progress: Progress | None,
    ) -> list[Reconstruction | Exception]:
        started = clock.now()
        deadline = started + seconds
        guesses: list[tuple[int, Guesses]] = []
        for index, (observed, rng) in enumerate(zip(observations, rngs, strict=True)):
            seen = cast(observed, self.dtype)
            for number in range(self.restarts):
                # To evaluate a guess takes about as long as to draw it.
                if not guesses or clock.now() < started + seconds / 2:
                    drawn = Guesses.draw(self, seen, self.replay(seen), rng, number)
                    guesses.append((index, drawn))
        # Guesses that cannot share an optimiser run one after the other.
        groups = [guesses] if self.separable else [[guess] for guess in guesses]
        best: dict[int, _Restart] = {}
        taken = dict.fromkeys(range(len(observations)), 0)
        short = dict.fromkeys(range(len(observations)), self.restarts)
        describe = self.replay(observations[0]).describe
        for number, group in enumerate(groups):

            def report(step: int, base: int = number * self.steps) -> None:
                if progress is not None:
                    progress(base + step, len(groups) * self.steps)

            restarts = self._run(Guesses.join([guess for _, guess in group]), deadline, report)
            for (index, _), restart in zip(group, restarts, strict=True):
                taken[index] += restart.steps
                short[index] -= restart.converged or restart.steps == self.steps
                if index not in best or bool(restart.distance < best[index].distance):
                    best[index] = restart
            if clock.now() > deadline:
                break
        return [
            self._result(seen, best.get(index), taken[index], short[index] > 0, describe)
            for index, seen in enumerate(observations)
        ]

    def _result(
        self,
        seen: Observation,
        best: "_Restart | None",
        taken: int,
        short: bool,
        describe: Callable[[Tensor], Mapping[str, float]],
    ) -> Reconstruction | Exception:
        if best is None:
            return TimeUpError(NO_TURN)
        objective = float(best.distance)
        if not objective < float("inf"):
            return AttackError(
                "the objective was not finite at any step; the update or the model may overflow"
            )
        with torch.no_grad():
            inputs, labels = self.finish(self.decode(best.guess, seen), best.labels, seen)
        whole: Stopped = "finished" if taken == self.steps * self.restarts else "converged"
        return Reconstruction(
            images=seen.image.denormalise(inputs).clamp(0, 1).float(),
            labels=labels,
            objective=objective,
            steps=taken,
            stopped="out of time" if short else whole,
            details={"backend": best.backend, **describe(best.extra)},
        )

    def _run(
        self, guesses: Guesses, deadline: float, report: Callable[[int], None]
    ) -> "list[_Restart]":
        began = clock.now()
        backend = choose_backend(self, guesses, deadline)
        leaves = guesses.leaves()
        optimiser = self.optimiser(list(leaves.values()))
        rates = [group["lr"] for group in optimiser.param_groups]
        consistency = GroupConsistency(self.consistency, self.restarts, self.register)
        best = _Best(guesses)
        took: float | None = None

        def evaluate() -> Tensor:
            nonlocal took
            started = clock.now()
            if took is not None and started > deadline:
                raise _TimeUp
            step = regularised(backend, guesses, self.regularisation, self.ahead)
            best.update(step.distances)
            pulled = consistency(guesses.values.detach(), step.gradients["values"])
            gradients = {**step.gradients, "values": pulled}
            for name, leaf in leaves.items():
                leaf.grad = self.gradient_rule(gradients[name])
            took = clock.now() - started
            return step.objectives.sum()

        step, converged = 0, False
        stamps: list[float] = []
        with contextlib.suppress(_TimeUp):
            for step in range(1, self.steps + 1):
                for group, rate in zip(optimiser.param_groups, rates, strict=True):
                    group["lr"] = rate * self.schedule((step - 1) / self.steps)
                guesses.move_weights((step - 1) / self.steps)
                optimiser.step(evaluate)  # type: ignore[arg-type]
                with torch.no_grad():
                    guesses.values.copy_(self.constrain(guesses.values, guesses.seen.image))
                report(step)
                stamps = [*stamps[:1], clock.now()]
                # What is left must do for the last iterate.
                if stamps[-1] + (took or 0.0) > deadline:
                    break
                if self.patience and step % self.patience == 0 and best.stalled(self.tolerance):
                    converged = step < self.steps
                    break
            evaluate()
        MEASURED[kind_of(self.name, guesses.seen)] = _pace(began, stamps, step) / len(guesses)
        if converged:
            report(self.steps)
        return best.restarts(step, backend.name, converged)


def _pace(began: float, stamps: Sequence[float], steps: int) -> float:
    """Seconds of a step. The first one warms up: it counts only where no other follows.

    Args:
        began: When all began.
        stamps: When the first step ended, and the last.
        steps: How many were taken.
    """
    if len(stamps) < 2:
        return (stamps[0] if stamps else clock.now()) - began
    return (stamps[1] - stamps[0]) / (steps - 1)


class _TimeUp(Exception):
    """No further evaluation is begun: some optimisers ask for many in one step."""


@dataclass(frozen=True)
class _Restart:
    """The best guess of one restart, and how it was found."""

    guess: Tensor
    labels: Tensor
    extra: Tensor
    distance: Tensor
    steps: int
    converged: bool
    backend: str


class _Best:
    """The iterate of each guess with the least distance so far; never waits for the device."""

    def __init__(self, guesses: Guesses) -> None:
        self._guesses = guesses
        self._values = guesses.values.detach().clone()
        self._labels = guesses.scores.detach().argmax(dim=-1)
        self._extra = guesses.extra.detach().clone()
        self._distances = guesses.values.new_full((len(guesses),), float("inf"))
        self._before = self._distances

    @torch.no_grad()
    def update(self, distances: Tensor) -> None:
        better = distances < self._distances
        self._distances = torch.where(better, distances, self._distances)
        wide = better.view(-1, *[1] * (self._values.ndim - 1))
        self._values = torch.where(wide, self._guesses.values, self._values)
        if self._guesses.learned:
            labels = self._guesses.scores.argmax(dim=-1)
            self._labels = torch.where(better.view(-1, 1), labels, self._labels)
        if self._extra.numel():
            self._extra = torch.where(better.view(-1, 1), self._guesses.extra, self._extra)

    def stalled(self, tolerance: float) -> bool:
        """Whether no guess has come closer by this share since the last call."""
        moved = self._distances < (1 - tolerance) * self._before
        self._before = self._distances
        return not bool(moved.any())

    def restarts(self, steps: int, backend: str, converged: bool) -> list[_Restart]:
        return [
            _Restart(guess, labels, extra, distance, steps, converged, backend)
            for guess, labels, extra, distance in zip(
                self._values, self._labels, self._extra, self._distances, strict=True
            )
        ]


def finite(seen: Observation) -> bool:
    """Whether all that is replayed and compared is finite: weights, buffers and update."""
    parts = (seen.parameters, seen.buffers, seen.update, seen.gradient or {})
    return all(bool(tensor.isfinite().all()) for part in parts for tensor in part.values())
