"""The defence mod on Flower's messages."""

from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
from flwr.serverapp.strategy import FedAvg
from torch import Tensor, nn

from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.strategies import audit_mod, defend, persistent_accountant
from tests.support.grid import FIRST_NODE, InProcessGrid

CLIENTS = 3
MOVED = 0.25


def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(200, 100), nn.BatchNorm1d(100))


def client(*mods: Any, extra: bool = False, prefix: str = "") -> ClientApp:
    """Every weight moves by `MOVED`, every buffer as batch norm moves it."""
    app = ClientApp()

    @app.train(mods=list(mods))
    def train(message: Message, context: Context) -> Message:
        del context
        state = message.content.array_records["arrays"].to_torch_state_dict()
        moved = {prefix + n: t + (MOVED if t.is_floating_point() else 1) for n, t in state.items()}
        content = RecordDict(
            {"arrays": ArrayRecord(moved), "metrics": MetricRecord({"num-examples": 1})}
        )
        if extra:
            content["more"] = ArrayRecord(moved)
        return Message(content=content, reply_to=message)

    @app.evaluate(mods=list(mods))
    def evaluate(message: Message, context: Context) -> Message:
        del context
        return Message(
            content=RecordDict({"m": MetricRecord({"num-examples": 1})}), reply_to=message
        )

    return app


def replies(
    app: ClientApp, rounds: int = 1, run_config: dict[str, Any] | None = None
) -> list[list[Message]]:
    """What each client sends in each round; the model that is sent stays the same."""
    grid = InProcessGrid(app, CLIENTS)
    for context in grid.contexts.values():
        context.run_config.update(run_config or {})
    strategy = FedAvg(fraction_evaluate=0.0, min_evaluate_nodes=0)
    found = []
    for number in range(1, rounds + 1):
        config = ConfigRecord({"clipping_norm": 0.05})
        arrays = ArrayRecord(model().state_dict())
        messages = list(strategy.configure_train(number, arrays, config, grid))
        answers = list(grid.send_and_receive(messages))
        found.append(sorted(answers, key=lambda m: m.metadata.src_node_id))
    return found


def update(reply: Message) -> dict[str, Tensor]:
    assert not reply.has_error(), reply.error.reason
    before = model().state_dict()
    after = reply.content.array_records["arrays"].to_torch_state_dict()
    return {n: after[n].double() - before[n].double() for n in before}


def reason(reply: Message) -> tuple[int, str]:
    assert reply.has_error()
    return reply.error.code, str(reply.error.reason)


def test_none_changes_not_one_bit() -> None:
    ((plain, *_),) = replies(client())
    ((same, *_),) = replies(client(defend("none")))
    before, after = (m.content.array_records["arrays"] for m in (plain, same))
    assert list(before) == list(after)
    for name, array in before.items():
        assert array.data == after[name].data
        assert array.dtype == after[name].dtype


def test_noise_has_the_level_of_its_setting_and_spares_buffers() -> None:
    ((reply, *_),) = replies(client(defend("gaussian", std=0.01)))
    found = update(reply)
    noise = found["0.weight"] - MOVED
    assert float(noise.std()) == pytest.approx(0.01, rel=5 / 40_000**0.5)
    assert abs(float(noise.mean())) < 5 * 0.01 / 20_000**0.5
    assert found["1.num_batches_tracked"].item() == 1
    assert torch.allclose(found["1.running_mean"], torch.tensor(MOVED, dtype=torch.float64))
    after = reply.content.array_records["arrays"]
    assert after["1.num_batches_tracked"].dtype == "int64"
    assert list(after) == list(model().state_dict())


def test_each_client_and_round_has_its_own_noise() -> None:
    first, second = (
        [update(m)["0.bias"] for r in replies(client(defend("gaussian", std=1.0)), 2) for m in r]
        for _ in range(2)
    )
    drawn = torch.stack(first + second)
    assert len(drawn.unique(dim=0)) == len(drawn) == 4 * CLIENTS


def test_a_seed_repeats_the_noise_of_each_client_and_round() -> None:
    first, second = (
        [
            update(m)["0.bias"]
            for r in replies(client(defend("gaussian", std=1.0, seed=3)), 2)
            for m in r
        ]
        for _ in range(2)
    )
    assert torch.equal(torch.stack(first), torch.stack(second))
    assert len(torch.stack(first).unique(dim=0)) == 2 * CLIENTS


@pytest.mark.parametrize("key", ["defence-options", "defence-settings"])
def test_the_run_config_is_read_in_every_round(key: str) -> None:
    app = client(defend())
    config = {"defence": "clipping", key: "norm=0.5"}
    ((reply, *_),) = replies(app, run_config=config)
    trained = [update(reply)[n] for n in ("0.weight", "0.bias", "1.weight", "1.bias")]
    assert float(torch.cat([t.flatten() for t in trained]).norm()) == pytest.approx(0.5, rel=1e-4)
    ((reply, *_),) = replies(app, run_config={"defence": "none"})
    assert float(update(reply)["0.bias"].abs().max()) == pytest.approx(MOVED)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "`defend()` without a name needs `defence` in the run config"),
        ({"defence": "gausian"}, "Did you mean 'gaussian'?"),
        ({"defence": "gaussian"}, "needs the option 'std'"),
        ({"defence": "gaussian", "defence-options": "0.1"}, "must look like 'std=1e-3"),
        ({"defence": "dp-sgd", "defence-options": "noise_multiplier=1"}, "belongs to Opacus"),
    ],
)
def test_a_wrong_run_config_sends_an_error_and_no_update(
    config: dict[str, Any], message: str
) -> None:
    ((reply, *_),) = replies(client(defend()), run_config=config)
    code, text = reason(reply)
    assert code == 6
    assert message in text


def test_what_cannot_be_defended_is_not_sent() -> None:
    ((reply, *_),) = replies(client(defend("sign"), extra=True))
    assert "1 were sent and 2 are returned" in reason(reply)[1]
    ((reply, *_),) = replies(client(defend("sign"), prefix="_module."))
    assert "should return `model._module.state_dict()`" in reason(reply)[1]


def test_a_wrong_defence_is_refused_where_it_is_written() -> None:
    with pytest.raises(
        ConfigError, match="not a mod of this package: it belongs to train function"
    ):
        defend("soteria", share=0.5)
    with pytest.raises(ConfigError, match="`name` must name a defence where options are given"):
        defend(std=1.0)
    with pytest.raises(ConfigError, match="no option 'sdt'"):
        defend("gaussian", sdt=1.0)


def test_an_error_of_the_app_comes_through() -> None:
    app = ClientApp()

    @app.train(mods=[defend("sign")])
    def train(message: Message, context: Context) -> Message:
        del context
        from flwr.app import Error

        return Message(Error(code=42, reason="mine"), reply_to=message)

    ((reply, *_),) = replies(app)
    assert reason(reply) == (42, "mine")


def test_evaluation_passes_through() -> None:
    grid = InProcessGrid(client(defend("gaussian", std=1.0)), 1)
    content = RecordDict({"arrays": ArrayRecord(model().state_dict())})
    message = Message(content=content, message_type="evaluate", dst_node_id=FIRST_NODE)
    (reply,) = grid.send_and_receive([message])
    assert not reply.has_error()
    assert list(reply.content) == ["m"]


def total(reply: Message) -> float:
    floats = [t.flatten() for n, t in update(reply).items() if n != "1.num_batches_tracked"]
    return float(torch.cat(floats).norm())


def test_it_combines_with_audit_mod_and_flowers_own_mods() -> None:
    """The first mod is outermost: its change is the last. Flower's mods clip buffers too."""
    np.random.seed(0)
    noise = defend("gaussian", std=0.01)
    ((clipped_first, *_),) = replies(client(audit_mod, noise, fixedclipping_mod))
    assert clipped_first.content.config_records["fl-privacy-audit"]["partition-id"] == 0
    weight = update(clipped_first)["0.weight"]
    assert float(weight.std()) == pytest.approx(0.01, rel=0.05)
    assert float(weight.mean()) < MOVED / 100
    ((clipped_last, *_),) = replies(client(audit_mod, fixedclipping_mod, noise))
    assert 0 < total(clipped_last) < 0.05
    ((noise_alone, *_),) = replies(client(noise))
    assert total(noise_alone) > 30
    local = LocalDpMod(clipping_norm=1.0, sensitivity=1.0, epsilon=1e9, delta=1e-5)
    ((pruned, *_),) = replies(client(audit_mod, defend("pruning", share=0.5), local))
    assert float((update(pruned)["0.weight"] == 0).float().mean()) == 0.5


def test_the_accountant_outlives_the_round() -> None:
    app, seen = ClientApp(), []

    @app.train()
    def train(message: Message, context: Context) -> Message:
        with persistent_accountant(context) as accountant:
            seen.append(list(accountant.history))
            accountant.step(noise_multiplier=1.0, sample_rate=0.5)
            if len(seen) == 2:
                raise RuntimeError("after the noise was drawn")
        return Message(content=RecordDict(), reply_to=message)

    grid = InProcessGrid(app, 1)
    for _ in range(3):
        message = Message(content=RecordDict(), message_type="train", dst_node_id=FIRST_NODE)
        list(grid.send_and_receive([message]))
    assert seen == [[], [(1.0, 0.5, 1)], [(1.0, 0.5, 2)]]
