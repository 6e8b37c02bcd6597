"""What only reads must not load what trains: torch alone takes seconds and half a gigabyte."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fl_privacy_audit.attacks import ATTACKS
from fl_privacy_audit.core.later import Later
from fl_privacy_audit.metrics import METRICS, SET_METRICS
from tests.support.big_ledger import CLAIM, write_big_ledger

TRAINING = {"torch", "torchvision", "opacus", "skimage", "flwr", "ray"}
COMMANDS: list[tuple[str, set[str]]] = [
    ("--help", {*TRAINING, "numpy", "scipy", "matplotlib"}),
    ("--version", {*TRAINING, "numpy", "scipy", "matplotlib"}),
    ("export DIR --to OUT.csv", {*TRAINING, "matplotlib"}),
    ("show DIR", {*TRAINING, "matplotlib"}),
    ("show CLAIM", {*TRAINING, "matplotlib"}),
    ("show DIR --last 3", {*TRAINING, "matplotlib"}),
    ("compare DIR", {*TRAINING, "matplotlib"}),
    ("report DIR --format md --out OUT.md", {*TRAINING, "matplotlib"}),
    ("report DIR --format json --out OUT.json", {*TRAINING, "matplotlib"}),
    ("report DIR --out OUT.html", TRAINING),
]
"""In the order in which one process runs them, with what must not be loaded by then."""
SCRIPT = """
import json, sys

from fl_privacy_audit.cli import cli

for words in json.loads(sys.argv[1]):
    cli(words, standalone_mode=False)
    print("loaded:", *{name.partition(".")[0] for name in sys.modules})
"""


def test_reading_loads_nothing_that_trains(tmp_path: Path) -> None:
    places = {
        "DIR": str(write_big_ledger(tmp_path / "audit", 40)),
        "CLAIM": str(write_big_ledger(tmp_path / "private", 40, claim=CLAIM)),
    }
    out = str(tmp_path / "out")
    words = [
        [places.get(word, word).replace("OUT", out) for word in command.split()]
        for command, _ in COMMANDS
    ]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(words)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = [line.split() for line in done.stdout.splitlines() if line.startswith("loaded:")]
    found = {c: unwanted & {*names} for (c, unwanted), names in zip(COMMANDS, loaded, strict=True)}
    assert {command: names for command, names in found.items() if names} == {}


def test_a_worker_stands_back_before_it_loads_what_trains() -> None:
    script = "import sys, fl_privacy_audit.audit.worker; print(*{n.partition('.')[0] for n in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "fl_privacy_audit" in done.stdout.split()
    assert TRAINING & {*done.stdout.split()} == set()


def test_everything_that_is_found_later_is_there() -> None:
    functions: list[object] = [row.function for row in METRICS.values()]
    functions += [row.function for row in SET_METRICS.values()]
    rows = len(functions)
    for entry in ATTACKS.values():
        functions += [entry.factory, entry.suits, entry.needs.fits]
    named = [one for one in functions if isinstance(one, Later)]
    assert len(named) > rows + len(ATTACKS)
    assert all(callable(one.function) for one in named)


@pytest.mark.parametrize(
    "package", ["fl_privacy_audit", "fl_privacy_audit.audit", "fl_privacy_audit.metrics"]
)
def test_a_name_that_is_not_there_is_an_attribute_error(package: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        _ = sys.modules[package].nothing
