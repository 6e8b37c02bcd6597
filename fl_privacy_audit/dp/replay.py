"""Record canaries in a replay of a client: training itself is not touched.

Pictures that no client has are put into the data of a replayed client or left out, each by a fair coin.
How much of each shows in its update is a score, and the scores bound epsilon from below; see
`fl_privacy_audit.dp.canaries`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import block_diag
from torch import Tensor, nn
from torch.func import functional_call

from fl_privacy_audit.core.arguments import positive, whole
from fl_privacy_audit.core.losses import ClassLoss
from fl_privacy_audit.core.types import LocalTraining, MeasuredEpsilon, Update

from .canaries import FEWEST, bounds, epsilon_of, gaussian_effect_mu, half_of

Floats = NDArray[np.float64]
Train = Callable[[Update, Tensor, Tensor, int], Update]
"""Weights received, inputs ``(N, C, H, W)``, labels ``(N,)``, number of the round -> the update, after
minus before. N varies; it may be zero."""

BLOCKS: Final = 4
"""Blocks of one colour along a canary's shorter side: gradients of such pictures differ most."""
CONFIDENCE: Final = 0.95
LIKE: Final = 1e-6
"""Share of the largest eigenvalue below which what tells canaries apart is rounding."""
BRIGHTNESS: Final = 3.0
"""Of their pixels, up or down, in standard deviations."""
MOST_NUMBERS: Final = 2**26
"""Numbers of all gradients together that are kept, in half a gigabyte: of larger models a share, drawn at
random. The less is kept, the less is shown; what is shown holds."""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What a replay gave, in the products that scores need.

    Attributes:
        included: Whether each canary was in, ``(canaries,)``.
        grams: Products of the canaries' gradients with each other, ``(rounds, canaries, canaries)``;
            the gradients have length 1.
        products: Of the gradients with each round's descent, ``(rounds, canaries)``.
    """

    included: NDArray[np.bool_]
    grams: Floats
    products: Floats

    def per_round(self, *, delta: float, noise_multiplier: float = 1.0) -> list[MeasuredEpsilon]:
        """Bounds on the epsilon of each round by itself; the arguments are those of `measured`."""
        return [self._measured([each], delta, noise_multiplier) for each in range(len(self.grams))]

    def of_a_round(self, *, delta: float, noise_multiplier: float = 1.0) -> MeasuredEpsilon:
        """Bounds on the epsilon of one round, where there are several: of the one that spends most.

        All rounds tell `gauss` together, whose mu of a round is that over T rounds by the root of T; one
        statement, so that many rounds make no accident likely. `steinke` is that of the first.
        """
        first = self._measured([0], delta, noise_multiplier)
        mu = self._mu(range(len(self.grams))) / len(self.grams) ** 0.5
        return replace(first, gauss=epsilon_of(mu, delta))

    def measured(self, *, delta: float, noise_multiplier: float = 1.0) -> MeasuredEpsilon:
        """Bounds on the epsilon over all rounds.

        Args:
            delta: At which they hold.
            noise_multiplier: Noise over clip, about. Guesses take it to tell noise from canaries that
                look alike; the bounds hold whatever it is.
        """
        return self._measured(list(range(len(self.grams))), delta, noise_multiplier)

    def _measured(self, which: list[int], delta: float, noise_multiplier: float) -> MeasuredEpsilon:
        grams, products = self.grams[which], self.products[which]
        # Over rounds noise averages out, and likeness does not.
        noise = noise_multiplier / len(which) ** 0.5
        rows = [_scores(g, p, noise) for g, p in zip(grams, products, strict=True)]
        return bounds(
            self._mu(which),
            np.sum([row / max(float(row.std()), 1e-300) for row in rows], axis=0),
            self.included,
            rounds=len(which),
            delta=delta,
            confidence=CONFIDENCE,
        )

    def _mu(self, which: Sequence[int]) -> float:
        included = self.included.astype(float)
        rows = list(which)
        return _mu(self.grams[rows], self.products[rows], included, confidence=half_of(CONFIDENCE))


class CoinedCanaries:
    """Pictures that a fair coin puts into the data of a replayed client or leaves out.

    Args:
        inputs: ``(N, C, H, W)``, as the model takes them.
        labels: ``(N,)``.
        rng: For the coins, which are thrown once for all rounds.
    """

    def __init__(self, inputs: Tensor, labels: Tensor, rng: torch.Generator) -> None:
        self.inputs, self.labels = inputs, labels
        self.included = torch.rand(len(inputs), generator=rng) < 0.5
        self._grams: list[Floats] = []
        self._products: list[Floats] = []
        self._at: tuple[Update, Tensor] | None = None

    def take(
        self,
        model: nn.Module,
        weights: Update,
        update: Update,
        loss: ClassLoss,
        *,
        buffers: Update | None = None,
    ) -> None:
        """See how much of each canary is in the update of a client that trained on those that are in.

        Args:
            model: Architecture.
            weights: That the client received.
            update: After minus before.
            loss: What it minimises.
            buffers: That it received.
        """
        if self._at is None or self._at[0] is not weights:
            self._at = weights, self._gradients(model, weights, buffers or {}, loss)
        gradients = self._at[1]
        descent = -_some(_flat({name: update[name] for name in weights}), gradients.shape[1])
        self._grams.append((gradients @ gradients.T).numpy())
        self._products.append((gradients @ descent).numpy())

    @property
    def replay(self) -> Replay:
        """What all rounds gave, at least one."""
        return Replay(
            included=self.included.numpy(),
            grams=np.stack(self._grams),
            products=np.stack(self._products),
        )

    def _gradients(
        self, model: nn.Module, weights: Update, buffers: Update, loss: ClassLoss
    ) -> Tensor:
        """Gradient of each canary, of length 1 with all its weights, ``(canaries, numbers)``."""
        rows = []
        most = MOST_NUMBERS // len(self.inputs)
        for image, label in zip(self.inputs, self.labels, strict=True):
            leaves = {name: tensor.clone().requires_grad_() for name, tensor in weights.items()}
            output = functional_call(model, {**buffers, **leaves}, (image[None],))
            slopes = torch.autograd.grad(loss(output, label[None]), list(leaves.values()))
            row = _flat(dict(zip(leaves, slopes, strict=True)))
            rows.append(_some(row / row.norm().clamp_min(1e-30), most))
        return torch.stack(rows)


def _some(numbers: Tensor, most: int) -> Tensor:
    """As many of the numbers, drawn once for all; noise on the others is not looked at, nor is a share."""
    if len(numbers) <= most:
        return numbers
    rng = torch.Generator().manual_seed(0)
    return numbers[torch.randperm(len(numbers), generator=rng)[:most]]


def replay_canaries(
    model: nn.Module,
    train: Train,
    *,
    shape: tuple[int, int, int],
    classes: int,
    canaries: int = 64,
    received: Sequence[Update] = (),
    rounds: int = 1,
    seed: int = 0,
    loss: ClassLoss | None = None,
) -> Replay:
    """Train a client on canaries, once for each round of the federation.

    Args:
        model: Architecture, and weights where none are received; left as it is.
        train: The client. It gets the canaries that are in, and no others.
        shape: ``(C, H, W)`` of an input.
        classes: Of the model; two or more.
        canaries: How many; the most that they can show grows with them.
        received: Weights that the client received in each round; by default the model's own in all.
        rounds: How many, where no weights are received. A canary is in all rounds or in none.
        seed: For canaries and coins.
        loss: What is minimised; by default cross-entropy.
    """
    whole("canaries", canaries, least=8)
    whole("rounds", rounds)
    rng = torch.Generator().manual_seed(seed)
    own = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    every = list(received) or [own] * rounds
    inputs = BRIGHTNESS * (2 * blocks(canaries, shape, rng) - 1)
    labels = surprising(model, every[0], inputs, classes)
    coined = CoinedCanaries(inputs, labels, rng)
    minimised = loss or LocalTraining().minimised()
    inside = coined.included
    for number, weights in enumerate(every, start=1):
        update = train(dict(weights), inputs[inside], labels[inside], number)
        coined.take(model, weights, update, minimised)
    return coined.replay


def blocks(count: int, shape: tuple[int, int, int], rng: torch.Generator) -> Tensor:
    """Pictures of blocks that are black or white in each channel, ``(count, C, H, W)`` in [0, 1]."""
    channels, height, width = shape
    side = max(1, min(height, width) // BLOCKS)
    rows, columns = -(-height // side), -(-width // side)
    colours = torch.randint(2, (count, channels, rows, columns), generator=rng).float()
    large = colours.repeat_interleave(side, dim=2).repeat_interleave(side, dim=3)
    return large[:, :, :height, :width].contiguous()


def surprising(model: nn.Module, weights: Update, inputs: Tensor, classes: int) -> Tensor:
    """Labels that the model does not expect, all of them in turn: gradients are long then."""
    with torch.no_grad():
        expected: Tensor = functional_call(model, dict(weights), (inputs,)).argmax(dim=1)
    return (expected + 1 + torch.arange(len(inputs)) % max(classes - 1, 1)) % classes


def _flat(update: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensor.detach().cpu().double().flatten() for tensor in update.values()])


def _mu(grams: Floats, products: Floats, included: Floats, *, confidence: float) -> float:
    """The Gaussian bound over rounds, whatever the gradients have in common.

    In the space of the gradients, turned so that noise is the same and independent in each direction,
    the descent is a multiple of ``root(gram) included``, plus anything along what all canaries share,
    plus noise. Each round gives as many numbers as there are directions; together they give the mu of
    a round, and over T rounds it is sqrt(T) times as much: where rounds differ, no more than the true
    one (Cauchy and Schwarz).
    """
    if min(included.sum(), (1 - included).sum()) < FEWEST:
        return 0.0
    observed, effects, shared = [], [], []
    for gram, product in zip(grams, products, strict=True):
        values, vectors = np.linalg.eigh(gram)
        kept = values > LIKE * values.max()
        root = np.sqrt(values[kept])[:, None] * vectors[:, kept].T
        seen = (vectors[:, kept].T @ product) / np.sqrt(values[kept])
        observed.append(seen / max(float(np.linalg.norm(seen)), 1e-300))
        effects.append(root @ included)
        shared.append((root @ np.ones(len(included)))[:, None])
    one = gaussian_effect_mu(
        np.concatenate(observed),
        np.concatenate(effects),
        np.asarray(block_diag(*shared)),
        confidence=confidence,
    )
    return one * float(np.sqrt(len(grams)))


def _scores(gram: Floats, product: Floats, noise_multiplier: float) -> Floats:
    """How much of each canary is in the descent, with equal noise on all; no coin is looked at.

    The linear estimate of least expected error where each canary is there with chance a half: what
    canaries share is told apart as far as noise allows.
    """
    positive("noise_multiplier", noise_multiplier)
    half = np.full(len(gram), 0.5)
    inverse = np.linalg.inv(gram + 4 * noise_multiplier**2 * np.eye(len(gram)))
    # The descent of half of every canary, as long as the one that was seen.
    expected = float(half @ product) / float(half @ gram @ half) * (gram @ half)
    noise = np.sqrt(np.einsum("ij,jk,ik->i", inverse, gram, inverse))
    # A canary that the model has learned already has no gradient, and no score.
    return np.asarray(inverse @ (product - expected) / np.where(noise > 0, noise, 1.0))
