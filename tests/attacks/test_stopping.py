"""Early stopping by the attack's own distance."""

from dataclasses import replace

import pytest
import torch

from fl_privacy_audit.attacks import ATTACKS, dlg, inverting_gradients, make_attack
from fl_privacy_audit.attacks.engine import OptimisationAttack
from fl_privacy_audit.core.types import Reconstruction
from tests.support.cases import LeNet, observation, photos, seeded


class Tiny(LeNet):
    def __init__(self) -> None:
        super().__init__(size=8)


SEEN = observation(seeded(Tiny), photos(8)[:1], torch.tensor([3]))


def run(attack: OptimisationAttack, calls: list[tuple[int, int]] | None = None) -> Reconstruction:
    def progress(at: int, of: int) -> None:
        if calls is not None:
            calls.append((at, of))

    return attack.reconstruct(SEEN, rng=torch.Generator().manual_seed(0), progress=progress)


def test_a_search_that_is_stuck_stops_and_loses_nothing() -> None:
    calls: list[tuple[int, int]] = []
    # Without a gradient DLG is stuck from the start.
    stuck = replace(dlg(steps=60, restarts=1), gradient_rule=torch.zeros_like)
    stopped = run(stuck, calls)
    whole = run(replace(stuck, patience=0))
    assert stopped.stopped == "converged"
    assert whole.stopped == "finished"
    assert stopped.steps < whole.steps == 60
    assert (stopped.images - whole.images).abs().max() < 1e-3
    assert calls[-1] == (60, 60)
    assert [at for at, _ in calls] == sorted(at for at, _ in calls)


def test_a_search_that_still_gains_goes_on() -> None:
    gaining = replace(inverting_gradients(steps=60), patience=20)
    assert run(gaining).stopped == "finished"
    # With nothing to gain by a learning rate of almost nothing it stops at the second look.
    still = replace(inverting_gradients(steps=60, learning_rate=1e-12), patience=20)
    result = run(still)
    assert result.stopped == "converged"
    assert result.steps == 40


@pytest.mark.parametrize("name", ATTACKS)
def test_recipes_whose_learning_rate_falls_do_not_stop_early(name: str) -> None:
    attack = make_attack(name)
    if isinstance(attack, OptimisationAttack) and attack.patience:
        assert {attack.schedule(done) for done in (0.0, 0.3, 0.6, 0.9)} == {1.0}
