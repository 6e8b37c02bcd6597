"""`auto` in an audit: concrete outcomes, why they were chosen, and what a verdict makes of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_privacy_audit import AuditConfig, Auditor
from fl_privacy_audit.attacks import ATTACKS
from fl_privacy_audit.audit import lineup
from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.ledger.ledger import last_run, read_ledger
from fl_privacy_audit.ledger.records import AuditRecord
from fl_privacy_audit.report.summary import summarise
from fl_privacy_audit.report.terminal import chosen_lines
from fl_privacy_audit.verdicts.rules import attacks_of, judge_run
from tests.support.builders import (
    IMAGE,
    ONE_STEP,
    audit_config,
    make_reply,
    make_truth,
    only,
    real_auditor,
    tiny_net,
    to_arrays,
    trained,
)

SURROGATE = "surrogate_model_extension"
EXPLAINED = Reason.of("explained already", attack="first_linear")


def told(record: AuditRecord) -> list[tuple[str, str, Reason | None]]:
    return [(o.attack, o.status, o.reason) for o in record.attacks]


def test_a_closed_form_that_explains_the_update_leaves_nothing_to_search_for(
    tmp_path: Path,
) -> None:
    auditor = real_auditor(
        tmp_path, attacks=["auto"], seconds_per_round=1e6, controls=True, metrics=["psnr"]
    )
    record = only(auditor.audit_round(1, [make_reply()]))
    assert told(record) == [
        ("first_linear", "scored", None),
        ("rgap", "not tested", EXPLAINED),
        ("unmixing", "not tested", EXPLAINED),
        ("swept_inversion", "not tested", EXPLAINED),
    ]
    assert all(o.chosen is not None for o in record.attacks)
    assert record.attacks[0].scores["psnr"].mean > 60
    assert {c.kind for c in record.attacks[0].controls if c.status == "scored"} >= {
        "noise",
        "undefended",
    }
    (verdict,) = judge_run(last_run(read_ledger(tmp_path)))
    assert [v.attack for v in verdict.attacks] == [
        "first_linear",
        "rgap",
        "unmixing",
        "swept_inversion",
    ]
    # Of four attacks one ran: it alone has the whole confidence.
    assert verdict.attacks[0].confidence == pytest.approx(0.99)


def test_many_local_steps_are_attacked_and_scored(tmp_path: Path) -> None:
    steps, truth, model = 125, make_truth(seed=0), tiny_net()
    reply = make_reply(returned=lambda: to_arrays(trained(model, truth, steps=steps)))
    training = {**ONE_STEP.model_dump(), "steps": steps, "images": 1}
    auditor = real_auditor(
        tmp_path,
        attacks=["auto"],
        seconds_per_round=1e6,
        training=training,
        controls=["undefended"],
    )
    record = only(auditor.audit_round(1, [reply]))
    assert told(record) == [("unmixing", "scored", None), (SURROGATE, "scored", None)]
    solved, outcome = record.attacks
    assert solved.chosen is not None and solved.chosen.code == "chosen to solve"
    assert outcome.chosen is not None and outcome.chosen.code == "chosen to search"
    assert outcome.options == ATTACKS[SURROGATE].auto_options
    assert outcome.control("undefended") is not None
    assert "unrolling 125 local steps" in chosen_lines(last_run(read_ledger(tmp_path)))[1]


def test_names_that_stand_beside_auto_run_once_and_as_they_are_named(tmp_path: Path) -> None:
    named = {"name": "swept_inversion", "options": {"steps": 3}}
    auditor = real_auditor(tmp_path, attacks=["auto", named])
    record = only(auditor.audit_round(1, [make_reply()]))
    assert told(record) == [
        ("swept_inversion", "scored", None),
        ("first_linear", "scored", None),
        ("rgap", "not tested", EXPLAINED),
        ("unmixing", "not tested", EXPLAINED),
    ]
    assert record.attacks[0].chosen is None
    assert record.attacks[0].options == {"steps": 3}


def test_records_that_are_not_attacked_count_for_every_attack_that_was_chosen(
    tmp_path: Path,
) -> None:
    auditor = real_auditor(tmp_path, attacks=["auto"], seconds_per_round=1e6, every=2)
    not_due = only(auditor.audit_round(2, [make_reply()]))
    assert told(not_due) == [("auto", "not tested", Reason.of("not due", every=2))]
    run = last_run(read_ledger(tmp_path))
    assert attacks_of(run, "server") == ["auto"]
    assert judge_run(run)[0].word == "not tested"
    auditor.audit_round(1, [make_reply()])
    run = last_run(read_ledger(tmp_path))
    assert "auto" not in attacks_of(run, "server")
    (setting,) = summarise([tmp_path]).settings
    first = setting.attacks[0]
    assert (first.attack, first.scored) == ("first_linear", 1)
    assert [(left.reason.code, left.records) for left in first.not_tested] == [("not due", 1)]


def test_no_attack_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"spear": ATTACKS["spear"]}
    monkeypatch.setattr(lineup, "all_attacks", lambda: table)
    auditor = real_auditor(tmp_path, attacks=["auto"])
    ((name, status, reason),) = told(only(auditor.audit_round(1, [make_reply()])))
    assert (name, status) == ("auto", "not tested")
    assert reason is not None and reason.code == "no attack fits"
    assert "needs a ReLU" in str(reason.figures["lacking"])
    assert judge_run(last_run(read_ledger(tmp_path)))[0].word == "not tested"


def test_one_target_is_explained_and_the_other_is_searched(tmp_path: Path) -> None:
    """The control that is another client's update is found although the attack runs on one alone."""
    blurred = to_arrays(trained(tiny_net(), make_truth(seed=1)))
    rng = np.random.default_rng(0)
    blurred = {
        n: a.astype(np.float32) + 1e-3 * rng.standard_normal(a.shape, np.float32)
        for n, a in blurred.items()
    }
    auditor = real_auditor(
        tmp_path,
        attacks=["auto"],
        seconds_per_round=1e6,
        clients_per_round=None,
        controls=["other client"],
        metrics=["psnr"],
    )
    solved, searched = auditor.audit_round(
        1, [make_reply(0), make_reply(1, returned=lambda: blurred)]
    )
    assert told(solved)[-1] == ("swept_inversion", "not tested", EXPLAINED)
    last = searched.attacks[-1]
    assert (last.attack, last.status) == ("swept_inversion", "scored")
    other = last.control("other client")
    assert other is not None and other.status == "scored"


def test_what_is_chosen_by_the_clock_stays(tmp_path: Path) -> None:
    found: list[float] = []

    def count(table: Any, seen: Any, seconds: float) -> Any:
        found.append(seconds)
        return Reason.of("no attack fits", lacking=[])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lineup, "choose", count)
        auditor = real_auditor(tmp_path, attacks=["auto"])
        for server_round in (1, 2, 3):
            auditor.audit_round(server_round, [make_reply()])
    assert len(found) == 1


def test_auto_takes_no_options(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`auto` takes no options"):
        audit_config(tmp_path, attacks=[{"name": "auto", "options": {"steps": 3}}])
    assert AuditConfig(image=IMAGE).attacks[0].name == "auto"


def test_an_auditor_with_attacks_of_its_own_has_no_auto(tmp_path: Path) -> None:
    attack = replace(ATTACKS["first_linear"]).factory()
    auditor = Auditor(audit_config(tmp_path), model=tiny_net(), attacks=[attack])
    assert told(only(auditor.audit_round(1, [make_reply()]))) == [("first_linear", "scored", None)]
