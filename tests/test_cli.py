import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

import fl_privacy_audit.cli
from fl_privacy_audit.attacks import ATTACKS
from fl_privacy_audit.cli import cli, main
from fl_privacy_audit.ledger.records import ControlOutcome, Record, Scores
from fl_privacy_audit.metrics import METRICS, SET_METRICS
from fl_privacy_audit.report import show
from fl_privacy_audit.report.words import LOWER_BOUND
from fl_privacy_audit.verdicts.compare import Comparison
from tests.support.builders import audit_line, evaluation_line, outcome, run_line, write_ledger


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (fl_privacy_audit.cli, show):
        monkeypatch.setattr(module, "console", Console(width=500))


@pytest.fixture
def ledgers(tmp_path: Path) -> list[str]:
    made = []
    for name, psnr in (("plain", 34.5), ("noisy", 9.9)):
        lines: list[Record] = [
            run_line(name),
            audit_line(outcome({"psnr": psnr})),
            evaluation_line(accuracy=0.25),
        ]
        made.append(str(write_ledger(tmp_path / name, lines)))
    return made


def ran(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    return result


def test_show(ledgers: list[str]) -> None:
    output = ran("show", ledgers[0]).output
    line, verdict = [line for line in output.splitlines() if "partition 0" in line]
    assert verdict.startswith("plain, server view: inconclusive: no null control was attacked")
    assert "34.5" in line
    assert "plain" in output
    assert output.endswith(LOWER_BOUND + "\n")
    assert "Note:" not in output


def test_show_tells_of_damage(ledgers: list[str]) -> None:
    with (Path(ledgers[0]) / "ledger.jsonl").open("a", encoding="utf-8") as file:
        file.write("{\n")
    assert "ledger.jsonl: line 4 is damaged (Invalid JSON" in ran("show", ledgers[0]).output


def test_compare_as_a_table(ledgers: list[str]) -> None:
    output = ran("compare", *ledgers).output
    rows = [[cell.strip() for cell in line.split("│")[1:6]] for line in output.splitlines()]
    assert [cells for cells in rows if any(cells)] == [
        ["plain", "inconclusive", "-", "25.0%", "none"],
        ["noisy", "inconclusive", "-", "25.0%", "none"],
    ]
    assert "a run has no published truth" not in output
    assert output.endswith(LOWER_BOUND + "\n")


def test_compare_tells_of_damage(ledgers: list[str]) -> None:
    with (Path(ledgers[1]) / "ledger.jsonl").open("a", encoding="utf-8") as file:
        file.write("{\n")
    for form in ("table", "md", "json"):
        output = ran("compare", "--format", form, *ledgers).output
        assert "ledger.jsonl: line 4 is damaged (Invalid JSON" in output


def test_compare_as_markdown(ledgers: list[str]) -> None:
    output = ran("compare", "--format", "md", *ledgers).output
    assert output.startswith("# Leakage by setting\n")
    assert (
        "| plain | inconclusive | - | 25.0% | none | none | - | - | - | - | 34.5 (34.5) | - | 1 |\n"
        in output
    )


def test_compare_as_json(ledgers: list[str]) -> None:
    output = ran("compare", "--format", "json", *ledgers).output
    comparison = Comparison.model_validate(json.loads(output))
    assert [row.setting for row in comparison.rows] == ["plain", "noisy"]


def test_attacks() -> None:
    output = ran("attacks").output
    for name, entry in ATTACKS.items():
        (line,) = [line for line in output.splitlines() if line.startswith(f"│ {name} ")]
        assert entry.paper in line
        assert entry.needs.describe() in line


@pytest.mark.parametrize("command", ["attacks", "metrics"])
def test_tables_are_read_at_80_columns(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = set(ran(command).output.split())
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(fl_privacy_audit.cli, "console", Console(width=80))
    output = ran(command).output
    words = {word for word in whole if len(word) > 9 and word.isalnum()}
    assert words and words <= set(output.split())
    if command == "attacks":
        assert max(map(len, output.split("Threat models")[0].splitlines())) <= 80


def test_version_and_help() -> None:
    assert ran("--version").output.strip().endswith(f"version {version('fl-privacy-audit')}")
    output = ran("--help").output
    for name, command in cli.commands.items():
        assert f"\n  {name} " in output
        assert command.help
        assert command.help.split(".")[0][:30] in ran(name, "--help").output


def fails(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["fl-privacy-audit", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert isinstance(caught.value.code, int)
    captured = capsys.readouterr()
    assert captured.out == ""
    return caught.value.code, captured.err


@pytest.mark.parametrize("command", ["show", "compare"])
def test_a_bad_directory_is_one_line(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, error = fails([command, str(tmp_path / "no")], monkeypatch, capsys)
    assert code == 1
    assert error == f"Error: there is no audit log at {tmp_path}/no: No such file or directory\n"


def test_a_refusal_tells_why(
    ledgers: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, error = fails(["compare", ledgers[0], ledgers[0]], monkeypatch, capsys)
    assert code == 1
    assert error == (
        "Error: these runs cannot be compared:\n"
        "  two runs are both called 'plain'; set `setting` apart\n"
    )


def test_misuse_exits_with_two(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, error = fails(["compare"], monkeypatch, capsys)
    assert code == 2
    assert "Missing argument 'DIRECTORIES...'" in error


def test_as_a_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fl_privacy_audit", "show", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: there is no audit log at ")


def test_metrics_says_what_is_not_here(no_weights: None) -> None:
    output = ran("metrics").output
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines()]
    here = {row[0]: row[-1] for row in rows if row and row[0]}
    assert set(here) == {*METRICS, *SET_METRICS}
    assert {here[name] for name in ("lpips", "identification_lpips", "fid")} == {"no"}
    assert (here["psnr"], here["ms_ssim"]) == ("yes", "if asked")
    assert "AlexNet's weights are not here; `fl-privacy-audit metrics --download" in output


def test_metrics_fetches_only_when_asked(no_weights: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    assert CliRunner().invoke(cli, ["metrics"]).exit_code == 0
    asked = CliRunner().invoke(cli, ["metrics", "--download", "alexnet"])
    assert asked.exit_code == 1
    assert (
        "Error: AlexNet's weights cannot be fetched from https://download.pytorch" in asked.output
    )


def leaking(directory: Path, name: str, psnr: float) -> str:
    null = Scores(each=[8.0], mean=8.0, worst=8.0)
    noise = ControlOutcome(kind="noise", status="scored", scores={"psnr": null})
    lines: list[Record] = [run_line(name)]
    lines += [
        audit_line(outcome({"psnr": psnr}, controls=[noise]), round=n, digest=f"{n}")
        for n in range(1, 7)
    ]
    return str(write_ledger(directory, lines))


def test_a_verdict_is_told_and_may_fail_a_build(tmp_path: Path) -> None:
    open_, shut = (
        leaking(tmp_path / "a", "plain", 40.0),
        leaking(tmp_path / "b", "noisy", 8.0),
    )
    assert "plain, server view: leaked: clearly more than" in ran("show", open_).output
    assert "noisy, server view: inconclusive: not clearly" in ran("show", shut).output
    ran("show", shut, "--fail-on", "leaked")
    for command in (
        ("show", open_),
        ("compare", shut, open_),
        ("compare", open_, "--format", "json"),
    ):
        result = CliRunner().invoke(cli, [*command, "--fail-on", "leaked"])
        assert result.exit_code == 3
        assert "leaked" in result.output
    result = CliRunner().invoke(
        cli, ["show", shut, "--fail-on", "leaked", "--fail-on", "inconclusive"]
    )
    assert result.exit_code == 3
    head, *_ = [
        line for line in ran("compare", open_, shut).output.splitlines() if "setting" in line
    ]
    assert "verdict" in head and "net leakage" in head
