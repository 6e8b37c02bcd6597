"""The optimisation attack: a loop written once, with slots that each paper fills.

Every attack of this family guesses images, replays what a client would have sent for them, and
moves the guess until the replay looks like the observed update. They differ in where they start,
how labels are found, how the two updates are compared, what else an image should look like, and
how the guess is moved. Those are the slots of `OptimisationAttack`.

Many trials run side by side: restarts of one victim, and victims that share an architecture. How
the gradients of a step are computed is chosen in `evaluators`; the loop does not know.

Inside the engine images are model inputs (normalised); `Reconstruction.images` are pixels.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, final

import torch
from torch import Tensor

from fl_privacy_audit.attacks.parts.labels import LabelRule
from fl_privacy_audit.attacks.parts.randomness import own_random_numbers
from fl_privacy_audit.attacks.parts.replay import Replay
from fl_privacy_audit.core.errors import AttackError
from fl_privacy_audit.core.protocols import Progress
from fl_privacy_audit.core.types import ImageSpec, Observation, Reconstruction, Update

from .adaptation import adapt
from .batch import Decode, Distance, Prior, Trials, Weight
from .consistency import GroupConsistency
from .gradients import Evaluator, choose_evaluator

Start = Callable[[Observation, torch.Generator], Tensor]
"""First guess: ``(N, C, H, W)`` model inputs, or whatever `Decode` takes."""
GradientRule = Callable[[Tensor], Tensor]
"""What the optimiser is given for the gradient of the objective."""
Constraint = Callable[[Tensor, ImageSpec], Tensor]
"""Moves guesses, ``(T, N, C, H, W)`` inputs say, back to where images can be."""
Finish = Callable[[Tensor, Tensor, Observation], tuple[Tensor, Tensor]]
"""Best inputs ``(M, C, H, W)`` and labels ``(M,)`` -> the N that are returned."""
Stopped = Literal["finished", "converged", "out of time"]
Schedule = Callable[[float], float]
"""Share of the steps done, in [0, 1) -> factor on the learning rate."""


class Optimiser(Protocol):
    """Builds a fresh optimiser over the guess."""

    def __call__(self, leaves: Iterable[Tensor]) -> torch.optim.Optimizer:
        """``leaves``: the images, the label scores where learned, the replay's own unknowns."""


@final
@dataclass(frozen=True, kw_only=True)
class OptimisationAttack:
    """A recipe of parts; see the module for what each slot does.

    Attributes:
        name: Name in the table of attacks.
        start: First guess.
        decode: Guess -> model inputs ``(N, C, H, W)``: where a generator goes, whose latents are
            then the guess. By default the guess is the inputs.
        labels: Label rule.
        replay: What a client would have sent.
        distance: Compares replayed and observed updates. The best iterate and the best restart
            are chosen by it alone, without the priors.
        priors: ``(weight, prior)`` pairs added to the distance; the weight may depend on what is
            known of the noise, on the restart, and change along the way.
        balanced: Whether the weights are in units of the balance: 1 is the weight at which a prior
            pulls the first guess as hard as the distance does.
        optimiser: Moves the guess.
        separable: Whether the optimiser treats every number by itself (Adam does, L-BFGS does
            not), so that trials can share one.
        gradient_rule: Applied to the gradient first.
        constrain: Applied after each step.
        consistency: Pulls the restarts of a victim to their mean: see `consistency`.
        register: Steps between two registrations of the restarts to their mean; 0 for none.
        finish: Makes the images and labels that are returned out of the best guess's.
        patience: Stop when no trial's least distance fell by the share `tolerance` in so many
            steps; 0 for never. Not for recipes whose learning rate falls: a distance that stalls
            at one rate falls again at the next.
        tolerance: See `patience`.
        schedule: Learning-rate factor.
        steps: Optimiser steps of one restart.
        restarts: Fresh starts.
        dtype: Floating type of the computation.
        engine: How gradients are computed: a name in `evaluators.EVALUATORS`, or ``"auto"``.
    """

    name: str
    start: Start
    labels: LabelRule
    replay: Callable[[Observation], Replay]
    distance: Distance
    optimiser: Optimiser
    separable: bool = True
    priors: tuple[tuple[Weight, Prior], ...] = ()
    balanced: bool = False
    gradient_rule: GradientRule = lambda gradient: gradient
    constrain: Constraint = lambda guesses, spec: guesses
    decode: Decode = lambda guess, seen: guess
    consistency: float = 0.0
    register: int = 0
    finish: Finish = lambda inputs, labels, seen: (inputs, labels)
    patience: int = 0
    tolerance: float = 1e-3
    schedule: Schedule = lambda done: 1.0
    steps: int
    restarts: int = 1
    dtype: torch.dtype = torch.float32
    engine: str = "auto"

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: Steps or restarts are not whole numbers of one or more.
        """
        for name, value in (("steps", self.steps), ("restarts", self.restarts)):
            if type(value) is not int or value < 1:
                raise ValueError(f"`{name}` must be a whole number from 1, but got {value!r}")

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

    def reconstruct_many(
        self,
        observations: Sequence[Observation],
        *,
        rngs: Sequence[torch.Generator],
        seconds: float = float("inf"),
        progress: Progress | None = None,
    ) -> list[Reconstruction | Exception]:
        """Attack several victims that share model, shapes, local training and defence.

        Args:
            observations: Alike but for their tensors.
            rngs: One for each.
            seconds: For all of them together.
            progress: Called with steps done and in all.

        Returns:
            One result for each victim; an exception where its attack could not run.
        """
        results: list[Reconstruction | Exception] = [
            AttackError(
                "the update, or the gradient made of it, is not finite: the client's training "
                "diverged, or its weights overflow"
            )
            for _ in observations
        ]
        sound = [at for at, seen in enumerate(observations) if finite(seen)]
        if not sound:
            return results
        group = [observations[at] for at in sound]
        own = [rngs[at] for at in sound]
        with own_random_numbers(own[0].initial_seed(), (seen.device for seen in group)):
            informed = replace(self, distance=adapt(self.distance, group))
            found = informed._reconstruct_many(group, own, seconds, progress)
        for at, result in zip(sound, found, strict=True):
            results[at] = result
        return results

    def _reconstruct_many(
        self,
        observations: Sequence[Observation],
        rngs: Sequence[torch.Generator],
        seconds: float,
        progress: Progress | None,
    ) -> list[Reconstruction | Exception]:
        deadline = time.monotonic() + seconds
        trials = [
            (index, Trials.draw(self, seen, self.replay(seen), rng, restart))
            for index, (seen, rng) in enumerate(
                zip((_cast(o, self.dtype) for o in observations), rngs, strict=True)
            )
            for restart in range(self.restarts)
        ]
        # Trials that cannot share an optimiser run one after the other.
        groups = [trials] if self.separable else [[trial] for trial in trials]
        best: dict[int, _Outcome] = {}
        taken = dict.fromkeys(range(len(observations)), 0)
        short = dict.fromkeys(range(len(observations)), self.restarts)
        describe = self.replay(observations[0]).describe
        for number, group in enumerate(groups):

            def report(step: int, base: int = number * self.steps) -> None:
                if progress is not None:
                    progress(base + step, len(groups) * self.steps)

            outcomes = self._run(Trials.join([t for _, t in group]), deadline, report)
            for (index, _), outcome in zip(group, outcomes, strict=True):
                taken[index] += outcome.steps
                short[index] -= outcome.converged or outcome.steps == self.steps
                if index not in best or bool(outcome.distance < best[index].distance):
                    best[index] = outcome
            if time.monotonic() > deadline:
                break
        return [
            self._result(seen, best.get(index), taken[index], short[index] > 0, describe)
            for index, seen in enumerate(observations)
        ]

    def _result(
        self,
        seen: Observation,
        best: "_Outcome | None",
        taken: int,
        short: bool,
        describe: Callable[[Tensor], Mapping[str, float]],
    ) -> Reconstruction | Exception:
        if best is None:
            return AttackError("the time was up before this update's turn; allow more seconds")
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
            details={"engine": best.engine, **describe(best.extra)},
        )

    def _run(
        self, trials: Trials, deadline: float, report: Callable[[int], None]
    ) -> "list[_Outcome]":
        evaluator = choose_evaluator(self, trials, deadline)
        leaves = list(trials.leaves().values())
        optimiser = self.optimiser(leaves)
        rates = [group["lr"] for group in optimiser.param_groups]
        consistency = GroupConsistency(self.consistency, self.restarts, self.register)
        keep = _Best(trials)

        def evaluate() -> Tensor:
            step = evaluator(trials)
            keep.update(step.distances)
            pulled = consistency(trials.guesses.detach(), step.guess_gradients)
            found = (pulled, step.score_gradients, step.extra_gradients)
            for leaf, gradient in zip(leaves, (g for g in found if g is not None), strict=True):
                leaf.grad = self.gradient_rule(gradient)
            return step.objectives.sum()

        step, converged = 0, False
        for step in range(1, self.steps + 1):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * self.schedule((step - 1) / self.steps)
            trials.move_weights((step - 1) / self.steps)
            optimiser.step(evaluate)  # type: ignore[arg-type]
            with torch.no_grad():
                trials.guesses.copy_(self.constrain(trials.guesses, trials.seen.image))
            report(step)
            if time.monotonic() > deadline:
                break
            if self.patience and step % self.patience == 0 and keep.stalled(self.tolerance):
                converged = step < self.steps
                break
        evaluate()
        if converged:
            report(self.steps)
        return keep.outcomes(step, evaluator, converged)


@dataclass(frozen=True)
class _Outcome:
    guess: Tensor
    labels: Tensor
    extra: Tensor
    distance: Tensor
    steps: int
    converged: bool
    engine: str


class _Best:
    """The iterate of each trial with the least distance so far; never waits for the device."""

    def __init__(self, trials: Trials) -> None:
        self._trials = trials
        self._guesses = trials.guesses.detach().clone()
        self._labels = trials.scores.detach().argmax(dim=-1)
        self._extra = trials.extra.detach().clone()
        self._distances = trials.guesses.new_full((len(trials),), float("inf"))
        self._before = self._distances

    @torch.no_grad()
    def update(self, distances: Tensor) -> None:
        better = distances < self._distances
        self._distances = torch.where(better, distances, self._distances)
        wide = better.view(-1, *[1] * (self._guesses.ndim - 1))
        self._guesses = torch.where(wide, self._trials.guesses, self._guesses)
        labels = self._trials.scores.argmax(dim=-1)
        self._labels = torch.where(better.view(-1, 1), labels, self._labels)
        self._extra = torch.where(better.view(-1, 1), self._trials.extra, self._extra)

    def stalled(self, tolerance: float) -> bool:
        """Whether no trial came closer by this share since it was asked last."""
        moved = self._distances < (1 - tolerance) * self._before
        self._before = self._distances
        return not bool(moved.any())

    def outcomes(self, steps: int, evaluator: Evaluator, converged: bool) -> list[_Outcome]:
        return [
            _Outcome(guess, labels, extra, distance, steps, converged, evaluator.name)
            for guess, labels, extra, distance in zip(
                self._guesses, self._labels, self._extra, self._distances, strict=True
            )
        ]


def finite(seen: Observation) -> bool:
    """Whether all that is replayed and compared is finite: weights, buffers and update."""
    parts = (seen.parameters, seen.buffers, seen.update, seen.gradient or {})
    return all(bool(tensor.isfinite().all()) for part in parts for tensor in part.values())


def _cast(seen: Observation, dtype: torch.dtype) -> Observation:
    def cast(tensors: Update) -> dict[str, Tensor]:
        return {n: t.to(dtype) if t.is_floating_point() else t for n, t in tensors.items()}

    return replace(
        seen,
        parameters=cast(seen.parameters),
        buffers=cast(seen.buffers),
        returned_buffers=cast(seen.returned_buffers),
        update=cast(seen.update),
        gradient=None if seen.gradient is None else cast(seen.gradient),
    )
