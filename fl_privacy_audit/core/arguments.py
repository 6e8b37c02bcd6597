"""Checks of numbers that come from outside, with one form of message for all of them."""

from math import isfinite
from numbers import Integral, Real

from .errors import ConfigError


def positive(name: str, value: float, mend: str = "") -> None:
    """Refuse anything but a finite number above zero."""
    if not (_is_number(value) and value > 0):
        refuse(name, "a positive number", value, mend)


def not_negative(name: str, value: float, mend: str = "") -> None:
    """Refuse anything but a finite number of zero or more."""
    if not (_is_number(value) and value >= 0):
        refuse(name, "zero or a positive number", value, mend)


def fraction(name: str, value: float, mend: str = "") -> None:
    """Refuse anything that is not strictly between zero and one."""
    if not (_is_number(value) and 0 < value < 1):
        refuse(name, "between 0 and 1, both excluded", value, mend)


def rate(name: str, value: float, mend: str = "") -> None:
    """Refuse anything that is not above zero and at most one."""
    if not (_is_number(value) and 0 < value <= 1):
        refuse(name, "above 0 and at most 1", value, mend)


def whole(name: str, value: int, *, least: int = 1, mend: str = "") -> None:
    """Refuse anything but a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        refuse(name, f"a whole number of at least {least}", value, mend)


def choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a word that is not one of `choices`."""
    if value not in choices:
        refuse(name, f"one of {', '.join(map(repr, choices))}", value)


def refuse(name: str, need: str, value: object, mend: str = "") -> None:
    """Raise the one form of message that this package uses for a bad argument.

    Raises:
        ConfigError: Always.
    """
    raise ConfigError(f"Argument `{name}` must be {need}, but got {value!r}{mend and '; ' + mend}")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)
