"""Plug-ins that go wrong cost one outcome; what the promise rests on is taken away to see it broken."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fl_privacy_audit import Client
from fl_privacy_audit.audit import results
from fl_privacy_audit.core import guard
from fl_privacy_audit.core.guard import Guard
from fl_privacy_audit.strategies import wrapper
from tests.support.grid import FIRST_NODE

from .fault_kinds import KINDS, raising
from .faults import CLIENTS, ROUNDS, Trigger, audited, broken_promises, image_of, run, sound


def test_a_few_faults_cost_one_outcome_each() -> None:
    run(6, seed=0).check()


@pytest.mark.slow
def test_more_faults_cost_one_outcome_each() -> None:
    run(60, seed=1).check()


@pytest.mark.exhaustive
def test_each_fault_at_each_place_costs_one_outcome() -> None:
    tally = run(sum(map(len, KINDS.values())), seed=2)
    assert len({name.partition(" ")[2] for name in tally.trials}) >= 60
    tally.check()


def trial(place: str, kind: str, **when: Any) -> tuple[list[str], list[str]]:
    """Which promises were broken, and what records say of that attack, in order."""
    trigger = Trigger(place=place, fault=KINDS[place][kind], **when)
    came = audited(trigger)
    assert trigger.fired
    broken = [promise.partition(" (")[0] for promise in broken_promises(trigger, came)]
    differ = sound(place).outcomes.items() - came.outcomes.items()
    return broken, sorted(came.outcomes[at] for at, _ in differ)


def test_an_exit_costs_the_outcome_of_one_attack_on_one_target() -> None:
    broken, differ = trial("attack", "raises: exit with text", call=1)
    (outcome,) = differ
    assert not broken
    assert outcome.startswith("('failed', ")
    assert "it raised SystemExit: enough" in outcome


def test_a_fault_in_a_control_costs_that_control() -> None:
    broken, differ = trial("attack", "raises: MemoryError", call=CLIENTS)
    (outcome,) = differ
    assert not broken
    assert outcome.startswith("('scored', ")
    assert outcome.count("'failed'") == 1


def test_a_fault_in_the_scoring_of_one_target_costs_its_scores_alone() -> None:
    image = image_of(Client(FIRST_NODE)).images[0]
    broken, differ = trial("metric", "returns: NaN", image=image, again=True)
    assert not broken
    assert len(differ) == 2 * ROUNDS, "of one client, two attacks"
    assert all(outcome.startswith("('scored', None, {'mse'") for outcome in differ)
    broken, again = trial("metric", "raises: half a character", image=image, again=True)
    assert (broken, again) == ([], differ)


@pytest.mark.parametrize("place", ["loss", pytest.param("forward", marks=pytest.mark.slow)])
def test_a_fault_in_the_replay_check_costs_the_check(place: str) -> None:
    broken, differ = trial(place, "raises: message that exits", where="check_replay")
    (check,) = differ
    assert not broken
    assert "its message cannot be made: SystemExit" in check


@pytest.mark.slow
def test_a_fault_in_a_search_of_all_targets_is_one_of_none() -> None:
    broken, differ = trial("model", "raises: out of GPU memory", where="reconstruct_each")
    assert (broken, differ) == ([], [])


@pytest.mark.parametrize(
    "kind",
    [
        "leaves: random",
        *(
            pytest.param(f"leaves: {kind}", marks=pytest.mark.slow)
            for kind in ("default dtype", "torch.rand", "new variable")
        ),
    ],
)
def test_without_the_guard_a_leak_changes_training(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    assert trial("attack", kind, again=True)[0] == []
    for module in (guard, wrapper):
        monkeypatch.setattr(module, "process_state_kept", nothing_kept)
    broken, _ = trial("attack", kind, again=True)
    assert broken[0] in ("trainings changed", "trainings stopped")


@contextlib.contextmanager
def nothing_kept(**given: object) -> Iterator[list[str]]:
    del given
    yield []


def open_gate(self: Guard, whose: str, work: Callable[[], Any], *, often: bool = False) -> Any:
    del self, whose, often
    return work()


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("attack", "raises: RuntimeError"),
        *(
            pytest.param(place, f"raises: {kind}", marks=pytest.mark.slow)
            for place, kind in [
                ("metric", "CancelledError"),
                ("truth", "exit 0"),
                ("sink", "full disk"),
                ("progress", "own BaseException"),
            ]
        ),
    ],
)
def test_without_the_guard_a_fault_costs_others(
    monkeypatch: pytest.MonkeyPatch, place: str, kind: str
) -> None:
    assert trial(place, kind, call=1)[0] == []
    monkeypatch.setattr(Guard, "call", open_gate)
    assert "records of others missing" in broken_by(place, kind)


def broken_by(place: str, kind: str) -> list[str]:
    trigger = Trigger(place=place, fault=KINDS[place][kind], call=1)
    return [each.partition(" (")[0] for each in broken_promises(trigger, audited(trigger))]


@pytest.mark.slow
def test_what_an_attack_returns_must_be_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not looked at, its record cannot be written."""
    kind = "returns: details half a character"
    assert trial("attack", "returns: details that exit", call=1)[0] == []
    monkeypatch.setattr(results, "_plain", lambda result: result)
    assert "records of others missing" in broken_by("attack", kind)


SOME = [p if p == "metric" else pytest.param(p, marks=pytest.mark.slow) for p in KINDS]


@pytest.mark.parametrize("place", SOME)
def test_ctrl_c_goes_through(place: str) -> None:
    trigger = Trigger(place=place, fault=raising(KeyboardInterrupt))
    assert isinstance(audited(trigger).training, KeyboardInterrupt)


@pytest.mark.parametrize("place", [place for place in SOME if "sink" not in str(place)])
def test_fail_fast_raises(place: str) -> None:
    trigger = Trigger(place=place, fault=raising(lambda: SystemExit("enough")))
    raised = audited(trigger, fail_fast=True).training
    assert isinstance(raised, RuntimeError)
    assert str(raised) == "it raised SystemExit: enough"
