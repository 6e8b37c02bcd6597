"""One row per metric: what its row in the table must say, and what is known of its values."""

import math
from dataclasses import dataclass

Facts = tuple[str, float, float, str]
"""Direction, lowest, highest, unit."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A metric of a pair.

    Attributes:
        facts: See `Facts`.
        least_side: Smallest height and width it works on.
        margin: A difference worth a verdict.
        black_and_white: Its value for a black and a white image of 16x16; None where a network decides.
        symmetric: Whether either image may come first.
        same_size: Whether both images must have the same height and width.
        shown: A value, and how it is shown.
    """

    facts: Facts
    least_side: int = 1
    margin: float = 0.05
    black_and_white: float | None = None
    symmetric: bool = True
    same_size: bool = True
    shown: tuple[float, str]


CASES = {
    "semsim": Case(
        facts=("low", 0.0, 2.0, ""), symmetric=False, same_size=False, shown=(0.0944, "0.094")
    ),
    "recognised": Case(
        facts=("high", 0.0, 1.0, ""), symmetric=False, same_size=False, shown=(0.5, "0.50")
    ),
    "lpips": Case(facts=("low", 0.0, math.inf, ""), least_side=16, shown=(0.1, "0.10")),
    "mse": Case(
        facts=("low", 0.0, 1.0, ""), margin=0.005, black_and_white=1.0, shown=(0.001234, "0.0012")
    ),
    "psnr": Case(
        facts=("high", 0.0, 100.0, "dB"), margin=1.0, black_and_white=0.0, shown=(34.567, "34.6 dB")
    ),
    "ssim": Case(
        facts=("high", -1.0, 1.0, ""), least_side=7, black_and_white=0.0, shown=(-0.512, "-0.51")
    ),
    "ms_ssim": Case(
        facts=("high", 0.0, 1.0, ""), least_side=11, black_and_white=0.0, shown=(0.9876, "0.99")
    ),
    "semsim_paper": Case(facts=("low", 0.0, 2.0, ""), same_size=False, shown=(1.32, "1.32")),
}

SET_CASES: dict[str, Facts] = {
    "fid": ("low", 0.0, math.inf, ""),
    "frechet_semsim": ("low", 0.0, math.inf, ""),
    "identification_pixels": ("high", 0.0, 1.0, ""),
    "identification_lpips": ("high", 0.0, 1.0, ""),
    "identification_semsim": ("high", 0.0, 1.0, ""),
}
