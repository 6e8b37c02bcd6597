"""A corpus on disk, and answers about it."""

import csv
import json
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.lab.manifest import (
    CANNOT_TELL,
    Pair,
    Response,
    read_answers,
    read_corpus,
    write_answers,
)

PAIR = Pair(
    key="a",
    source="tiny",
    image="0",
    label=1,
    architecture="lenet",
    recipe="none",
    attack="dlg",
    defence="none",
    original="originals/0.png",
    reconstruction="reconstructions/0.png",
)


def write_corpus(folder: Path, rows: list[dict[str, object]]) -> Path:
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Pair)])
        writer.writeheader()
        writer.writerows(rows)
    (folder / "classes.json").write_text(json.dumps({"tiny": ["cat", "dog"]}))
    return folder


def test_a_corpus_is_read_back(tmp_path: Path) -> None:
    corpus = read_corpus(write_corpus(tmp_path, [asdict(PAIR)]))
    assert corpus.pairs == (PAIR,)
    assert corpus.classes == {"tiny": ["cat", "dog"]}
    assert PAIR.setting == "tiny/lenet/none/dlg/none"


def test_a_picture_is_read_as_pixels(tmp_path: Path) -> None:
    corpus = read_corpus(write_corpus(tmp_path, [asdict(PAIR)]))
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    (tmp_path / "originals").mkdir()
    Image.fromarray(pixels).save(tmp_path / "originals/0.png")
    expected = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    assert torch.equal(corpus.picture(PAIR.original), expected)


def test_a_missing_and_a_damaged_picture_are_named(tmp_path: Path) -> None:
    corpus = read_corpus(write_corpus(tmp_path, [asdict(PAIR)]))
    with pytest.raises(CorpusError, match=r"originals/0.png is missing"):
        corpus.picture(PAIR.original)
    (tmp_path / "originals").mkdir()
    (tmp_path / "originals/0.png").write_bytes(b"no picture")
    with pytest.raises(CorpusError, match=r"originals/0.png is damaged"):
        corpus.picture(PAIR.original)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"label": "cat"},
            "line 3, column `label`: must be a whole number of 0 or more, but got 'cat'",
        ),
        ({"label": -1}, "line 3, column `label`: must be a whole number of 0 or more"),
        ({"attack": ""}, "line 3, column `attack`: is empty; fill it in or drop the row"),
        ({"key": "a"}, "line 3, column `key`: 'a' stands in line 2 already"),
        ({"source": "huge"}, "names no classes for source 'huge'"),
    ],
)
def test_a_row_that_does_not_fit_is_named(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    rows = [asdict(PAIR), asdict(PAIR) | {"key": "b"} | change]
    with pytest.raises(CorpusError, match=message):
        read_corpus(write_corpus(tmp_path, rows))


def test_a_folder_without_manifest_or_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"manifest.csv: cannot be read \(No such file"):
        read_corpus(tmp_path)
    (tmp_path / "manifest.csv").write_text("key,source\n")
    with pytest.raises(
        CorpusError, match=r"lacks column `image`, .*split at commas it has key, source$"
    ):
        read_corpus(tmp_path)


ANSWERS = st.builds(
    Response,
    # Blanks around a cell are never meant.
    key=st.text(st.characters(codec="utf-8", exclude_categories=["C"])).map(str.strip).filter(bool),
    annotator=st.sampled_from(["ann", 'b, "c"']),
    answer=st.integers(CANNOT_TELL, 99),
    recognisable=st.sampled_from([None, True, False]),
    confidence=st.none() | st.integers(0, 100).map(lambda percent: percent / 100),
)


@given(st.lists(ANSWERS, max_size=5))
def test_answers_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, answers: list[Response]
) -> None:
    path = tmp_path_factory.mktemp("answers") / "answers.csv"
    write_answers(path, answers)
    assert read_answers(path) == answers


def test_a_line_that_is_no_answer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    write_answers(path, [Response(key="a", annotator="ann", answer=1)])
    good = path.read_text()
    for new, message in (
        (
            "a,ann,perhaps,,,",
            "column `answer`: must be a whole number of -1 or more .-1 is 'cannot",
        ),
        ("a,ann,-2,,,", "column `answer`: must be a whole number of -1 or more"),
        ("a,,1,,,", "column `annotator`: is empty"),
        ("a,ann,1,perhaps,,", "column `recognisable`: must be yes, no or empty, but got 'perhaps'"),
        ("a,ann,1,,90,", "column `confidence`: must be in .0, 1. or empty, but got 90"),
        ("a,ann,1,,high,", "column `confidence`: must be a finite number, but got 'high'"),
    ):
        path.write_text(good.replace("a,ann,1,,,", new))
        with pytest.raises(CorpusError, match=f"answers.csv, line 2, {message}"):
            read_answers(path)


def test_the_former_name_of_a_column_is_read(tmp_path: Path) -> None:
    path = write_corpus(tmp_path, [asdict(PAIR)]) / "manifest.csv"
    path.write_text(path.read_text().replace(",architecture,", ",victim,"))
    assert read_corpus(tmp_path).pairs == (PAIR,)
    assert "victim" in path.read_text()
