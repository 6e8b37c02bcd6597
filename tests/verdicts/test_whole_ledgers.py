"""Whole ledgers judged: several attacks, several views, and whatever else they hold."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.ledger.records import AttackOutcome, AuditRecord
from fl_privacy_audit.report.sentences import advise, say
from fl_privacy_audit.report.words import CAUSES
from fl_privacy_audit.verdicts.rules import judge, judge_run, views_of
from fl_privacy_audit.verdicts.verdict import FEWEST, LEVEL, WORST_FIRST
from tests.support.builders import audit_line, kept, outcome, run_line
from tests.support.ledger_cases import NAME, control, replayed, spread_around


def by_auto(number: int, *, solved: float, searched: float | None) -> AuditRecord:
    """A closed form, then a search; None where the closed form explains the update."""
    nulls = {"noise": 0.02, "other client": 0.02, "grey": 0.1, "undefended": 0.9}
    made = [control(kind, ssim=v) for kind, v in nulls.items()]  # type: ignore[arg-type]
    first = outcome({"ssim": solved}, attack="rgap", controls=made)
    why = Reason.of("explained already", attack="rgap")
    then = outcome(attack="swept_inversion", status="not tested", reason=why)
    if searched is not None:
        then = outcome({"ssim": searched}, attack="swept_inversion", controls=made)
    return audit_line(first, then, round=number, digest=f"batch {number}")


@pytest.mark.parametrize(
    ("explained", "word"),
    [(0, "withstood these attacks"), (1, "inconclusive"), (12, "leaked"), (14, "leaked")],
)
def test_records_that_a_closed_form_explains_forbid_withstood(
    tmp_path: Path, explained: int, word: str
) -> None:
    """However little the search that ran on the others found."""
    none = spread_around(0.05, 14)
    records = [
        by_auto(i, solved=0.85, searched=None)
        if i < explained
        else by_auto(i, solved=value, searched=value)
        for i, value in enumerate(none)
    ]
    run = run_line(attacks=["auto"])
    (verdict,) = judge_run(kept(tmp_path, [run, *records]))
    assert verdict.word == word
    assert [v.attack for v in verdict.attacks] == ["rgap", "swept_inversion"]
    # One attack ran where the closed form explains everything: it has the whole confidence.
    ran = 2 - (explained == len(records))
    assert {v.confidence for v in verdict.attacks} == {1 - (1 - LEVEL) / ran}


def test_a_search_that_fails_without_defence_forbids_withstood(tmp_path: Path) -> None:
    """A closed form that withstood beside it does not make up for it."""
    records = []
    for i, value in enumerate(spread_around(0.05, 14)):
        first, then = by_auto(i, solved=value, searched=value).attacks
        weak = [
            c if c.kind != "undefended" else control("undefended", ssim=0.05) for c in then.controls
        ]
        then = then.model_copy(update={"controls": weak})
        records.append(audit_line(first, then, round=i, digest=f"batch {i}"))
    (verdict,) = judge_run(kept(tmp_path, [run_line(attacks=["auto"]), *records]))
    assert (verdict.word, verdict.reason.code) == ("inconclusive", "attack too weak")
    assert verdict.attacks[0].word == "withstood these attacks"


def attacked(attack: str, score: float, number: int) -> AttackOutcome:
    controls = [control(k, ssim=v) for k, v in (("noise", 0.02), ("undefended", 0.9))]  # type: ignore[arg-type]
    return outcome({"ssim": score}, attack=attack, controls=controls, seed=number)


def test_the_worst_attack_decides_and_views_stay_apart(tmp_path: Any) -> None:
    run = run_line(attacks=["dlg", "idlg"], views=["server", "release"], controls=True)
    lines = [
        audit_line(
            attacked("dlg", 0.02, i),
            attacked("idlg", 0.8, i),
            round=i,
            digest=f"{i}",
            view="server",
        )
        for i in range(6)
    ]
    lines += [
        audit_line(
            attacked("dlg", 0.02, i),
            attacked("idlg", 0.02, i),
            round=i,
            digest=f"{i}",
            view="release",
        )
        for i in range(6)
    ]
    server, release = judge_run(kept(tmp_path, [run, *lines]))
    assert (server.view, server.word, server.attack) == ("server", "leaked", "idlg")
    assert [a.word for a in server.attacks] == ["withstood these attacks", "leaked"]
    assert server.worst is not None and server.worst.attack == "idlg"
    assert (release.view, release.word) == ("release", "withstood these attacks")


def test_old_ledgers_are_judged_too(tmp_path: Any) -> None:
    run = run_line()
    old = {k: v for k, v in run.config.items() if k not in ("views", "controls", "claim")}
    found = kept(
        tmp_path,
        [
            run.model_copy(update={"config": old, "schema_version": 1}),
            audit_line(outcome({"ssim": 1})),
        ],
    )
    assert views_of(found) == ["server"]
    (verdict,) = judge_run(found)
    assert verdict.word == "inconclusive"
    assert say(verdict.reason).startswith("no null control was attacked")


def any_records(rng: np.random.Generator) -> list[AuditRecord]:
    """A ledger in which anything may have happened, most of it often enough."""
    usual = {name: bool(rng.random() < 0.7) for name in ("noise", "other", "undefended", "strong")}
    leaks, worse, misfits = rng.random(3) < (0.3, 0.2, 0.2)
    lines = []
    for number in range(int(rng.integers(0, 14))):
        status = rng.choice(
            ["scored", "failed", "not scored", "not tested"], p=[0.85, 0.05, 0.05, 0.05]
        )
        if status != "scored":
            code = str(rng.choice(["not due", "unmet need", "no truth", "attack error"]))
            lines.append(audit_line(outcome(status=status, reason=Reason.of(code)), round=number))
            continue

        def scores(ssim: float) -> dict[str, float]:
            return {"ssim": float(ssim + rng.normal(0, 0.01)), "psnr": float(10 + 20 * ssim)}

        controls = [control("grey", **scores(0.1))]
        if usual["noise"]:
            controls.append(control("noise", **scores(0.1)))
        if usual["other"]:
            controls.append(control("other client", **scores(0.1)))
        if usual["undefended"]:
            controls.append(control("undefended", **scores(0.8 if usual["strong"] else 0.12)))
        own = scores(0.7 if leaks or rng.random() < 0.03 else 0.1)
        own["psnr"] += 20.0 * bool(worse)
        line = audit_line(
            outcome(own, controls=controls),
            round=number,
            digest=str(rng.integers(0, 12)),
            replay=replayed(fits=not (misfits and rng.random() < 0.3)),
        )
        lines.append(line)
    return lines


def test_the_words_keep_their_promises_whatever_the_ledger_holds() -> None:
    rng = np.random.default_rng(0)
    found: Counter[tuple[str, str]] = Counter()
    for _ in range(600):
        records = any_records(rng)
        verdict = judge("a", "server", NAME, records)
        found[verdict.word, verdict.reason.code] += 1
        scored = [r for r in records if r.attacks[0].status == "scored"]
        against = {net.against for net in verdict.nets if net.of == "attack"}
        assert (verdict.word == "not tested") == all(
            r.attacks[0].status == "not tested" for r in records
        )
        if verdict.word in ("inconclusive", "not tested"):
            assert advise(verdict.reason), verdict.reason
            assert (verdict.word == "not tested") or verdict.reason.code in CAUSES
            continue
        assert advise(verdict.reason) == ""
        assert len({r.truth_digest for r in scored}) == verdict.batches >= FEWEST
        assert against & {"noise", "other client"}
        if verdict.word == "withstood these attacks":
            assert verdict.undefended is not None
            assert verdict.undefended.low is not None and verdict.undefended.low > 0.05
            assert "leaked" not in verdict.agreement.values()
            assert verdict.reached == 0
            assert all(r.replay is not None and r.replay.fits for r in scored)
    words = Counter(word for word, _ in found.elements())
    assert set(words) == set(WORST_FIRST) and min(words.values()) >= 10, words
    assert {code for _, code in found} >= {
        "description does not fit",
        "some records reached",
        "metrics disagree",
        "attack too weak",
        "no positive control",
        "no null attack",
        "too few batches",
    }
