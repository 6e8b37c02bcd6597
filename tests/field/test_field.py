"""The table of federations: the right verdict, a way out of every refusal, and training as it was."""

import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Strategy

from fl_privacy_audit import Auditor
from fl_privacy_audit.ledger import read_ledger
from fl_privacy_audit.ledger.ledger import LastRun, last_run
from fl_privacy_audit.report.sentences import advise, say
from fl_privacy_audit.strategies import AuditedStrategy, audit_mod, publish_batch
from fl_privacy_audit.verdicts.rules import judge_run
from tests.support.builders import audit_config
from tests.support.grid import InProcessGrid

from .clients import IMAGE, ROUNDS, Federation
from .federations import FEDERATIONS


def client_app(federation: Federation, *, audited: bool) -> ClientApp:
    """The clients; those of the comparison know nothing of the audit."""
    app = ClientApp()
    client, exchange = federation.client, federation.exchange

    @app.train(mods=[audit_mod] if audited else [])
    def train(message: Message, context: Context) -> Message:
        server_round = int(message.content.config_records["config"]["server-round"])  # type: ignore[arg-type]
        partition = int(context.node_config["partition-id"])
        model = federation.model()
        exchange.unpack(message.content.array_records["arrays"], model)
        count = client.images[partition]
        batch = client.batch(2 * server_round + partition, count)
        rng = torch.Generator().manual_seed(server_round)
        torch.manual_seed(server_round)
        if audited:
            client.publish(partial(publish_batch, context), batch)
        client.train(model, batch, rng)
        arrays = message.content.array_records
        content = RecordDict({**arrays, "metrics": MetricRecord({"num-examples": count})})
        content["arrays"] = exchange.pack(model)
        return Message(content=content, reply_to=message)

    return app


def trained(
    federation: Federation, strategy: Strategy, *, audited: bool
) -> dict[str, tuple[Any, ...]]:
    """The global model after all rounds, as bytes."""
    grid = InProcessGrid(client_app(federation, audited=audited), 2)
    random.seed(0)
    torch.manual_seed(0)
    result = strategy.start(
        grid=grid,
        initial_arrays=federation.exchange.pack(federation.model()),
        num_rounds=ROUNDS,
        train_config=ConfigRecord(dict(federation.sent)),
    )
    return {
        name: (a.dtype, a.shape, a.data) for name, a in (result.arrays or ArrayRecord()).items()
    }


def audited(federation: Federation, directory: Path) -> tuple[LastRun, dict[str, tuple[Any, ...]]]:
    told = {
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "steps": 1,
        "batch_size": 1,
        "mode": "train",
        **federation.told,
    }
    config = audit_config(
        directory,
        **{
            "image": IMAGE,
            "executor": "inline",
            "attacks": ["first_linear"],
            "metrics": ["psnr", "ssim"],
            "controls": True,
            "clients_per_round": 1,
            "seconds_per_round": 600.0,  # on any machine enough for these few steps
            "training": {name: value for name, value in told.items() if value is not None},
            **federation.audit,
        },
    )
    auditor = Auditor(config, **{"model": federation.model(), **federation.auditor})
    strategy = AuditedStrategy(federation.strategy(), auditor=auditor)
    arrays = trained(federation, strategy, audited=True)
    return last_run(read_ledger(directory)), arrays


ROWS = [
    pytest.param(name, marks=[pytest.mark.slow] if row.slow else [])
    for name, row in FEDERATIONS.items()
]


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("name", ROWS)
def test_a_federation_that_nobody_here_wrote(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FL_PRIVACY_AUDIT_TRUTH", str(tmp_path / "truth"))
    federation = FEDERATIONS[name]
    run, arrays = audited(federation, tmp_path / "audit")
    assert arrays == trained(federation, federation.strategy(), audited=False)
    assert not list((tmp_path / "truth").glob("*")), "batches are gone"
    (verdict,) = judge_run(run)
    said = say(verdict.reason)
    assert verdict.word in federation.words, said
    if federation.code is not None:
        assert verdict.reason.code == federation.code, said
    if federation.fits is not None:
        assert verdict.replay is not None
        assert (verdict.replay.fitting == verdict.replay.records) is federation.fits, verdict.replay
    if verdict.word not in ("leaked", "withstood these attacks"):
        assert advise(verdict.reason), said
    assert said and "?" not in said.replace("declared?", "")


def test_the_table_is_long_enough() -> None:
    assert len(FEDERATIONS) >= 100
