"""Quantile biases: sent weights under which most neurons see one image. THE SERVER CHEATS.

Nowak, Mott, Khaled, Lee, Rodriguez-Alvarez, Hasan: "QBI: Quantile-Based Bias Initialization for
Efficient Private Data Reconstruction in Federated Learning", arXiv:2406.18745. Threat model G of
Carletti et al. 2025 (active manipulator with data of its own): the architecture stays, but the server
sends a first fully connected layer with random rows and with biases at a quantile of what its own images
measure there. It is opt-in: the audited clients must have trained ``with_quantile_biases(model, ...)``.

With the quantile ``1 - 1/B`` each of ``B`` images opens a neuron once in ``B`` times, and a neuron that
one image alone has opened gives it away as ``x = dW_i / db_i``. Beyond the paper: an image that was found
is replayed, which tells its label and what it adds to every other row; with that subtracted, rows
that it shared with one other image give that one away.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from fl_privacy_audit.attacks.parts import closed_form
from fl_privacy_audit.attacks.parts.randomness import own_random_numbers
from fl_privacy_audit.core.errors import ConfigError, UnmetNeedError
from fl_privacy_audit.core.models import copy_model
from fl_privacy_audit.core.protocols import Progress
from fl_privacy_audit.core.types import Observation, Reconstruction

SERVER: Final = "malicious: it chose the weights that it sent to the clients"
FAINTEST: Final = 1e-4
"""A row whose bias gradient is below this share of the largest is rounding."""
EXPLAINED: Final = 1e-2
"""A row of which less than this share is left holds no other image."""
AGREES: Final = 1e-3
"""Relative error of a replayed bias gradient up to which a row is taken for an image's alone."""
ALIKE: Final = 1e-2
"""Relative distance below which two rows give the same image."""
OUTSIDE: Final = 0.02
"""How far rounding may move a pixel out of [0, 1]."""
QUIET: Final = 4.0
"""Over the root of the inputs: share of its row's length that an honest bias stays below."""


def with_quantile_biases(
    model: nn.Module,
    inputs: Tensor,
    batch: int,
    *,
    scale: float = 1e-3,
    rng: torch.Generator | None = None,
) -> nn.Module:
    """A copy of the model as a cheating server would send it.

    Args:
        model: With a fully connected layer with bias on the flattened image.
        inputs: ``(N, C, H, W)`` model inputs that the server has, a hundred or more.
        batch: Images in a client's step; one image in so many opens a neuron.
        scale: Factor on rows and biases: small weights round to finer steps.
        rng: Draws the rows; seed 0 if left out.

    Raises:
        ConfigError: There is no such layer.
    """
    cheating = copy.deepcopy(model)
    flat = inputs.flatten(1)
    layer = next(
        (
            module
            for module in cheating.modules()
            if isinstance(module, nn.Linear)
            and module.in_features == flat.shape[1]
            and module.bias is not None
        ),
        None,
    )
    if layer is None:
        raise ConfigError(
            f"argument `model` must have a linear layer with bias on all {flat.shape[1]} numbers of "
            "an image, but has none"
        )
    rng = rng or torch.Generator().manual_seed(0)
    rows = torch.randn(layer.out_features, flat.shape[1], generator=rng) / flat.shape[1] ** 0.5
    measured = flat.float().cpu() @ rows.T
    with torch.no_grad():
        layer.weight.copy_(scale * rows)
        layer.bias.copy_(-scale * measured.quantile(1 - 1 / batch, dim=0))
    return cheating


@final
@dataclass(frozen=True, kw_only=True)
class QuantileBiasesAttack:
    """Rows of one image, and what is left of the others without it. THE SERVER CHEATS.

    Attributes:
        name: Name in the table of attacks.
    """

    name: str = "quantile_biases"

    def reconstruct(
        self,
        seen: Observation,
        *,
        rng: torch.Generator,
        seconds: float = float("inf"),
        progress: Progress | None = None,
    ) -> Reconstruction:
        """See `fl_privacy_audit.core.protocols.Attack.reconstruct`.

        The objective is the share (of length) of the layer's gradient that the images found leave
        unexplained. Images not found are mid-grey.

        Raises:
            UnmetNeedError: The layer's biases are honest ones, or there is no such layer.
            AttackError: The gradient is not finite.
        """
        del rng, seconds
        layer = cheating_layer(seen)
        slopes = _slopes(seen, layer.name)
        left = _Left(layer.weight.clone(), layer.bias.clone())
        images: list[Tensor] = []
        classes: list[int] = []
        while len(images) < seen.num_images:
            found = _lone_images(seen, left, slopes, seen.num_images - len(images))
            if not found:
                break
            for image, label, slope in found:
                left.without(image, slope)
                images.append(image)
                classes.append(label)
        if progress is not None:
            progress(1, 1)
        whole = len(images) == seen.num_images
        unexplained = float(left.weight.norm() / layer.weight.norm().clamp_min(1e-300))
        shown = torch.stack(images) if images else layer.weight[:0]
        return Reconstruction(
            images=closed_form.filled(closed_form.pixels(seen, shown), seen.num_images),
            labels=torch.tensor(classes, device=seen.device) if whole else None,
            objective=unexplained,
            steps=1,
            stopped="finished",
            exact=whole and unexplained < closed_form.GOOD_ENOUGH,
            details={
                "server": SERVER,
                "layer": layer.name,
                "rows alive": float((layer.bias != 0).sum()),
                "images rebuilt": float(len(images)),
            },
        )


@dataclass
class _Left:
    """What is left of the layer's gradient: ``(m, n)`` and ``(m,)``."""

    weight: Tensor
    bias: Tensor

    def __post_init__(self) -> None:
        self.whole = self.bias.abs()

    def alive(self) -> Tensor:
        """``(r,)`` rows that still hold an image."""
        size = self.bias.abs()
        faint = (FAINTEST * self.whole.max()).maximum(EXPLAINED * self.whole)
        return (size > faint).nonzero().flatten()

    def without(self, image: Tensor, slope: Tensor) -> None:
        self.weight -= torch.outer(slope, image)
        self.bias -= slope


def _lone_images(
    seen: Observation, left: _Left, slopes: Callable[[Tensor, int], Tensor], most: int
) -> list[tuple[Tensor, int, Tensor]]:
    """Images that a replay confirms, the most often confirmed first, with label and slopes ``(m,)``."""
    rows = left.alive()
    candidates = left.weight[rows] / left.bias[rows, None]
    shown = seen.image.denormalise(candidates.view(-1, *seen.image.shape)).flatten(1)
    possible = ((shown > -OUTSIDE) & (shown < 1 + OUTSIDE)).all(dim=1)
    rows, candidates = rows[possible], candidates[possible]
    if not len(rows):
        return []
    sure: list[tuple[int, int, int, Tensor]] = []
    size = left.bias.abs()
    for label in range(seen.num_classes):
        replayed = slopes(candidates, label)
        agrees = ((replayed - left.bias).abs() < AGREES * size) & (replayed != 0)
        for number in agrees[torch.arange(len(rows)), rows].nonzero().flatten().tolist():
            sure.append((int(agrees[number].sum()), number, label, replayed[number]))
    sure.sort(key=lambda one: (-one[0], one[1]))
    found: list[tuple[Tensor, int, Tensor]] = []
    for times, number, label, slope in sure:
        image = candidates[number]
        known = [float((other - image).norm()) < ALIKE * float(image.norm()) for other, *_ in found]
        # What one row alone confirms may be chance; it waits until nothing else is found.
        if len(found) == most or any(known) or (times == 1 and found):
            continue
        found.append((image, label, slope))
    return found


def _slopes(seen: Observation, name: str) -> Callable[[Tensor, int], Tensor]:
    """What images ``(n, C H W)`` of a class each add to the bias gradient of a layer: ``(n, m)``."""
    model = copy_model(seen.model).double()
    weights = {n: t.detach().double() for n, t in seen.parameters.items()}
    buffers = {n: t.double() if t.is_floating_point() else t for n, t in seen.buffers.items()}
    shared = seen.num_images if seen.training.reduction == "mean" else 1
    outputs: list[Tensor] = []

    def remember(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        outputs.append(output.detach().requires_grad_())
        return outputs[-1]

    model.get_submodule(name).register_forward_hook(remember)

    def slopes(images: Tensor, label: int) -> Tensor:
        outputs.clear()
        inputs = images.view(-1, *seen.image.shape)
        targets = torch.full((len(images),), label, device=images.device)
        with torch.enable_grad(), own_random_numbers(0, [seen.device]):
            scores = functional_call(model, {**weights, **buffers}, (inputs,))
            loss = seen.minimised(scores, F.one_hot(targets, seen.num_classes).double())
            (slope,) = torch.autograd.grad(loss, outputs[0])
        alone = len(images) if seen.training.reduction == "mean" else 1
        return slope * alone / shared

    return slopes


def cheating_layer(seen: Observation) -> closed_form.FirstLinear:
    """The layer whose biases lie far from zero, as seen from its rows.

    Raises:
        UnmetNeedError: Its biases are honest ones, or there is no such layer.
        AttackError: The gradient is not finite.
    """
    layer = closed_form.first_linear_layer(seen, "quantile_biases")
    rows, biases = (seen.parameters[f"{layer.name}.{part}"] for part in ("weight", "bias"))
    ratios = biases.abs() / rows.norm(dim=1).clamp_min(1e-30)
    if float(ratios.median()) < QUIET / rows.shape[1] ** 0.5:
        raise UnmetNeedError(
            "quantile_biases needs a malicious server: the clients must have trained weights that it "
            "chose, and these are not; to test that threat, send out "
            "`with_quantile_biases(model, ...)`"
        )
    return layer


def quantile_biases() -> QuantileBiasesAttack:
    """The attack, which THE SERVER'S CHEATING makes possible; it has no settings of its own."""
    return QuantileBiasesAttack()
