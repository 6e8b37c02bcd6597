"""``fl-privacy-audit frontier APP --model MODULE:NAME --out DIR``."""

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from torch import nn

from fl_privacy_audit.core.config import AuditConfig
from fl_privacy_audit.core.console import standard_output
from fl_privacy_audit.core.errors import AuditError, ConfigError
from fl_privacy_audit.core.files import lock, write_whole
from fl_privacy_audit.core.jobs import Seat, Seats, each_done
from fl_privacy_audit.core.named_object import find_model
from fl_privacy_audit.ledger.ledger import FILE_NAME
from fl_privacy_audit.report.doctor import read_settings
from fl_privacy_audit.report.frontier import Frontier, Leakage, Place, answer, write_frontier
from fl_privacy_audit.report.words import LOWER_BOUND

from .cell import measure
from .grid import Grid, make_grid, settings_at

NOT_MEASURED = {"directory", "setting", "executor", "ray_address"}
"""Settings that change nothing of what is measured."""
DONE = "leakage.json"
"""What was measured at a place; a folder without it is a half run."""


def _numbers(context: click.Context, option: click.Parameter, value: str) -> tuple[int, ...]:
    del context
    try:
        numbers = tuple(int(part) for part in value.split(",") if part.strip())
    except ValueError:
        numbers = (0,)
    if numbers and min(numbers) < 1:
        raise click.BadParameter("must be whole numbers from 1, with commas between", param=option)
    return numbers


@click.command("frontier")
@click.argument("app", type=click.Path(path_type=Path, exists=True), default=".")
@click.option(
    "--model", required=True, help="The clients' model: MODULE:NAME, a class or an object."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for results.")
@click.option("--batches", default="", callback=_numbers, help="Batch sizes: 1,4,16.")
@click.option("--steps", default="", callback=_numbers, help="Local steps: 1,5,20.")
@click.option(
    "--strength",
    default="",
    metavar="NAME=V1,V2,...",
    help="An option of the defence in place of the steps: noise_multiplier=0.1,1.",
)
@click.option(
    "--replays", type=click.IntRange(2), default=3, show_default=True, help="Clients at each place."
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    help="For attacks at each place.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=os.cpu_count() or 1,
    help="Places at the same time; by default one per core.",
)
@click.option("--ray", metavar="ADDRESS", help="Attack on this Ray cluster instead.")
@click.option(
    "--canaries",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of public pictures; by default the bundled photographs.",
)
def frontier_command(
    app: Path,
    model: str,
    out: Path,
    batches: tuple[int, ...],
    steps: tuple[int, ...],
    strength: str,
    replays: int,
    seconds: float,
    workers: int,
    ray: str | None,
    canaries: Path | None,
) -> None:
    """Measure what leaks around your own batch size and local steps.

    APP is the folder of a Flower app whose run config has the settings of the audit, or a TOML file of
    them. Training is replayed as they say on public pictures, and attacked as a client's update is.
    Writes a table, a heatmap and one audit for each place. After an interruption the same command does
    the rest.
    """
    config, _ = read_settings(app)
    config = config.replace(seconds_per_round=seconds).attacked_by(ray)
    if canaries is not None:
        config = config.replace(canary=config.canary.replace(folder=canaries.absolute()))
    grid = make_grid(config, batches, steps, strength)
    folder = app if app.is_dir() else app.parent
    sys.path.insert(0, str(folder.absolute()))  # workers look there too
    network = find_model(model, folder)
    console = standard_output()
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    if lock(out) is None:
        raise AuditError(f"another frontier is being measured in {out}; wait until it has ended")
    found: list[Leakage] = []
    for one in measured(config, grid, network, out, replays=replays, workers=workers):
        found.append(one)
        share = "not tested" if one.recognisable is None else f"{one.recognisable:.0%} recognisable"
        console.print(
            f"[{len(found)}/{len(grid.places())}] {name_of(grid, one.place)}: {share} ({one.seconds:.0f} s)",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        write_frontier(_frontier(grid, found), out)
    console.print(answer(_frontier(grid, found)), markup=False, soft_wrap=True)
    console.print(f"Table and heatmap: {out}", markup=False, soft_wrap=True)
    console.print(LOWER_BOUND, markup=False)


def _frontier(grid: Grid, found: list[Leakage]) -> Frontier:
    return Frontier(
        batches=grid.batches,
        rows=grid.rows,
        strength=grid.strength,
        here=grid.here,
        found=tuple(found),
    )


def name_of(grid: Grid, place: Place) -> str:
    """What a place is called."""
    rows = grid.strength or "steps"
    return f"batch {place.batch}, {rows} {place.row:g}"


def measured(
    config: AuditConfig,
    grid: Grid,
    model: nn.Module,
    out: Path,
    *,
    replays: int,
    workers: int = 1,
) -> Iterator[Leakage]:
    """Each place as it is measured, some at the same time; what was measured before comes first.

    The places are independent of each other.

    Raises:
        ConfigError: The folder has places that were measured with other settings or another model.
    """
    weights = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        weights.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    left: list[Place] = []
    digests: dict[Place, str] = {}
    for place in grid.places():
        told = settings_at(config, grid, place).model_dump_json(exclude=NOT_MEASURED)
        digests[place] = hashlib.sha256(
            f"{told}{replays}{weights.hexdigest()}".encode()
        ).hexdigest()
        done = _folder(out, grid, place) / DONE
        if not done.exists():
            left.append(place)
            continue
        kept = json.loads(done.read_text(encoding="utf-8"))
        if kept["digest"] != digests[place]:
            raise ConfigError(
                f"{done.parent} was measured with other settings or another model; give another --out"
            )
        yield Leakage.model_validate(kept["leakage"])

    def do(place: Place, seat: Seat) -> Leakage:
        del seat  # attacks have workers of their own
        folder = _folder(out, grid, place)
        if (folder / FILE_NAME).exists():
            shutil.rmtree(folder)  # a half run, of pictures of nobody's data
        settings = settings_at(config, grid, place)
        return measure(settings, model, place, folder, replays=replays)

    with contextlib.closing(each_done(Seats(do, workers), left)) as all_done:
        for ended in all_done:
            if ended.error is not None:
                raise ended.error
            assert ended.result is not None
            kept = {"digest": digests[ended.task], "leakage": ended.result.model_dump(mode="json")}
            write_whole(_folder(out, grid, ended.task) / DONE, json.dumps(kept) + "\n", mode=0o644)
            yield ended.result


def _folder(out: Path, grid: Grid, place: Place) -> Path:
    return out / name_of(grid, place).replace(", ", "-").replace(" ", "")
