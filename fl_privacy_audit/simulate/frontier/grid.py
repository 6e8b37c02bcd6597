"""Which settings are tried: batch sizes beside local steps, or beside a defence's strength."""

from collections.abc import Sequence
from dataclasses import dataclass

from fl_privacy_audit.core.config import AuditConfig
from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.report.frontier import Place

MOST_HELD = 64
"""Images that a replayed client holds at most; more take attacks beyond their seconds."""
IN_TRAINING = ("noise_multiplier", "max_grad_norm")
"""Strengths that are settings of training; others are options of the defence."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The settings around one's own.

    Attributes:
        batches: Batch sizes, rising: the columns.
        rows: Local steps, or strengths of the defence, rising.
        strength: Name of the option that gives the rows; empty for local steps.
        here: One's own setting.
    """

    batches: tuple[int, ...]
    rows: tuple[float, ...]
    strength: str
    here: Place

    def places(self) -> list[Place]:
        """All of them, one's own first, then those next to it: an interrupted run has these."""
        found = [Place(batch=b, row=r) for r in self.rows for b in self.batches]

        def away(place: Place) -> int:
            return abs(self.batches.index(place.batch) - self.batches.index(self.here.batch)) + abs(
                self.rows.index(place.row) - self.rows.index(self.here.row)
            )

        return sorted(found, key=away)


def make_grid(
    config: AuditConfig, batches: Sequence[int], steps: Sequence[int], strength: str
) -> Grid:
    """The grid around the settings of an audit.

    Args:
        config: One's own settings.
        batches: Batch sizes; empty for some around one's own.
        steps: Local steps, likewise.
        strength: ``NAME=V1,V2,...``: an option of the defence in place of the steps; or empty.

    Raises:
        ConfigError: `strength` cannot be read, or steps are given beside it.
    """
    own, at = config.training.batch_size, config.training.steps or 1
    columns = tuple(sorted({*batches, own})) if batches else around(own, halvings=3, count=5)
    if not strength:
        rows = tuple(sorted({*(steps or (1, *around(at, halvings=1, count=2))), at}))
        here = Place(batch=own, row=float(at))
        return Grid(batches=columns, rows=tuple(map(float, rows)), strength="", here=here)
    if steps:
        raise ConfigError("give `--steps` or `--strength`: they are both the rows of the table")
    name, _, values = strength.partition("=")
    try:
        levels = {float(value) for value in values.split(",")}
    except ValueError:
        raise ConfigError(
            f"`--strength` must be NAME=V1,V2,... with numbers, but is {strength!r}"
        ) from None
    told = (
        getattr(config.training, name) if name in IN_TRAINING else config.defence.options.get(name)
    )
    if not isinstance(told, int | float):
        raise ConfigError(
            f"`--strength` must name a number that the audit's settings give, but {name!r} is none: set "
            "the defence's options to what your clients use"
        )
    levels.add(float(told))
    here = Place(batch=own, row=float(told))
    return Grid(batches=columns, rows=tuple(sorted(levels)), strength=name, here=here)


def around(own: int, *, halvings: int, count: int) -> tuple[int, ...]:
    """One's own number, its halves, and its doubles until there are enough.

    >>> around(8, halvings=3, count=5)
    (1, 2, 4, 8, 16)
    >>> around(1, halvings=1, count=2)
    (1, 2)
    """
    found = {max(own // 2**power, 1) for power in range(halvings + 1)}
    while len(found) < count:
        found.add(2 * max(found))
    return tuple(sorted(found))


def settings_at(config: AuditConfig, grid: Grid, place: Place) -> AuditConfig:
    """The settings of one place: the same model and training, of another size or strength."""
    steps = config.training.steps or 1
    changes: dict[str, object] = {"batch_size": place.batch, "epochs": None}
    defence = config.defence
    if not grid.strength:
        steps = int(place.row)
    elif grid.strength in IN_TRAINING:
        changes[grid.strength] = place.row
    else:
        defence = defence.replace(options={**defence.options, grid.strength: place.row})
    held = max(min(place.batch * steps, MOST_HELD), place.batch)
    training = config.training.replace(steps=steps, images=held, **changes)
    return config.replace(training=training, defence=defence)
