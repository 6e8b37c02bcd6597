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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, final

import torch
from torch import Tensor

from fl_privacy_audit.errors import AttackError
from fl_privacy_audit.protocols import Progress
from fl_privacy_audit.types import ImageSpec, Observation, Reconstruction, Update

from .evaluators import Decode, Distance, Evaluator, Prior, Trials, Weight, choose_evaluator
from .labels import LabelRule
from .replay import Replay

Start = Callable[[Observation, torch.Generator], Tensor]
"""First guess: ``(N, C, H, W)`` model inputs, or whatever `Decode` takes."""
GradientRule = Callable[[Tensor], Tensor]
"""What the optimiser is given for the gradient of the objective."""
Constraint = Callable[[Tensor, ImageSpec], Tensor]
"""Moves guesses, ``(T, N, C, H, W)`` inputs say, back to where images can be."""
Schedule = Callable[[float], float]
"""Share of the steps done, in [0, 1) -> factor on the learning rate."""


class Optimiser(Protocol):
    """Builds a fresh optimiser over the guess."""

    def __call__(self, leaves: Iterable[Tensor]) -> torch.optim.Optimizer:
        """``leaves``: the images, and the label scores where they are learned."""


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
        consistency: Pulls the restarts of a victim to their mean, as a weight on the squared
            distance to it (Yin et al. 2021, group consistency).
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
        """See `fl_privacy_audit.protocols.Attack.reconstruct`."""
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
        """Attack several victims that share model, shapes and local training, side by side.

        Args:
            observations: Alike but for their tensors.
            rngs: One for each.
            seconds: For all of them together.
            progress: Called with steps done and in all.

        Returns:
            One result for each victim; an exception where its attack could not run.
        """
        devices = {seen.device for seen in observations if seen.device.type == "cuda"}
        with torch.random.fork_rng(devices=devices):
            # Models may draw random numbers themselves (functional dropout, say).
            torch.manual_seed(rngs[0].initial_seed())
            return self._reconstruct_many(observations, rngs, seconds, progress)

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
        for number, group in enumerate(groups):

            def report(step: int, base: int = number * self.steps) -> None:
                if progress is not None:
                    progress(base + step, len(groups) * self.steps)

            outcomes = self._run(Trials.join([t for _, t in group]), deadline, report)
            for (index, _), outcome in zip(group, outcomes, strict=True):
                taken[index] += outcome.steps
                if index not in best or bool(outcome.distance < best[index].distance):
                    best[index] = outcome
            if time.monotonic() > deadline:
                break
        return [
            self._result(seen, best.get(index), taken[index])
            for index, seen in enumerate(observations)
        ]

    def _result(
        self, seen: Observation, best: "_Outcome | None", taken: int
    ) -> Reconstruction | Exception:
        if best is None:
            return AttackError("the time was up before this update's turn; allow more seconds")
        objective = float(best.distance)
        if not objective < float("inf"):
            return AttackError(
                "the objective was not finite at any step; the update or the model may overflow"
            )
        with torch.no_grad():
            inputs = self.decode(best.guess, seen)
        return Reconstruction(
            images=seen.image.denormalise(inputs).clamp(0, 1).float(),
            labels=best.labels,
            objective=objective,
            steps=taken,
            stopped="finished" if taken == self.steps * self.restarts else "out of time",
            details={"engine": best.engine},
        )

    def _run(
        self, trials: Trials, deadline: float, report: Callable[[int], None]
    ) -> "list[_Outcome]":
        evaluator = choose_evaluator(self, trials, deadline)
        leaves = [trials.guesses, *([trials.scores] if trials.learned else [])]
        optimiser = self.optimiser(leaves)
        rates = [group["lr"] for group in optimiser.param_groups]
        keep = _Best(trials)

        def evaluate() -> Tensor:
            step = evaluator(trials)
            keep.update(step.distances)
            gradients = [self._pull(trials, step.guess_gradients), step.score_gradients]
            for leaf, gradient in zip(leaves, gradients, strict=False):
                assert gradient is not None
                leaf.grad = self.gradient_rule(gradient)
            return step.objectives.sum()

        step = 0
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
        evaluate()
        return keep.outcomes(step, evaluator)

    def _pull(self, trials: Trials, gradients: Tensor) -> Tensor:
        """Add what group consistency pulls; restarts of a victim lie side by side."""
        if not self.consistency or self.restarts == 1 or not self.separable:
            return gradients
        guesses = trials.guesses.detach()
        groups = guesses.view(-1, self.restarts, *guesses.shape[1:])
        apart = (groups - groups.mean(dim=1, keepdim=True)).view_as(guesses)
        return gradients + 2 * self.consistency * apart


@dataclass(frozen=True)
class _Outcome:
    guess: Tensor
    labels: Tensor
    distance: Tensor
    steps: int
    engine: str


class _Best:
    """The iterate of each trial with the least distance so far; never waits for the device."""

    def __init__(self, trials: Trials) -> None:
        self._trials = trials
        self._guesses = trials.guesses.detach().clone()
        self._labels = trials.scores.detach().argmax(dim=-1)
        self._distances = trials.guesses.new_full((len(trials),), float("inf"))

    @torch.no_grad()
    def update(self, distances: Tensor) -> None:
        better = distances < self._distances
        self._distances = torch.where(better, distances, self._distances)
        wide = better.view(-1, *[1] * (self._guesses.ndim - 1))
        self._guesses = torch.where(wide, self._trials.guesses, self._guesses)
        labels = self._trials.scores.argmax(dim=-1)
        self._labels = torch.where(better.view(-1, 1), labels, self._labels)

    def outcomes(self, steps: int, evaluator: Evaluator) -> list[_Outcome]:
        return [
            _Outcome(guess, labels, distance, steps, evaluator.name)
            for guess, labels, distance in zip(
                self._guesses, self._labels, self._distances, strict=True
            )
        ]


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
