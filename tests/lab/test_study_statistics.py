"""Fast paths against slow, obvious ones."""

import itertools
import math
from typing import Any

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.inter_rater import aggregate_raters

from fl_privacy_audit.lab.study import Ratings
from fl_privacy_audit.lab.study.agreement import agreement, alpha
from fl_privacy_audit.lab.study.bootstrap import Draws, draw, interval
from fl_privacy_audit.lab.study.contradictions import contradictions
from fl_privacy_audit.lab.study.image_level import image_level
from fl_privacy_audit.lab.study.model_level import model_level
from fl_privacy_audit.lab.study.rank import auc, kendall, pearson, spearman


def drawn(ratings: Ratings) -> Draws:
    return draw(len(ratings.originals), len(ratings.settings), bootstraps=200, seed=0)


scores = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=12)


def slow_auc(score: Any, positive: Any) -> float:
    wins = [
        (a > b) + 0.5 * (a == b)
        for a, b in itertools.product(
            (s for s, p in zip(score, positive, strict=True) if p),
            (s for s, p in zip(score, positive, strict=True) if not p),
        )
    ]
    return float(np.mean(wins)) if wins else math.nan


@given(scores, st.data())
def test_auc_is_the_share_of_pairs_won(rows: list[tuple[int, bool]], data: st.DataObject) -> None:
    score = np.array([float(s) for s, _ in rows])
    positive = np.array([p for _, p in rows])
    times = st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows))
    weight = np.array(data.draw(st.lists(times, min_size=1, max_size=3)))
    assert auc(score, positive)[0] == pytest.approx(slow_auc(score, positive), nan_ok=True)
    for counts, area in zip(weight, auc(score, positive, weight), strict=True):
        repeated = slow_auc(np.repeat(score, counts), np.repeat(positive, counts))
        assert area == pytest.approx(repeated, nan_ok=True)


@given(scores)
def test_auc_sees_only_the_order(rows: list[tuple[int, bool]]) -> None:
    score = np.array([float(s) for s, _ in rows])
    positive = np.array([p for _, p in rows])
    area = auc(score, positive)[0]
    assert auc(score**3 * 7 - 2, positive)[0] == pytest.approx(area, nan_ok=True)
    assert auc(-score, positive)[0] == pytest.approx(1 - area, nan_ok=True)


def test_auc_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    score, positive = rng.integers(0, 20, 50).astype(float), rng.random(50) < 0.5
    unit, weight = rng.integers(0, 10, 50), rng.integers(0, 3, (40, 10))
    whole = auc(score, positive, weight, unit)
    monkeypatch.setattr("fl_privacy_audit.lab.study.rank._CELLS", 150)
    assert auc(score, positive, weight, unit).tolist() == whole.tolist()


@given(st.integers(2, 8).flatmap(lambda n: st.tuples(*2 * [st.lists(
    st.integers(-3, 3), min_size=n, max_size=n)])))  # fmt: skip
def test_correlations_are_those_of_scipy(pair: tuple[list[int], list[int]]) -> None:
    x, y = (np.array(values, dtype=float) for values in pair)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert all(math.isnan(statistic(x, y)) for statistic in (pearson, spearman, kendall))
        return
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic)
    both = np.stack([x, y])
    assert kendall(both, both[::-1]).tolist() == pytest.approx(2 * [float(kendall(x, y))])


@given(st.lists(st.tuples(*2 * [st.one_of(st.none(), st.integers(-3, 3))]), min_size=2, max_size=9))
def test_places_that_are_missing_are_left_out(rows: list[tuple[int | None, int | None]]) -> None:
    x, y = (
        np.array([math.nan if v is None else v for v in one], float)
        for one in zip(*rows, strict=True)
    )
    there = ~(np.isnan(x) | np.isnan(y))
    for statistic in (pearson, spearman, kendall):
        expected = statistic(x[there], y[there]) if there.any() else math.nan
        assert float(statistic(x, y)) == pytest.approx(float(expected), nan_ok=True)


answers = st.lists(st.lists(st.integers(-1, 3), min_size=3, max_size=3), min_size=1, max_size=8)


@given(answers)
def test_alpha_by_category_is_the_packages_own(rows: list[list[int]]) -> None:
    counts, _ = aggregate_raters(np.array(rows))
    if counts.shape[1] == 1:
        assert math.isnan(alpha(counts))
    else:
        whole = krippendorff.alpha(value_counts=counts, level_of_measurement="nominal")
        assert alpha(counts) == pytest.approx(whole)


def random_ratings(seed: int, *, lacking: float = 0.0) -> Ratings:
    """Four settings, six originals, three annotators; some cells of the grid may be absent."""
    rng = np.random.default_rng(seed)
    cells = [(s, o) for s in range(4) for o in range(6) if s == o % 4 or rng.random() >= lacking]
    setting, original = np.array(cells).T
    true_label = original % 3
    guess = rng.integers(-1, 3, (len(cells), 3))
    return Ratings(
        settings=tuple("ABCD"),
        originals=tuple("pqrstu"),
        setting=setting,
        original=original,
        true_label=true_label,
        raters=("rater1", "rater2", "rater3"),
        answers=np.where(rng.random(guess.shape) < 0.4, true_label[:, None], guess),
        metrics={
            "psnr": rng.integers(0, 6, len(cells)).astype(float),
            "mse": rng.random(len(cells)),
        },
        leaks_when={"psnr": "high", "mse": "low"},
    )


def rows_of(ratings: Ratings, rows: Any, original: Any) -> Ratings:
    return Ratings(
        settings=ratings.settings,
        originals=tuple(map(str, range(int(original.max()) + 1))),
        setting=ratings.setting[rows],
        original=original,
        true_label=ratings.true_label[rows],
        raters=ratings.raters,
        answers=ratings.answers[rows],
        metrics={name: values[rows] for name, values in ratings.metrics.items()},
        leaks_when=ratings.leaks_when,
    )


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3]))
def test_one_draw_is_the_table_with_originals_repeated(seed: int, lacking: float) -> None:
    ratings = random_ratings(seed, lacking=lacking)
    once = draw(6, 4, bootstraps=100, seed=seed)
    single = Draws(originals=once.originals[:1], settings=once.settings[:1])
    parts = [
        (np.flatnonzero(ratings.original == o), copy)
        for o in range(6)
        for copy in range(int(single.originals[0, o]))
    ]
    rows = np.concatenate([part for part, _ in parts])
    original = np.concatenate([np.full(len(part), i) for i, (part, _) in enumerate(parts)])
    repeated = rows_of(ratings, rows, original)
    if len(set(repeated.setting)) < 4:
        return
    for name in ratings.metrics:
        low = model_level(ratings, single).correlations[name].kendall.over_images.low
        value = model_level(repeated, drawn(repeated)).correlations[name].kendall.value
        assert low == pytest.approx(value, nan_ok=True)
        found = image_level(ratings, single).rankings[name]
        again = image_level(repeated, drawn(repeated)).rankings[name]
        for kind in ("pooled", "within_setting", "same_original"):
            low = getattr(found, kind).over_images.low
            assert low == pytest.approx(getattr(again, kind).value, nan_ok=True)
    for coding in ("label", "right", "answered"):
        found_coding = agreement(ratings, single).codings[coding]
        value_coding = agreement(repeated, drawn(repeated)).codings[coding]
        for statistic in ("fleiss", "krippendorff"):
            low = getattr(found_coding, statistic).over_images.low
            assert low == pytest.approx(getattr(value_coding, statistic).value, nan_ok=True)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3]))
def test_same_original_and_contradictions_pair_by_pair(seed: int, lacking: float) -> None:
    ratings = random_ratings(seed, lacking=lacking)
    psnr, mse = ratings.leakage("psnr"), ratings.leakage("mse")
    n_right = ratings.right.sum(axis=1)
    won, decided, opposed, against, pairs, gaps = 0.0, 0, 0, 0, 0, 0
    for i, j in itertools.combinations(range(len(psnr)), 2):
        if ratings.original[i] != ratings.original[j]:
            continue
        pairs += 1
        opposed += (psnr[i] - psnr[j]) * (mse[i] - mse[j]) < 0
        gaps += n_right[i] != n_right[j]
        against += (psnr[i] - psnr[j]) * (n_right[i] - n_right[j]) < 0
        if ratings.recognised[i] != ratings.recognised[j]:
            decided += 1
            high, low = (i, j) if ratings.recognised[i] else (j, i)
            won += (psnr[high] > psnr[low]) + 0.5 * (psnr[high] == psnr[low])
    images, found = image_level(ratings, drawn(ratings)), contradictions(ratings, drawn(ratings))
    assert (images.pairs_used, found.pairs, found.any_gap_pairs) == (decided, pairs, gaps)
    area = images.rankings["psnr"].same_original.value
    assert area == pytest.approx(won / decided if decided else math.nan, nan_ok=True)
    assert found.between[0].share.value == pytest.approx(opposed / pairs)
    share = found.people["psnr"].any_gap.value
    assert share == pytest.approx(against / gaps if gaps else math.nan, nan_ok=True)


def test_draws_follow_the_seed() -> None:
    one, same, other = (draw(50, 9, bootstraps=100, seed=seed) for seed in (1, 1, 2))
    assert (one.originals == same.originals).all() and (one.settings == same.settings).all()
    assert (one.originals != other.originals).any() and (one.settings != other.settings).any()
    assert set(one.originals.sum(axis=1).tolist()) == {50}
    assert (one.settings.min(), one.settings.max()) == (0, 8)


def test_interval() -> None:
    found = interval(np.arange(1001.0))
    assert (found.low, found.high) == pytest.approx((25.0, 975.0))
    assert not interval(np.array([-1.0, 1.0])).excludes_zero
    assert interval(np.array([1.0, 2.0])).excludes_zero
    mostly_undefined = interval(np.array([1.0, math.nan, math.nan]))
    assert math.isnan(mostly_undefined.low) and not mostly_undefined.excludes_zero
