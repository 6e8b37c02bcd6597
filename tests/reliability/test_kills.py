"""A handful of what `python -m tests.reliability` makes many of."""

import pytest

from tests.reliability import disks, kills


def test_a_killed_process_loses_nothing_and_leaves_nothing_private() -> None:
    kills.run(len(kills.CHECKS), seed=1).check()


def test_a_full_disk_costs_no_acknowledged_record() -> None:
    disks.run(len(disks.TRIALS), seed=1).check()


@pytest.mark.slow
def test_many_kills_and_full_disks() -> None:
    kills.run(36, seed=2).check()
    disks.run(12, seed=2).check()
