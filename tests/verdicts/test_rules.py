"""The rules of a verdict on ledgers written by hand."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from fl_privacy_audit.ledger.records import AuditRecord
from fl_privacy_audit.report.sentences import advise, say
from fl_privacy_audit.verdicts.rules import judge
from fl_privacy_audit.verdicts.verdict import FEWEST, LEVEL, Verdict
from tests.support.builders import audit_line, outcome
from tests.support.ledger_cases import NAME, control, judged, record, spread_around


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


def test_one_batch_that_shows_nothing_does_not_hide_a_leak() -> None:
    """The interval holds zero, as one batch in six can be drawn again and again; exchange tells."""
    verdict = judged([0.3, 0.35, 0.28, 0.4, 0.33, 0.0], noise=0.02, other=0.01, grey=0.0)
    assert verdict.net is not None and verdict.net.low is not None and verdict.net.low < 0.05
    assert (verdict.word, verdict.reason.code) == ("leaked", "more than chance gives null attacks")
    assert "batch by batch, beside null attacks; on average net SSIM +0.2" in say(verdict.reason)
    assert judged([0.3, 0.35, 0.0, 0.0, 0.33, 0.0], noise=0.02, other=0.01).word == "inconclusive"
    small = judged([0.06] * 8, noise=0.02, other=0.01, grey=0.0)  # sure, and not worth a verdict
    assert small.word == "withstood these attacks"


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
    good = [record(i, attack=0.9, noise=0.0) for i in range(6)]
    bad = [record(i, attack=0.1, noise=0.0) for i in range(6)]
    net = judge("a", "server", NAME, good + bad).net
    assert net is not None and (net.records, net.batches) == (12, 6)
    assert (net.low, net.mean, net.high) == pytest.approx((0.5, 0.5, 0.5))


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


def test_more_attacks_share_the_confidence() -> None:
    values = spread_around(0.8, 8)
    one, three = judged(values), judged(values, attacks=3)
    assert one.confidence == LEVEL
    assert three.confidence == pytest.approx(1 - (1 - LEVEL) / 3)
    assert one.net is not None and three.net is not None
    assert three.net.low is not None and one.net.low is not None
    assert three.net.low <= one.net.low


def test_copies_that_leak_on_average_say_how_many_batches_would_tell() -> None:
    shows = [0.15, 0.2, 0.01, 0.12, 0.2, 0.02]
    few = [record(i, attack=0.02, noise=0.02, undefended=shown) for i, shown in enumerate(shows)]
    verdict = judge("a", "server", NAME, few)
    assert (verdict.word, verdict.reason.code) == ("inconclusive", "copies leak on average")
    enough = verdict.reason.figures["enough"]
    assert isinstance(enough, int) and enough > len(few)
    assert f"until there are {enough} batches" in advise(verdict.reason)
