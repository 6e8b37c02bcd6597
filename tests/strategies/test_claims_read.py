"""Claims are read off strategies, mods and accountants; what is typed is held against them."""

import secrets
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
)

from fl_privacy_audit.dp.gaussian import classic_sigma
from fl_privacy_audit.dp.run_check import check_run
from fl_privacy_audit.ledger.ledger import last_run, read_ledger
from fl_privacy_audit.ledger.records import Record
from fl_privacy_audit.strategies import audit_mod
from fl_privacy_audit.strategies.accountant import persistent_accountant
from fl_privacy_audit.strategies.canary_replay import in_some_run
from fl_privacy_audit.strategies.capture import Reading, read_content
from fl_privacy_audit.strategies.claims_read import probe_federation, read_claim, spent_by
from tests.support.builders import IMAGE, audit_line, outcome, run_line, tiny_net, write_ledger
from tests.support.canary_apps import Mod


def app_with(*mods: Mod) -> ClientApp:
    app = ClientApp()

    @app.train(mods=[*mods])
    def train(message: Message, context: Context) -> Message:
        raise AssertionError("nobody trains here")

    return app


def test_a_wrapper_of_flower_is_read() -> None:
    inner = FedAvg()
    server = DifferentialPrivacyServerSideFixedClipping(inner, 0.8, 0.5, 4)
    assert read_claim(server) == {
        "mechanism": "central-gaussian",
        "noise_multiplier": 0.8,
        "clipping_norm": 0.5,
        "sampled_clients": 4,
        "clipped_by": "server",
        "by": "DifferentialPrivacyServerSideFixedClipping",
    }
    client = DifferentialPrivacyClientSideFixedClipping(inner, 0.8, 0.5, 4)
    assert read_claim(client, app_with(fixedclipping_mod))["clipped_by"] == "client"
    assert (read_claim(inner), spent_by(inner), spent_by(server)) == ({}, None, None)


def test_mods_of_the_clients_app_are_read() -> None:
    local = LocalDpMod(1.0, 0.5, 0.9, 1e-5)
    assert read_claim(FedAvg(), app_with(audit_mod, local)) == {
        "mechanism": "local-gaussian",
        "clipping_norm": 1.0,
        "sensitivity": 0.5,
        "epsilon": 0.9,
        "epsilon_covers": "round",
        "delta": 1e-5,
        "sigma": pytest.approx(classic_sigma(sensitivity=0.5, epsilon=0.9, delta=1e-5)),
        "by": "LocalDpMod",
    }
    assert read_claim(FedAvg(), app_with(audit_mod)) == {}
    assert read_claim(FedAvg(), lambda message, context: message) == {}


def test_what_a_client_s_accountant_was_told_goes_along() -> None:
    context = Context(1, 2, {"partition-id": 3}, RecordDict(), {})

    def train(message: Message, context: Context) -> Message:
        with persistent_accountant(context) as accountant:
            accountant.history.append((1.5, 0.125, 8))
        arrays = ArrayRecord(tiny_net().state_dict())
        metrics = MetricRecord({"num-examples": 64})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    with in_some_run():
        message = Message(RecordDict({"config": ConfigRecord({})}), 2, "train")
        reply = audit_mod(message, context, train)
    read = read_content(2, None, reply.content, Reading(image=IMAGE))
    assert read.reported == {"noise_multiplier": 1.5, "sample_rate": 0.125}


CLAIM = {
    "mechanism": "central-gaussian",
    "delta": 1e-5,
    "clipping_norm": 0.1,
    "noise_multiplier": 1.0,
    "sampled_clients": 2,
}
READ = {
    "mechanism": "central-gaussian",
    "clipping_norm": 0.1,
    "noise_multiplier": 0.5,
    "sampled_clients": 2,
    "by": "the strategy",
}


def codes(tmp_path: Path, claim: dict[str, Any] | None, noise: tuple[float, ...] = ()) -> list[str]:
    lines: list[Record] = [
        run_line(claim=claim).model_copy(update={"claim_read": {} if noise else READ})
    ]
    lines += [
        audit_line(
            outcome({"psnr": 10.0}),
            partition=at,
            update_norm=0.05,
            num_examples=10,
            reported={"noise_multiplier": noise[at]} if noise else {},
        )
        for at in range(2)
    ]
    check = check_run(last_run(read_ledger(write_ledger(tmp_path, lines))))
    assert check is not None
    return [flag.code for flag in check.flags]


def test_what_is_typed_is_held_against_what_is_read(tmp_path: Path) -> None:
    assert codes(tmp_path / "typed", CLAIM) == ["typed-claim-differs"]
    assert codes(tmp_path / "left out", {"mechanism": "central-gaussian", "delta": 1e-5}) == []
    assert codes(tmp_path / "only delta", {"delta": 1e-5}) == []
    assert codes(tmp_path / "nothing typed", None) == []
    promised = {"delta": 1e-5, "epsilon": 1.0}
    assert codes(tmp_path / "too much", promised) == ["epsilon-understated"]


def test_clients_of_different_noise_are_flagged(tmp_path: Path) -> None:
    claim = {"delta": 1e-5, "clipping_norm": 1.0}
    assert codes(tmp_path / "alike", claim, (1.0, 1.0)) == []
    assert codes(tmp_path / "unlike", claim, (1.0, 2.0)) == ["unequal-noise"]
    typed = {**claim, "noise_multiplier": 2.0}
    assert codes(tmp_path / "typed", typed, (1.0, 2.0)) == ["typed-claim-differs", "unequal-noise"]


def test_what_adds_noise_is_probed_when_a_run_begins(tmp_path: Path) -> None:
    server = DifferentialPrivacyServerSideFixedClipping(FedAvg(), 1.0, 0.5, 2)
    client = DifferentialPrivacyClientSideFixedClipping(FedAvg(), 1.0, 0.5, 2)
    scaled_to_less = app_with(audit_mod, LocalDpMod(1.0, 1e-4, 10.0, 1e-5))
    (released,) = probe_federation(server, None, claimed=False)
    assert (released.view, released.by, released.faults) == (
        "release",
        ["DifferentialPrivacyServerSideFixedClipping"],
        [],
    )
    assert released.epsilon[1] == pytest.approx(4.377, rel=0.02)
    assert len(probe_federation(client, app_with(fixedclipping_mod), claimed=False)) == 1
    many = DifferentialPrivacyServerSideFixedClipping(FedAvg(), 1.0, 0.5, 101)
    assert probe_federation(many, None, claimed=False) == []
    # Who clips is not known; nothing is stated or claimed; there is nothing to probe.
    assert probe_federation(client, None, claimed=True) == []
    assert probe_federation(FedAvg(), app_with(audit_mod), claimed=False) == []
    assert probe_federation(FedAvg(), None, claimed=True) == []
    (sent,) = probe_federation(FedAvg(), scaled_to_less, claimed=False)
    assert (sent.view, sent.epsilon[0] > 1e8) == ("server", True)
    faults = [fault.code for fault in sent.faults]
    assert faults[0] == "noise is scaled to less than the sensitivity"
    # In the ledger it is held against what is claimed too, where that is of the same.
    (unstated,) = probe_federation(FedAvg(), app_with(audit_mod), claimed=True)
    for probed, claim, found in (
        (released, {**CLAIM, "epsilon": 40.0}, False),
        (released, {**CLAIM, "epsilon": 4.0}, True),
        (unstated, {**CLAIM, "epsilon": 4.0}, False),
        (
            unstated,
            {"mechanism": "local-gaussian", "delta": 1e-5, "epsilon": 9.0, "sigma": 1.0},
            True,
        ),
    ):
        run = run_line(claim={"clipping_norm": 0.1, **claim}).model_copy(
            update={"probed": [probed]}
        )
        check = check_run(
            last_run(read_ledger(write_ledger(tmp_path / secrets.token_hex(4), [run])))
        )
        assert check is not None and check.probed == (probed,)
        assert ("probe-contradicts" in [flag.code for flag in check.flags]) == found
