"""The optimisation attack: a loop written once, with slots that each paper fills.

Every attack of this family guesses images, replays what a client would have sent for them, and
moves the guess until the replay looks like the observed update. They differ in where they start,
how labels are found, how the two updates are compared, what else an image should look like, and
how the guess is moved. Those are the slots of `OptimisationAttack`.

Inside the engine images are model inputs (normalised); `Reconstruction.images` are pixels.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol, final

import torch
from torch import Tensor

from fl_privacy_audit.errors import AttackError
from fl_privacy_audit.protocols import Progress
from fl_privacy_audit.types import ImageSpec, Observation, Reconstruction, Update

from .labels import LabelRule, Labels
from .replay import Replay

Start = Callable[[Observation, torch.Generator], Tensor]
"""First guess, ``(N, C, H, W)`` model inputs."""
Distance = Callable[[Update, Update], Tensor]
"""How unlike two updates are: a scalar, 0 where they agree."""
Prior = Callable[[Tensor, Observation], Tensor]
"""How unlike a natural image the inputs ``(N, C, H, W)`` are: a scalar."""
Weight = Callable[[Observation], float]
"""How much a prior counts against the distance."""
GradientRule = Callable[[Tensor], Tensor]
"""What the optimiser is given for the gradient of the objective."""
Constraint = Callable[[Tensor, ImageSpec], Tensor]
"""Moves inputs ``(N, C, H, W)`` back to where images can be."""
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
        labels: Label rule.
        replay: What a client would have sent.
        distance: Compares replayed and observed updates. The best iterate and the best restart
            are chosen by it alone, without the priors.
        priors: ``(weight, prior)`` pairs added to the distance; the weight may depend on what is
            known of the noise.
        optimiser: Moves the guess.
        gradient_rule: Applied to the gradient first.
        constrain: Applied after each step.
        schedule: Learning-rate factor.
        steps: Optimiser steps of one restart.
        restarts: Fresh starts.
        dtype: Floating type of the computation.
    """

    name: str
    start: Start
    labels: LabelRule
    replay: Callable[[Observation], Replay]
    distance: Distance
    optimiser: Optimiser
    priors: tuple[tuple[Weight, Prior], ...] = ()
    gradient_rule: GradientRule = lambda gradient: gradient
    constrain: Constraint = lambda inputs, spec: inputs
    schedule: Schedule = lambda done: 1.0
    steps: int
    restarts: int = 1
    dtype: torch.dtype = torch.float32

    def reconstruct(
        self,
        seen: Observation,
        *,
        rng: torch.Generator,
        seconds: float = float("inf"),
        progress: Progress | None = None,
    ) -> Reconstruction:
        """See `fl_privacy_audit.protocols.Attack.reconstruct`."""
        deadline = time.monotonic() + seconds
        seen = _cast(seen, self.dtype)
        replay = self.replay(seen)
        best: _Trial | None = None
        taken = 0
        for restart in range(self.restarts):

            def report(step: int, base: int = restart * self.steps) -> None:
                if progress is not None:
                    progress(base + step, self.restarts * self.steps)

            trial = self._run(seen, replay, rng, deadline, report)
            taken += trial.steps
            if best is None or bool(trial.distance < best.distance):
                best = trial
            if trial.out_of_time:
                break
        assert best is not None, "a recipe has at least one restart"
        objective = float(best.distance)
        if not objective < float("inf"):
            raise AttackError(
                "the objective was not finite at any step; the update or the model may overflow"
            )
        return Reconstruction(
            images=seen.image.denormalise(best.inputs).clamp(0, 1).float(),
            labels=best.labels,
            objective=objective,
            steps=taken,
            stopped="out of time" if best.out_of_time or taken < self._all_steps else "finished",
        )

    @property
    def _all_steps(self) -> int:
        return self.steps * self.restarts

    def _run(
        self,
        seen: Observation,
        replay: Replay,
        rng: torch.Generator,
        deadline: float,
        report: Callable[[int], None],
    ) -> "_Trial":
        inputs = self.start(seen, rng).to(seen.device, self.dtype).requires_grad_()
        labels = self.labels(seen, rng)
        leaves = [inputs, *labels.leaves]
        optimiser = self.optimiser(leaves)
        rates = [group["lr"] for group in optimiser.param_groups]
        weights = [(weight(seen), prior) for weight, prior in self.priors]
        best = torch.full((), float("inf"), dtype=self.dtype, device=seen.device)
        kept, kept_labels = inputs.detach().clone(), labels.classes()

        def evaluate() -> Tensor:
            nonlocal best, kept, kept_labels
            distance = self.distance(replay(inputs, labels.probabilities()), replay.target)
            objective = distance
            for weight, prior in weights:
                objective = objective + weight * prior(inputs, seen)
            gradients = torch.autograd.grad(objective, leaves)
            with torch.no_grad():
                better = distance < best
                best = torch.where(better, distance, best)
                kept = torch.where(better, inputs, kept)
                kept_labels = torch.where(better, labels.classes(), kept_labels)
                for leaf, gradient in zip(leaves, gradients, strict=True):
                    leaf.grad = self.gradient_rule(gradient)
            return objective.detach()

        step = 0
        for step in range(1, self.steps + 1):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * self.schedule((step - 1) / self.steps)
            optimiser.step(evaluate)  # type: ignore[arg-type]
            with torch.no_grad():
                inputs.copy_(self.constrain(inputs, seen.image))
            report(step)
            if time.monotonic() > deadline:
                break
        evaluate()
        return _Trial(kept, kept_labels, best, step, out_of_time=step < self.steps)


@dataclass(frozen=True)
class _Trial:
    inputs: Tensor
    labels: Tensor
    distance: Tensor
    steps: int
    out_of_time: bool


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


__all__ = ["Labels", "OptimisationAttack"]
