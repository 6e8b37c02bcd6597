"""Ledgers of earlier versions stay readable: the fixtures were written by the code of their time."""

import json
from pathlib import Path

import pytest

from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.ledger import read_ledger
from fl_privacy_audit.ledger.ledger import last_run
from fl_privacy_audit.ledger.records import ThreatModel
from fl_privacy_audit.verdicts.compare import compare
from tests.support.builders import assumed

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", ["plain", "noise"])
def test_every_line_is_read(version: int, name: str) -> None:
    path = FIXTURES / f"version{version}" / name / "ledger.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    contents = read_ledger(path)
    assert contents.damaged == ()
    assert {line["schema_version"] for line in lines} == {version}
    assert len(lines) == len(contents.runs) + len(contents.audits) + len(contents.evaluations)
    sentences = [line["reason"] for line in lines if line["kind"] == "audit"]
    reasons = [audit.reason for audit in contents.audits]
    assert reasons == [s and Reason.of("text", text=s) for s in sentences]
    assert Reason.of("text", text="error 1: out of memory") in reasons


def test_unavailable_metrics_of_version_2_leave_the_details() -> None:
    contents = read_ledger(FIXTURES / "version2" / "plain")
    outcomes = [o for audit in contents.audits for o in audit.attacks if o.scores]
    assert len(outcomes) == 14
    for outcome in outcomes:
        assert set(outcome.unavailable) == {"lpips"}
        assert str(outcome.unavailable["lpips"].figures["text"]).startswith("AlexNet's weights")
        assert "lpips" not in outcome.details
    notes = last_run(contents).notes
    assert [note.code for note in notes] == ["unavailable"]


@pytest.mark.parametrize("version", [1, 2])
def test_verdicts_are_those_of_the_code_that_wrote_it(version: int) -> None:
    folder = FIXTURES / f"version{version}"
    expected = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    rows = compare([folder / "plain", folder / "noise"]).model_dump(mode="json")["rows"]
    assert len(rows) == len(expected) == 4
    for row, then in zip(rows, expected, strict=True):
        for key, value in then.items():
            if isinstance(value, dict) and value and key == "net":
                assert row["net"] == pytest.approx(value) or row["net"] == value
            else:
                assert row[key] == value, key


def test_what_earlier_versions_assumed_in_sentences_is_still_said() -> None:
    line = {"view": "server", "update_form": "exact gradient", "local_training": {}, "image": {}}
    old = {
        **line,
        "num_images": 1,
        "assumptions": ["number of local steps not known; taken as one"],
    }
    read = ThreatModel.model_validate_json(json.dumps(old))
    assert assumed(read) == old["assumptions"]
    assert ThreatModel.model_validate_json(read.model_dump_json()) == read
