"""What goes wrong inside an audit, or in the strategy, leaves training and the records whole."""

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from fl_privacy_audit import Auditor, read_ledger
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.strategies import AuditedStrategy
from tests.support.builders import audit_config, make_truth, tiny_net, trained
from tests.support.grid import InProcessGrid
from tests.support.spies import Spy


def app(change: Callable[[Message], None] = lambda reply: None) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        """Trains with noise from every global source, in the process of the audit."""
        model = tiny_net()
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        after = trained(model, make_truth(seed=int(context.node_config["partition-id"])))
        noise = random.random() + float(np.random.rand()) + float(torch.rand(1))
        with torch.no_grad():
            for parameter in after.parameters():
                parameter.add_(1e-3 * noise)
        content = RecordDict(
            {
                "arrays": ArrayRecord(after.state_dict()),
                "metrics": MetricRecord({"num-examples": 1}),
            }
        )
        reply = Message(content=content, reply_to=message)
        if context.node_config["partition-id"] == 0:
            change(reply)
        return reply

    return app


def fed_avg() -> FedAvg:
    return FedAvg(fraction_evaluate=0.0, min_evaluate_nodes=0)


def run(strategy: Any, client: ClientApp, rounds: int = 3) -> dict[str, bytes]:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    result = strategy.start(
        grid=InProcessGrid(client, 3),
        initial_arrays=ArrayRecord(tiny_net().state_dict()),
        num_rounds=rounds,
    )
    return {name: array.numpy().tobytes() for name, array in result.arrays.items()}


def audited(directory: Path, attack: Spy | None = None, inner: Any = None) -> AuditedStrategy:
    config = audit_config(directory, clients_per_round=None, views=["server", "release"])
    auditor = Auditor(config, model=tiny_net(), attacks=[attack or Spy()])
    return AuditedStrategy(inner or fed_avg(), auditor=auditor)


class Raises(FedAvg):
    """Notices something in round 2, after it has emptied the replies."""

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        if server_round == 2:
            for reply in replies:
                reply.content.clear()
            raise ArithmeticError("these do not add up")
        return super().aggregate_train(server_round, replies)


def test_a_strategy_that_raises_leaves_records_of_what_it_received(tmp_path: Path) -> None:
    spy = Spy()
    with pytest.raises(ArithmeticError, match="these do not add up") as caught:
        run(audited(tmp_path, spy, Raises(fraction_evaluate=0.0, min_evaluate_nodes=0)), app())
    assert caught.value.__cause__ is None
    records = [record for record in read_ledger(tmp_path).audits if record.round == 2]
    assert [record.reason and record.reason.code for record in records] == [
        None,
        None,
        None,
        "nothing released",
    ]
    assert all((record.update_norm or 0) > 0 for record in records[:3])


ESCAPE = "\x1b]0;owned\x07\u202e"


def test_text_of_an_error_is_cut_and_steers_nothing() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert Reason.of_error(Odd()).figures["message"] == "its message cannot be made: ValueError"
    message = str(Reason.of_error(RuntimeError(ESCAPE + "x" * 10**6)).figures["message"])
    assert len(message) < 1010
    assert not set(ESCAPE) - set("]0;owned") & set(message)


def test_a_reply_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    class Surprise(ConfigRecord):
        def get(self, *args: object) -> Any:
            raise RuntimeError("surprise")

    grid, strategy = InProcessGrid(app(), 3), audited(tmp_path)
    arrays = ArrayRecord(tiny_net().state_dict())
    messages = strategy.configure_train(1, arrays, ConfigRecord(), grid)
    replies = list(grid.send_and_receive(messages))
    replies[0].content["fl-privacy-audit"] = Surprise()
    strategy.aggregate_train(1, replies)
    reasons = [r.reason for r in read_ledger(tmp_path).audits if r.view == "server"]
    assert [reason and reason.code for reason in reasons].count(None) == 2
    assert [reason.code for reason in reasons if reason] == ["unexpected error"]
