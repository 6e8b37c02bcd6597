"""What is trained on and what is kept away from it.

A *selection* names pairs by a field: ``victim=resnet20``, ``attack=dlg*``, ``source=faces``. Left
out of training and evaluated on alone, it is a leave-one-out protocol. Validation is split by
original, so that no original is on both sides under another setting.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.lab.manifest import Pair

FIELDS = ("source", "victim", "recipe", "attack", "defence")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Pairs whose field matches a pattern.

    Attributes:
        field: One of `FIELDS`.
        pattern: With the wildcards of a shell.
    """

    field: str
    pattern: str

    @classmethod
    def parse(cls, text: str) -> "Selection":
        """From ``field=pattern``.

        Raises:
            ConfigError: Another form.

        >>> Selection.parse("attack=dlg*")
        Selection(field='attack', pattern='dlg*')
        """
        field, _, pattern = text.partition("=")
        if field not in FIELDS or not pattern:
            raise ConfigError(
                f"a selection must be FIELD=PATTERN with a field of {', '.join(FIELDS)}, "
                f"but got {text!r}"
            )
        return cls(field=field, pattern=pattern)

    def holds(self, pair: Pair) -> bool:
        """Whether the pair is selected."""
        return fnmatchcase(getattr(pair, self.field), self.pattern)

    def __str__(self) -> str:
        return f"{self.field}={self.pattern}"


def kept(pair: Pair, *, only: Sequence[Selection] = (), without: Sequence[Selection] = ()) -> bool:
    """Whether a pair is in every selection of `only` and in none of `without`."""
    return all(s.holds(pair) for s in only) and not any(s.holds(pair) for s in without)


def original_of(pair: Pair) -> str:
    """Name of the original, the same in every corpus and setting."""
    return f"{pair.source}/{pair.image}"


def is_held_back(original: str, *, share: float, seed: int) -> bool:
    """Whether an original is for validation: by its name, whatever else the corpus holds."""
    digest = hashlib.sha256(f"{seed}/{original}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
