"""Hostile ledgers: many by the readers that take no time, a few by every reader."""

import pytest

from .ledgers import run


def test_quick_readers_on_many() -> None:
    run(20, seed=1, readers=("show", "export csv")).check()


def test_every_reader_on_a_few() -> None:
    run(2, seed=2).check()


@pytest.mark.slow
def test_every_reader_on_many() -> None:
    run(30, seed=3).check()
