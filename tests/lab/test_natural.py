"""The judged pictures of natural things, and their answers."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.natural import FIRST, SECOND, TWICE, answers, drawn, kinds, main, picture_of
from fl_privacy_audit.lab.manifest import CANNOT_TELL, read_answers, read_corpus

PICTURES = 782


def test_each_picture_has_three_answers_that_name_a_class_or_none() -> None:
    given = list(answers())
    assert Counter(Counter(one.key for one in given).values()) == {3: PICTURES}
    for one in given:
        classes = len(FIRST if one.key.startswith("n") else SECOND)
        assert CANNOT_TELL <= one.answer < classes, one


def test_no_original_is_drawn_twice() -> None:
    rng = np.random.default_rng(0)
    first = drawn(FIRST, 24, set(), rng)
    used = {number for _, number in first}
    second = [number for _, number in drawn(SECOND, 40, used, rng)]
    assert len(used) == len(first)
    assert len({*second}) == len(second)
    assert not used & {*second}
    assert all(0 < share < 1 for share in TWICE)


@pytest.mark.parametrize("side", [32, 64])
def test_every_kind_damages_and_leaves_a_picture(side: int) -> None:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (5, side, side, 3), dtype=np.uint8)
    smooth = np.linspace(0, 1, side)[:, None, None] * rng.random((1, side, 3))
    for name, damage in kinds(images).items():
        shown = [np.asarray(picture_of(damage(smooth, rng))) for _ in range(8)]
        assert {one.shape for one in shown} == {(side, side, 3)}, name
        as_it_was = np.asarray(picture_of(smooth))
        # Blocks that change places may happen to stay where they are.
        assert sum(not np.array_equal(one, as_it_was) for one in shown) > 4, name


def test_the_corpus_is_that_of_the_answers(shared_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "natural"
    made = CliRunner().invoke(main, [f"{shared_data / 'natural'}", f"{out}"])
    assert made.exit_code == 0, made.output
    corpus = read_corpus(out)
    given = read_answers(out / "answers.csv")
    assert {pair.key for pair in corpus.pairs} == {one.key for one in given}
    assert len(corpus.pairs) == PICTURES
    right = {pair.key: pair.label for pair in corpus.pairs}
    named = [one.answer == right[one.key] for one in given if one.answer != CANNOT_TELL]
    # Of other pictures, or in another order, a sixteenth would be right.
    assert sum(named) / len(named) > 0.7
    assert json.loads((out / "classes.json").read_text()).keys() == {"imagenet", "imagenet-more"}
