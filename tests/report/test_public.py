"""A public report and table: whatever a run holds, no text of it comes out."""

import json
import math
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fl_privacy_audit.cli import cli
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.ledger.ledger import read_ledger
from fl_privacy_audit.ledger.records import (
    RECORD,
    AuditRecord,
    GapRecord,
    MeasurementRecord,
    Record,
    ReplayCheck,
)
from fl_privacy_audit.report.public import public, shown
from fl_privacy_audit.report.summary import AuditSummary, summarise
from fl_privacy_audit.report.vocabulary import WITHHELD, known
from tests.support.builders import audit_line, outcome, run_line, write_ledger
from tests.support.claim_cases import SHOWN
from tests.support.report_builders import SWEEP, write_setting, write_sweep

PLANTS = {
    "node-17.ward3.hospital.example": "ward3",
    "10.20.30.44": "20.30.44",
    "fe80::7a2b:cafe": "fe80::7a2b",
    "C:\\Users\\alice\\x": "alice",
    "/home/bob/patients/scan 12.png": "patients",
    "partition 734173991125": "734173991125",
    "918273645546372819": "918273645546372819",
    "3f9c2d7b11aa": "3f9c2d7b11aa",
    "Ward Seven": "Seven",
    "../../etc/shadow": "shadow",
    "https://intra.example/a?b=c": "intra",
    "2026-11-24 in Room 9": "Room 9",
}
"""What is planted, and the part of it that no form of output escapes."""
NODE, PARTITION = 918273645546372819, 734173991125
NEEDED = frozenset({"kind", "run", "round", "schema_version"})
"""Fields that a planted run keeps, so that its lines stay one run."""


def places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every mapping or list in a record with every key or index of it."""
    items = list(content.items() if isinstance(content, dict) else enumerate(content))
    for key, value in items:
        if key in NEEDED:
            continue
        yield content, key
        if isinstance(value, dict | list):
            yield from places(value)


def planted(record: Record, rng: random.Random) -> Record:
    """The record with something planted in every text, and as a name in every mapping, that may hold it."""
    content = json.loads(record.model_dump_json())
    for place, key in list(places(content)):
        before = deepcopy(place)
        if isinstance(place[key], str):
            place[key] = rng.choice(list(PLANTS))
            _keep_if_readable(content, place, before)
            before = deepcopy(place)
        if isinstance(place, dict):
            place[rng.choice(list(PLANTS))] = deepcopy(place[key])
            _keep_if_readable(content, place, before)
    return RECORD.validate_json(json.dumps(content))


def _keep_if_readable(content: Any, place: Any, before: Any) -> None:
    try:
        RECORD.validate_json(json.dumps(content))
    except ValueError:
        place.clear()
        (place.update if isinstance(place, dict) else place.extend)(before)


def a_run(directory: Path, seed: int) -> Path:
    """A run whose every text says who and where, in each kind of line."""
    rng = random.Random(seed)
    setting = SWEEP[0]
    if seed % 2:
        setting = next(setting for setting in SWEEP if setting.name == "DP-SGD z=1")
    setting = replace(setting, rounds=3, clients=2)
    whole = read_ledger(write_setting(directory / "plain", setting))
    (run,) = whole.runs
    read = {"by": "Strategy", "noise_multiplier": 1.0, "clipping_norm": 1.0}
    records: list[Record] = [planted(run.model_copy(update={"claim_read": read}), rng)]
    lines = (*whole.audits, *_odd(run.run), *whole.evaluations)
    for line in lines:
        record = planted(line, rng)
        if isinstance(record, AuditRecord):
            record = record.model_copy(update={"node_id": NODE, "partition": PARTITION})
        records.append(record)
    return write_ledger(directory / "audit", records)


def _odd(run: str) -> list[Record]:
    """Lines that the plain run lacks: failures, reasons with figures of every kind, gaps."""
    why = Reason.of("no truth of a client", Reason.of_error(OSError("disk")), client="partition 1")
    numbers = Reason.of("not chosen", client=NODE, node=NODE, clients=3, names=["conv1"])
    odd = outcome(
        status="failed",
        attack="from elsewhere",
        reason=why,
        chosen=numbers,
        unavailable={"lpips": why},
        details={"misfit": 0.5, "where": "cuda"},
        options={"steps": 3, "prior": "tv"},
        picture="pictures/a.png",
    )
    check = ReplayCheck(
        cosine=0.1,
        length_ratio=None,
        cosine_range=(0.9, 1),
        length_range=None,
        fits=False,
        hint=why,
    )
    lines: list[Record] = [
        audit_line(odd, run=run, round=n, reported={"loss": 0.1}, replay=check) for n in range(6)
    ]
    lines += [audit_line(run=run, round=n, reason=numbers) for n in range(6)]
    lines += [
        MeasurementRecord(
            time="then", run=run, round=2, records=50, of_a_round=SHOWN, over_rounds=SHOWN
        )
    ]
    return [*lines, GapRecord(time="then", run=run, reason=why)]


FORMS = ("html", "md", "json")


def outputs(audit: Path, to: Path, *options: str, forms: tuple[str, ...] = FORMS) -> str:
    """All that comes out, as reports and as a table."""
    found = []
    for form in forms:
        path = to / f"report.{form}"
        _ran("report", audit, "--format", form, "--out", path, *options)
        found.append(path.read_text(encoding="utf-8"))
    _ran("export", audit, "--to", to / "table.csv", *options)
    found.append((to / "table.csv").read_text(encoding="utf-8"))
    return "\n".join(found)


def _ran(*arguments: str | Path) -> str:
    result = CliRunner().invoke(cli, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("seed", range(2))
def test_nothing_that_says_who_or_where_comes_out(tmp_path: Path, seed: int) -> None:
    audit = a_run(tmp_path, seed)
    said = outputs(audit, tmp_path, "--public")
    assert [plant for plant, part in PLANTS.items() if part in said] == []
    assert str(tmp_path) not in said
    assert "this is for the public" in said
    open_ = outputs(audit, tmp_path, forms=("md", "json"))
    assert len([part for part in PLANTS.values() if part in open_]) > len(PLANTS) / 2


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> AuditSummary:
    chosen = tuple(s for s in SWEEP if s.name in ("no defence", "sign", "DP-SGD z=1"))
    return summarise(write_sweep(tmp_path_factory.mktemp("sweep"), chosen))


def test_it_says_the_same_as_the_report(summary: AuditSummary) -> None:
    """Words, net leakage, accuracy and epsilon of every setting."""
    found = public(summary)
    assert found.public
    assert found.comparison.notes[0] == Reason.of("public report", fewest=5)
    for one, other in zip(summary.settings, found.settings, strict=True):
        figures = ("accuracy", "epsilon_in_effect", "epsilon_reported", "head", "started", "ended")
        assert [getattr(one, name) for name in figures] == [
            getattr(other, name) for name in figures
        ]
        for verdict, shown_ in zip(one.verdicts, other.verdicts, strict=True):
            assert (verdict.word, verdict.view) == (shown_.word, shown_.view)
            if verdict.attacks[0].records >= 5:
                assert verdict.attacks[0].net == shown_.attacks[0].net
                assert verdict.reason.code == shown_.reason.code
        assert other.records == []
        assert other.reported_epsilon == {}
    assert [setting.setting for setting in found.settings] == [
        "setting 1",
        "setting 2",
        "setting 3, noise multiplier 1",
    ]


def test_no_group_below_five_is_told(tmp_path: Path) -> None:
    """Four records of one attack, five of another, three that failed."""
    lines = [audit_line(outcome({"psnr": 21.25}), round=n) for n in range(4)]
    lines += [audit_line(outcome({"psnr": 11.5}, attack="dlg"), round=n) for n in range(10, 15)]
    failed = Reason.of("time up", message="x")
    lines += [
        audit_line(outcome(status="failed", attack="dlg", reason=failed), round=n)
        for n in range(20, 23)
    ]
    write_ledger(tmp_path, [run_line(attacks=["inverting_gradients", "dlg"]), *lines])
    said = outputs(tmp_path, tmp_path, "--public")
    assert "21.2" not in said
    assert "11.5" in said
    table = (tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()
    assert table[1:] == ["setting 1,server,dlg,,scored,psnr,5,11.5,5"]
    output = _ran("export", tmp_path, "--to", tmp_path / "again.csv", "--public")
    assert output == f"{tmp_path / 'again.csv'}: 1 rows; 2 groups of fewer than 5 are left out\n"
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    (setting,) = content["settings"]
    assert [one["attack"] for one in setting["attacks"]] == ["dlg"]
    assert setting["attacks"][0]["failed"] == []


def test_a_round_of_five_is_told_without_its_worst_record(tmp_path: Path) -> None:
    setting = replace(SWEEP[0], rounds=1, clients=5)
    found = public(summarise([write_setting(tmp_path, setting)])).settings[0].series
    assert {point.view for point in found} == {"server"}  # the release is one record
    assert all(point.records == 5 and math.isnan(point.worst) for point in found)
    assert {point.attack for point in found} == {"swept_inversion"}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("psnr", True),
        ("2026-11-24T09:00:00+00:00", True),
        ("2026-11-24T09:00:00+00:00 ward", False),
        ("partition 3", False),
        ("client", False),
        ("", True),
    ],
)
def test_what_is_a_word_of_the_package(text: str, kept: bool) -> None:
    assert shown(text) == (text if kept else WITHHELD)


CHECKS: tuple[Callable[[], bool], ...] = (
    lambda: known("swept_inversion"),
    lambda: known("withstood these attacks"),
    lambda: known("honest but curious"),
    lambda: known("learning_rate"),
    lambda: not known("somebody's attack"),
)


@pytest.mark.parametrize("check", CHECKS)
def test_the_vocabulary_is_that_of_the_tables_and_the_types(check: Callable[[], bool]) -> None:
    assert check()
