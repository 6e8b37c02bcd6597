"""The annex says *in scope* only by records, and stops saying it when they are gone."""

from pathlib import Path

import pytest

from fl_privacy_audit.ledger.ledger import FILE_NAME, Ledger
from fl_privacy_audit.report.annex import WORDING, AnnexRow, annex
from fl_privacy_audit.report.html import render_html, render_markdown
from fl_privacy_audit.report.summary import AuditSummary, summarise
from tests.support.builders import audit_line, run_line
from tests.support.report_builders import SWEEP, write_setting

NAMED = {setting.name: setting for setting in SWEEP}
NEVER = {
    "Attribute inference",
    "Membership inference",
    "Exfiltration",
    "Regurgitation of training data",
    "Impact assessment, or why there is none",
    "Ratio of data to parameters",
    "Roles and responsibilities",
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_setting(tmp_path_factory.mktemp("annex") / "run", NAMED["DP-SGD z=1"])


@pytest.fixture(scope="module")
def summary(directory: Path) -> AuditSummary:
    return summarise([directory])


def in_scope(rows: list[AnnexRow]) -> set[str]:
    return {row.asks for row in rows if row.in_scope}


def test_what_records_show_is_in_scope_and_nothing_else(summary: AuditSummary) -> None:
    rows = annex(summary)
    lacking = {"Measures taken", "By whom it was tested"}
    assert {row.asks for row in rows} - in_scope(rows) == NEVER | lacking
    found = {row.asks: row.found for row in rows}
    scopes = {row.asks: row.scope for row in rows}
    assert scopes["Residual risk"] == "in scope"
    assert scopes["Exfiltration"] == "not in scope"
    assert (
        scopes["Roles and responsibilities"] == scopes["By whom it was tested"] == "for you to add"
    )
    assert "swept_inversion" in found["Model inversion and reconstruction"]
    assert found["To whom the model is released"].endswith(
        "the server of the federation and by anyone who gets its model"
    )
    assert "server view: setting 1 withstood these attacks" in found["Residual risk"]
    risk = found["Maximum and average risk"]
    assert "highest average net leakage" in risk and "worst image: setting 1, round" in risk
    assert "epsilon in effect" in found["Epsilon, and its unit of privacy"]


def test_without_records_nothing_is_in_scope(directory: Path, tmp_path: Path) -> None:
    lines = (directory / FILE_NAME).read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if '"kind":"audit"' not in line.replace(": ", ":")]
    assert 1 <= len(kept) < len(lines)
    (tmp_path / FILE_NAME).write_text("".join(kept), encoding="utf-8")
    assert in_scope(annex(summarise([tmp_path]))) == set()
    Ledger(tmp_path / "begun").append([run_line()])
    assert in_scope(annex(summarise([tmp_path / "begun"]))) == set()


def test_what_nobody_scored_is_no_evidence_of_reconstruction(tmp_path: Path) -> None:
    Ledger(tmp_path).append([run_line(), audit_line()])
    assert in_scope(annex(summarise([tmp_path]))) == set()


def test_one_view_alone_says_nothing_of_the_other(summary: AuditSummary) -> None:
    (setting,) = summary.settings
    server = setting.model_copy(
        update={"attacks": [one for one in setting.attacks if one.view == "server"]}
    )
    found = {
        row.asks: row.found for row in annex(summary.model_copy(update={"settings": [server]}))
    }
    assert (
        found["To whom the model is released"] == "Tested as seen by the server of the federation"
    )


def test_page_and_markdown_hold_every_row_and_claim_nothing_more(summary: AuditSummary) -> None:
    page, text = render_html(summary), render_markdown(summary)
    assert WORDING in page and WORDING in text
    for row in annex(summary):
        assert row.source in page and row.source in text
    for words in (page, text):
        assert "GDPR-compliant" not in words and "is compliant" not in words
    assert "is anonymous" not in " ".join(row.found for row in annex(summary))
