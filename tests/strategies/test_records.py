"""Which record of a message holds the weights, what the server sends along, and what a release is."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp import strategy as shipped
from flwr.serverapp.strategy import FedAvg, Strategy

from fl_privacy_audit import Auditor, Client, ClientReply, TrainingConfig, read_ledger
from fl_privacy_audit.audit.targets import training_told
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.ledger.records import AuditRecord
from fl_privacy_audit.report.sentences import say
from fl_privacy_audit.strategies import AuditedStrategy
from tests.support.builders import ONE_STEP, assumed, audit_config, make_truth, tiny_net, trained
from tests.support.grid import InProcessGrid
from tests.support.spies import Spy

RATE = 0.2
COMMON: dict[str, Any] = {"fraction_evaluate": 0.0, "min_evaluate_nodes": 0}


def client(*, key: str = "arrays", control: str = "", prefix: str = "") -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        model = tiny_net()
        state = message.content.array_records[key].to_torch_state_dict()
        model.load_state_dict({name.removeprefix(prefix): t for name, t in state.items()})
        truth = make_truth(seed=int(context.node_config["partition-id"]))
        after = trained(model, truth, rate=RATE).state_dict()
        arrays = {key: ArrayRecord({prefix + n: t for n, t in after.items()})}
        if control:
            arrays = {
                control: ArrayRecord({n: torch.ones_like(t) for n, t in after.items()})
            } | arrays
        metrics = MetricRecord({"num-examples": 1})
        return Message(content=RecordDict({**arrays, "metrics": metrics}), reply_to=message)

    return app


class Scaffold(FedAvg):
    """Sends a control variate before the weights, and gets one back."""

    control_names: Iterable[str] = tuple(tiny_net().state_dict())

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        messages = list(super().configure_train(server_round, arrays, config, grid))
        control = ArrayRecord({name: torch.zeros(1) for name in self.control_names})
        for message in messages:
            records = dict(message.content)
            message.content = RecordDict({"control": control, **records})
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        for reply in replies:
            reply.content.pop("control", None)
        return super().aggregate_train(server_round, replies)


class Keyless(Scaffold):
    """A strategy that does not say which of its records holds the weights."""

    def configure_train(self, *args: Any, **kwargs: Any) -> Iterable[Message]:
        messages = super().configure_train(*args, **kwargs)
        self.arrayrecord_key = None  # type: ignore[assignment]
        return messages


class KeylessOfOtherNames(Keyless):
    control_names = ("c1", "c2")


def run(
    directory: Path,
    strategy: Strategy,
    app: ClientApp,
    *,
    sent_along: dict[str, Any] | None = None,
    prefix: str = "",
    nodes: int = 2,
    **settings: Any,
) -> tuple[list[AuditRecord], Spy]:
    spy = Spy()
    config = audit_config(directory, **{"clients_per_round": None, **settings})
    AuditedStrategy(strategy, auditor=Auditor(config, model=tiny_net(), attacks=[spy])).start(
        grid=InProcessGrid(app, nodes),
        initial_arrays=ArrayRecord({prefix + n: t for n, t in tiny_net().state_dict().items()}),
        num_rounds=1,
        train_config=ConfigRecord(sent_along or {}),
    )
    return list(read_ledger(directory).audits), spy


def norms(records: Iterable[AuditRecord]) -> list[float]:
    return sorted(record.update_norm or 0 for record in records)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    records, _ = run(tmp_path_factory.mktemp("plain"), FedAvg(**COMMON), client())
    assert all(record.reason is None for record in records)
    return norms(records)


def test_another_key_for_the_weights_is_fine(tmp_path: Path, plain: list[float]) -> None:
    strategy = FedAvg(**COMMON, arrayrecord_key="model")
    assert norms(run(tmp_path, strategy, client(key="model"))[0]) == plain


@pytest.mark.parametrize("key", ["arrays", "model"])
def test_scaffolds_weights_are_found_by_the_strategys_key(
    tmp_path: Path, plain: list[float], key: str
) -> None:
    strategy = Scaffold(**COMMON, arrayrecord_key=key)
    assert norms(run(tmp_path, strategy, client(key=key, control="control"))[0]) == plain


def test_a_key_inside_flowers_dp_wrapper_is_found(tmp_path: Path) -> None:
    private = shipped.DifferentialPrivacyClientSideFixedClipping(
        FedAvg(**COMMON, arrayrecord_key="model"), 0.0, 1e6, 2
    )
    records, _ = run(tmp_path, private, client(key="model"))
    assert all(record.reason is None for record in records)


def test_without_a_key_records_of_the_models_names_are_taken(tmp_path: Path) -> None:
    app = client(control="control")
    records, _ = run(tmp_path, KeylessOfOtherNames(**COMMON), app)
    (reason,) = {record.reason for record in records}
    assert reason == Reason.of(
        "array records", direction="returned", count=2, keys="control, arrays"
    ), "what was sent is clear; what came back is not"


def test_names_with_opacus_prefix_are_the_models(tmp_path: Path, plain: list[float]) -> None:
    app = client(prefix="_module.")
    records, _ = run(tmp_path, KeylessOfOtherNames(**COMMON), app, prefix="_module.")
    assert norms(records) == plain


def test_records_that_cannot_be_told_apart_are_named(tmp_path: Path) -> None:
    records, _ = run(tmp_path, Keyless(**COMMON), client(control="control"))
    (reason,) = {record.reason for record in records}
    assert reason == Reason.of("array records", direction="sent", count=2, keys="control, arrays")
    assert [o.status for r in records for o in r.attacks] == ["not tested"] * 2


@pytest.mark.parametrize("key", ["lr", "learning-rate", "learning_rate"])
@pytest.mark.parametrize("stated", [None, 0.01, RATE])
def test_a_learning_rate_in_the_message_wins_over_the_settings(
    tmp_path: Path, key: str, stated: float | None
) -> None:
    training = ONE_STEP.replace(learning_rate=stated)
    records, spy = run(
        tmp_path, FedAvg(**COMMON), client(), sent_along={key: RATE}, training=training
    )
    for (seen, _), record in zip(spy.calls, records, strict=True):
        assert seen.training.learning_rate == RATE
        assert seen.gradient is not None
        for name, tensor in seen.gradient.items():
            torch.testing.assert_close(tensor, -seen.update[name] / RATE)
        assert record.threat_model is not None
        told = [text for text in assumed(record.threat_model) if "from the message" in text]
        assert told == [
            f"learning_rate {RATE} was read from the message to the client"
            + (", in place of 0.01 in the settings" if stated == 0.01 else "")
        ]
        assert record.threat_model.local_training["learning_rate"] == RATE
        assert record.threat_model.update_form == "exact gradient"


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), "fast", [0.1]])
def test_what_is_no_learning_rate_is_left_alone(tmp_path: Path, value: Any) -> None:
    records, spy = run(tmp_path, FedAvg(**COMMON), client(), sent_along={"lr": value})
    assert all(record.reason is None for record in records)
    assert {seen.training.learning_rate for seen, _ in spy.calls} == {ONE_STEP.learning_rate}


def test_the_settings_hold_where_the_server_sends_nothing(tmp_path: Path) -> None:
    records, spy = run(tmp_path, FedAvg(**COMMON), client(), sent_along={"epochs": 1})
    assert {seen.training.learning_rate for seen, _ in spy.calls} == {ONE_STEP.learning_rate}
    assert all(r.threat_model and not r.threat_model.assumptions for r in records)


def test_a_proximal_term_is_known_from_the_message(tmp_path: Path) -> None:
    strategy = shipped.FedProx(**COMMON, proximal_mu=0.25)
    training = ONE_STEP.replace(steps=2)
    records, spy = run(tmp_path, strategy, client(), training=training)
    for (seen, _), record in zip(spy.calls, records, strict=True):
        assert record.threat_model is not None
        assert "0.25" in " ".join(assumed(record.threat_model))
        if "proximal_mu" in TrainingConfig.model_fields:
            assert seen.training.model_dump()["proximal_mu"] == 0.25


SELECTING: dict[str, Any] = {
    "Krum": lambda: shipped.Krum(num_malicious_nodes=1, **COMMON),
    "MultiKrum": lambda: shipped.MultiKrum(num_nodes_to_select=2, **COMMON),
    "Bulyan": lambda: shipped.Bulyan(num_malicious_nodes=0, **COMMON),
    "FedMedian": lambda: shipped.FedMedian(**COMMON),
    "FedTrimmedAvg": lambda: shipped.FedTrimmedAvg(**COMMON),
}


@pytest.mark.parametrize("name", SELECTING)
def test_a_release_of_selected_updates_is_not_called_a_mean(tmp_path: Path, name: str) -> None:
    np.random.seed(0)
    records, spy = run(tmp_path, SELECTING[name](), client(), nodes=4, views=["release"])
    (release,) = [record for record in records if record.view == "release"]
    assert release.reason == Reason.of("release is no mean", strategy=name)
    assert not spy.calls


def test_a_selecting_strategy_inside_flowers_dp_wrapper_is_seen(tmp_path: Path) -> None:
    np.random.seed(0)
    private = shipped.DifferentialPrivacyServerSideFixedClipping(SELECTING["Krum"](), 0.0, 1e6, 3)
    records, _ = run(tmp_path, private, client(), nodes=3, views=["release"])
    assert records[-1].reason == Reason.of("release is no mean", strategy="Krum")


def test_of_a_single_client_every_selection_is_its_update(tmp_path: Path) -> None:
    strategy = shipped.FedMedian(**COMMON, min_train_nodes=1, min_available_nodes=1)
    records, spy = run(tmp_path, strategy, client(), nodes=1, views=["release"])
    assert records[-1].reason is None
    assert len(spy.calls) == 1


def test_a_mean_is_attacked_as_one(tmp_path: Path) -> None:
    records, _ = run(tmp_path, shipped.FedAvgM(**COMMON), client(), views=["release"])
    assert records[-1].reason is None


@pytest.mark.parametrize(
    ("stated", "reported", "used"),
    [(1.0, 1.5, 1.5), (1.0, 1.0, 1.0), (None, 1.5, None), (1.0, float("nan"), 1.0)],
)
def test_noise_that_a_client_reports_goes_before_the_settings(
    stated: float | None, reported: float, used: float | None
) -> None:
    training = ONE_STEP.replace(max_grad_norm=1.0, noise_multiplier=stated)
    reply = ClientReply(client=Client(1), reported={"noise_multiplier": reported})
    told, notes = training_told(training, [reply])
    assert told.noise_multiplier == used
    assert [say(note) for note in notes] == (
        ["noise_multiplier 1.5 was reported by the client, in place of 1 in the settings"]
        if used == 1.5
        else []
    )
