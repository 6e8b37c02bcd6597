"""Hostile replies cost at most the hostile client's own record."""

import random
from collections.abc import Iterable

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp.strategy import FedAvg

from tests.support.builders import tiny_net
from tests.support.grid import InProcessGrid

from . import replies
from .hostile import Turn
from .hostile_clients import CLIENTS, KINDS, honest_app


def test_each_kind_of_reply_alone() -> None:
    tally = replies.run(len(KINDS), seed=0)
    assert len(tally.trials) == len(KINDS) > 80
    tally.check()


@pytest.mark.slow
def test_kinds_of_replies_together() -> None:
    replies.run(200, seed=1).check()


def answers() -> Iterable[Message]:
    grid = InProcessGrid(honest_app({}), CLIENTS)
    arrays = ArrayRecord(tiny_net().state_dict())
    strategy = FedAvg(fraction_evaluate=0.0, min_evaluate_nodes=0)
    return grid.send_and_receive(strategy.configure_train(1, arrays, ConfigRecord(), grid))


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_fits_an_honest_reply(kind: str) -> None:
    sent = list(answers())
    KINDS[kind](Turn(sent, sent[1], random.Random(0), [], [*answers()][:1]))
