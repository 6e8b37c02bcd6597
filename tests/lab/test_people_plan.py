import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.lab.people import Settings
from fl_privacy_audit.lab.people.plan import GAP, candidates, plan

KEYS = [f"k{i}" for i in range(40)]


@given(
    count=st.integers(1, 40),
    repeat=st.floats(0, 0.5),
    seed=st.integers(0, 5),
    beside=st.booleans(),
)
def test_a_plan_asks_everything_once_and_the_repeats_later(
    count: int, repeat: float, seed: int, beside: bool
) -> None:
    keys = KEYS[:count]
    settings = Settings(seed=seed, repeat=repeat, beside=beside)
    steps = plan(keys, settings, annotator="ann")
    first = [step.key for step in steps if (step.stage, step.visit) == ("name", 1)]
    assert sorted(first) == sorted(keys)
    gap = min(GAP, count // 2)
    again = [step for step in steps if step.visit == 2]
    assert len(again) == min(round(repeat * count), count - gap)
    for step in again:
        place = steps.index(step)
        before = next(i for i, other in enumerate(steps) if other.key == step.key)
        others = {other.key for other in steps[before + 1 : place] if other.visit == 1}
        assert len(others) >= gap
    stages = [step.stage for step in steps]
    assert stages == sorted(stages, key=("name", "beside").index)
    assert sorted(s.key for s in steps if s.stage == "beside") == (sorted(keys) if beside else [])


def test_orders_are_each_annotators_own_and_repeat_themselves() -> None:
    ann, bob = (plan(KEYS, Settings(), annotator=name) for name in ("ann", "bob"))
    assert ann != bob
    assert ann == plan(KEYS[::-1], Settings(), annotator="ann")
    assert ann != plan(KEYS, Settings(seed=1), annotator="ann")


@given(label=st.integers(0, 9), number=st.integers(2, 12), key=st.text(max_size=3))
def test_candidates_hold_the_truth_and_are_the_same_for_all(
    label: int, number: int, key: str
) -> None:
    found = candidates(key, label, 10, Settings(candidates=number))
    assert label in found
    assert found == sorted(set(found))
    assert len(found) == min(number, 10)
    assert found == candidates(key, label, 10, Settings(candidates=number))
    assert candidates(key, label, 10, Settings()) == list(range(10))


def test_the_place_of_the_truth_among_the_candidates_says_nothing() -> None:
    places = [
        candidates(key, 5, 11, Settings(candidates=3)).index(5) for key in map(str, range(300))
    ]
    # Two others of 0-4 and 6-10: below, around and above with chances 2/9, 5/9, 2/9.
    assert [places.count(i) / 300 for i in range(3)] == pytest.approx(
        [2 / 9, 5 / 9, 2 / 9], abs=0.08
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"candidates": 1}, "--candidates must be 2 or more, or 0 for all classes, but got 1"),
        ({"repeat": 0.7}, "--repeat must be a share from 0 to 0.5, but got 0.7"),
        ({"question": " "}, "--question must not be empty"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings(**settings)  # type: ignore[arg-type]
