from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from fl_privacy_audit.cli import cli
from fl_privacy_audit.core.errors import AuditError, ConfigError
from fl_privacy_audit.ledger.export import COLUMNS, export, records_frame
from fl_privacy_audit.ledger.records import ControlOutcome, Scores
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
    first = audit_line(scored, reported={"epsilon": 1.5}, update_norm=0.25, num_examples=3)
    missed = audit_line(
        outcome(status="not tested", reason="not due"), round=2, partition=1, reason="not due"
    ).model_copy(update={"node_id": BIG})
    return write_ledger(directory, [run_line("z = 1"), first, missed])


def test_one_row_a_record_attack_and_metric(tmp_path: Path) -> None:
    frame = records_frame(ledger(tmp_path))
    assert list(frame.columns) == list(COLUMNS)
    assert {name: str(kind) for name, kind in frame.dtypes.items()}["round"] == "Int64"
    found = [
        [None if pd.isna(v) else v for v in row]
        for row in frame[["round", "control", "metric", "mean", "status"]].to_numpy()
    ]
    assert found == [
        [1, None, "psnr", 20.0, "scored"],
        [1, None, "mse", 0.01, "scored"],
        [1, "noise", "psnr", 8.0, "scored"],
        [2, None, None, None, "not tested"],
    ]
    assert frame["setting"].unique().tolist() == ["z = 1"]
    assert frame["epsilon"].tolist()[:3] == [1.5] * 3
    assert frame["node_id"].tolist()[-1] == str(BIG)
    assert frame["seed"].tolist()[2] == 7


def test_several_ledgers_stand_below_each_other(tmp_path: Path) -> None:
    both = records_frame(ledger(tmp_path / "a"), ledger(tmp_path / "b"))
    assert len(both) == 8


@pytest.mark.parametrize("name", ["records.parquet", "records.csv"])
def test_what_is_written_can_be_read(tmp_path: Path, name: str) -> None:
    directory = ledger(tmp_path / "audit")
    to = tmp_path / name
    result = CliRunner().invoke(cli, ["export", str(directory), "--to", str(to)])
    assert (result.exit_code, result.output) == (0, f"{to}: 4 rows\n")
    read = pd.read_parquet(to) if to.suffix == ".parquet" else pd.read_csv(to)
    frame = records_frame(directory)
    assert list(read.columns) == list(COLUMNS)
    assert read["mean"].tolist()[:3] == frame["mean"].tolist()[:3]
    if to.suffix == ".parquet":
        assert read["round"].tolist() == frame["round"].tolist()


def test_other_endings_and_bad_places_are_refused(tmp_path: Path) -> None:
    directory = ledger(tmp_path / "audit")
    with pytest.raises(ConfigError, match=r"is written as \.parquet or \.csv, but got 'r\.xlsx'"):
        export([directory], tmp_path / "r.xlsx")
    with pytest.raises(AuditError, match="cannot be written to"):
        export([directory], tmp_path / "nowhere" / "r.csv")


def test_an_empty_ledger_is_an_empty_table(tmp_path: Path) -> None:
    frame = records_frame(write_ledger(tmp_path, [run_line()]))
    assert (len(frame), list(frame.columns)) == (0, list(COLUMNS))
