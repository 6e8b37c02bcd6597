"""Contact sheets ask what the page asks, and their answers are checked as the page checks them."""

import csv
import stat
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from fl_privacy_audit.cli import cli
from fl_privacy_audit.lab.manifest import CANNOT_TELL, Corpus
from fl_privacy_audit.lab.people import Store, answers
from fl_privacy_audit.lab.people.plan import plan
from tests.lab.conftest import MakeCorpus

SAID = {"cat": 0, "Dog <b>": 1, "lawn mower": 2, "cannot tell": CANNOT_TELL}


def run(corpus: Corpus, *options: str, code: int = 0) -> Result:
    done = CliRunner().invoke(cli, ["annotate", str(corpus.directory), *options])
    assert done.exit_code == code, done.output
    return done


def draw(corpus: Corpus, folder: Path, name: str = "Ann", *options: str) -> Path:
    run(corpus, "--sheets", str(folder), "--annotator", name, *options)
    (table,) = folder.glob("*.csv")
    return table


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def fill(table: Path, given: list[str]) -> None:
    rows = rows_of(table)
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row, answer in zip(rows, given, strict=True):
            writer.writerow(row | {"answer": answer})


def store_of(corpus: Corpus) -> Store:
    return Store(corpus.directory / "annotations.sqlite")


def kept(corpus: Corpus) -> dict[str, int]:
    store = store_of(corpus)
    return {one.key: one.answer for one in answers(store, store.annotators())}


def test_sheets_ask_what_the_page_would_and_the_answers_come_back(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    corpus = make_corpus(9)  # 27 pictures: two sheets
    table = draw(corpus, tmp_path / "sheets", "Ann", "--repeat", "0.2", "--beside")
    store = store_of(corpus)
    (ann,) = store.annotators()
    asked = [task for task in store.tasks(ann) if task.stage == "name"]
    keys = [pair.key for pair in corpus.pairs]
    steps = plan(keys, store.settings(), annotator="Ann")
    assert [(t.key, t.visit) for t in asked] == [
        (s.key, s.visit) for s in steps if s.stage == "name"
    ]
    rows = rows_of(table)
    assert [int(row["tile"]) for row in rows] == [task.id for task in asked]
    assert {row["choices"] for row in rows} == {"cat | dog <b> | lawn_mower | owl"}
    assert len(sorted((tmp_path / "sheets").glob("*.png"))) == 2

    words = [list(SAID)[at % len(SAID)] for at in range(len(rows))]
    fill(table, words)
    assert f"{len(rows)} new answers" in run(corpus, "--answers", str(table)).output
    assert "0 new answers" in run(corpus, "--answers", str(table)).output
    for task, word in zip(store.tasks(ann), words, strict=False):
        assert task.value == SAID[word]


def test_a_tile_shows_the_picture_of_its_number_enlarged(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    corpus = make_corpus(1)
    table = draw(corpus, tmp_path / "sheets")
    store = store_of(corpus)
    task = store.tasks(store.annotators()[0])[0]
    pair = next(pair for pair in corpus.pairs if pair.key == task.key)
    small = np.asarray(Image.open(corpus.directory / pair.reconstruction).convert("RGB"))
    enlarged = np.kron(small, np.ones((20, 20, 1), np.uint8))
    sheet = np.asarray(Image.open(table.parent / f"{rows_of(table)[0]['sheet']}.png"))
    windows = np.lib.stride_tricks.sliding_window_view(sheet, enlarged.shape)[:, :, 0]
    found = [(y, x) for y, x in np.ndindex(60, 30) if np.array_equal(windows[y, x], enlarged)]
    assert len(found) == 1


def test_sheets_are_their_owners_and_name_no_file_and_no_class(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    corpus = make_corpus(1)
    table = draw(corpus, tmp_path / "sheets")
    files = [*table.parent.iterdir()]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE(table.parent.stat().st_mode) == 0o700
    text = table.read_text()
    assert not any(pair.key in text or pair.reconstruction in text for pair in corpus.pairs)


WRONG = [
    ("answer", "zebra", "must be one of its choices"),
    ("answer", "3", "must be one of its choices"),
    ("annotator", "Eve", "nobody is called 'Eve'"),
    ("tile", "9999", "is no picture that Ann was asked about"),
    ("tile", "first", "must be a whole number"),
]


@pytest.mark.parametrize(("column", "text", "message"), WRONG)
def test_one_bad_row_is_named_and_nothing_is_taken(
    make_corpus: MakeCorpus, tmp_path: Path, column: str, text: str, message: str
) -> None:
    corpus = make_corpus(1)
    table = draw(corpus, tmp_path / "sheets")
    fill(table, ["cat", "", "cat"])
    rows = rows_of(table)
    rows[2][column] = text
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    output = run(corpus, "--answers", str(table), code=1).output
    assert f"line 4, column `{column}`" in output and message in output
    assert kept(corpus) == {}


def test_another_answer_than_the_one_that_stands_is_refused(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    corpus = make_corpus(1)
    table = draw(corpus, tmp_path / "sheets")
    fill(table, ["cat", "", ""])
    run(corpus, "--answers", str(table))
    before = kept(corpus)
    fill(table, ["owl", "cat", "cat"])
    assert "another than the one that stands" in run(corpus, "--answers", str(table), code=1).output
    assert kept(corpus) == before


def test_a_picture_that_changed_takes_no_answer(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    corpus = make_corpus(1)
    table = draw(corpus, tmp_path / "sheets")
    for pair in corpus.pairs[1:]:
        Image.new("RGB", (8, 8)).save(corpus.directory / pair.reconstruction)
    fill(table, ["cat"] * 3)
    output = run(corpus, "--answers", str(table), code=1).output
    assert "is not the one that was judged" in output and "can be shown" in output
    assert kept(corpus) == {}


def test_only_open_questions_are_drawn_and_nothing_is_replaced(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    corpus = make_corpus(1)
    table = draw(corpus, tmp_path / "one")
    again = run(corpus, "--sheets", str(tmp_path / "one"), "--annotator", "Ann", code=1)
    assert "is there already" in again.output
    fill(table, ["cat", "owl", ""])
    run(corpus, "--answers", str(table))
    rest = rows_of(draw(corpus, tmp_path / "two"))
    assert [row["tile"] for row in rest] == [rows_of(table)[2]["tile"]]
    assert "give one --annotator" in run(corpus, "--sheets", str(tmp_path / "no"), code=1).output
