"""``fl-privacy-audit report`` on the command line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from fl_privacy_audit.cli import cli
from fl_privacy_audit.core.errors import AuditError
from fl_privacy_audit.report.command import VERDICT_FAILED, write
from tests.support.report_builders import SWEEP, write_setting

OPEN = replace(SWEEP[0], views=("server",))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_setting(tmp_path_factory.mktemp("run"), OPEN)


def run(*words: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["report", *map(str, words)])
    return done.exit_code, done.output


def test_three_formats(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for form, start in (("html", "<!doctype html>"), ("md", "# Privacy audit"), ("json", "{")):
        code, output = run(directory, "--format", form)
        assert code == 0 and f"report.{form}" in output
        assert "Server view: 1 setting: 1 leaked." in output
        assert (tmp_path / f"report.{form}").read_text(encoding="utf-8").startswith(start)
    assert {p.name for p in tmp_path.iterdir()} == {"report.html", "report.md", "report.json"}


def test_a_verdict_can_fail_a_pipeline(directory: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "r.json"
    words = (directory, "--format", "json", "--out", out)
    assert run(*words, "--fail-on", "leaked")[0] == VERDICT_FAILED
    assert json.loads(out.read_text())["primary"] == "ssim"  # written all the same
    assert run(*words, "--fail-on", "inconclusive", "--fail-on", "not tested")[0] == 0


def test_pictures_are_for_the_owner_alone(tmp_path: Path) -> None:
    kept = write_setting(tmp_path / "run", replace(OPEN, pictures=True))
    out = tmp_path / "r.html"
    _, output = run(kept, "--out", out)
    assert out.stat().st_mode & 0o777 == 0o600 and "only you may read it" in output
    run(kept, "--out", out, "--no-pictures")
    assert out.stat().st_mode & 0o044


def test_what_cannot_be_written_leaves_the_old_report(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(AuditError, match=r"cannot be written: .* Give --out a file in a folder"):
        write(tmp_path / "file" / "report.html", "new", private=False)
    with pytest.raises(UnicodeEncodeError):
        write(tmp_path / "file", "\ud800", private=False)
    assert (tmp_path / "file").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
