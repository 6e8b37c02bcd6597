"""The tables of metrics. Nothing downstream guesses a direction, a title or a margin: it reads them here.

A new metric is a file beside this one, a row here, and a row in ``tests/metrics/cases.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fl_privacy_audit.core.later import Later
from fl_privacy_audit.core.numbers import number

from .limits import LPIPS_SIDE, MS_SSIM_WINDOW, PSNR_CEILING, SSIM_WINDOW

if TYPE_CHECKING:
    from torch import Tensor

    from .frechet import SetScore

LeaksWhen = Literal["high", "low"]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How to read a number, whether it is of one pair or of many."""

    title: str  # its full name, with its source
    short: str  # its name in a sentence or a heading
    leaks_when: LeaksWhen  # whether ``"high"`` or ``"low"`` values mean more leakage
    lowest: float = 0.0  # smallest possible value
    highest: float = math.inf  # largest possible value; infinity where there is no bound
    unit: str = ""  # for tables; empty where there is none
    decimals: int = 2  # how many are shown; see `fl_privacy_audit.core.numbers.number`
    needs: str = ""  # what must be installed besides this package; empty where nothing is

    @property
    def sign(self) -> int:
        """Times a value, it makes higher mean more leakage."""
        return 1 if self.leaks_when == "high" else -1

    @property
    def direction(self) -> str:
        """``"higher leaks more"`` or ``"lower leaks more"``."""
        return f"{self.leaks_when}er leaks more"

    @property
    def range(self) -> str:
        """From the lowest to the highest value: ``"0 to 100 dB"``, ``"from 0"``."""
        end = f" to {self.highest:g}" if math.isfinite(self.highest) else ""
        return f"{'' if end else 'from '}{self.lowest:g}{end}{self._unit}"

    @property
    def _unit(self) -> str:
        return f" {self.unit}" if self.unit else ""

    def worst(self, values: list[float]) -> float:
        """The value that leaks most; NaN where there is none."""
        return (max if self.leaks_when == "high" else min)(values, default=math.nan)

    def format(self, value: float, *, signed: bool = False, unit: bool = False) -> str:
        """A value, or a difference of two, as people read it, in units of this metric.

        `signed`: a plus stands before a positive number, as before a difference. `unit`: the unit
        follows.
        """
        text = number(value, self.decimals)
        plus = "+" if signed and value >= 0 and math.isfinite(value) else ""
        return f"{plus}{text}{self._unit if unit else ''}"


@dataclass(frozen=True, kw_only=True)
class Metric(Scale):
    """One row of the table: a number for each pair."""

    meaning: str  # what the number says, for readers who never met it
    # ``(reconstructions, originals) -> (N,)`` float64, both ``(N, C, H, W)`` in ``[0, 1]``, already
    # paired. Raises `MetricUnavailable` where it cannot be computed.
    function: Callable[[Tensor, Tensor], Tensor]
    rank: int  # of the metrics that were measured, the one with the lowest rank judges
    # A difference that is worth a verdict is larger than this, in units of the metric.
    margin: float = 0.05
    least_side: int = 1  # smallest height and width it works on
    default: bool = True  # whether an audit computes it unless told otherwise


@dataclass(frozen=True, kw_only=True)
class SetMetric(Scale):
    """One row of the second table: a number for many pairs together."""

    # ``(reconstructions, originals) -> SetScore``, both ``(N, C, H, W)`` in ``[0, 1]``, already
    # paired. Raises `MetricUnavailable` where it cannot be computed.
    function: Callable[[Tensor, Tensor], SetScore]
    least: int = 10  # images of which it says something; fewer are not worth a figure


def _in(module: str, name: str) -> Later:
    """A function of a module beside this one; all but this one need torch."""
    return Later(f"{__package__}.{module}", name)


METRICS: dict[str, Metric] = {
    "semsim": Metric(
        title="SemSim (after Sun et al. 2023)",
        short="SemSim",
        meaning="how far a picture is from being recognised as what the original shows, by a network "
        "trained on a vision-language model's judgements; 0 is the same picture, 2 shows nothing",
        function=_in("semsim", "semsim"),
        leaks_when="low",
        highest=2.0,
        rank=1,
        needs="SemSim's weights",
    ),
    "recognised": Metric(
        title="chance of being recognised",
        short="P(recognised)",
        meaning="chance that a vision-language model that sees the reconstruction alone names what "
        "the original shows; 1 is certain",
        function=_in("semsim", "recognised"),
        leaks_when="high",
        highest=1.0,
        rank=7,
        needs="SemSim's weights",
    ),
    "lpips": Metric(
        title="LPIPS, AlexNet (Zhang et al. 2018)",
        short="LPIPS",
        meaning="perceptual distance between two pictures; 0 is the same picture",
        function=_in("perceptual", "lpips"),
        leaks_when="low",
        rank=2,
        least_side=LPIPS_SIDE,
        needs="AlexNet's weights",
    ),
    "mse": Metric(
        title="mean squared error",
        short="MSE",
        meaning="mean squared error over pixels; 0 is the same picture",
        function=_in("pixel", "mse"),
        leaks_when="low",
        highest=1.0,
        decimals=3,
        rank=5,
        margin=0.005,
    ),
    "psnr": Metric(
        title="peak signal-to-noise ratio",
        short="PSNR",
        meaning="pixel error in decibels; every 10 dB more is a tenth of the squared error",
        function=_in("pixel", "psnr"),
        leaks_when="high",
        highest=PSNR_CEILING,
        unit="dB",
        decimals=1,
        rank=4,
        margin=1.0,
    ),
    "ssim": Metric(
        title="structural similarity (Wang et al. 2004)",
        short="SSIM",
        meaning="similarity of structure; 1 is the same picture, 0 an unrelated one",
        function=_in("pixel", "ssim"),
        leaks_when="high",
        lowest=-1.0,
        highest=1.0,
        rank=3,
        least_side=SSIM_WINDOW,
    ),
    "ms_ssim": Metric(
        title="multi-scale structural similarity (Wang et al. 2003)",
        short="MS-SSIM",
        meaning="similarity of structure at several sizes; 1 is the same picture",
        function=_in("multiscale", "ms_ssim"),
        leaks_when="high",
        highest=1.0,
        rank=6,
        least_side=MS_SSIM_WINDOW,
        default=False,
    ),
    "semsim_paper": Metric(
        title="SemSim, the paper's network (Sun et al. 2023)",
        short="the paper's SemSim",
        meaning="distance of two embeddings, trained on the answers of small classifiers; 0 is the "
        "same picture",
        function=_in("semsim", "semsim_paper"),
        leaks_when="low",
        highest=2.0,
        rank=8,
        default=False,
        needs="SemSim's weights",
    ),
}


def _identification(by: str, name: str, needs: str = "") -> SetMetric:
    return SetMetric(
        title=f"identification precision by {by}",
        short=f"identification by {by}",
        function=_in("identification", name),
        leaks_when="high",
        highest=1.0,
        needs=needs,
    )


SET_METRICS: dict[str, SetMetric] = {
    "fid": SetMetric(
        title="Frechet distance over Inception features (Heusel et al. 2017)",
        short="FID",
        function=_in("frechet", "fid"),
        leaks_when="low",
        needs="Inception-v3's weights",
        least=2049,  # one more than its features
    ),
    "frechet_semsim": SetMetric(
        title="Frechet distance over SemSim's embedding",
        short="Frechet SemSim",
        function=_in("frechet", "frechet_semsim"),
        leaks_when="low",
        needs="SemSim's weights",
        least=193,
    ),
    "identification_pixels": _identification("pixels", "identification_pixels"),
    "identification_lpips": _identification("LPIPS", "identification_lpips", "AlexNet's weights"),
    "identification_semsim": _identification("SemSim", "identification_semsim", "SemSim's weights"),
}


def title_of(metric: str) -> str:
    """The metric's name as people write it; a name that is not in the table stays as it is."""
    return METRICS[metric].short if metric in METRICS else metric
