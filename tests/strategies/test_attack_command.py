"""What a run leaves in its spool is attacked later, and what it keeps by other attacks."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fl_privacy_audit.cli import cli
from fl_privacy_audit.ledger.ledger import read_ledger
from tests.audit.test_workers import Grey, alike, as_fast_as_others, audited, by_target

__all__ = ["as_fast_as_others"]

MODEL = ("--model", "tests.support.builders:tiny_net")
ATTACK: dict[str, Any] = {
    "attacks": [{"name": "inverting_gradients", "options": {"steps": 3}}],
    "seconds_per_round": 6000,
}


def ran(*arguments: str | Path) -> str:
    result = CliRunner().invoke(cli, ["attack", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def test_what_a_run_left_is_attacked_on_another_machine(tmp_path: Path) -> None:
    expected = audited(tmp_path / "inline", executor="inline", **ATTACK)
    audited(tmp_path / "left", at_end="leave", **ATTACK)
    shutil.move(tmp_path / "left", tmp_path / "elsewhere")
    assert "partition 1, server view: inverting_gradients scored" in ran(
        tmp_path / "elsewhere", *MODEL, "--device", "cpu"
    )
    assert by_target(list(read_ledger(tmp_path / "elsewhere").audits)) == by_target(expected)
    assert not (tmp_path / "elsewhere" / "spool").exists()
    assert "nothing is left to attack" in ran(tmp_path / "elsewhere", *MODEL)


def test_kept_captures_are_attacked_anew_as_a_run_of_their_own(tmp_path: Path) -> None:
    first = audited(tmp_path, keep_captures=True, **ATTACK)
    for _ in range(2):
        ran(tmp_path, *MODEL, "--attacks", "first_linear")
    contents = read_ledger(tmp_path)
    old, new = contents.runs
    assert (old.setting, new.setting) == ("audit", "audit, first_linear")
    assert [attack["name"] for attack in new.config["attacks"]] == ["first_linear"]
    assert [r for r in contents.audits if r.run == old.run] == first
    again = [record for record in contents.audits if record.run == new.run]
    assert len(again) == 2, "once, though the command was given twice"
    assert all(record.attacks[0].attack == "first_linear" for record in again)
    assert all(record.attacks[0].status == "scored" for record in again)


@pytest.mark.slow
def test_two_workers_do_what_one_does(tmp_path: Path) -> None:
    for name in ("one", "two"):
        audited(tmp_path / name, at_end="leave", rounds=3, **ATTACK)
        ran(tmp_path / name, *MODEL, "--workers", "1" if name == "one" else "2")
    ledgers = (read_ledger(tmp_path / name) for name in ("one", "two"))
    one, two = (alike(by_target(list(ledger.audits))) for ledger in ledgers)
    assert one == two
    assert len(one) == 9


def test_what_a_spool_does_not_hold_is_said(tmp_path: Path) -> None:
    audited(tmp_path, [Grey()], at_end="leave")
    result = CliRunner().invoke(cli, ["attack", str(tmp_path), *MODEL])
    assert result.exit_code == 1
    assert "was given `attacks` of its own" in result.output
    assert len(list(tmp_path.glob("spool/*/*/capture.json"))) == 1
