"""The guard: what it finds in what a server sends, and that it costs an honest federation nothing."""

import copy
import logging
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.defences.inspection import (
    changes,
    inspect_changes,
    inspect_loss,
    inspect_weights,
    sketch,
)
from fl_privacy_audit.strategies import guard
from fl_privacy_audit.strategies.guard import STATE
from tests.support.grid import FIRST_NODE, InProcessGrid
from tests.support.guarded import (
    CHEATS,
    NETWORKS,
    STRATEGIES,
    Spy,
    biased,
    cheating_round,
    client,
    fished,
    honest_federations,
    honest_rounds,
    imprinted,
    perceptron,
    quick_start,
    refused,
)


def context() -> Context:
    return InProcessGrid(ClientApp(), 1).contexts[FIRST_NODE]


def round_of(
    mod: Any, model: nn.Module, held: Context, loss: float = 2.0, kind: str = "train"
) -> Message:
    """The reply of a client that sends back what it was sent, and reports this loss."""
    content = RecordDict(
        {"arrays": ArrayRecord(model.state_dict()), "config": ConfigRecord({"server-round": 1})}
    )

    def train(message: Message, context: Context) -> Message:
        del context
        metrics = MetricRecord({"num-examples": 8, "train_loss": loss})
        record = RecordDict({"arrays": message.content["arrays"], "metrics": metrics})
        return Message(content=record, reply_to=message)

    reply: Message = mod(Message(content, FIRST_NODE, kind), held, train)
    return reply


@pytest.mark.parametrize("cheat", CHEATS)
def test_it_finds_each_way_of_cheating(cheat: str) -> None:
    assert all(cheating_round(cheat, NETWORKS, seed) for seed in range(200, 210))


def test_honest_federations_raise_no_alarm() -> None:
    """A tenth of what `python -m benchmarks.guard` runs, with seeds of its own."""
    federations = [*honest_federations(NETWORKS, 300)][::3]
    alarms = [honest_rounds(n, NETWORKS, s, w, seed, 2) for n, s, w, seed in federations]
    assert sum(map(len, alarms)) == 48
    assert [reason for rounds in alarms for errors in rounds for reason in errors] == []


@pytest.mark.parametrize(
    ("model", "code"),
    [
        (imprinted(quick_start(), 1), "bias ladder (layer 0.measure, rows 64, share 1.0)"),
        (biased(perceptron(), 1), "bias quantiles (layer 1, rows 256"),
        (fished(quick_start(), 1), "silent rows (layer 10, rows 10, silent 9)"),
    ],
)
def test_the_refusal_says_what_was_seen(model: nn.Module, code: str) -> None:
    assert code in refused(model, context())


def test_a_refusal_costs_one_client_one_round() -> None:
    """Of two clients one refuses; the strategy goes on with the other, and next round with both."""
    honest, cheating = perceptron(), biased(perceptron(), 1)
    app = client(perceptron, 1, [])
    grid = InProcessGrid(app, 2)
    spy = Spy([])
    strategy = spy.watch(STRATEGIES["FedAvg"]())
    configure = strategy.configure_train

    def cheat(number: int, *others: Any) -> Any:
        messages = list(configure(number, *others))
        if number == 2:
            messages[0] = copy.deepcopy(messages[0])  # the strategy sends all clients one record
            messages[0].content["arrays"] = ArrayRecord(cheating.state_dict())
        return messages

    strategy.configure_train = cheat  # type: ignore[method-assign, assignment]
    result = strategy.start(grid, ArrayRecord(honest.state_dict()), num_rounds=3)
    assert [len(errors) for errors in spy.errors] == [0, 1, 0]
    assert "the client does not train on what was sent: bias quantiles" in spy.errors[1][0]
    assert all(t.isfinite().all() for t in result.arrays.to_torch_state_dict().values())


def test_a_warning_leaves_the_reply_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "fl_privacy_audit"):
        reply = round_of(guard(), fished(quick_start(), 1), context())
    assert not reply.has_error()
    assert list(reply.content) == ["arrays", "metrics"]
    assert "silent rows" in caplog.text


def test_what_was_refused_is_not_remembered() -> None:
    held, mod = context(), guard("refuse")
    model = quick_start()
    round_of(mod, model, held)
    before = dict(held.state[STATE])
    assert round_of(mod, fished(model, 1), held).has_error()
    assert dict(held.state[STATE]) == before
    assert not round_of(mod, model, held).has_error()


def test_other_arrays_than_in_the_last_round_are_seen() -> None:
    held, mod = context(), guard("refuse")
    assert not round_of(mod, perceptron(), held).has_error()
    reply = round_of(mod, perceptron(300), held)
    assert "other arrays (before 6, now 6)" in str(reply.error.reason)


def test_a_loss_that_scores_set_by_hand_make_is_seen_before_anything_leaves() -> None:
    model = quick_start()
    with torch.no_grad():
        model[-1].bias[0] = -1000.0  # type: ignore[index]
    held, mod = context(), guard("refuse")
    reply = round_of(mod, model, held, loss=100.0)
    assert "implausible loss (loss 100.0, usual 2.303, apart 1000" in str(reply.error.reason)
    assert not round_of(mod, model, context(), loss=20.0).has_error()
    # A model that diverged has such a loss without such biases.
    assert not round_of(mod, quick_start(), context(), loss=1e6).has_error()
    assert not inspect_loss(float("nan"), 0.0, model.state_dict())


def test_evaluation_is_left_alone() -> None:
    assert not round_of(
        guard("refuse"), fished(quick_start(), 1), context(), kind="evaluate"
    ).has_error()


def test_an_action_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r'`on_alarm` must be "warn" or "refuse"'):
        guard("scream")  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), moved=st.floats(0.0, 3.0), size=st.sampled_from([7, 300, 5000]))
def test_a_sketch_tells_how_far_a_layer_moved(seed: int, moved: float, size: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    before = torch.randn(8, size, generator=rng)
    step = torch.randn(8, size, generator=rng)
    after = before + moved * step * before.norm() / step.norm()
    found = changes(sketch({"a.weight": after}, seed), sketch({"a.weight": before}, seed))["a"]
    assert found == pytest.approx(moved, rel=0.4, abs=1e-5)


@pytest.mark.parametrize(
    ("changed", "before", "seen"),
    [
        ({"a": 0.9, "b": 0.01, "c": 0.02}, {}, ["a"]),
        ({"a": 0.9, "b": 0.01, "c": 0.02}, {"a": 0.2}, []),
        ({"a": 0.9, "b": 0.5, "c": 0.4}, {}, []),
        ({"a": 0.4, "b": 0.01, "c": 0.02}, {}, []),
        # A frozen body under a head that trains.
        ({"a": 0.9, "b": 0.0, "c": 0.0}, {}, []),
        ({"a": 0.9, "b": 0.0, "c": 0.0}, {"a": 0.01}, ["a"]),
    ],
)
def test_a_jump_is_one_layer_alone(
    changed: Mapping[str, float], before: Mapping[str, float], seen: list[str]
) -> None:
    assert [reason.figures["layer"] for reason in inspect_changes(changed, before)] == seen


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_new_and_odd_weights_are_honest(make: Any) -> None:
    model = make()
    assert inspect_weights(model.state_dict()) == []
    for odd in (0.0, 1.0, float("nan")):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(odd)
        assert inspect_weights(model.state_dict()) == []
