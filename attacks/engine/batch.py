"""The guesses that an optimisation attack moves, each with the victim it is a guess for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fl_privacy_audit.attacks.parts.replay import Replay, Run, by_autograd
from fl_privacy_audit.core.types import Observation, Update

if TYPE_CHECKING:
    from .loop import OptimisationAttack

Distance = Callable[[Update, Update], Tensor]
"""How unlike two updates are: a scalar, 0 where they agree."""
Prior = Callable[[Tensor, Observation], Tensor]
"""How unlike a natural image the inputs ``(N, C, H, W)`` are: a scalar."""
Decode = Callable[[Tensor, Observation], Tensor]
"""Guess -> model inputs ``(N, C, H, W)``."""
Weight = Callable[[Observation, int], float | tuple[float, float]]
"""How much a prior counts against the distance, in restart number 0, 1, ...: all along, or at the
start and at the end, with a geometric path between."""

TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, kw_only=True)
class Trials:
    """T guesses, each with the victim it is a guess for.

    Attributes:
        seen: Stands for all victims: model, shapes and local training are the same.
        guesses: ``(T, ...)``, moved in place: ``(T, N, C, H, W)`` model inputs, or latents.
        scores: ``(T, N, K)`` label scores where they are learned, else one-hot.
        learned: Whether `scores` are moved too.
        extra: ``(T, P)`` unknowns of the replay itself, moved too; P is 0 where it has none.
        run: The replay.
        parameters: Weights sent to each victim, T of them; often the same object.
        buffers: Likewise.
        returned: Buffers that came back.
        targets: What each victim returned.
        path: ``(T, P, 2)`` weights of the priors at the start and at the end.
        weights: ``(T, P)`` weights now, moved in place.
    """

    seen: Observation
    guesses: Tensor
    scores: Tensor
    learned: bool
    extra: Tensor
    run: Run
    parameters: Sequence[Update]
    buffers: Sequence[Update]
    returned: Sequence[Update]
    targets: Sequence[Update]
    path: Tensor
    weights: Tensor

    @classmethod
    def draw(
        cls,
        attack: "OptimisationAttack",
        seen: Observation,
        replay: Replay,
        rng: torch.Generator,
        restart: int = 0,
    ) -> "Trials":
        """One trial with a fresh start."""
        guess = attack.start(seen, rng).to(seen.device, attack.dtype)
        labels = attack.labels(seen, rng)
        found = [weight(seen, restart) for weight, _ in attack.priors]
        ends = [w if isinstance(w, tuple) else (w, w) for w in found]
        path = torch.tensor(ends, dtype=attack.dtype, device=seen.device).view(1, -1, 2)
        trial = cls(
            seen=seen,
            guesses=guess[None],
            scores=labels.scores.detach()[None],
            learned=labels.learned,
            extra=replay.extra.detach().to(seen.device, attack.dtype)[None],
            run=replay.run,
            parameters=[replay.start[0]],
            buffers=[replay.start[1]],
            returned=[seen.returned_buffers],
            targets=[replay.target],
            path=path,
            weights=torch.zeros_like(path[..., 0]),
        )
        if attack.balanced:
            trial.path.mul_(_balance(attack, trial)[None, :, None])
        return trial

    @classmethod
    def join(cls, trials: Sequence["Trials"]) -> "Trials":
        """Many trials as one; fresh leaves for the optimiser."""
        first = trials[0]
        return replace(
            first,
            guesses=torch.cat([t.guesses for t in trials]).clone().requires_grad_(),
            scores=torch.cat([t.scores for t in trials]).clone().requires_grad_(first.learned),
            extra=torch.cat([t.extra for t in trials]).clone().requires_grad_(),
            parameters=[p for t in trials for p in t.parameters],
            buffers=[b for t in trials for b in t.buffers],
            returned=[b for t in trials for b in t.returned],
            targets=[u for t in trials for u in t.targets],
            path=torch.cat([t.path for t in trials]),
            weights=torch.cat([t.path[..., 0] for t in trials]),
        )

    def __len__(self) -> int:
        """How many trials."""
        return len(self.guesses)

    def move_weights(self, done: float) -> None:
        """Move the priors' weights to where they are after a share of the steps, in [0, 1]."""
        first, last = self.path.unbind(dim=-1)
        between = first ** (1 - done) * last**done
        self.weights.copy_(torch.where(first == last, first, between))

    def leaves(self) -> dict[str, Tensor]:
        """What the optimiser moves, by name; the first axis is the trial."""
        leaves = {"guesses": self.guesses}
        if self.learned:
            leaves["scores"] = self.scores
        if self.extra.shape[1]:
            leaves["extra"] = self.extra
        return leaves


def _balance(attack: "OptimisationAttack", trial: Trials) -> Tensor:
    """``(P,)``: for each prior the weight at which it pulls the guess as hard as the distance.

    The mean absolute gradient of the distance with respect to the guess, over that of the prior; 0
    for a prior that does not pull, as the tie between epochs where there is one epoch only.
    """
    guess = trial.guesses[0].detach().requires_grad_()
    probabilities = trial.scores[0].softmax(dim=-1) if trial.learned else trial.scores[0]
    inputs = attack.decode(guess, trial.seen)
    start, target = (trial.parameters[0], trial.buffers[0]), trial.targets[0]
    update = trial.run(by_autograd, *start, inputs, probabilities, trial.extra[0], target)
    terms = [attack.distance(update, target)]
    terms += [prior(inputs, trial.seen) for _, prior in attack.priors]
    pulls = [torch.autograd.grad(t, guess, retain_graph=True)[0].abs().mean() for t in terms]
    return torch.stack(
        [(pull > 0) * pulls[0] / pull.clamp_min(TINY) for pull in pulls[1:]]
    ).detach()
