"""Hostile ledgers: a few of every kind by the readers that take no time, some by every reader."""

import pytest

from tests.support.hostile_files import KINDS

from .ledgers import run


def test_every_kind_quickly() -> None:
    run(len(KINDS), seed=1, readers=("show", "export csv")).check()


def test_every_reader_on_a_few() -> None:
    run(3, seed=2).check()


@pytest.mark.slow
def test_every_reader_on_many() -> None:
    run(100, seed=3).check()
