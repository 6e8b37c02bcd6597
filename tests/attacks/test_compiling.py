"""Code made beside an attack: for later rounds, whatever the clock says, and at no attack's cost."""

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from fl_privacy_audit.attacks import swept_inversion
from fl_privacy_audit.attacks.engine import batched, calibration, compiling
from fl_privacy_audit.attacks.engine import gradients as backends
from fl_privacy_audit.attacks.engine.backend import Backend, same_way
from fl_privacy_audit.attacks.engine.compiling import Beside, Traced, trace
from fl_privacy_audit.core import clock
from fl_privacy_audit.core.files import LOCK, is_held
from tests.attacks.test_backends import TinyLeNet, joined_guesses, targets

STEPS = backends.FEWEST_STEPS
PATIENCE = 120.0
ENDS = "import pathlib, pickle, sys; place = pathlib.Path(pickle.load({})[0]); {}"
NOTES_IT = ENDS.format(
    "(sys.stdin.buffer.read(8), sys.stdin.buffer)[1]", "(place / 'seconds').write_text('0.5')"
)
FAILS = "raise SystemExit(3)"


@pytest.fixture(autouse=True)
def _caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "torch"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(backends, "_BESIDE", {})
    monkeypatch.setattr(batched, "_COMPILED", {})


def child(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(compiling, "COMMAND", (sys.executable, "-c", script))


def add(numbers: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"sum": numbers["one"] + numbers["other"].sin()}


def some() -> dict[str, Tensor]:
    return {"one": torch.ones(3), "other": torch.arange(3.0)}


def traced() -> Traced:
    return trace(add, some())


def test_what_is_traced_computes_the_same() -> None:
    graph, given, _ = traced()
    (found,) = graph(*given)
    assert torch.equal(found, add(some())["sum"])


def test_a_process_notes_what_a_step_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, NOTES_IT)
    beside, other = Beside("some"), Beside("other")
    assert beside.seconds is None
    beside.begin(traced)
    assert Beside("some").wait(PATIENCE) == 0.5  # of another process, which waits for this one's
    assert beside.wait(PATIENCE) == 0.5
    assert other.wait(PATIENCE) is None


@pytest.mark.parametrize("content", ["", "soon", "\x00"])
def test_a_damaged_note_is_none(content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, NOTES_IT)
    beside = Beside("some")
    beside._folder.mkdir(parents=True)
    (beside._folder / compiling.NOTE).write_text(content)
    assert beside.seconds is None
    beside.begin(traced)
    assert beside.wait(PATIENCE) == 0.5


def test_only_one_of_several_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, "input()")
    beside, made = Beside("some"), []
    beside.begin(traced)
    late = Beside("some")
    late.begin(lambda: made.append(0) or traced())  # type: ignore[func-returns-value]
    assert not made
    assert late.wait(0.2) is None
    assert beside._child is not None
    beside._child.kill()
    assert beside.wait(PATIENCE) is None


@pytest.mark.parametrize("script", [FAILS, "nonsense("])
def test_one_that_fails_is_not_tried_again_here(
    script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(monkeypatch, script)
    beside = Beside("some")
    beside.begin(traced)
    assert beside.wait(PATIENCE) is None
    beside.begin(lambda: pytest.fail("tried again"))
    assert beside.wait(PATIENCE) is None


def test_what_cannot_be_traced_is_not_compiled() -> None:
    def broken() -> Traced:
        raise RuntimeError

    beside = Beside("some")
    beside.begin(broken)
    assert beside.wait(PATIENCE) is None
    assert not is_held(beside._folder / LOCK)


class Stub:
    """Has made a step of so many seconds, after as long as it is given."""

    seconds: float | None = 0.01
    waited: ClassVar[list[float]] = []

    def __init__(self, name: str) -> None:
        self.begun = 0

    def begin(self, make: Callable[[], Any]) -> None:
        self.begun += 1

    def wait(self, patience: float) -> float | None:
        self.waited.append(patience)
        return self.seconds


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(backends, "Beside", Stub)
    monkeypatch.setattr(backends, "can_compile", lambda device: True)
    monkeypatch.setattr(backends, "BACKENDS", {**backends.BACKENDS, "compiled": batched.Vmap})
    monkeypatch.setattr(Stub, "waited", [])
    return monkeypatch


def chosen(
    number: int, seconds: float, left: float = math.inf, steps: int = STEPS
) -> type[Backend]:
    """In a round, with a layered step of so many seconds."""
    measured = {"by_hand": 2 * seconds, "layered": seconds}
    recipe = swept_inversion(steps=steps)
    seen = [replace(one, round=number) for one in targets(TinyLeNet, 1)[:2]]
    guesses = joined_guesses(recipe, seen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "recall", lambda facts: measured)
        return type(backends.choose_backend(recipe, guesses, clock.now() + left))


@pytest.mark.parametrize("left", [40.0, math.inf])
def test_the_first_round_is_plain_and_later_ones_are_compiled(
    left: float, stub: pytest.MonkeyPatch
) -> None:
    found = [chosen(number, 0.11, left) for number in (1, 2, 5)]
    assert found == [batched.Layered, batched.Vmap, batched.Vmap]
    (beside,) = backends._BESIDE.values()
    assert isinstance(beside, Stub)
    assert beside.begun == 3
    assert len(Stub.waited) == 2
    assert all(waited <= left / 2 for waited in Stub.waited)


@pytest.mark.parametrize(
    ("seconds", "left", "steps", "begun"),
    [
        (0.09, math.inf, STEPS, False),  # little work
        (0.11, 14.0, STEPS, False),  # little time
        (0.21, math.inf, STEPS, False),  # long steps
        (0.11, math.inf, STEPS, True),
    ],
)
def test_what_is_worth_compiling(
    seconds: float, left: float, steps: int, begun: bool, stub: pytest.MonkeyPatch
) -> None:
    found = chosen(2, seconds, left, steps)
    assert found is (batched.Vmap if begun else batched.Layered)
    assert bool(backends._BESIDE) is begun


def test_much_work_waits_in_the_first_round_too(stub: pytest.MonkeyPatch) -> None:
    assert chosen(1, 0.11, steps=3000) is batched.Vmap


@pytest.mark.parametrize("seconds", [None, 0.105, 0.5])
def test_code_that_is_not_faster_is_not_taken(
    seconds: float | None, stub: pytest.MonkeyPatch
) -> None:
    stub.setattr(Stub, "seconds", seconds)
    assert chosen(2, 0.11) is batched.Layered


def test_a_compiler_that_fails_costs_no_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: object, **how: object) -> Callable[..., Any]:
        def fails(*arguments: object) -> None:
            raise OSError("no compiler")

        return fails

    monkeypatch.setattr(torch, "compile", broken)
    recipe = swept_inversion(steps=STEPS)
    guesses = joined_guesses(recipe, targets(TinyLeNet, 1)[:3])
    backend = batched.Compiled(recipe, guesses)
    assert backend.name == "layered"
    assert same_way(backend(guesses), Backend(recipe, guesses)(guesses))


@pytest.mark.slow
def test_the_second_round_finds_what_was_compiled_beside_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not backends.can_compile(torch.device("cpu")):
        pytest.skip("needs a C++ compiler")
    monkeypatch.setattr(backends, "WORTH_FINDING", 0.0)
    monkeypatch.setattr(backends, "FASTER", 0.0)
    monkeypatch.setattr(calibration, "recall", lambda facts: {"by_hand": 0.1, "layered": 0.05})
    attack, images, names = swept_inversion(steps=STEPS, restarts=2), [], []
    for number in (1, 2, 2):
        counters.clear()
        batched._COMPILED.clear()
        seen = [replace(one, round=number) for one in targets(TinyLeNet, 1)[:2]]
        rngs = [torch.Generator().manual_seed(at) for at in range(2)]
        made = attack.reconstruct_many(seen, rngs=rngs, seconds=4 * PATIENCE)
        assert not any(isinstance(one, Exception) for one in made)
        results = [one for one in made if not isinstance(one, Exception)]
        names.append(results[0].details["backend"])
        images.append(torch.stack([one.images for one in results]))
        assert counters["inductor"]["fxgraph_cache_hit"] == (number > 1)
        assert counters["inductor"]["fxgraph_cache_miss"] == 0
    assert names == ["layered", "compiled", "compiled"]
    assert torch.equal(images[1], images[2])
