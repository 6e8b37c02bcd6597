"""The rules of a verdict on ledgers written by hand."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import ControlKind, View
from fl_privacy_audit.ledger.records import (
    AttackOutcome,
    AuditRecord,
    ControlOutcome,
    ReplayCheck,
    Scores,
)
from fl_privacy_audit.report.sentences import advise, say
from fl_privacy_audit.report.words import CAUSES
from fl_privacy_audit.verdicts.rules import judge, judge_run, views_of
from fl_privacy_audit.verdicts.verdict import FEWEST, LEVEL, WORST_FIRST, Verdict
from tests.support.builders import audit_line, kept, outcome, run_line

NAME = "inverting_gradients"


def control(kind: ControlKind, **scores: float) -> ControlOutcome:
    found = {name: Scores(each=[v], mean=v, worst=v) for name, v in scores.items()}
    return ControlOutcome(kind=kind, status="scored", scores=found)


def record(number: int, *, attack: float, **controls: float) -> AuditRecord:
    """One SSIM each; control kinds are written with underscores."""
    made = [control(kind.replace("_", " "), ssim=v) for kind, v in controls.items()]  # type: ignore[arg-type]
    return audit_line(
        outcome({"ssim": attack}, controls=made), round=number, digest=f"batch {number}"
    )


def spread_around(centre: float, count: int, seed: int = 0) -> list[float]:
    return [float(v) for v in centre + 0.01 * np.random.default_rng(seed).standard_normal(count)]


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


def judged(
    attack: Sequence[float],
    *,
    undefended: float | None = 0.9,
    noise: float = 0.02,
    other: float = 0.02,
    grey: float = 0.1,
    attacks: int = 1,
) -> Verdict:
    nulls = {"noise": noise, "other_client": other, "grey": grey}
    extra = {} if undefended is None else {"undefended": undefended}
    records = [record(i, attack=v, **nulls, **extra) for i, v in enumerate(attack, start=1)]
    return judge("a", "server", NAME, records, attacks=attacks)


def test_clearly_more_than_every_null_is_leaked() -> None:
    verdict = judged(spread_around(0.8, 8), undefended=None)
    assert verdict.word == "leaked"
    assert verdict.net is not None
    assert (verdict.metric, verdict.net.against) == ("ssim", "grey")
    assert verdict.net.mean == pytest.approx(0.7, abs=0.02)
    assert verdict.net.low is not None and verdict.net.low > 0.6
    assert say(verdict.reason).startswith("clearly more than every null control: net SSIM +0.7")
    assert say(verdict.reason).endswith("against a grey picture; 8 batches")
    assert (verdict.records, verdict.batches, verdict.undefended) == (8, 8, None)
    assert {n.against for n in verdict.nets} == {"noise", "other client", "grey"}


def test_one_null_that_scores_as_well_is_enough_to_doubt() -> None:
    for null in ("noise", "other", "grey"):
        verdict = judged(spread_around(0.8, 8), **{null: 0.8})  # type: ignore[arg-type]
        assert verdict.word == "withstood these attacks", null
        assert judged(spread_around(0.8, 8), undefended=0.85, **{null: 0.8}).word == (  # type: ignore[arg-type]
            "inconclusive"
        )


def test_no_more_than_a_null_is_withstood_only_if_the_attack_works_without_defence() -> None:
    low = spread_around(0.02, 8)
    assert judged(low).word == "withstood these attacks"
    assert say(judged(low).reason).startswith("no more than a null control: net SSIM -0.076 (")
    weak = judged(low, undefended=0.05)
    assert weak.word == "inconclusive"
    assert say(weak.reason).startswith(
        "the attack is too weak here, it fails without defence; undef"
    )
    absent = judged(low, undefended=None)
    assert absent.word == "inconclusive"
    assert say(absent.reason).startswith("not clearly leaked, and no positive control: net SSIM")


def test_too_few_batches_are_said() -> None:
    verdict = judged([0.9] * (FEWEST - 1))
    assert verdict.word == "inconclusive"
    assert say(verdict.reason) == "too few: 4 batches attacked and scored, at least 5 are needed"
    assert judged([0.9] * FEWEST).word == "leaked"
    assert judged([0.02] * FEWEST).word == "withstood these attacks"
    assert judged([0.9]).net is not None and judged([0.9]).net.low is None  # type: ignore[union-attr]


def test_records_of_one_batch_count_once() -> None:
    same = [record(1, attack=0.9, noise=0.0, grey=0.1) for _ in range(12)]
    verdict = judge("a", "server", NAME, same)
    assert (verdict.records, verdict.batches, verdict.word) == (12, 1, "inconclusive")
    nameless = [r.model_copy(update={"truth_digest": None, "round": i}) for i, r in enumerate(same)]
    assert judge("a", "server", NAME, nameless).batches == 12


def test_without_a_null_attack_nothing_is_said() -> None:
    records = [record(i, attack=0.9, grey=0.1) for i in range(8)]
    reason = "no null control was attacked, so nobody knows what chance gives"
    found = judge("a", "server", NAME, records)
    assert (found.word, say(found.reason)) == ("inconclusive", reason)
    bare = judge("a", "server", NAME, [record(i, attack=0.9) for i in range(8)])
    assert (bare.word, say(bare.reason)) == ("inconclusive", reason)


def test_a_single_record_may_be_luck_and_forbids_withstood() -> None:
    verdict = judged([*spread_around(0.02, 19), 0.85])
    assert verdict.word == "inconclusive"
    assert say(verdict.reason).startswith(
        "1 of 20 records came half as far as without defence; on aver"
    )
    assert verdict.reached == 1
    assert verdict.worst is not None
    assert (verdict.worst.round, verdict.worst.score, verdict.worst.reached) == (20, 0.85, True)
    assert verdict.worst.net == pytest.approx(0.75)
    assert verdict.worst.undefended == pytest.approx(0.8)


@pytest.mark.parametrize(("count", "least"), [(10, 8), (13, 10), (20, 13)])
def test_more_records_than_chance_gives_are_a_leak(count: int, least: int) -> None:
    """The rest is so bad that the average shows nothing."""
    for reached, word in ((least - 1, "inconclusive"), (least, "leaked")):
        verdict = judged([0.6] * reached + [-4.0] * (count - reached))
        assert (verdict.reached, verdict.word) == (reached, word)
    assert say(verdict.reason).startswith(f"{least} of {count} records came half as far as without")
    assert "more than chance gives" in say(verdict.reason)


def test_one_null_attack_makes_luck_more_likely() -> None:
    def line(number: int) -> AuditRecord:
        attack = 0.6 if number < 8 else -4.0
        return record(number, attack=attack, noise=0.02, grey=0.1, undefended=0.9)

    assert judge("a", "server", NAME, [line(i) for i in range(10)]).word == "inconclusive"
    two = [
        record(i, attack=0.6 if i < 8 else -4.0, noise=0.02, other_client=0.02, undefended=0.9)
        for i in range(10)
    ]
    assert judge("a", "server", NAME, two).word == "leaked"
    assert judge("a", "server", NAME, [line(0), *two[1:]]).word == "inconclusive"


def test_records_of_one_batch_must_all_get_there() -> None:
    def line(number: int, attack: float) -> AuditRecord:
        made = record(number, attack=attack, noise=0.02, other_client=0.02, undefended=0.9)
        return made.model_copy(update={"truth_digest": f"batch {number % 10}"})

    twice = [line(i, 0.6 if i % 10 < 8 else -9.0) for i in range(20)]
    assert judge("a", "server", NAME, twice).word == "leaked"
    spoiled = [line(0, -4.0), *twice[1:]]
    assert judge("a", "server", NAME, spoiled).word == "inconclusive"


@pytest.mark.parametrize("shape", ["normal", "exponential", "heavy"])
@pytest.mark.parametrize("count", [5, 6, 12])
def test_if_attack_and_nulls_are_alike_leaked_is_rare(shape: str, count: int) -> None:
    """Whatever the scores are like, also where undefended copies hardly leak."""
    rng = np.random.default_rng(count)
    draws: dict[str, Callable[[tuple[int, int]], NDArray[np.float64]]] = {
        "normal": lambda size: rng.standard_normal(size),
        "exponential": lambda size: rng.exponential(size=size),
        "heavy": lambda size: rng.standard_t(2, size=size),
    }
    leaked = 0
    for _ in range(60):
        scores = 0.1 * draws[shape]((3, count))
        records = [
            record(i, attack=a, noise=n, other_client=o, undefended=0.3)
            for i, (a, n, o) in enumerate(scores.T.tolist())
        ]
        leaked += judge("a", "server", NAME, records).word == "leaked"
    assert leaked <= 2  # 0.6 are allowed on average; more than 2 of 60 in one case of forty


def test_between_is_said() -> None:
    verdict = judged([0.05, 0.3, 0.12, 0.28, 0.2, 0.1])
    assert verdict.word == "inconclusive"
    assert say(verdict.reason).startswith(
        "neither clearly more than the null controls nor clearly no more: net"
    )


def test_it_says_how_many_batches_would_tell() -> None:
    few = [0.0, 0.2, 0.0, 0.2, 0.0, 0.2, 0.04, 0.12]
    reason = judged(few).reason
    number = reason.figures["enough"]
    assert isinstance(number, int) and number > len(few)
    assert f"no more, about {number} batches like these would tell: net" in say(reason)
    for share, word in ((0.6, "inconclusive"), (1.4, "withstood these attacks")):
        many = (few * number)[: 8 * math.ceil(share * number / 8)]
        assert judged(many).word == word
    assert (
        "enough" not in judged([0.05, 0.3, 0.12, 0.28, 0.2, 0.1]).reason.figures
    )  # above the margin


def exact(
    count: int,
    *,
    attack: float = 0.0,
    undefended: float = 4.0,
    odd: tuple[float, float] | None = None,
) -> Verdict:
    """By PSNR, whose margin is 1 dB, with null controls at 0; ``odd`` are both scores of a record."""
    pairs = [(attack, undefended)] * count + ([odd] if odd else [])
    lines = [
        audit_line(
            outcome(
                {"psnr": own},
                controls=[control("noise", psnr=0.0), control("undefended", psnr=copy)],
            ),
            round=number,
            digest=str(number),
        )
        for number, (own, copy) in enumerate(pairs)
    ]
    return judge("a", "server", NAME, lines)


def test_what_lies_on_the_margin_is_no_leak() -> None:
    at = exact(8, attack=1.0, undefended=2.0)
    assert (at.word, at.reached) == ("withstood these attacks", 0)
    assert exact(8, attack=1.001, undefended=2.0).word == "leaked"
    weak = exact(8, attack=0.0, undefended=1.0)
    assert (weak.word, weak.reason.code) == ("inconclusive", "attack too weak")


@pytest.mark.parametrize(
    ("odd", "reached"),
    [
        ((2.0, 4.0), 1),  # half as far
        ((1.999, 4.0), 0),
        ((1.0, 1.5), 0),  # ahead of the null control by no more than the margin
        ((3.0, 1.0), 0),  # the copy itself is
        ((3.0, 0.5), 0),
        ((3.0, 1.001), 1),
    ],
)
def test_a_record_is_counted_that_comes_half_as_far_as_its_copy(
    odd: tuple[float, float], reached: int
) -> None:
    verdict = exact(40, odd=odd)
    assert verdict.reached == reached
    assert verdict.word == ("inconclusive" if reached else "withstood these attacks")


def test_copies_that_beat_only_grey_do_not_show_that_the_attack_works() -> None:
    """The records with an undefended copy have no null attack beside it."""
    nulls = [record(i, attack=0.02, noise=0.02, grey=0.1) for i in range(6)]
    copies = [record(i, attack=0.02, grey=0.1, undefended=0.9) for i in range(6, 12)]
    verdict = judge("a", "server", NAME, nulls + copies)
    assert (verdict.word, verdict.reason.code) == ("inconclusive", "attack too weak")


def test_more_batches_than_anybody_audits_are_no_advice() -> None:
    assert "enough" in judged([-0.05, 0.2, 0.0, 0.2] * 5).reason.figures
    assert judged([-0.2, 0.44] * 10).reason.code == "unclear"


def test_lower_is_more_for_an_error() -> None:
    records = []
    for number in range(8):
        made = [control("noise", mse=0.1), control("grey", mse=0.05), control("undefended", mse=0)]
        line = outcome({"mse": 0.001 if number != 3 else 0.0005}, controls=made)
        records.append(audit_line(line, round=number, digest=str(number)))
    verdict = judge("a", "server", NAME, records)
    assert (verdict.word, verdict.metric) == ("leaked", "mse")
    assert verdict.net is not None and verdict.net.mean == pytest.approx(0.049, abs=1e-4)
    assert verdict.worst is not None and verdict.worst.round == 3


def test_a_metric_that_some_records_lack_does_not_judge() -> None:
    def line(number: int, **scores: float) -> AuditRecord:
        return audit_line(
            outcome(scores, controls=[control("noise", psnr=8.0)]), digest=str(number)
        )

    some = [line(i, psnr=25.0, ssim=0.9) for i in range(6)]
    assert judge("a", "server", NAME, some).metric == "ssim"
    assert judge("a", "server", NAME, [*some, line(7, psnr=25.0)]).metric == "psnr"


def test_another_metric_that_says_leaked_forbids_withstood() -> None:
    def line(number: int) -> AuditRecord:
        controls = [
            control("noise", ssim=0.1, psnr=8.0),
            control("undefended", ssim=0.9, psnr=40.0),
        ]
        scores = outcome({"ssim": 0.1, "psnr": 25.0}, controls=controls)
        return audit_line(scores, round=number, digest=str(number))

    verdict = judge("a", "server", NAME, [line(i) for i in range(8)])
    assert verdict.word == "inconclusive"
    assert say(verdict.reason) == "the metrics disagree: PSNR says leaked, SSIM does not"
    assert verdict.agreement == {"psnr": "leaked", "ssim": "inconclusive"}


@pytest.mark.parametrize(
    ("outcomes", "word", "reason"),
    [
        ([], "not tested", "no record of this view"),
        ([("not tested", "not due")] * 2, "not tested", "not due"),
        (
            [("failed", "it broke"), ("not tested", "not due")],
            "inconclusive",
            "the attack failed on 1 of 2 records: it broke",
        ),
        (
            [("not tested", "no labels")] * 2 + [("failed", "it broke"), ("not scored", "blind")],
            "inconclusive",
            "2 of 4 records were not attacked: no labels",
        ),
        (
            [("failed", "it broke")] + [("not scored", "blind")] * 2,
            "inconclusive",
            "attacked, but nothing to compare with: blind",
        ),
        (
            [("not scored", "no true batch")],
            "inconclusive",
            "attacked, but nothing to compare with: no true batch",
        ),
    ],
)
def test_without_scores(outcomes: list[tuple[Any, str]], word: str, reason: str) -> None:
    records = [audit_line(outcome(status=s, reason=r)) for s, r in outcomes]
    verdict = judge("a", "server", NAME, records)
    assert (verdict.word, say(verdict.reason), verdict.net) == (word, reason, None)


def test_what_was_not_to_be_attacked_is_named_last() -> None:
    plan = [audit_line(outcome(status="not tested", reason=Reason.of("not chosen")))] * 9
    broken = audit_line(outcome(status="not tested", reason=Reason.of("unmet need", message="no")))
    assert judge("a", "server", NAME, [*plan, broken]).reason.code == "unmet need"
    assert judge("a", "server", NAME, plan).reason.code == "not chosen"
    failed = audit_line(outcome(status="failed", reason=Reason.of("attack error", message="no")))
    reason = judge("a", "server", NAME, [*plan, failed]).reason
    assert say(reason) == "the attack failed on 1 of 10 records: no"
    one = record(1, attack=0.9, noise=0.0)
    assert judge("a", "server", NAME, [*plan, one]).reason.cause is None
    few = judge("a", "server", NAME, [*plan, failed, broken, failed, one]).reason
    assert say(few) == (
        "too few: 1 batch attacked and scored, at least 5 are needed; the attack failed on 2 of 13 "
        "records: no"
    )


def test_metrics_that_cannot_be_computed_are_no_proof_that_nothing_ran() -> None:
    why = Reason.of("metric unavailable", message="it needs images of 11 pixels a side")
    verdict = judge("a", "server", NAME, [audit_line(outcome({}, unavailable={"ssim": why}))])
    assert verdict.word == "inconclusive"
    assert say(verdict.reason) == (
        "attacked, but nothing to compare with: SSIM is unavailable: it needs images of 11 pixels "
        "a side"
    )


def test_a_control_that_is_missing_says_why() -> None:
    gone = ControlOutcome(kind="undefended", status="failed", reason=Reason.of("text", text="nan"))
    lines = [
        audit_line(
            outcome({"ssim": 0.0}, controls=[control("noise", ssim=0.1), gone]), digest=str(number)
        )
        for number in range(6)
    ]
    reason = judge("a", "server", NAME, lines).reason
    assert (reason.code, reason.cause) == ("no positive control", gone.reason)


# ---- the same images in every round


def same_images(
    clients: int, *, asked: int = 10, rounds: int = 4, view: View = "server"
) -> list[AuditRecord]:
    """Each round the same clients are attacked of those that were asked, on all their images."""
    lines = []
    for number in range(1, rounds + 1):
        for client in range(asked):
            found = outcome(status="not tested", reason=Reason.of("not chosen"))
            if client < clients:
                found = outcome({"ssim": 0.9}, controls=[control("noise", ssim=0.1)])
            digest = f"of {client}" if client < clients else None
            line = audit_line(found, round=number, partition=client, digest=digest, view=view)
            lines.append(line)
    return lines


@pytest.mark.parametrize(
    ("clients", "asked", "code"),
    [
        (2, 10, "same images every round"),
        (2, FEWEST, "same images every round"),
        (2, FEWEST - 1, "same images every round, too few clients"),
        (4, 4, "same images every round, too few clients"),
    ],
)
def test_the_same_images_in_every_round_are_said_to_be_that(
    clients: int, asked: int, code: str
) -> None:
    verdict = judge("a", "server", NAME, same_images(clients, asked=asked))
    assert (verdict.word, verdict.reason.code) == ("inconclusive", code)
    figures = {"batches": clients, "needed": 5, "clients": clients, "available": asked}
    assert verdict.reason.figures == figures
    assert str(FEWEST) in advise(verdict.reason)


def test_attacking_more_clients_helps_as_it_says() -> None:
    advised = int(judge("a", "server", NAME, same_images(2)).reason.figures["needed"])  # type: ignore[arg-type]
    assert judge("a", "server", NAME, same_images(advised)).word == "leaked"
    assert judge("a", "server", NAME, same_images(2, rounds=1)).reason.code == "too few batches"
    assert judge("a", "server", NAME, same_images(2, rounds=99)).word == "inconclusive"


def test_clients_that_share_their_images_are_too_few_however_many() -> None:
    lines = [r.model_copy(update={"truth_digest": "shared"}) for r in same_images(9, asked=9)]
    reason = judge("a", "server", NAME, lines).reason
    assert reason.code == "same images every round, too few clients"


def test_a_release_of_the_same_images_needs_other_images() -> None:
    lines = same_images(1, asked=1, view="release")
    assert judge("a", "release", NAME, lines).reason.code == "same images in every release"


def test_a_client_with_other_images_once_is_not_that() -> None:
    lines = [r.model_copy(update={"truth_digest": None}) for r in same_images(1, rounds=1)]
    assert judge("a", "server", NAME, [*same_images(2), *lines]).reason.code == "too few batches"


# ---- no truth


def without_truth(*objectives: tuple[float | None, float | None]) -> list[AuditRecord]:
    lines = []
    for own, noise in objectives:
        made = ControlOutcome(kind="noise", status="not scored", objective=noise)
        reason = Reason.of("no audit_mod")
        found = outcome(status="not scored", reason=reason, objective=own, controls=[made])
        lines.append(audit_line(found, digest=None))
    return lines


def test_without_truth_the_objective_says_what_it_can() -> None:
    fits = judge("a", "server", NAME, without_truth(*[(0.01, 0.8)] * 7, (0.8, 0.8)))
    assert fits.word == "inconclusive", "an objective is no proof of a leak"
    assert fits.reason.figures == {
        "lost": 8,
        "records": 8,
        "explained": 7,
        "pairs": 8,
        "own": pytest.approx(0.01),
        "noise": pytest.approx(0.8),
    }
    said = say(fits.reason)
    assert "explain the update better than noise as long in 7 of 8 (objective 0.01 against" in said
    for nothing in (without_truth((0.01, None), (None, 0.8)), without_truth((None, None))):
        assert "explained" not in judge("a", "server", NAME, nothing).reason.figures


# ---- whatever the ledger holds


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


def test_more_attacks_share_the_confidence() -> None:
    values = spread_around(0.8, 8)
    one, three = judged(values), judged(values, attacks=3)
    assert one.confidence == LEVEL
    assert three.confidence == pytest.approx(1 - (1 - LEVEL) / 3)
    assert one.net is not None and three.net is not None
    assert three.net.low is not None and one.net.low is not None
    assert three.net.low <= one.net.low


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


def replayed(*, fits: bool, cosine: float = 0.44) -> ReplayCheck:
    hint = None if fits else Reason.of("fits with", option="optimizer", value="adam", cosine=1.0)
    return ReplayCheck(
        cosine=1.0 if fits else cosine,
        length_ratio=1.0 if fits else 131.0,
        cosine_range=(0.99999, 1.000001),
        length_range=(0.998, 1.002),
        fits=fits,
        hint=hint,
    )


def with_replay(values: Sequence[float], misfits: int) -> list[AuditRecord]:
    """Records whose attack gets these scores, where 0.9 is what undefended copies leak."""
    records = []
    for number, value in enumerate(values):
        controls = [
            control("noise", ssim=0.1 + 0.01 * (number % 3)),
            control("undefended", ssim=0.9),
        ]
        check = replayed(fits=number >= misfits)
        line = audit_line(
            outcome({"ssim": value}, controls=controls),
            round=number + 1,
            digest=str(number),
            replay=check,
        )
        records.append(line)
    return records


@pytest.mark.parametrize(
    ("value", "misfits", "word"),
    [
        (0.1, 0, "withstood these attacks"),
        (0.1, 1, "inconclusive"),
        (0.1, 12, "inconclusive"),
        (0.9, 0, "leaked"),
        (0.9, 12, "leaked"),
    ],
)
def test_a_description_that_does_not_fit_is_no_evidence_of_safety(
    value: float, misfits: int, word: str
) -> None:
    verdict = judge("a", "server", NAME, with_replay([value] * 12, misfits))
    assert verdict.word == word
    if misfits and word == "inconclusive":
        assert verdict.reason.code == "description does not fit"
        assert verdict.reason.figures["misfits"] == misfits
        assert verdict.reason.cause == replayed(fits=False).hint
        assert "optimizer adam" in say(verdict.reason)


def test_a_description_that_does_not_fit_is_named_before_too_few_batches() -> None:
    for misfits, code in ((0, "too few batches"), (1, "description does not fit")):
        verdict = judge("a", "server", NAME, with_replay([0.1] * 3, misfits))
        assert (verdict.word, verdict.reason.code) == ("inconclusive", code)


@pytest.mark.parametrize(("value", "word"), [(0.1, "inconclusive"), (0.9, "leaked")])
def test_a_description_that_nobody_checked_is_no_evidence_either(value: float, word: str) -> None:
    first, *rest = with_replay([value] * 12, misfits=0)
    why = Reason.of("time up", message="no time")
    unchecked = first.model_copy(update={"replay": None, "no_replay": why})
    verdict = judge("a", "server", NAME, [unchecked, *rest])
    assert verdict.word == word
    if word == "inconclusive":
        assert verdict.reason == Reason.of("description not checked", why, unchecked=1, records=12)
        assert "seconds_per_round" in advise(verdict.reason)
