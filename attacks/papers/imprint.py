"""Robbing the Fed: an imprint layer that keeps images apart. THE SERVER CHEATS.

Fowl, Geiping, Czaja, Goldblum, Goldstein: "Robbing the Fed: Directly Obtaining Private Data in
Federated Learning with Modified Models", ICLR 2022, arXiv:2110.13057. Threat model F of
Carletti et al. 2025 (active manipulator): the server puts a block of its own in front of the model
it sends out. It is opt-in: the audited clients must have trained ``with_imprint(model, ...)``. With
thresholds from `empirical` it also has data of its own (threat model G).

All rows of the block's linear layer measure the same number, the mean brightness, against rising
thresholds. Row ``i`` sums the gradients of the images above threshold ``i``, so neighbouring rows
differ by the images in one bin, and a bin with a single image gives it away:
``x = (dW_i - dW_{i+1}) / (db_i - db_{i+1})``. With ``k`` bins of equal mass and ``B`` images
``B (1 - 1/k)^(B - 1)`` images are expected to be alone.
"""

from dataclasses import dataclass
from typing import Literal, final

import torch
from scipy import stats
from torch import Tensor, nn

from fl_privacy_audit.attacks.parts import closed_form
from fl_privacy_audit.core.errors import ConfigError, UnmetNeedError
from fl_privacy_audit.core.protocols import Progress
from fl_privacy_audit.core.types import ImageSpec, Observation, Reconstruction

SERVER = "malicious: it changed the architecture that it sent to the clients"
FAINTEST = 1e-4
"""A bin whose gradient is below this share of the brightest bin's is rounding, not an image."""
OUTSIDE = 0.02
"""How far rounding may move a pixel out of [0, 1]."""


def quantiles(
    bins: int, mean: float, deviation: float, shape: Literal["normal", "laplace"] = "normal"
) -> Tensor:
    """``(bins,)`` thresholds of equal mass for a brightness of this distribution.

    Args:
        bins: How many.
        mean: Mean of the mean brightness of the model inputs.
        deviation: Standard deviation of the same.
        shape: Family. The paper uses the Laplace distribution for natural images too.
    """
    scale = deviation if shape == "normal" else deviation / 2**0.5
    family = stats.norm if shape == "normal" else stats.laplace
    inner = family.ppf(torch.arange(1, bins).double().numpy() / bins, loc=mean, scale=scale)
    return _below(torch.as_tensor(inner, dtype=torch.float64), mean - 20 * deviation)


def empirical(bins: int, inputs: Tensor) -> Tensor:
    """``(bins,)`` thresholds of equal mass for the brightness of images the server has.

    Args:
        bins: How many.
        inputs: ``(N, C, H, W)`` model inputs.
    """
    brightness = inputs.double().flatten(1).mean(dim=1)
    inner = brightness.quantile(torch.arange(1, bins, dtype=torch.float64) / bins)
    spread = float(brightness.max() - brightness.min()) + 1.0
    return _below(inner, float(brightness.min()) - 20 * spread)


def _below(inner: Tensor, lowest: float) -> Tensor:
    """The first bin is open below: its threshold is lower than any image."""
    return torch.cat([torch.tensor([lowest], dtype=torch.float64), inner])


class ImprintBlock(nn.Module):
    """The malicious block: measure, compare with thresholds, ReLU, and back to an image.

    Every column of the layer back is the same, so all rows above whose threshold an image lies get
    the same gradient from it. The result is added to the image, which goes on as it was but for a
    shift. Rows are scaled down: small weights round to finer steps, and the thresholds must be
    told apart from the float32 weights that come back.
    """

    def __init__(
        self,
        image: ImageSpec,
        thresholds: Tensor,
        *,
        scale: float = 1e-3,
        strength: float = 1.0,
        rng: torch.Generator | None = None,
    ) -> None:
        """Make the block.

        Args:
            image: Shape of the images.
            thresholds: ``(k,)``, strictly rising, in units of mean model input.
            scale: Factor on the rows and thresholds.
            strength: Standard deviation of the column of the layer back.
            rng: Draws that column; seed 0 if left out.

        Raises:
            ConfigError: Thresholds do not rise.
        """
        super().__init__()
        if thresholds.ndim != 1 or len(thresholds) < 2 or not bool((thresholds.diff() > 0).all()):
            raise ConfigError(
                "argument `thresholds` must be two or more strictly rising numbers; repeated "
                "images in the server's own data give equal ones: use fewer bins"
            )
        channels, height, width = image.shape
        size, bins = channels * height * width, len(thresholds)
        rng = rng or torch.Generator().manual_seed(0)
        column = strength * torch.randn(size, 1, generator=rng)
        self.measure = nn.utils.skip_init(nn.Linear, size, bins)
        self.back = nn.utils.skip_init(nn.Linear, bins, size)
        with torch.no_grad():
            self.measure.weight.fill_(scale / size)
            self.measure.bias.copy_(-scale * thresholds)
            self.back.weight.copy_(column.expand(size, bins))
            self.back.bias.zero_()

    def forward(self, inputs: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> the same shape."""
        shift: Tensor = self.back(self.measure(inputs.flatten(1)).relu())
        return inputs + shift.view_as(inputs)


def with_imprint(model: nn.Module, block: ImprintBlock) -> nn.Sequential:
    """The model that a cheating server would send: the block in front of the honest model."""
    return nn.Sequential(block, model)


@final
@dataclass(frozen=True, kw_only=True)
class ImprintAttack:
    """Differences of neighbouring rows of the block's gradient. THE SERVER CHEATS.

    Attributes:
        name: Name in the table of attacks.
    """

    name: str = "imprint"

    def reconstruct(
        self,
        seen: Observation,
        *,
        rng: torch.Generator,
        seconds: float = float("inf"),
        progress: Progress | None = None,
    ) -> Reconstruction:
        """See `fl_privacy_audit.core.protocols.Attack.reconstruct`.

        An image is kept if its brightness lies in the bin that it came from, and its pixels in
        [0, 1]. Bins that several images share give their mixture, which may pass too. Images not
        found are filled up with mid-grey, so that a score over the batch is not the score of the
        lucky ones.

        The objective is the share (of length) of the block's gradient, bin by bin, that no kept
        image explains.

        Raises:
            UnmetNeedError: The clients' model holds no `ImprintBlock`, or took several steps.
            AttackError: The gradient is not finite.
        """
        del rng, seconds
        name = find_block(seen)
        gradient = closed_form.one_gradient(seen, self.name)
        prefix = f"{name}.measure." if name else "measure."
        if prefix + "weight" not in gradient or prefix + "bias" not in gradient:
            raise UnmetNeedError(f"imprint needs `{prefix}weight` and its bias to be trained")
        weight, bias = gradient[prefix + "weight"], gradient[prefix + "bias"]
        rows = seen.parameters[prefix + "weight"].double()
        thresholds = -seen.parameters[prefix + "bias"].double()
        mixed, mass = _between_rows(weight), _between_rows(bias)
        filled = mass.abs() > FAINTEST * mass.abs().max()
        strongest = mass.abs().argsort(descending=True, stable=True)[: seen.num_images]
        chosen = torch.zeros_like(filled).index_fill(0, strongest, True) & filled
        bins = chosen.nonzero().flatten()
        images = mixed[bins] / mass[bins, None]
        measured = (images * rows[bins]).sum(dim=1)
        above = torch.cat([thresholds[1:], thresholds.new_full((1,), float("inf"))])[bins]
        # Rounding moves an image by far less than the width of a bin.
        slack = 0.05 * (above - thresholds[bins]).nan_to_num(posinf=0.0)
        kept = (measured > thresholds[bins] - slack) & (measured < above + slack)
        shown = seen.image.denormalise(images.reshape(-1, *seen.image.shape)).flatten(1)
        kept &= ((shown > -OUTSIDE) & (shown < 1 + OUTSIDE)).all(dim=1)
        explained = mixed[bins[kept]].square().sum() / mixed.square().sum().clamp_min(1e-300)
        rebuilt = images[kept].reshape(-1, *seen.image.shape)
        grey = seen.image.normalise(rebuilt.new_full((1, *seen.image.shape), 0.5))
        missing = grey.expand(max(seen.num_images - len(rebuilt), 0), -1, -1, -1)
        if progress is not None:
            progress(1, 1)
        return Reconstruction(
            images=closed_form.pixels(seen, torch.cat([rebuilt, missing])),
            labels=None,
            objective=float((1 - explained).clamp_min(0).sqrt()),
            steps=1,
            stopped="finished",
            details={
                "server": SERVER,
                "bins": float(len(bias)),
                "bins filled": float(filled.sum()),
                "images rebuilt": float(kept.sum()),
                "images expected alone in a bin": expected_alone(len(bias), seen.num_images),
            },
        )


def expected_alone(bins: int, images: int) -> float:
    """``B (1 - 1/k)^(B - 1)``: images alone in one of ``k`` bins of equal mass, on average.

    >>> round(expected_alone(1000, 64), 1)
    60.1
    """
    return float(images * (1 - 1 / bins) ** (images - 1))


def find_block(seen: Observation) -> str:
    """Name of the malicious block in the clients' model.

    Raises:
        UnmetNeedError: There is none.
    """
    names: list[str] = [
        name for name, module in seen.model.named_modules() if isinstance(module, ImprintBlock)
    ]
    if names:
        return names[0]
    raise UnmetNeedError(
        "imprint needs a malicious server: the clients must have trained a model with an "
        "`ImprintBlock` in it, and this one has none; to test that threat, send out "
        "`with_imprint(model, ImprintBlock(...))`"
    )


def _between_rows(rows: Tensor) -> Tensor:
    """Each row minus the next; the last row is a bin of its own, open above."""
    return rows - torch.cat([rows[1:], torch.zeros_like(rows[:1])])


def imprint() -> ImprintAttack:
    """The attack, which THE SERVER'S CHEATING makes possible; it has no settings of its own."""
    return ImprintAttack()
