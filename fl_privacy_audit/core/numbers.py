"""Numbers as people read them."""

import math

LARGEST = 2**64
"""Ids and counts are below it. Readers may refuse a longer number, and it counts nothing."""


def number(value: float, decimals: int = 2) -> str:
    """A number with so many decimals; with two significant digits where those would hide it.

    >>> number(15.4), number(0.0123), number(29.96, 1), number(float("nan"))
    ('15.40', '0.012', '30.0', 'n/a')
    """
    if math.isnan(value):
        return "n/a"
    if math.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    if abs(value) >= 1e15:
        return f"{value:.3g}"
    if value == 0 or abs(value) >= 0.95 * 10 ** (1 - decimals):
        return f"{value:z.{decimals}f}"
    return f"{value:.2g}"
