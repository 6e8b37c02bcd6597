"""Runs that lie under another name, or that state little."""

import hashlib
import json
from pathlib import Path

from fl_privacy_audit.ledger import read_ledger
from fl_privacy_audit.ledger.ledger import last_run
from fl_privacy_audit.report.conditions import budget, origins
from fl_privacy_audit.report.html import render_html
from fl_privacy_audit.report.reconstructions import reconstruction_rows
from fl_privacy_audit.report.summary import summarise
from tests.support.report_builders import SWEEP, write_setting

NO_DEFENCE = SWEEP[0]


def test_a_ledger_of_another_name_has_its_own_digest(tmp_path: Path) -> None:
    named = write_setting(tmp_path / "run", NO_DEFENCE) / "ledger.jsonl"
    named = named.rename(named.with_name("march.jsonl"))
    (origin,) = origins(summarise([named]))
    assert origin.digest == hashlib.sha256(named.read_bytes()).hexdigest()


def test_a_run_that_states_little_is_reported_all_the_same(tmp_path: Path) -> None:
    ledger = write_setting(tmp_path / "run", NO_DEFENCE) / "ledger.jsonl"
    first, *rest = ledger.read_text().splitlines(keepends=True)
    run = json.loads(first)
    run["config"] = {"views": ["server"], "defence": None, "training": {}}
    ledger.write_text(json.dumps(run) + "\n" + "".join(rest))
    summary = summarise([ledger])
    assert budget(summary.settings[0]) == "all clients in every round"
    assert "Server view" in render_html(summary)
    assert reconstruction_rows([last_run(read_ledger(ledger))], attack="dlg") == []
