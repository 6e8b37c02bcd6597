"""What is kept of a reply that no honest client would send."""

import math
from typing import Any

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from fl_privacy_audit import ClientReply
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.strategies.capture import Reading, capture, snapshot, told_apart
from fl_privacy_audit.strategies.mods import KEY
from tests.support.builders import IMAGE, make_reply, tiny_net
from tests.support.grid import InProcessGrid


def exchanged() -> tuple[Message, Message]:
    """A message to a client, and its honest reply."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        del context
        arrays = message.content.array_records["arrays"]
        metrics = MetricRecord({"num-examples": 1})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    grid = InProcessGrid(app, 1)
    strategy = FedAvg(min_train_nodes=1, min_available_nodes=1)
    arrays = ArrayRecord(tiny_net().state_dict())
    (message,) = strategy.configure_train(1, arrays, ConfigRecord(), grid)
    (reply,) = grid.send_and_receive([message])
    return message, reply


def reply_with(metrics: dict[str, Any], side: dict[str, Any] | None = None) -> ClientReply:
    """What is captured of a reply that holds this."""
    message, reply = exchanged()
    reply.content.metric_records["metrics"].update(metrics)
    if side is not None:
        reply.content[KEY] = ConfigRecord(side)
    (captured,) = capture(snapshot([message]), [reply], Reading(image=IMAGE))
    return captured


@pytest.mark.parametrize(
    ("said", "known"),
    [
        (math.nan, None),
        (math.inf, None),
        (-5, None),
        (1e300, None),
        (10**400, None),
        ([1, 2], None),
        (0, 0),
        (7, 7),
        (2.5, 2),
    ],
)
def test_examples_that_nobody_can_count_are_not_known(said: Any, known: int | None) -> None:
    assert reply_with({"num-examples": said}).num_examples == known


def test_numbers_of_a_client_are_kept_as_they_are_and_few() -> None:
    odd = {"epsilon": math.inf, "long": 10**400, "deep": -(10**400), "\x1b[m" + "x" * 999: 1.0}
    reported = reply_with(odd | {f"metric {n}": 1.0 for n in range(3000)}).reported
    assert (reported["epsilon"], reported["long"], reported["deep"]) == (
        math.inf,
        math.inf,
        -math.inf,
    )
    assert "\ufffd[m" + "x" * 97 + " ..." in reported
    assert len(reported) < 101


@pytest.mark.parametrize("claimed", [-1, 2**64, True, 1.0, "1", [1], b"1"])
def test_what_is_no_partition_is_none(claimed: Any) -> None:
    assert reply_with({}, {"partition-id": claimed}).client.partition is None


def test_a_partition_that_two_claim_is_neithers() -> None:
    holders: dict[int, int | None] = {}
    replies = [make_reply(node=node, partition=3) for node in (1, 2)]
    replies.append(make_reply(node=4, partition=5))
    names = [str(reply.client) for reply in told_apart(replies, holders)]
    assert names == ["1", "2", "partition 5"]
    later = [make_reply(node=node, partition=part) for node, part in [(1, 3), (2, 5), (4, 5)]]
    names = [str(reply.client) for reply in told_apart(later, holders)]
    assert names == ["1", "2", "partition 5"], "who had it in a round before keeps it"


def test_more_arrays_than_the_model_has_are_not_decoded() -> None:
    message, reply = exchanged()
    reading = Reading(image=IMAGE, names=["0.weight"])
    (captured,) = capture(snapshot([message]), [reply], reading)
    assert captured.reason == Reason.of("too many arrays", count=4, most=1)


def test_another_record_under_the_mods_name_stays_for_the_strategy() -> None:
    message, reply = exchanged()
    reply.content[KEY] = MetricRecord({"num-examples": 5})
    capture(snapshot([message]), [reply], Reading(image=IMAGE))
    assert KEY in reply.content


def test_nobody_answers_what_another_was_asked() -> None:
    message, reply = exchanged()
    reply.metadata.__dict__["_src_node_id"] = 7
    captured = capture(snapshot([message]), [reply], Reading(image=IMAGE))
    reasons = [each.reason and each.reason.code for each in captured]
    assert reasons == ["answers no message", "timed out"]


@pytest.mark.parametrize(("code", "kept"), [(2, 2), (-5, -5), ("two\x1b", "'two\\x1b'")])
def test_the_code_of_an_error_is_short(code: Any, kept: Any) -> None:
    message, reply = exchanged()
    reply.__dict__.update({"_content": None, "_error": Error(code, "why")})
    (captured,) = capture(snapshot([message]), [reply], Reading(image=IMAGE))
    assert captured.reason == Reason.of("client error", number=kept, message="why")


def test_a_code_too_long_to_print_costs_the_code_alone() -> None:
    message, reply = exchanged()
    reply.__dict__.update({"_content": None, "_error": Error(10**5000, "why")})
    (captured,) = capture(snapshot([message]), [reply], Reading(image=IMAGE))
    assert captured.reason is not None
    assert len(captured.reason.model_dump_json()) < 300
