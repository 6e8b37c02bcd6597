"""A handful of what `python -m tests.reliability` makes many of."""

import pytest

from tests.reliability import disks, kills

WITH_WORKERS = ("server with worker", "worker", "attack")
"""Kinds whose processes start others, which takes seconds."""


def test_a_killed_process_loses_nothing_and_leaves_nothing_private() -> None:
    kinds = [kind for kind in kills.CHECKS if kind not in WITH_WORKERS]
    kills.run(len(kinds), seed=1, kinds=kinds).check()


@pytest.mark.slow
def test_captures_outlive_whoever_is_killed() -> None:
    kills.run(len(WITH_WORKERS), seed=3, kinds=WITH_WORKERS).check()


def test_a_full_disk_costs_no_acknowledged_record() -> None:
    disks.run(len(disks.TRIALS), seed=1).check()


@pytest.mark.exhaustive
def test_many_kills_and_full_disks() -> None:
    kills.run(18, seed=2).check()
    disks.run(6, seed=2).check()
