"""A run whose captures still lie in the spool is known in part, and everything that reads it says so."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from fl_privacy_audit.cli import cli
from fl_privacy_audit.core.files import lock
from fl_privacy_audit.ledger.spools import waiting
from fl_privacy_audit.report.html import render_html, render_markdown
from fl_privacy_audit.report.summary import summarise
from fl_privacy_audit.verdicts.facts import gather_ledger
from fl_privacy_audit.verdicts.rules import judge_run
from tests.audit.test_workers import audited
from tests.support.report_builders import SWEEP, write_setting

COMMAND = "run `fl-privacy-audit attack {} --model MODULE:NAME`"


def leave(directory: Path, captures: int, recorded: int = 0) -> Path:
    """Captures of the run, as an audit leaves them."""
    folder = directory / "spool" / gather_ledger(directory).run.run
    for number in range(captures):
        (folder / f"{number}").mkdir(parents=True)
        (folder / f"{number}" / "capture.json").touch()
        if number < recorded:
            (folder / f"{number}" / "recorded").touch()
    (folder / ".lock").touch()
    return folder


def shown(*arguments: str | Path) -> str:
    result = CliRunner().invoke(cli, [*map(str, arguments)], env={"COLUMNS": "400"})
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_a_run_that_left_its_captures_is_not_called_not_chosen(tmp_path: Path) -> None:
    audited(tmp_path, at_end="leave", rounds=2, clients_per_round=1)
    said = f"2 captures in the spool, not attacked yet: {COMMAND.format(tmp_path)}"
    assert f"server view: not tested: {said}" in shown("show", tmp_path)
    assert f"Note: {said}" in shown("show", tmp_path, "--last", "5")
    assert said in shown("compare", tmp_path)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("no defence", "leaked", "leaked"),
        ("DP-SGD z=2", "withstood these attacks", "inconclusive"),
    ],
)
def test_until_all_is_attacked_nothing_reads_as_safe(
    tmp_path: Path, name: str, before: str, after: str
) -> None:
    (setting,) = [setting for setting in SWEEP if setting.name == name]
    write_setting(tmp_path, setting)

    def words() -> set[str]:
        return {v.word for v in judge_run(gather_ledger(tmp_path)) if v.view == "server"}

    assert words() == {before}
    leave(tmp_path, captures=3, recorded=3)
    assert words() == {before}, "captures that were kept are recorded"
    leave_more = gather_ledger(tmp_path).run.run
    (tmp_path / "spool" / leave_more / "0" / "recorded").unlink()
    assert words() == {after}
    said = "1 capture in the spool, not attacked yet"
    renderers: tuple[Callable[..., str], ...] = (render_html, render_markdown)
    for render in renderers:
        assert said in render(summarise([tmp_path]))


def test_a_run_that_a_process_is_at_work_on_needs_no_command(tmp_path: Path) -> None:
    write_setting(tmp_path, SWEEP[0])
    folder = leave(tmp_path, captures=1)
    taken = lock(folder)
    assert taken is not None
    found = waiting(tmp_path, folder.name)
    assert found is not None and found.code == "captures under attack"
    assert "a process is at work" in shown("show", tmp_path)


@pytest.mark.parametrize("run", ["", ".", "..", "../spool/run", "a\0b", "none"])
def test_a_ledger_s_own_words_lead_nowhere_else(tmp_path: Path, run: str) -> None:
    (tmp_path / "capture.json").touch()
    (tmp_path / "spool/run/1").mkdir(parents=True)
    (tmp_path / "spool/run/1/capture.json").touch()
    assert waiting(tmp_path, run) is None
    assert waiting(tmp_path, "run") is not None
