"""The guesses that an optimisation attack moves side by side, each with its target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from fl_privacy_audit.attacks.parts.replay import Replay, Run, by_autograd
from fl_privacy_audit.core.errors import UnmetNeedError
from fl_privacy_audit.core.types import Observation, Update

from .recipe import Recipe

TINY = torch.finfo(torch.float32).tiny


class Guess(NamedTuple):
    """One guess and what it is compared with; a tuple, so that `vmap` can look inside.

    Attributes:
        values: ``(N, C, H, W)`` model inputs, or latents.
        scores: ``(N, K)`` label scores where they are learned, else one-hot.
        extra: ``(E,)`` unknowns of the replay itself; E is 0 where it has none.
        parameters: Weights that were sent to the client.
        buffers: Likewise.
        returned: Buffers that came back.
        observed: What the client returned, in the form that the replay gives.
        weights: ``(P,)`` weights of the priors.
    """

    values: Tensor
    scores: Tensor
    extra: Tensor
    parameters: Update
    buffers: Update
    returned: Update
    observed: Update
    weights: Tensor

    def at(self, leaves: Mapping[str, Tensor]) -> "Guess":
        """The same guess with these in place of what the optimiser moves."""
        return self._replace(
            values=leaves["values"],
            scores=leaves.get("scores", self.scores),
            extra=leaves.get("extra", self.extra),
        )


@dataclass(frozen=True, kw_only=True)
class Guesses:
    """G guesses: restarts of one target, or of several that share an architecture.

    Attributes:
        seen: Stands for all targets: model, shapes and local training are the same.
        values: ``(G, ...)``, moved in place: ``(G, N, C, H, W)`` model inputs, or latents.
        scores: ``(G, N, K)`` label scores where they are learned, else one-hot.
        learned: Whether `scores` are moved too.
        extra: ``(G, E)`` unknowns of the replay itself, moved too; E is 0 where it has none.
        run: The replay.
        parameters: Weights sent to each client, G of them; often the same object.
        buffers: Likewise.
        returned: Buffers that came back.
        observed: What each client returned.
        path: ``(G, P, 2)`` weights of the priors at the start and at the end.
        weights: ``(G, P)`` weights now, moved in place.
    """

    seen: Observation
    values: Tensor
    scores: Tensor
    learned: bool
    extra: Tensor
    run: Run
    parameters: Sequence[Update]
    buffers: Sequence[Update]
    returned: Sequence[Update]
    observed: Sequence[Update]
    path: Tensor
    weights: Tensor

    @classmethod
    def draw(
        cls,
        recipe: Recipe,
        seen: Observation,
        replay: Replay,
        rng: torch.Generator,
        restart: int = 0,
    ) -> "Guesses":
        """One guess with a fresh start."""
        start = recipe.start(seen, rng).to(seen.device, recipe.dtype)
        labels = recipe.labels(seen, rng)
        if labels.learned and not seen.minimised.probabilities:
            raise UnmetNeedError(
                "labels have to be searched for with the images, but the `loss` given to the Auditor "
                "takes class indices only; write it so that it takes (N, K) probabilities too"
            )
        weights = [weight(seen, restart) for weight, _ in recipe.priors]
        ends = [w if isinstance(w, tuple) else (w, w) for w in weights]
        path = torch.tensor(ends, dtype=recipe.dtype, device=seen.device).view(1, -1, 2)
        drawn = cls(
            seen=seen,
            values=start[None],
            scores=labels.scores.detach()[None],
            learned=labels.learned,
            extra=replay.extra.detach().to(seen.device, recipe.dtype)[None],
            run=replay.run,
            parameters=[replay.start[0]],
            buffers=[replay.start[1]],
            returned=[seen.returned_buffers],
            observed=[replay.observed],
            path=path,
            weights=torch.zeros_like(path[..., 0]),
        )
        if recipe.balanced:
            drawn.path.mul_(_balance(recipe, drawn)[None, :, None])
        return drawn

    @classmethod
    def join(cls, parts: Sequence["Guesses"]) -> "Guesses":
        """Many guesses as one batch; fresh leaves for the optimiser."""
        first = parts[0]
        return replace(
            first,
            values=torch.cat([p.values for p in parts]).clone().requires_grad_(),
            scores=torch.cat([p.scores for p in parts]).clone().requires_grad_(first.learned),
            extra=torch.cat([p.extra for p in parts]).clone().requires_grad_(),
            parameters=[update for p in parts for update in p.parameters],
            buffers=[update for p in parts for update in p.buffers],
            returned=[update for p in parts for update in p.returned],
            observed=[update for p in parts for update in p.observed],
            path=torch.cat([p.path for p in parts]),
            weights=torch.cat([p.path[..., 0] for p in parts]),
        )

    def __len__(self) -> int:
        """How many guesses."""
        return len(self.values)

    def first(self, count: int) -> "Guesses":
        """So many of them, or all where there are fewer."""
        return replace(
            self,
            values=self.values[:count],
            scores=self.scores[:count],
            extra=self.extra[:count],
            parameters=self.parameters[:count],
            buffers=self.buffers[:count],
            returned=self.returned[:count],
            observed=self.observed[:count],
            path=self.path[:count],
            weights=self.weights[:count],
        )

    def __getitem__(self, index: int) -> Guess:
        """One of them, detached from the leaves."""
        return Guess(
            self.values[index].detach(),
            self.scores[index].detach(),
            self.extra[index].detach(),
            self.parameters[index],
            self.buffers[index],
            self.returned[index],
            self.observed[index],
            self.weights[index],
        )

    def move_weights(self, done: float) -> None:
        """Move the priors' weights to where they are after a share of the steps, in [0, 1]."""
        first, last = self.path.unbind(dim=-1)
        between = first ** (1 - done) * last**done
        self.weights.copy_(torch.where(first == last, first, between))

    def leaves(self) -> dict[str, Tensor]:
        """What the optimiser moves, by field of `Guess`; the first axis is the guess."""
        leaves = {"values": self.values}
        if self.learned:
            leaves["scores"] = self.scores
        if self.extra.shape[1]:
            leaves["extra"] = self.extra
        return leaves

    def probabilities(self, guess: Guess) -> Tensor:
        """``(N, K)`` targets for the loss; ``(N,)`` where a loss of the user's wants indices."""
        if self.learned:
            return guess.scores.softmax(dim=-1)
        loss = self.seen.loss
        return guess.scores.argmax(dim=-1) if loss is not None and loss.indices else guess.scores


def _balance(recipe: Recipe, drawn: Guesses) -> Tensor:
    """``(P,)``: for each prior the weight at which it pulls the guess as hard as the distance.

    The mean absolute gradient of the distance with respect to the guess, over that of the prior; 0
    for a prior that does not pull, as the tie between epochs where there is one epoch only.
    """
    guess = drawn[0]
    values = guess.values.requires_grad_()
    inputs = recipe.decode(values, drawn.seen)
    update = drawn.run(
        by_autograd,
        guess.parameters,
        guess.buffers,
        inputs,
        drawn.probabilities(guess),
        guess.extra,
        guess.observed,
    )
    terms = [recipe.distance(update, guess.observed)]
    terms += [prior(inputs, drawn.seen) for _, prior in recipe.priors]
    pulls = [torch.autograd.grad(t, values, retain_graph=True)[0].abs().mean() for t in terms]
    return torch.stack(
        [(pull > 0) * pulls[0] / pull.clamp_min(TINY) for pull in pulls[1:]]
    ).detach()
