"""How long attacks take: what is allowed, what they need, and what is known of it beforehand."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fl_privacy_audit.attacks import (
    ATTACKS,
    dlg,
    first_linear,
    make_attack,
    needed_seconds,
    reconstruct_each,
    swept_inversion,
)
from fl_privacy_audit.attacks.engine import OptimisationAttack, cost
from fl_privacy_audit.core.errors import UnmetNeedError
from fl_privacy_audit.core.types import Observation
from tests.support.attack_cases import Perceptron
from tests.support.cases import LeNet, observation, photos, seeded

SIZE = 8
PAUSE = 0.1


class SlowNet(LeNet):
    """Waits in every forward pass once `pause` is set, and counts them."""

    def __init__(self) -> None:
        super().__init__(size=SIZE)
        self.pause = 0.0
        self.calls: list[float] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls.append(time.monotonic())
        time.sleep(self.pause)
        return super().forward(inputs)


@pytest.fixture(autouse=True)
def nothing_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cost.MEASURED.clear()
    yield
    cost.MEASURED.clear()


def slow(images: int = 1, pause: float = PAUSE) -> tuple[Observation, SlowNet]:
    seen = observation(seeded(SlowNet), photos(SIZE)[:images], torch.arange(images))
    model = seen.model
    assert isinstance(model, SlowNet)
    model.pause = pause
    model.calls.clear()
    return seen, model


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_what_an_attack_needs_is_its_steps_at_the_pace_of_this_model() -> None:
    seen, model = slow()
    needed = needed_seconds(swept_inversion(steps=300, restarts=2), seen)
    # A step replays the client once.
    assert needed is not None
    assert 600 * PAUSE <= needed < 1200 * PAUSE
    tried = len(model.calls)
    assert tried <= 4
    twice = needed_seconds(swept_inversion(steps=600, restarts=2), seen)
    assert twice == pytest.approx(2 * needed)
    assert len(model.calls) == tried


def test_the_first_step_of_a_process_is_no_measure_of_others() -> None:
    class ColdNet(SlowNet):
        """Takes long in its first forward passes alone, as does what torch sets up once."""

        def forward(self, inputs: Tensor) -> Tensor:
            time.sleep(0.3 if len(self.calls) < 3 else 0.0)
            return super().forward(inputs)

    seen = observation(seeded(ColdNet), photos(SIZE)[:1], torch.arange(1))
    model = seen.model
    assert isinstance(model, ColdNet)
    model.calls.clear()
    needed = needed_seconds(swept_inversion(steps=300, restarts=1), seen)
    assert needed is not None and needed < 0.2 * 300


def test_what_an_attack_took_says_what_it_needs() -> None:
    seen, _ = slow(pause=0.0)
    attack = swept_inversion(steps=40)
    started = time.monotonic()
    attack.reconstruct(seen, rng=rng())
    taken = time.monotonic() - started
    needed = needed_seconds(attack, seen)
    assert needed is not None
    assert 0 < needed <= taken * 40 / 39  # the first step is left out


def test_of_a_closed_form_nothing_is_known_before_it_ran() -> None:
    seen = observation(seeded(Perceptron), photos(16)[:1], torch.tensor([3]))
    attack = first_linear()
    assert needed_seconds(attack, seen) is None
    (result,) = reconstruct_each(attack, [seen], rngs=[rng()])
    assert not isinstance(result, Exception)
    assert needed_seconds(attack, seen) is not None


def test_what_an_attack_refuses_needs_nothing() -> None:
    two, _ = slow(images=2)
    with pytest.raises(UnmetNeedError, match="batch of one"):
        needed_seconds(make_attack("idlg"), two)


@pytest.mark.parametrize("seconds", [0.0, 0.1, 1.0])
@pytest.mark.parametrize(
    "name", [name for name in ATTACKS if isinstance(make_attack(name), OptimisationAttack)]
)
def test_no_evaluation_begins_when_the_time_is_up(name: str, seconds: float) -> None:
    """But those without which there would be no result: one that looks, one that scores."""
    seen, model = slow()
    started = time.monotonic()
    try:
        make_attack(name).reconstruct(seen, rng=rng(), seconds=seconds)
    except UnmetNeedError:
        return
    late = [at for at in model.calls if at > started + seconds + PAUSE]
    assert len(late) <= 2


def test_inner_iterations_stop_too() -> None:
    seen, model = slow()
    result = dlg().reconstruct(seen, rng=rng(), seconds=3 * PAUSE)
    assert result.stopped == "out of time"
    assert len(model.calls) < 10
