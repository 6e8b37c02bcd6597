"""What the guard lets through, and what it says."""

import random

import pytest

from fl_privacy_audit.core.errors import AttackError
from fl_privacy_audit.core.guard import Guard
from fl_privacy_audit.core.reasons import Reason
from tests.reliability.fault_kinds import ESCAPE, HUGE, RAISED, SURROGATE


@pytest.mark.parametrize("name", RAISED)
def test_whatever_is_raised_is_a_reason_that_can_be_written(name: str) -> None:
    def work() -> None:
        raise RAISED[name]()

    reason = Guard().result("somebody", work)
    assert isinstance(reason, Reason)
    line = reason.model_dump_json()
    assert Reason.model_validate_json(line) == reason
    assert len(line) < 2000
    assert not any(mark in line for mark in (SURROGATE[5], ESCAPE[0], "\\u001b", "\\u202e"))


def test_only_ctrl_c_goes_through() -> None:
    def work() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Guard().call("somebody", work)


def test_failing_fast_raises() -> None:
    def broken() -> None:
        raise AttackError("it broke")

    def leaving() -> None:
        raise SystemExit(3)

    guard = Guard(fail_fast=True)
    with pytest.raises(AttackError, match="it broke"):
        guard.result("somebody", broken)
    with pytest.raises(RuntimeError, match=r"^it raised SystemExit: 3$") as caught:
        guard.result("somebody", leaving)
    assert isinstance(caught.value.__cause__, SystemExit)
    assert isinstance(guard.call("somebody", broken), AttackError)


def test_what_was_changed_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard()
    for _ in range(3):
        assert guard.call("attack 'odd'", lambda: 1 + int(random.random() < 2)) == 2
    (message,) = caplog.messages
    assert message.startswith("privacy audit: attack 'odd' changed random numbers of Python; ")
    guard.call("attack 'other'", random.random)
    assert len(caplog.messages) == 2


def test_a_text_without_end_is_cut() -> None:
    def work() -> None:
        raise ValueError(HUGE)

    reason = Guard().result("somebody", work)
    assert isinstance(reason, Reason)
    assert len(str(reason.figures["message"])) < 1010
