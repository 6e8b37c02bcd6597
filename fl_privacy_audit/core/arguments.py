"""Checks of numbers that come from outside, with one form of message for all of them."""

from collections.abc import Callable, Iterator
from functools import partial
from math import isfinite
from numbers import Integral, Real
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from .errors import ConfigError


def positive(name: str, value: float, hint: str = "") -> None:
    """Refuse anything but a finite number above zero."""
    if not (_is_number(value) and value > 0):
        refuse(name, "a positive number", value, hint)


def not_negative(name: str, value: float, hint: str = "") -> None:
    """Refuse anything but a finite number of zero or more."""
    if not (_is_number(value) and value >= 0):
        refuse(name, "zero or a positive number", value, hint)


def fraction(name: str, value: float, hint: str = "") -> None:
    """Refuse anything that is not strictly between zero and one."""
    if not (_is_number(value) and 0 < value < 1):
        refuse(name, "between 0 and 1, both excluded", value, hint)


def rate(name: str, value: float, hint: str = "") -> None:
    """Refuse anything that is not above zero and at most one."""
    if not (_is_number(value) and 0 < value <= 1):
        refuse(name, "above 0 and at most 1", value, hint)


def share(name: str, value: float, hint: str = "") -> None:
    """Refuse anything but a number from zero up to one, one excluded."""
    if not (_is_number(value) and 0 <= value < 1):
        refuse(name, "in [0, 1)", value, hint)


def whole(
    name: str, value: int, *, least: int = 1, most: int | None = None, hint: str = ""
) -> None:
    """Refuse anything but a whole number of at least `least`, and at most `most` if given."""
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or value < least or (most is not None and value > most):
        limit = f"of at least {least}" if most is None else f"from {least} to {most}"
        refuse(name, f"a whole number {limit}", value, hint)


def choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a word that is not one of `choices`."""
    if value not in choices:
        refuse(name, f"one of {', '.join(map(repr, choices))}", value)


def refuse(name: str, need: str, value: object, hint: str = "") -> None:
    """Raise the one form of message that this package uses for a bad argument.

    Raises:
        ConfigError: Always.
    """
    raise ConfigError(f"Argument `{name}` must be {need}, but got {value!r}{hint and '; ' + hint}")


def name_and_value(text: str, what: str, example: str) -> tuple[str, str]:
    """Both sides of ``name=value``, without blanks around them.

    Raises:
        ConfigError: One is empty; the message says `what` must look like the `example`.

    >>> name_and_value("std = 1e-3", "options", "std=1")
    ('std', '1e-3')
    """
    name, _, value = (piece.strip() for piece in text.partition("="))
    if not (name and value):
        raise ConfigError(f"{what} must look like {example}, but got {text!r}")
    return name, value


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)


class CheckedFields:
    """Base of dataclasses that check their fields by the types: `Positive`, a `Literal` and so on.

    None passes where the type allows it.

    Raises:
        ConfigError: A field is out of range.
    """

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self), include_extras=True).items():
            value = getattr(self, name)
            for check in _checks(kind, value):
                check(name, value)


def _checks(kind: Any, value: object) -> Iterator[Callable[[str, Any], None]]:
    if get_origin(kind) is Annotated:
        yield from filter(callable, kind.__metadata__)
    elif get_origin(kind) is Literal:
        yield partial(choice, choices=get_args(kind))
    elif type(None) in get_args(kind) and value is not None:
        for part in get_args(kind):
            yield from _checks(part, value)


Positive = Annotated[float, positive]
NotNegative = Annotated[float, not_negative]
Share = Annotated[float, share]
Whole = Annotated[int, whole]
WholeOrZero = Annotated[int, partial(whole, least=0)]
