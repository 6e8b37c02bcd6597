"""What only reads must not load what trains: torch alone takes seconds and half a gigabyte."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fl_privacy_audit.attacks import ATTACKS
from fl_privacy_audit.core.later import Later
from fl_privacy_audit.metrics import METRICS, SET_METRICS
from tests.support.big_ledger import write_big_ledger

HEAVY = ("torch", "torchvision", "opacus", "skimage", "flwr", "ray")
SCRIPT = """
import sys

from fl_privacy_audit.cli import cli

for words in {commands}:
    try:
        cli(words, standalone_mode=False)
    except SystemExit as done:
        assert not done.code, words
    print("loaded after", *words, ":", *(name for name in {heavy} if name in sys.modules))
"""
TOLD = [["--help"], ["--version"]]
READ = [
    ["show", "DIR"],
    ["show", "DIR", "--last", "3"],
    ["compare", "DIR"],
    ["compare", "DIR", "--format", "json"],
    ["export", "DIR", "--to", "OUT.csv"],
    ["report", "DIR", "--format", "md", "--out", "OUT.md"],
    ["report", "DIR", "--format", "json", "--out", "OUT.json"],
]
DRAWN = [["report", "DIR", "--out", "OUT.html"]]


def loaded(commands: list[list[str]], heavy: tuple[str, ...]) -> list[str]:
    """What each command, run after those before it in one new process, had loaded of these."""
    script = SCRIPT.format(commands=commands, heavy=heavy)
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [line for line in done.stdout.splitlines() if line.startswith("loaded after")]
    assert len(found) == len(commands)
    return [line for line in found if not line.endswith(":")]


def test_reading_loads_nothing_that_trains(tmp_path: Path) -> None:
    directory, out = str(write_big_ledger(tmp_path / "audit", 40)), str(tmp_path / "out")
    told = [
        [word.replace("DIR", directory).replace("OUT", out) for word in words]
        for words in [*READ, *DRAWN]
    ]
    assert loaded(told[: len(READ)], (*HEAVY, "matplotlib")) == []
    assert loaded(told[len(READ) :], HEAVY) == []


def test_help_loads_no_computing_at_all() -> None:
    assert loaded(TOLD, (*HEAVY, "numpy", "scipy", "matplotlib")) == []


def test_everything_that_is_found_later_is_there() -> None:
    rows = [*METRICS.values(), *SET_METRICS.values()]
    functions: list[object] = [row.function for row in rows]
    for entry in ATTACKS.values():
        functions += [entry.factory, entry.suits, entry.needs.fits]
    named = [one for one in functions if isinstance(one, Later)]
    assert len(named) > len(rows) + len(ATTACKS)
    assert all(callable(one.function) for one in named)


@pytest.mark.parametrize("package", ["fl_privacy_audit", "fl_privacy_audit.metrics"])
def test_a_name_that_is_not_there_is_an_attribute_error(package: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        _ = sys.modules[package].nothing
