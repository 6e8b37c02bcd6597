"""One word for an attack or a defence with its settings: ``name:key=value,key=value``."""

import hashlib
import json
from dataclasses import dataclass

from fl_privacy_audit.core.config_text import read_options
from fl_privacy_audit.core.errors import ConfigError

Value = int | float | str | bool


@dataclass(frozen=True)
class Spec:
    """A name and what differs from its defaults."""

    name: str
    settings: tuple[tuple[str, Value], ...] = ()

    def __str__(self) -> str:
        """As it is written on the command line and in the manifest."""
        pairs = ",".join(f"{key}={_word(value)}" for key, value in self.settings)
        return f"{self.name}:{pairs}" if pairs else self.name

    def with_setting(self, key: str, value: Value) -> "Spec":
        """The same with one setting more, or another value of it."""
        return Spec(self.name, tuple(sorted({**dict(self.settings), key: value}.items())))


def parse_spec(text: str) -> Spec:
    """Read ``name:key=value,key=value``; numbers and true/false are taken as such.

    Raises:
        ConfigError: It is not written like that.
    """
    name, _, settings = text.strip().partition(":")
    if not name:
        raise ConfigError(f"{text!r} must begin with a name")
    return Spec(name, tuple(sorted(read_options(settings).items())))


def digest(*parts: object) -> int:
    """A number of 63 bits that depends on nothing but the parts: a seed, or a short name."""
    text = json.dumps([str(part) for part in parts])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _word(value: Value) -> str:
    return (
        str(value).lower()
        if isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
