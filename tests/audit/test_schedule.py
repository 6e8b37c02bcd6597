"""Who is attacked in a round, and for how long."""

import time
from pathlib import Path
from typing import Any

import pytest

from fl_privacy_audit.audit.schedule import ClientReply, Release, schedule
from fl_privacy_audit.core.reasons import Reason
from tests.support.builders import audit_config, make_reply

BOTH = ("server", "release")


def release(**changes: Any) -> Release:
    return Release(before=dict, after=dict, **changes)


def test_each_view_has_its_share_of_the_seconds() -> None:
    config = audit_config(Path(), views=BOTH, seconds_per_round=60.0)
    began = time.monotonic()
    plans = schedule(config, 1, [make_reply()], release())
    late = time.monotonic() - began
    assert [plan.deadline - began for plan in plans] == pytest.approx([30, 60], abs=late + 1e-6)
    began = time.monotonic()
    (alone,) = schedule(audit_config(Path(), seconds_per_round=60.0), 1, [make_reply()], None)
    late = time.monotonic() - began
    assert alone.deadline - began == pytest.approx(60, abs=late + 1e-6)


READABLE = [make_reply(0), make_reply(1)]
LOST = make_reply(2, status="failed")


@pytest.mark.parametrize(
    ("server_round", "replies", "made", "reason"),
    [
        (1, READABLE, release(), None),
        (2, READABLE, release(), Reason.of("not due", every=2)),
        (1, READABLE, None, Reason.of("nothing released")),
        (1, [LOST], release(), Reason.of("nothing released")),
        (
            1,
            READABLE,
            release(selected_by="Krum"),
            Reason.of("release is no mean", strategy="Krum"),
        ),
        (1, READABLE[:1], release(selected_by="Krum"), None),
    ],
)
def test_the_release_of_a_round(
    server_round: int, replies: list[ClientReply], made: Release | None, reason: Reason | None
) -> None:
    config = audit_config(Path(), views=BOTH, every=2)
    _, plan = schedule(config, server_round, [*replies, LOST], made)
    (slot,) = plan.slots
    assert (slot.view, slot.round, slot.release) == ("release", server_round, made)
    assert (slot.replies, slot.reason) == (tuple(r for r in replies if r is not LOST), reason)


def test_the_choice_does_not_depend_on_the_order_of_the_replies() -> None:
    replies = [make_reply(i, node=90 - i) for i in range(3)]
    replies += [make_reply(None, node=n) for n in (8, 5)]
    config = audit_config(Path(), clients_per_round=2)

    def chosen(replies: list[ClientReply], server_round: int) -> set[int]:
        (plan,) = schedule(config, server_round, replies, None)
        return {s.replies[0].client.node_id for s in plan.slots if s.reason is None}

    for server_round in range(1, 5):
        assert len(chosen(replies, server_round)) == 2
        assert chosen(replies, server_round) == chosen(replies[::-1], server_round)
