"""The table of metrics. Nothing downstream guesses a direction or a range: it reads them here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from .pixel import mse, psnr, ssim

__all__ = ["METRICS", "Metric", "mse", "psnr", "ssim"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One row of the table.

    Attributes:
        function: ``(reconstructions, originals) -> (N,)`` float64, both ``(N, C, H, W)`` in
            ``[0, 1]``, already paired.
        leaks_when: Whether ``"high"`` or ``"low"`` values mean more leakage.
        lowest: Smallest possible value.
        highest: Largest possible value.
        unit: For tables; empty where there is none.
        least_side: Smallest height and width it works on.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    leaks_when: Literal["high", "low"]
    lowest: float
    highest: float
    unit: str = ""
    least_side: int = 1

    def worst(self, values: list[float]) -> float:
        """The value that leaks most."""
        return max(values) if self.leaks_when == "high" else min(values)


METRICS: dict[str, Metric] = {
    "mse": Metric(function=mse, leaks_when="low", lowest=0.0, highest=1.0),
    "psnr": Metric(function=psnr, leaks_when="high", lowest=0.0, highest=100.0, unit="dB"),
    "ssim": Metric(function=ssim, leaks_when="high", lowest=-1.0, highest=1.0, least_side=7),
}
