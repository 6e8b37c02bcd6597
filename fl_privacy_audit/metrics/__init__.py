"""The tables of metrics. Nothing downstream guesses a direction or a range: it reads them here."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from .frechet import SetScore, fid, frechet_semsim
from .identification import identification_lpips, identification_pixels, identification_semsim
from .multiscale import WINDOW as MS_SSIM_WINDOW
from .multiscale import ms_ssim
from .perceptual import LEAST_SIDE, lpips
from .pixel import WINDOW as SSIM_WINDOW
from .pixel import mse, psnr, ssim
from .semsim import semsim

__all__ = [
    "METRICS",
    "SET_METRICS",
    "Metric",
    "SetMetric",
    "SetScore",
    "format_range",
    "mse",
    "psnr",
    "ssim",
]

LeaksWhen = Literal["high", "low"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One row of the table: a number for each pair.

    Attributes:
        title: Its full name, with its source.
        function: ``(reconstructions, originals) -> (N,)`` float64, both ``(N, C, H, W)`` in
            ``[0, 1]``, already paired. Raises `MetricUnavailable` where it cannot be had.
        leaks_when: Whether ``"high"`` or ``"low"`` values mean more leakage.
        lowest: Smallest possible value.
        highest: Largest possible value; infinity where there is no bound.
        unit: For tables; empty where there is none.
        least_side: Smallest height and width it works on.
        needs: What must be here beside the images; empty where nothing is.
        default: Whether an audit computes it unless told otherwise.
    """

    title: str
    function: Callable[[Tensor, Tensor], Tensor]
    leaks_when: LeaksWhen
    lowest: float
    highest: float
    unit: str = ""
    least_side: int = 1
    needs: str = ""
    default: bool = True

    def worst(self, values: list[float]) -> float:
        """The value that leaks most."""
        return max(values) if self.leaks_when == "high" else min(values)


@dataclass(frozen=True, kw_only=True)
class SetMetric:
    """One row of the second table: a number for many pairs together.

    Attributes:
        title: Its full name, with its source.
        function: ``(reconstructions, originals) -> SetScore``, both ``(N, C, H, W)`` in ``[0, 1]``,
            already paired. Raises `MetricUnavailable` where it cannot be had.
        leaks_when: Whether ``"high"`` or ``"low"`` values mean more leakage.
        lowest: Smallest possible value.
        highest: Largest possible value; infinity where there is no bound.
        needs: What must be here beside the images; empty where nothing is.
    """

    title: str
    function: Callable[[Tensor, Tensor], SetScore]
    leaks_when: LeaksWhen
    lowest: float
    highest: float
    needs: str = ""


def format_range(lowest: float, highest: float, unit: str = "") -> str:
    """From the lowest to the highest value, for people.

    >>> format_range(0, 100, "dB")
    '0 to 100 dB'
    >>> format_range(0, math.inf)
    'from 0'
    """
    if math.isinf(highest):
        return f"from {lowest:g} {unit}".rstrip()
    return f"{lowest:g} to {highest:g} {unit}".rstrip()


METRICS: dict[str, Metric] = {
    "semsim": Metric(
        title="SemSim (Sun et al. 2023)",
        function=semsim,
        leaks_when="low",
        lowest=0.0,
        highest=2.0,
        needs="SemSim's weights",
    ),
    "lpips": Metric(
        title="LPIPS, AlexNet (Zhang et al. 2018)",
        function=lpips,
        leaks_when="low",
        lowest=0.0,
        highest=math.inf,
        least_side=LEAST_SIDE,
        needs="AlexNet's weights",
    ),
    "mse": Metric(
        title="mean squared error", function=mse, leaks_when="low", lowest=0.0, highest=1.0
    ),
    "psnr": Metric(
        title="peak signal-to-noise ratio",
        function=psnr,
        leaks_when="high",
        lowest=0.0,
        highest=100.0,
        unit="dB",
    ),
    "ssim": Metric(
        title="structural similarity (Wang et al. 2004)",
        function=ssim,
        leaks_when="high",
        lowest=-1.0,
        highest=1.0,
        least_side=SSIM_WINDOW,
    ),
    "ms_ssim": Metric(
        title="multi-scale structural similarity (Wang et al. 2003)",
        function=ms_ssim,
        leaks_when="high",
        lowest=0.0,
        highest=1.0,
        least_side=MS_SSIM_WINDOW,
        default=False,
    ),
}

SET_METRICS: dict[str, SetMetric] = {
    "fid": SetMetric(
        title="Frechet distance over Inception features (Heusel et al. 2017)",
        function=fid,
        leaks_when="low",
        lowest=0.0,
        highest=math.inf,
        needs="Inception-v3's weights",
    ),
    "frechet_semsim": SetMetric(
        title="Frechet distance over SemSim's embedding",
        function=frechet_semsim,
        leaks_when="low",
        lowest=0.0,
        highest=math.inf,
        needs="SemSim's weights",
    ),
    "identification_pixels": SetMetric(
        title="identification precision by pixels",
        function=identification_pixels,
        leaks_when="high",
        lowest=0.0,
        highest=1.0,
    ),
    "identification_lpips": SetMetric(
        title="identification precision by LPIPS",
        function=identification_lpips,
        leaks_when="high",
        lowest=0.0,
        highest=1.0,
        needs="AlexNet's weights",
    ),
    "identification_semsim": SetMetric(
        title="identification precision by SemSim",
        function=identification_semsim,
        leaks_when="high",
        lowest=0.0,
        highest=1.0,
        needs="SemSim's weights",
    ),
}
