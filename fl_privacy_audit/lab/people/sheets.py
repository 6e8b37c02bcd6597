"""Contact sheets: the blind questions of one annotator as pictures, and a table for the answers.

For judging away from the page, by people on paper or by anything else that can look. The questions,
their order and their repeats are those that the page would ask, and the answers go to the same file.
"""

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from fl_privacy_audit.core.errors import ConfigError, CorpusError
from fl_privacy_audit.core.files import write_whole
from fl_privacy_audit.core.protocols import Progress
from fl_privacy_audit.core.tables import Kind, Row, read_table, write_table
from fl_privacy_audit.lab.manifest import CANNOT_TELL

from .app import Service
from .items import SIDE, opened
from .store import Annotator, Task

COLUMNS, ROWS = 6, 4
LEAST_TILE: Final = 160
"""Least side of a tile in pixels; pictures are enlarged in whole multiples."""
GAP, LINE = 12, 16
TABLE: Final[dict[str, Kind]] = {
    "annotator": "string",
    "sheet": "string",
    "tile": "int64",
    "answer": "string",
    "choices": "string",
}
UNSURE: Final = "cannot tell"


def write_sheets(
    service: Service,
    annotator: Annotator,
    folder: Path,
    *,
    progress: Progress = lambda done, total: None,
) -> list[Path]:
    """Draw the open questions of an annotator, and the table to fill in.

    Args:
        service: What can be shown.
        annotator: Who will judge.
        folder: Made if need be. Nothing in it is replaced.
        progress: Told how many tiles of how many are drawn.

    Returns:
        The files: sheets as PNG, in order, then the table. All are readable by their owner alone.

    Raises:
        ConfigError: No question is open, or files of this annotator are there.
        CorpusError: A picture cannot be shown any more.
    """
    tasks = [task for task in service.open_tasks(annotator)[1] if task.stage == "name"]
    if not tasks:
        raise ConfigError(f"{annotator.name} has named all pictures; give another --annotator")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    stem = f"sheets-{annotator.id}"
    if old := sorted(folder.glob(f"{stem}[-.]*")):
        raise ConfigError(f"{old[0]} is there already; give another folder, or move it away")
    side = max(LEAST_TILE, *(max(service.items[task.key].size) for task in tasks))
    side = min(side, SIDE)
    made: list[Path] = []
    rows: list[dict[str, object]] = []
    for at in range(0, len(tasks), COLUMNS * ROWS):
        some = tasks[at : at + COLUMNS * ROWS]
        path = folder / f"{stem}-{len(made) + 1:03}.png"
        write_whole(path, _sheet(service, some, side, path.stem))
        made.append(path)
        for task in some:
            choices = " | ".join(_names(service, task).values())
            row = {"annotator": annotator.name, "sheet": path.stem, "tile": task.id}
            rows.append({**row, "choices": choices})
        progress(at + len(some), len(tasks))
    table = folder / f"{stem}.csv"
    write_table(table, TABLE, rows)
    return [*made, table]


def take_answers(service: Service, path: Path) -> int:
    """Take a filled-in table of answers in, and count what was new. All of it is good, or none is taken.

    Rows without an answer stay open. An answer that stands already is passed over.

    Args:
        service: What can be shown.
        path: The table of `write_sheets`, as a spreadsheet may have saved it.

    Raises:
        CorpusError: A row is no answer to a question of its annotator; it names the line.
    """
    _, rows = read_table(path, ("annotator", "tile", "answer"), CorpusError)
    people: dict[str, tuple[Annotator, dict[int, Task]]] = {}
    given: dict[int, tuple[Annotator, int]] = {}
    for row in rows:
        if not row.cells["answer"]:
            continue
        name = row.text("annotator")
        if name not in people:
            people[name] = _questions(service, row)
        annotator, tasks = people[name]
        task = tasks.get(row.whole("tile", lowest=1))
        if task is None:
            raise row.wrong("tile", f"is no picture that {name} was asked about and can be shown")
        value = _value(service, task, row)
        stands = task.value if task.id not in given else given[task.id][1]
        if stands not in (None, value):
            raise row.wrong("answer", "is another than the one that stands; keep one of them")
        if stands is None:
            given[task.id] = annotator, value
    return sum(
        service.store.answer(annotator, task, value) for task, (annotator, value) in given.items()
    )


def _questions(service: Service, row: Row) -> tuple[Annotator, dict[int, Task]]:
    annotator = service.store.find(name=row.text("annotator"))
    if annotator is None:
        raise row.wrong("annotator", f"nobody is called {row.text('annotator')!r} here")
    done, todo = service.open_tasks(annotator)
    return annotator, {task.id: task for task in done + todo if task.stage == "name"}


def _value(service: Service, task: Task, row: Row) -> int:
    names = {_plain(name): value for value, name in _names(service, task).items()}
    names |= {UNSURE: CANNOT_TELL, str(CANNOT_TELL): CANNOT_TELL}
    text = row.text("answer")
    if _plain(text) not in names:
        raise row.wrong("answer", f"must be one of its choices or {UNSURE!r}, but got {text!r}")
    return names[_plain(text)]


def _names(service: Service, task: Task) -> dict[int, str]:
    """The classes to choose from."""
    classes = service.items[task.key].classes
    return {at: classes[at] for at in service.choices(task) if at != CANNOT_TELL}


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _sheet(service: Service, tasks: Sequence[Task], side: int, title: str) -> bytes:
    """Tiles with their numbers, the question above and, where all share them, the choices below."""
    font = ImageFont.load_default(size=LINE)
    step = side + GAP
    width = COLUMNS * step + GAP
    choices = {tuple(_names(service, task).values()) for task in tasks}
    below = " | ".join(choices.pop()) if len(choices) == 1 else "choices: see the table"
    lines = textwrap.wrap(f"{below} | {UNSURE}", width // (LINE * 5 // 8))
    top = GAP + 2 * LINE
    bottom = top + -(-len(tasks) // COLUMNS) * (step + 2 * LINE)
    sheet = Image.new("RGB", (width, bottom + 2 * LINE * len(lines)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), f"{title}: {service.settings.question}", "black", font)
    for at, task in enumerate(tasks):
        corner = GAP + at % COLUMNS * step, top + at // COLUMNS * (step + 2 * LINE)
        pair = service.items[task.key].pair
        picture = _enlarged(opened(service.corpus, pair.reconstruction), side)
        sheet.paste(picture, corner)
        draw.text((corner[0], corner[1] + side + 2), str(task.id), "black", font)
    for at, line in enumerate(lines):
        draw.text((GAP, bottom + 2 * LINE * at), line, "black", font)
    file = io.BytesIO()
    sheet.save(file, format="PNG")
    return file.getvalue()


def _enlarged(picture: Image.Image, side: int) -> Image.Image:
    """A picture in whole multiples, or made smaller where it is larger than the tile."""
    times = side // max(picture.size)
    if times < 1:
        picture.thumbnail((side, side))
        return picture
    size = picture.width * times, picture.height * times
    return picture.resize(size, Image.Resampling.NEAREST)
