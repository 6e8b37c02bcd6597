"""The server's view and the release: central DP hides from one of them alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
    Strategy,
)

from fl_privacy_audit import Auditor, Client, Truth, read_ledger
from fl_privacy_audit.audit.controls import undefended
from fl_privacy_audit.audit.truth import truth_digest
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import Observation, View
from fl_privacy_audit.ledger.ledger import last_run
from fl_privacy_audit.ledger.records import AuditRecord
from fl_privacy_audit.strategies import AuditedStrategy
from fl_privacy_audit.verdicts.compare import compare
from fl_privacy_audit.verdicts.rules import judge_run
from fl_privacy_audit.verdicts.verdict import SettingVerdict
from tests.support.builders import assumed, audit_config, trained
from tests.support.grid import FIRST_NODE, InProcessGrid
from tests.support.judged_cases import open_net, picture

BOTH: list[View] = ["server", "release"]


def fed_avg() -> FedAvg:
    return FedAvg(
        fraction_evaluate=0.0, min_evaluate_nodes=0, min_train_nodes=1, min_available_nodes=1
    )


def train(message: Message, context: Context) -> Message:
    """One step on an image that depends on client and round."""
    config = message.content.config_records["config"]
    truth = batch(int(config["server-round"]), int(context.node_config["partition-id"]))  # type: ignore[arg-type]
    model = open_net()
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    content = RecordDict(
        {
            "arrays": ArrayRecord(trained(model, truth).state_dict()),
            "metrics": MetricRecord({"num-examples": 1}),
        }
    )
    return Message(content=content, reply_to=message)


def batch(server_round: int, partition: int) -> Truth:
    return picture(10 * server_round + partition, seed=0)


def provider(server_round: int, client: Client) -> Truth:
    return batch(server_round, client.node_id - FIRST_NODE)


def run(
    directory: Path,
    strategy: Strategy,
    *,
    nodes: int = 1,
    rounds: int = 6,
    truth: Callable[[int, Client], Truth | None] = provider,
    **settings: Any,
) -> tuple[AuditRecord, ...]:
    app = ClientApp()
    app.train()(train)
    config = audit_config(
        directory,
        **{
            "attacks": ["first_linear"],
            "clients_per_round": None,
            "views": BOTH,
            "metrics": ["mse", "psnr", "ssim"],
            **settings,
        },
    )
    AuditedStrategy(strategy, auditor=Auditor(config, model=open_net(), truth=truth)).start(
        grid=InProcessGrid(app, nodes),
        initial_arrays=ArrayRecord(open_net().state_dict()),
        num_rounds=rounds,
    )
    return read_ledger(directory).audits


def verdicts(directory: Path) -> dict[View, SettingVerdict]:
    return {v.view: v for v in judge_run(last_run(read_ledger(directory)))}


@pytest.fixture(autouse=True)
def _seeded_noise() -> None:
    np.random.seed(0)  # Flower's wrappers draw from there


def test_central_dp_leaks_to_the_server_and_less_in_the_release(tmp_path: Path) -> None:
    plain, private = tmp_path / "plain", tmp_path / "private"
    run(plain, fed_avg(), controls=True, setting="no defence")
    wrapped = DifferentialPrivacyServerSideFixedClipping(
        fed_avg(), noise_multiplier=0.1, clipping_norm=1.0, num_sampled_clients=1
    )
    run(private, wrapped, controls=True, setting="central DP")
    before, after = verdicts(plain), verdicts(private)
    assert {view: v.word for view, v in before.items()} == {"server": "leaked", "release": "leaked"}
    assert after["server"].word == "leaked"
    assert after["release"].word != "leaked"
    nets = {view: after[view].attacks[0].net for view in BOTH}
    assert nets["server"] is not None and nets["release"] is not None
    assert nets["server"].mean > nets["release"].mean + 0.5
    copies = after["release"].attacks[0].undefended
    assert copies is not None and copies.low is not None and copies.low > 0.5
    rows = [(r.setting, r.view) for r in compare([plain, private]).rows]
    assert rows == [(s, v) for s in ("no defence", "central DP") for v in BOTH]


def test_the_release_of_one_client_is_its_own_update(tmp_path: Path) -> None:
    server, release = run(tmp_path, fed_avg(), rounds=1)
    assert (server.view, release.view) == ("server", "release")
    assert (release.client, release.node_id, release.partition) == ("all clients", 0, None)
    assert release.clients == [server.client]
    assert release.update_norm == pytest.approx(server.update_norm, rel=1e-4)
    assert release.truth_digest == server.truth_digest
    for name, score in server.attacks[0].scores.items():
        assert release.attacks[0].scores[name].mean == pytest.approx(score.mean, rel=1e-2)
    assert release.threat_model is not None
    assert (release.threat_model.view, release.threat_model.num_images) == ("release", 1)
    assert assumed(release.threat_model)[-1].startswith("the release is taken as the mean of 1")


def test_the_release_of_several_clients_is_the_gradient_of_all_their_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Observation, Truth]] = []

    def spy(observed: Observation, truth: Truth, **_: float) -> Observation:
        seen.append((observed, truth))
        return undefended(observed, truth)

    monkeypatch.setattr("fl_privacy_audit.audit.attack_round.undefended", spy)
    attack = {"name": "inverting_gradients", "options": {"steps": 2, "restarts": 1}}
    *_, record = run(
        tmp_path,
        fed_avg(),
        nodes=3,
        rounds=1,
        views=["release"],
        controls=["undefended", "other client"],
        attacks=[attack],
    )
    ((observed, truth),) = seen
    assert observed.num_images == len(truth.images) == 3
    union = torch.cat([batch(1, p).images for p in range(3)])
    assert truth_digest(truth) == truth_digest(Truth(images=union, labels=truth.labels))
    assert observed.gradient is not None
    for name, tensor in undefended(observed, truth).update.items():
        torch.testing.assert_close(observed.update[name], tensor, rtol=1e-2, atol=1e-5)
    (outcome,) = record.attacks
    assert len(outcome.scores["psnr"].each) == 3
    copy, other = outcome.controls
    assert copy.status == "scored"
    assert (other.status, other.reason) == (
        "not tested",
        Reason.of("the release holds every client"),
    )


def test_clients_are_left_alone_where_only_the_release_is_audited(tmp_path: Path) -> None:
    records = run(tmp_path, fed_avg(), nodes=2, rounds=1, views=["release"])
    reasons = {r.client: r.reason for r in records if r.view == "server"}
    assert set(reasons.values()) == {Reason.of("only the release is audited")}
    assert len(reasons) == 2


def test_a_release_without_all_truths_is_not_scored(tmp_path: Path) -> None:
    def some(server_round: int, client: Client) -> Truth | None:
        return None if client.node_id == FIRST_NODE else provider(server_round, client)

    attack = {"name": "inverting_gradients", "options": {"steps": 2, "restarts": 1}}
    *_, record = run(tmp_path, fed_avg(), nodes=2, rounds=1, truth=some, attacks=[attack])
    (outcome,) = record.attacks
    assert (outcome.status, outcome.controls) == ("not scored", [])
    assert outcome.reason == Reason.of(
        "no truth of a client", Reason.of("no truth"), client=str(FIRST_NODE)
    )


class Silent(FedAvg):
    """Releases nothing."""

    def aggregate_train(self, server_round: int, replies: Any) -> tuple[None, None]:
        list(replies)
        return None, None


def test_a_round_without_a_release_says_so(tmp_path: Path) -> None:
    silent = Silent(
        fraction_evaluate=0.0, min_evaluate_nodes=0, min_train_nodes=1, min_available_nodes=1
    )
    (record,) = (r for r in run(tmp_path, silent, rounds=1) if r.view == "release")
    assert record.reason == Reason.of("nothing released")
    assert [o.status for o in record.attacks] == ["not tested"]


def test_a_release_that_is_not_due_is_not_attacked(tmp_path: Path) -> None:
    records = run(tmp_path, fed_avg(), rounds=2, every=2)
    assert [r.reason for r in records if r.view == "release"] == [
        None,
        Reason.of("not due", every=2),
    ]


def test_the_release_changes_nothing_in_training(tmp_path: Path) -> None:
    def weights(directory: Path, views: list[View]) -> list[float]:
        app = ClientApp()
        app.train()(train)
        config = audit_config(directory, attacks=["first_linear"], views=views)
        result = AuditedStrategy(fed_avg(), auditor=Auditor(config, model=open_net())).start(
            grid=InProcessGrid(app, 2),
            initial_arrays=ArrayRecord(open_net().state_dict()),
            num_rounds=2,
        )
        state = result.arrays.to_torch_state_dict()
        return torch.cat([t.flatten() for t in state.values()]).tolist()

    assert weights(tmp_path / "a", ["server"]) == weights(tmp_path / "b", BOTH)
