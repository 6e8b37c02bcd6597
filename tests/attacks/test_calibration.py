"""The choice of backend: pure, kept, robust to damage, and never at the cost of quality."""

import json
import math
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fl_privacy_audit.attacks import swept_inversion
from fl_privacy_audit.attacks.engine import OptimisationAttack, batched, calibration
from fl_privacy_audit.attacks.engine import gradients as backends
from fl_privacy_audit.attacks.engine.backend import Backend, ByHand, Step, same_way
from fl_privacy_audit.attacks.engine.batch import Guesses
from fl_privacy_audit.attacks.parts import distances
from fl_privacy_audit.core.types import Observation
from tests.support.builders import QUICK
from tests.support.cases import LeNet, SmallConvNet, observation, photos, seeded

SIZE = 8
STEPS = backends.FEWEST_STEPS
STEPS_WATCHED = backends.WATCHED["bfloat16"]
FACTS = {"processor": "some", "threads": "1"}
SECONDS = {"by_hand": 2.0, "vmap": 1.0}


class Tiny(LeNet):
    def __init__(self) -> None:
        super().__init__(size=SIZE)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("seconds", "exact", "expected"),
    [
        ({}, "by_hand", "by_hand"),
        ({}, "sequential", "sequential"),
        ({"by_hand": 0.1, "vmap": 0.05}, "by_hand", "vmap"),
        ({"by_hand": 0.1, "vmap": 0.15}, "by_hand", "by_hand"),
        ({"by_hand": 0.1, "bfloat16": 0.08}, "by_hand", "by_hand"),
        ({"by_hand": 0.1, "bfloat16": 0.07}, "by_hand", "bfloat16"),
        ({"by_hand": 0.1, "bfloat16": 0.07, "vmap": 0.08}, "by_hand", "vmap"),
        ({"by_hand": 0.1, "differences": 0.08}, "by_hand", "by_hand"),
        ({"by_hand": 0.1, "differences": 0.07}, "by_hand", "differences"),
        ({"by_hand": 0.1, "differences": 0.07, "bfloat16": 0.06}, "by_hand", "bfloat16"),
        ({"by_hand": 0.1, "differences": 0.07, "layered": 0.08}, "by_hand", "layered"),
        ({"sequential": 1.0, "vmap": 0.5}, "by_hand", "by_hand"),
    ],
)
def test_what_is_chosen(seconds: dict[str, float], exact: str, expected: str) -> None:
    assert calibration.choose(seconds, exact=exact) == expected


@given(
    seconds=st.dictionaries(
        st.sampled_from(["by_hand", "bfloat16", "differences", "vmap"]),
        st.floats(1e-6, 1e3),
        max_size=4,
    ),
)
@QUICK
def test_whatever_was_measured_the_choice_was_measured_and_what_is_rough_is_clearly_faster(
    seconds: dict[str, float],
) -> None:
    chosen = calibration.choose(seconds, exact="by_hand")
    assert chosen == calibration.choose(dict(reversed(seconds.items())), exact="by_hand")
    assert chosen in seconds or chosen == "by_hand"
    if chosen in calibration.ROUGH:
        exact = [seconds[name] for name in ("by_hand", "vmap") if name in seconds]
        assert seconds[chosen] * 1.3 < min(exact)


def test_what_was_measured_is_kept_for_its_owner_alone(cache: Path) -> None:
    assert calibration.recall(FACTS) is None
    assert calibration.settle(FACTS, lambda: SECONDS) == SECONDS
    assert calibration.recall(FACTS) == SECONDS
    assert calibration.settle(FACTS, lambda: {"by_hand": 9.0}) == SECONDS
    assert calibration.recall({**FACTS, "threads": "2"}) is None
    (path,) = calibration.folder().glob("*.json")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(calibration.folder().stat().st_mode) == 0o700
    assert path.is_relative_to(cache)


def test_of_two_that_measure_at_once_the_first_to_keep_decides() -> None:
    def overtaken() -> dict[str, float]:
        calibration.settle(FACTS, lambda: SECONDS)
        return {"by_hand": 1.0, "vmap": 2.0}

    assert calibration.settle(FACTS, overtaken) == SECONDS


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: "",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole + "}",
        lambda whole: "\x00" * len(whole),
        lambda whole: "[" * 9000,
        lambda whole: "null",
        lambda whole: '{"seconds": 3}',
        lambda whole: whole.replace("2.0", "NaN"),
        lambda whole: whole.replace("2.0", "-2.0"),
        lambda whole: whole.replace("2.0", '"fast"'),
        lambda whole: whole.replace("some", "other"),
        lambda whole: json.dumps({"facts": FACTS, "seconds": {}}),
    ],
)
def test_a_damaged_calibration_is_made_anew(damage: Callable[[str], str]) -> None:
    calibration.settle(FACTS, lambda: SECONDS)
    (path,) = calibration.folder().glob("*.json")
    whole = path.read_text()
    path.write_text(damage(whole))
    assert calibration.recall(FACTS) is None
    assert calibration.settle(FACTS, lambda: SECONDS) == SECONDS
    assert path.read_text() == whole


def test_where_nothing_can_be_kept_nothing_is_chosen_by_the_clock(cache: Path) -> None:
    (cache / "fl-privacy-audit").write_text("a file where the folder should be")
    assert calibration.settle(FACTS, lambda: SECONDS) == {}


def test_a_user_without_a_home_gets_the_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    clocks(monkeypatch, by_hand=2.0, vmap=1.0)
    assert choose(swept_inversion(steps=STEPS), clients(Tiny)).name == "by_hand"


def test_a_link_in_place_of_a_calibration_is_not_followed(cache: Path) -> None:
    calibration.settle(FACTS, lambda: SECONDS)
    (path,) = calibration.folder().glob("*.json")
    path.rename(cache / "elsewhere")
    path.symlink_to(cache / "elsewhere")
    assert calibration.recall(FACTS) is None


def clients(model: type[nn.Module], count: int = 2) -> list[Observation]:
    images = photos(SIZE)
    return [
        observation(seeded(model), images[at : at + 1], torch.tensor([at])) for at in range(count)
    ]


def join(recipe: OptimisationAttack, seen: list[Observation]) -> Guesses:
    return Guesses.join(
        [
            Guesses.draw(recipe, one, recipe.replay(one), torch.Generator().manual_seed(at))
            for at, one in enumerate(seen)
        ]
    )


def choose(recipe: OptimisationAttack, seen: list[Observation]) -> Backend:
    return backends.choose_backend(recipe, join(recipe, seen), math.inf)


def clocks(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> list[str]:
    """Make the clock say this; the list of what it was asked of."""
    asked: list[str] = []

    def clock(backend: Backend, guesses: Guesses) -> float:
        asked.append(backend.name)
        return seconds.get(backend.name, 5.0)

    monkeypatch.setattr(backends, "_time", clock)
    monkeypatch.setattr(backends, "WORTH_FINDING", math.inf)
    return asked


def test_under_another_load_the_next_run_chooses_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, seen = swept_inversion(steps=STEPS), clients(Tiny)
    clocks(monkeypatch, by_hand=2.0, vmap=1.0)
    assert choose(recipe, seen).name == "vmap"
    asked = clocks(monkeypatch, by_hand=1.0, vmap=2.0)
    assert choose(recipe, seen).name == "vmap"
    assert not asked


def test_another_network_or_number_of_guesses_is_measured_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = swept_inversion(steps=STEPS)
    clocks(monkeypatch, by_hand=2.0, vmap=1.0)
    choose(recipe, clients(Tiny))
    asked = clocks(monkeypatch, by_hand=1.0, vmap=2.0)
    assert choose(recipe, clients(Tiny, 3)).name == "by_hand"
    assert choose(recipe, clients(SmallConvNet)).name == "by_hand"
    assert asked.count("vmap") == 2


def test_few_steps_take_the_plain_loop_whatever_was_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clocks(monkeypatch, by_hand=2.0, vmap=1.0)
    choose(swept_inversion(steps=STEPS), clients(Tiny))
    assert choose(swept_inversion(steps=STEPS - 1), clients(Tiny)).name == "by_hand"


@pytest.mark.parametrize("model", [Tiny, SmallConvNet])
def test_the_run_that_measures_and_the_next_give_the_same_bits(model: type[nn.Module]) -> None:
    """Dropout draws random numbers; measuring must not take any of them."""
    images, seen = [], clients(model)
    for _ in range(2):
        rngs = [torch.Generator().manual_seed(at) for at in range(2)]
        made = swept_inversion(steps=STEPS).reconstruct_many(seen, rngs=rngs)
        assert not any(isinstance(one, Exception) for one in made)
        images.append([one.images for one in made if not isinstance(one, Exception)])
    assert len(list(calibration.folder().glob("*.json"))) == 1
    for first, second in zip(*images, strict=True):
        assert torch.equal(first, second)


def watched(
    monkeypatch: pytest.MonkeyPatch, right: int
) -> tuple[backends.Watched, Guesses, list[int]]:
    """On any processor: right for so many calls, then with one guess's slope turned; its calls."""
    calls: list[int] = []

    def rounded(backend: Backend, guesses: Guesses) -> Step:
        calls.append(len(calls))
        step = Backend.__call__(backend, guesses)
        if len(calls) <= right:
            return step
        slopes = step.gradients["values"].clone()
        slopes[-1] = -slopes[-1]
        return replace(step, gradients={**step.gradients, "values": slopes})

    monkeypatch.setattr(backends.Bfloat16, "autocast", False)
    monkeypatch.setattr(backends.Bfloat16, "__call__", rounded)
    recipe = swept_inversion(steps=STEPS)
    guesses = join(recipe, clients(Tiny))
    rough = backends.Bfloat16(recipe, guesses)
    return backends.Watched(recipe, guesses, rough), guesses, calls


def test_bfloat16_is_given_up_where_gradients_disagree_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend, guesses, calls = watched(monkeypatch, right=0)
    exact = ByHand(swept_inversion(steps=STEPS), guesses)(guesses)
    for _ in range(3):
        assert torch.equal(backend(guesses).gradients["values"], exact.gradients["values"])
        assert backend.name == "by_hand"
    assert len(calls) == 1


def test_bfloat16_is_given_up_where_gradients_disagree_along_the_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend, guesses, _ = watched(monkeypatch, right=STEPS_WATCHED)
    names = []
    for _ in range(2 * STEPS_WATCHED):
        backend(guesses)
        names.append(backend.name)
    assert names == ["bfloat16"] * STEPS_WATCHED + ["by_hand"] * STEPS_WATCHED


def test_bfloat16_that_agrees_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, guesses, _ = watched(monkeypatch, right=1000)
    for _ in range(2 * STEPS_WATCHED):
        backend(guesses)
    assert backend.name == "bfloat16"


def test_only_bfloat16_that_is_watched_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "has_bfloat16", lambda device: True)
    clocks(monkeypatch, by_hand=2.0, bfloat16=1.0)
    assert isinstance(choose(swept_inversion(steps=STEPS), clients(Tiny)), backends.Watched)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Callable[..., Any]]:
    """What torch.compile was asked for; it gives it back as it is."""
    asked: list[Callable[..., Any]] = []

    def fake(function: Callable[..., Any], **how: Any) -> Callable[..., Any]:
        asked.append(function)
        return function

    monkeypatch.setattr(torch, "compile", fake)
    monkeypatch.setattr(batched, "_COMPILED", {})
    return asked


def test_the_next_round_uses_what_was_compiled_and_computes_its_own_step(
    compiled: list[Callable[..., Any]],
) -> None:
    recipe = swept_inversion(steps=STEPS)
    for at in range(3):
        images = photos(SIZE).roll(at, dims=0)
        seen = [
            observation(seeded(Tiny, seed=at), images[i : i + 1], torch.tensor([i]))
            for i in range(2)
        ]
        guesses = join(recipe, seen)
        ours = batched.Compiled(recipe, guesses)(guesses)
        plain = Backend(recipe, guesses)(guesses)
        assert torch.allclose(ours.distances, plain.distances, rtol=1e-4)
        assert same_way(ours, plain)
    assert len(compiled) == 1


def test_what_was_compiled_for_something_else_is_found_out(
    compiled: list[Callable[..., Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batched, "_kind_of", lambda recipe, guesses: ())
    recipe = swept_inversion(steps=STEPS)
    other = replace(recipe, distance=distances.squared)
    guesses = join(recipe, clients(Tiny))
    batched.Compiled(other, guesses)
    ours = batched.Compiled(recipe, guesses)(guesses)
    plain = Backend(recipe, guesses)(guesses)
    assert torch.allclose(ours.distances, plain.distances, rtol=1e-4)
    assert len(compiled) == 2


def test_only_the_latest_computations_are_kept(compiled: list[Callable[..., Any]]) -> None:
    recipe = swept_inversion(steps=STEPS)
    for count in range(1, batched.MOST_COMPILED + 3):
        seen = clients(Tiny, 1) * count
        batched.Compiled(recipe, join(recipe, seen))
    assert len(batched._COMPILED) == batched.MOST_COMPILED
