"""What the wrapper sees: pairing, failures, time-outs, odd payloads, and that it changes nothing."""

import logging
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr import serverapp
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp import strategy as shipped
from flwr.serverapp.strategy import FedAvg, FedMedian, FedXgbBagging, Strategy

from fl_privacy_audit import AuditConfig, Auditor, Client, Truth, read_ledger
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.ledger.records import AuditRecord
from fl_privacy_audit.strategies import AuditedStrategy, audit_mod
from fl_privacy_audit.strategies.capture import Reading, capture, decoder, snapshot
from tests.support.builders import assumed
from tests.support.cases import LeNet, image_config, photos, seeded, train_locally
from tests.support.grid import FAB_HASH, FIRST_NODE, InProcessGrid

Train = Callable[[Message, Context], Message]


def honest(message: Message, context: Context) -> Message:
    model = seeded(LeNet)
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    partition = int(context.node_config["partition-id"])
    _, after = train_locally(model, photos()[partition % 4][None], torch.tensor([1]))
    return answer(message, {n: torch.from_numpy(a) for n, a in after.items()})


def answer(message: Message, state: dict[str, torch.Tensor]) -> Message:
    metrics = MetricRecord({"num-examples": 1, "epsilon": 2.5})
    content = RecordDict({"arrays": ArrayRecord(state), "metrics": metrics})
    return Message(content=content, reply_to=message)


def client(train: Train, *mods: Any) -> ClientApp:
    app = ClientApp()
    app.train(mods=list(mods))(train)
    return app


def make_auditor(directory: Path, truth: Any = None, **changes: Any) -> Auditor:
    settings = {
        "directory": directory,
        "image": image_config(),
        "executor": "inline",
        "attacks": [{"name": "inverting_gradients", "options": {"steps": 2}}],
        "clients_per_round": None,
        "training": {"optimizer": "sgd", "learning_rate": 0.1, "steps": 1},
        **changes,
    }
    return Auditor(AuditConfig.build(settings), model=seeded(LeNet), truth=truth)


def federate(
    auditor: Auditor,
    train: Train,
    *mods: Any,
    strategy: Strategy | None = None,
    nodes: int = 3,
    lost: tuple[int, ...] = (),
    rounds: int = 1,
    **start: Any,
) -> tuple[AuditRecord, ...]:
    inner = strategy or FedAvg(fraction_evaluate=0.0, min_evaluate_nodes=0)
    AuditedStrategy(inner, auditor=auditor).start(
        grid=InProcessGrid(client(train, *mods), nodes, lost=lost),
        initial_arrays=ArrayRecord(seeded(LeNet).state_dict()),
        num_rounds=rounds,
        **start,
    )
    return read_ledger(auditor.config.directory).audits


def test_each_client_gets_a_record_with_its_numbers(tmp_path: Path) -> None:
    records = federate(make_auditor(tmp_path), honest)
    assert {r.node_id for r in records} == {FIRST_NODE, FIRST_NODE + 1, FIRST_NODE + 2}
    for record in records:
        assert record.reported == {"epsilon": 2.5}
        assert record.num_examples == 1
        assert record.client == str(record.node_id), "without audit_mod nobody knows the partition"
        (outcome,) = record.attacks
        assert outcome.status == "not scored"
        assert outcome.reason == Reason.of("no audit_mod")
        assert record.threat_model is not None
        assert record.threat_model.update_form == "exact gradient"


def test_a_client_that_fails_and_one_that_never_answers_are_recorded(tmp_path: Path) -> None:
    def train(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == 0:
            raise RuntimeError("no GPU here")
        return honest(message, context)

    records = federate(make_auditor(tmp_path), train, lost=(FIRST_NODE + 1,))
    by_node = {r.node_id - FIRST_NODE: r for r in records}
    assert by_node[0].client_status == "failed"
    assert by_node[0].reason is not None
    assert by_node[0].reason.code == "client error"
    assert "no GPU here" in str(by_node[0].reason.figures["message"])
    assert by_node[1].client_status == "timed out"
    assert by_node[1].reason == Reason.of("timed out")
    assert by_node[2].client_status == "returned"
    assert by_node[2].reason is None
    for missing in (by_node[0], by_node[1]):
        assert [o.status for o in missing.attacks] == ["not tested"]


def test_truth_by_callback_is_scored(tmp_path: Path) -> None:
    asked: list[tuple[int, Client]] = []

    def truth(server_round: int, who: Client) -> Truth:
        asked.append((server_round, who))
        return Truth(images=photos()[who.partition or 0][None], labels=torch.tensor([1]))

    records = federate(make_auditor(tmp_path, truth), honest, audit_mod)
    assert sorted(asked, key=str) == [(1, Client(FIRST_NODE + index, index)) for index in range(3)]
    assert [o.status for r in records for o in r.attacks] == ["scored"] * 3
    assert all(o.labels_right == 1.0 for r in records for o in r.attacks)


def test_bytes_that_are_no_weights_are_not_tested(tmp_path: Path) -> None:
    def train(message: Message, context: Context) -> Message:
        trees = Array(np.frombuffer(b"a forest", dtype=np.uint8))
        content = RecordDict(
            {"arrays": ArrayRecord({"0": trees}), "metrics": MetricRecord({"num-examples": 1})}
        )
        return Message(content=content, reply_to=message)

    auditor = make_auditor(tmp_path)
    strategy = AuditedStrategy(FedXgbBagging(fraction_evaluate=0.0), auditor=auditor)
    grid = InProcessGrid(client(train), 2)
    sent = list(strategy.configure_train(1, ArrayRecord({"0": Array(b_array())}), empty(), grid))
    reading = Reading(image=image_config())
    captured = capture(snapshot(sent), list(grid.send_and_receive(sent)), reading)
    records = auditor.audit_round(1, captured)
    assert len(records) == 2
    for record in records:
        assert record.reason == Reason.of("no floating-point weights")
        assert [o.status for o in record.attacks] == ["not tested"]


def b_array() -> np.ndarray:
    return np.frombuffer(b"", dtype=np.uint8)


def empty() -> ConfigRecord:
    return ConfigRecord()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda s: {f"_module.{n}": t for n, t in s.items()}, None),
        (lambda s: {n: t[..., :1] for n, t in s.items()}, "has shape"),
        (lambda s: {f"other.{n}": t for n, t in s.items()}, "do not fit the audited model"),
        (lambda s: {n: t * float("nan") for n, t in s.items()}, "not finite"),
    ],
)
def test_odd_weights_are_audited_or_refused_with_a_reason(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], Any], why: str | None
) -> None:
    def train(message: Message, context: Context) -> Message:
        reply = honest(message, context)
        state = reply.content.array_records["arrays"].to_torch_state_dict()
        return answer(message, change(dict(state)))

    (record, *_) = federate(make_auditor(tmp_path), train)
    if why is None:
        assert record.reason is None
        assert record.threat_model is not None
        assert any("_module." in text for text in assumed(record.threat_model))
    else:
        assert record.reason is not None
        assert why in str(record.reason.figures["message"])
        assert [o.status for o in record.attacks] == ["not tested"]


def test_fail_fast_raises_out_of_training(tmp_path: Path) -> None:
    def train(message: Message, context: Context) -> Message:
        return answer(message, {"nothing": torch.zeros(1)})

    with pytest.raises(ValueError, match="do not fit the audited model"):
        federate(make_auditor(tmp_path, fail_fast=True), train)


def test_an_auditor_that_breaks_does_not_stop_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    auditor = make_auditor(tmp_path)

    def explode(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(auditor, "audit_round", explode)
    monkeypatch.setattr(auditor, "record_evaluation", explode)
    with caplog.at_level(logging.ERROR, logger="fl_privacy_audit"):
        federate(auditor, honest, evaluate_fn=lambda r, a: MetricRecord({"accuracy": 0.5}))
    assert "training goes on" in caplog.text


def test_replies_are_captured_before_a_strategy_empties_them(tmp_path: Path) -> None:
    median = FedMedian(fraction_evaluate=0.0, min_evaluate_nodes=0)
    records = federate(make_auditor(tmp_path), honest, strategy=median)
    assert all(r.reason is None for r in records)


def test_messages_come_back_as_a_list_and_the_mods_record_is_taken_out(tmp_path: Path) -> None:
    seen: list[Message] = []

    class Spy(FedAvg):
        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            seen.extend(replies)
            return super().aggregate_train(server_round, replies)

    strategy = AuditedStrategy(
        Spy(fraction_evaluate=0.0, min_evaluate_nodes=0), auditor=make_auditor(tmp_path)
    )
    grid = InProcessGrid(client(honest, audit_mod), 2)
    arrays = ArrayRecord(seeded(LeNet).state_dict())
    messages = strategy.configure_train(1, arrays, ConfigRecord(), grid)
    assert isinstance(messages, list)
    strategy.aggregate_train(1, (m for m in grid.send_and_receive(messages)))
    assert len(seen) == 2
    assert all(not m.content.config_records for m in seen)


def test_evaluations_reach_the_ledger(tmp_path: Path) -> None:
    auditor = make_auditor(tmp_path)
    federate(
        auditor, honest, rounds=2, evaluate_fn=lambda r, a: MetricRecord({"accuracy": 0.1 * r})
    )
    evaluations = read_ledger(tmp_path).evaluations
    assert [(e.round, e.source) for e in evaluations] == [(n, "server") for n in (0, 1, 2)]
    assert evaluations[-1].metrics["accuracy"] == pytest.approx(0.2)


def test_only_message_api_strategies_are_taken(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"must be a flwr\.serverapp\.strategy\.Strategy"):
        AuditedStrategy(object(), auditor=make_auditor(tmp_path))  # type: ignore[arg-type]


def test_summary_and_repr_name_the_wrapped_strategy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    strategy = AuditedStrategy(FedAvg(), auditor=make_auditor(tmp_path))
    with caplog.at_level(logging.INFO, logger="fl_privacy_audit"):
        strategy.summary()
    assert "inverting_gradients" in caplog.text
    assert repr(strategy).startswith("Privacy Audit Strategy Wrapper (")


def test_flowers_accountant_works_inside_the_audit(tmp_path: Path) -> None:
    if not hasattr(serverapp, "RdpAccountant"):
        pytest.skip("needs a Flower whose strategies account for privacy")
    config = serverapp.PrivacyConfig(
        target_delta=1e-5,
        population_size=3,
        sampling_method=serverapp.SamplingMethod.NO_AMPLIFICATION,
        neighboring_relation=serverapp.NeighboringRelation.ADD_OR_REMOVE_ONE,
    )
    private = shipped.DifferentialPrivacyServerSideFixedClipping(
        FedAvg(fraction_evaluate=0.0, min_evaluate_nodes=0, fraction_train=1.0),
        1.0,
        0.1,
        3,
        accountant=serverapp.RdpAccountant(config),
    )
    federate(make_auditor(tmp_path), honest, strategy=private, rounds=2)
    spent = private.privacy_spent()
    assert spent is not None
    assert spent.num_releases == 2


def test_central_dp_does_not_hide_the_update_from_the_server(tmp_path: Path) -> None:
    plain = federate(make_auditor(tmp_path / "plain"), honest)
    wrapped = federate(
        make_auditor(tmp_path / "dp"),
        honest,
        strategy=shipped.DifferentialPrivacyServerSideFixedClipping(
            FedAvg(fraction_evaluate=0.0, min_evaluate_nodes=0), 0.5, 0.01, 3
        ),
    )
    norms = [{r.node_id: r.update_norm for r in records} for records in (plain, wrapped)]
    assert norms[0] == norms[1]


def test_the_run_of_flower_is_recorded(tmp_path: Path) -> None:
    grid = InProcessGrid(client(honest), 2, run_id=77)
    arrays = ArrayRecord(seeded(LeNet).state_dict())
    runs = []
    for _ in range(2):  # the same federation starts twice
        auditor = make_auditor(tmp_path, every=1000)
        AuditedStrategy(FedAvg(fraction_evaluate=0.0), auditor=auditor).start(
            grid, arrays, num_rounds=1
        )
        runs.append(auditor.run)
    (run,) = read_ledger(tmp_path).runs
    assert (run.flower_run, run.fab_hash) == (77, FAB_HASH)
    assert runs[0] == runs[1]


ODD = [
    np.float32(3), np.zeros((0, 4)), np.arange(6.0).reshape(2, 3).T, np.arange(3, dtype=">i4"),
    np.array([True, False]), np.arange(4, dtype=np.float16), np.array(["text"]), np.zeros(2, "V2"),
    np.array([1 + 2j]), np.zeros(2, [("a", "i4")]), np.arange(7)[::2],
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: f"{odd.dtype}{odd.shape}")
def test_arrays_are_decoded_as_flower_does(odd: np.ndarray[Any, Any]) -> None:
    array = Array(np.asarray(odd))
    (decoded,) = decoder(ArrayRecord(OrderedDict(a=array)))().values()
    expected = array.numpy()
    assert (decoded.dtype, decoded.shape) == (expected.dtype, expected.shape)
    assert decoded.tobytes() == expected.tobytes()


@pytest.mark.parametrize("change", ["cut", "more", "no header", "version", "a huge shape"])
def test_bytes_that_are_no_array_fail_as_they_do_for_flower(change: str) -> None:
    whole = Array(np.arange(40.0)).data
    data = {
        "cut": whole[:-1],
        "more": whole + b"more",
        "no header": b"PK" + whole[2:],
        "version": whole[:6] + b"\x07" + whole[7:],
        "a huge shape": whole.replace(b"(40,)", b"(9**9,)"),
    }[change]
    array = Array(dtype="float64", shape=(40,), stype="numpy.ndarray", data=data)
    read = decoder(ArrayRecord(OrderedDict(a=array)))
    try:
        expected = array.numpy()
    except Exception as error:  # noqa: BLE001 - whatever it is
        with pytest.raises(type(error)):
            read()
    else:
        assert np.array_equal(read()["a"], expected)


def test_what_was_sent_to_all_is_known_by_its_bytes_alone() -> None:
    record = ArrayRecord(OrderedDict(a=Array(np.arange(3.0)), b=Array(np.arange(2))))
    same = ArrayRecord(OrderedDict((k, record[k]) for k in "ab"))
    turned = ArrayRecord(OrderedDict((k, record[k]) for k in "ba"))
    alike = ArrayRecord(OrderedDict(a=Array(np.arange(3.0)), b=Array(np.arange(2))))
    assert decoder(record) == decoder(same)
    assert decoder(record) != decoder(turned)
    assert decoder(record) != decoder(alike), "which takes a look at the bytes"
    assert decoder(record) != dict
