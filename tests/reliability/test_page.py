"""How figures get into ``docs/reliability.md``."""

import sys
from collections import Counter
from pathlib import Path

import click
import pytest

from tests import reliability
from tests.reliability import __main__ as command
from tests.reliability.tally import Tally


def coins(count: int, seed: int) -> Tally:
    return Tally(
        promise="coins",
        trials=Counter({"heads": count - 1, "tails": 1}),
        broken={"it lands": [], "it is fair": [f"seed {seed}"]},
    )


def test_batches_add_up_to_one_tally() -> None:
    steps: list[int] = []
    tally = command.tried(coins, 2 * command.BATCH + 3, 7, steps.append)
    assert tally.trials == {"heads": 2 * command.BATCH, "tails": 3}
    assert tally.broken == {"it lands": [], "it is fair": ["seed 7", "seed 507", "seed 1007"]}
    assert steps == [command.BATCH, command.BATCH, 3]


def test_rows_replace_those_of_the_same_name_and_no_other() -> None:
    page = command.PAGE.read_text(encoding="utf-8")
    empty = page.split(command.START)[0] + command.START + command.END + "after"
    lines = command.rows("coins", coins(5, 0), 0)
    assert [line.split(" | ")[1:5] for line in lines] == [
        ["5", "2", "it lands", "0"],
        ["5", "2", "it is fair", "1"],
    ]
    both = command.renewed(command.renewed(empty, {"coins": lines}), {"dice": ["| `dice`: 1 |\n"]})
    assert both == empty.replace(
        command.END, command.HEADS + "".join(lines) + "| `dice`: 1 |\n" + command.END
    )
    new = ["| `coins`: new |\n"]
    assert command.renewed(both, {"coins": new}).count("| `coins`") == 1
    assert "| `dice`: 1 |" in command.renewed(both, {"coins": new})


MADE_UP = """
from tests.reliability.tally import Tally


def run(count: int, seed: int) -> Tally: ...
def full(count: int, seed: int, place: str = "") -> Tally: ...
def helper(count: int) -> Tally: ...
def _private(count: int, seed: int) -> Tally: ...
"""


def test_every_function_that_tries_a_promise_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "made_up.py").write_text(MADE_UP, encoding="utf-8")
    (tmp_path / "test_made_up.py").write_text("raise RuntimeError", encoding="utf-8")
    monkeypatch.setattr(reliability, "__path__", [str(tmp_path)])
    assert set(command.runs()) == {"made_up", "full"}
    monkeypatch.delitem(sys.modules, "tests.reliability.made_up")


def test_counts_are_those_of_the_page_unless_given() -> None:
    assert command.counts_of(["faults=3"], ["faults", "kills", "other"]) == {
        "faults": 3,
        "kills": 300,
        "other": command.OTHERWISE,
    }
    for wrong in ("faults", "faults=0", "faults=x", "nothing=3"):
        with pytest.raises(click.BadParameter):
            command.counts_of([wrong], ["faults"])
