import csv
import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from fl_privacy_audit.cli import cli
from fl_privacy_audit.core.errors import AuditError, ConfigError
from fl_privacy_audit.core.tables import write_table
from fl_privacy_audit.ledger.export import COLUMNS, export, records_table
from fl_privacy_audit.ledger.reading import AuditedLines
from fl_privacy_audit.ledger.records import ControlOutcome, ReplayCheck, Scores
from tests.support.builders import audit_line, outcome, run_line, write_ledger

BIG = 2**64 - 3


def ledger(directory: Path) -> Path:
    noise = ControlOutcome(
        kind="noise",
        status="scored",
        scores={"psnr": Scores(each=[8.0], mean=8.0, worst=8.0)},
        seed=7,
    )
    scored = outcome({"psnr": 20.0, "mse": 0.01}, controls=[noise], objective=float("inf"))
    replay = ReplayCheck(
        cosine=0.5, length_ratio=2.0, cosine_range=(0.9, 1.0), length_range=(0.9, 1.1), fits=False
    )
    first = audit_line(
        scored, reported={"epsilon": 1.5}, update_norm=0.25, num_examples=3, replay=replay
    )
    missed = audit_line(
        outcome(status="not tested", reason="not due"), round=2, partition=1, reason="not due"
    ).model_copy(update={"node_id": BIG})
    return write_ledger(directory, [run_line("z = 1"), first, missed])


def test_one_row_a_record_attack_and_metric(tmp_path: Path) -> None:
    rows = records_table(ledger(tmp_path))
    assert {name for row in rows for name in row} == set(COLUMNS)
    names = ("round", "control", "metric", "mean", "status")
    assert [[row.get(name) for name in names] for row in rows] == [
        [1, None, "psnr", 20.0, "scored"],
        [1, None, "mse", 0.01, "scored"],
        [1, "noise", "psnr", 8.0, "scored"],
        [2, None, None, None, "not tested"],
    ]
    assert {row["setting"] for row in rows} == {"z = 1"}
    assert [row["epsilon_reported"] for row in rows][:3] == [1.5] * 3
    assert rows[-1]["node_id"] == str(BIG)
    assert rows[2]["seed"] == 7
    assert [rows[0][name] for name in ("replay_cosine", "replay_fits")] == [0.5, "no"]
    reason = (rows[-1]["reason"], json.loads(rows[-1]["reason_figures"]))
    assert reason == ("text", {"figures": {"text": "not due"}})


def test_several_ledgers_stand_below_each_other(tmp_path: Path) -> None:
    both = records_table(ledger(tmp_path / "a"), ledger(tmp_path / "b"))
    assert len(both) == 8


@pytest.mark.parametrize("name", ["records.parquet", "records.csv"])
def test_what_is_written_can_be_read(tmp_path: Path, name: str) -> None:
    directory = ledger(tmp_path / "audit")
    to = tmp_path / name
    result = CliRunner().invoke(cli, ["export", str(directory), "--to", str(to)])
    assert (result.exit_code, result.output) == (0, f"{to}: 4 rows\n")
    read = pd.read_parquet(to) if to.suffix == ".parquet" else pd.read_csv(to)
    assert list(read.columns) == list(COLUMNS)
    assert read["mean"].tolist()[:3] == [20.0, 0.01, 8.0] and pd.isna(read["mean"][3])
    assert read["round"].tolist() == [1, 1, 1, 2]
    assert [str(value) for value in read["node_id"]][-1] == str(BIG)
    assert read["objective"].tolist()[0] == float("inf")
    assert read["control"].isna().tolist() == [True, True, False, True]
    assert to.stat().st_mode & 0o777 == 0o600


def test_other_endings_and_bad_places_are_refused(tmp_path: Path) -> None:
    directory = ledger(tmp_path / "audit")
    with pytest.raises(ConfigError, match=r"is written as \.csv or \.parquet, but got 'r\.xlsx'"):
        export([AuditedLines(directory)], tmp_path / "r.xlsx")
    with pytest.raises(AuditError, match="cannot be written to"):
        export([AuditedLines(directory)], tmp_path / "nowhere" / "r.csv")


def test_no_text_is_a_formula_and_numbers_stay_numbers(tmp_path: Path) -> None:
    texts = ("=1+1", "+1", "-1", "@x", "\t=1", "\r=1", " =1", "\uff1d1", "a=1", "", "\x1b[2J")
    to = tmp_path / "r.csv"
    write_table(
        to, {"text": "string", "number": "double"}, [{"text": t, "number": -1} for t in texts]
    )
    with to.open(encoding="utf-8", newline="") as file:
        cells = list(csv.reader(file))[1:]
    assert [text for text, _ in cells] == [
        *("'=1+1", "'+1", "'-1", "'@x", "'\t=1", "\ufffd=1", "' =1", "'\uff1d1", "a=1", ""),
        "\ufffd[2J",
    ]
    assert {number for _, number in cells} == {"-1.0"}


def test_a_number_that_is_too_large_for_parquet_is_left_out(tmp_path: Path) -> None:
    rows: list[dict[str, int | None]] = [{"n": 2**63 - 1}, {"n": 2**63}, {"n": None}]
    write_table(tmp_path / "r.parquet", {"n": "int64"}, rows)
    assert pd.read_parquet(tmp_path / "r.parquet")["n"].isna().tolist() == [False, True, True]


def test_damaged_lines_are_named_beside_the_table(tmp_path: Path) -> None:
    directory = write_ledger(tmp_path / "audit", [run_line()], torn=b"x\n")
    words = ["export", str(directory), "--to", str(tmp_path / "r.csv")]
    assert "ledger.jsonl: line 2 is damaged (Invalid JSON" in CliRunner().invoke(cli, words).output


@pytest.mark.parametrize("name", ["r.parquet", "r.csv"])
def test_an_empty_ledger_is_an_empty_table(tmp_path: Path, name: str) -> None:
    directory = write_ledger(tmp_path / "audit", [run_line()])
    assert export([AuditedLines(directory)], tmp_path / name) == 0
    read = pd.read_parquet if name.endswith("t") else pd.read_csv
    frame = read(tmp_path / name)
    assert (len(frame), list(frame.columns)) == (0, list(COLUMNS))


def test_parquet_without_its_package_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    directory = ledger(tmp_path / "audit")
    with pytest.raises(AuditError, match=r'`pip install "fl-privacy-audit\[parquet\]"`'):
        export([AuditedLines(directory)], tmp_path / "r.parquet")
    assert not (tmp_path / "r.parquet").exists()
    assert export([AuditedLines(directory)], tmp_path / "r.csv") == 4
