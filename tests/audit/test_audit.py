import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fl_privacy_audit import Auditor, Client, ClientReply, Progress, Truth
from fl_privacy_audit.audit.truth import truth_digest
from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.ledger.ledger import read_ledger
from fl_privacy_audit.ledger.records import AuditRecord
from tests.support.builders import (
    ONE_STEP,
    assumed,
    audit_config,
    make_reply,
    make_truth,
    only,
    real_auditor,
    tiny_net,
)
from tests.support.spies import Build

BROKEN = Reason.of("client error", number=1, message="out of memory")


def written(auditor: Auditor) -> list[AuditRecord]:
    return list(read_ledger(auditor.ledger.path).audits)


def test_a_client_is_attacked_and_scored(tmp_path: Path) -> None:
    auditor = real_auditor(tmp_path)
    reply = make_reply(2, num_examples=1, reported={"epsilon": 3.5})
    record = only(auditor.audit_round(1, [reply]))
    assert written(auditor) == [record]
    assert (record.run, record.round, record.client) == (auditor.run, 1, "partition 2")
    assert (record.node_id, record.partition, record.view) == (1002, 2, "server")
    assert (record.client_status, record.reason) == ("returned", None)
    assert (record.num_examples, record.reported) == (1, {"epsilon": 3.5})
    assert record.truth_digest == truth_digest(make_truth(seed=2))
    sent, back = reply.sent(), reply.returned()
    norm = np.sqrt(sum(np.square(back[n].astype(float) - sent[n]).sum() for n in sent))
    assert record.update_norm == pytest.approx(norm, rel=1e-5)
    (outcome,) = record.attacks
    assert (outcome.attack, outcome.status, outcome.reason) == (
        "inverting_gradients",
        "scored",
        None,
    )
    assert (outcome.options, outcome.steps, outcome.stopped) == ({"steps": 5}, 5, "finished")
    assert (outcome.labels_right, outcome.picture) == (1.0, None)
    assert set(outcome.scores) == {"semsim", "recognised", "mse", "psnr", "ssim"}


def test_an_attacked_record_is_on_the_disk(spied: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    auditor, _ = spied()
    auditor.begin()
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(len(written(auditor))))
    auditor.audit_round(1, [make_reply()])
    assert synced == [1]


def test_the_threat_model_is_written_down(tmp_path: Path) -> None:
    training = {"learning_rate": 0.1, "batch_size": 4}
    record = only(real_auditor(tmp_path, training=training).audit_round(1, [make_reply()]))
    model = record.threat_model
    assert model is not None
    assert (model.server, model.view, model.labels) == ("honest but curious", "server", "not given")
    assert (model.num_images, model.update_form) == (1, "gradient direction")
    assert model.image == {"shape": [1, 8, 8], "mean": [0.5], "std": [0.25]}
    assert model.local_training["learning_rate"] == 0.1
    assert model.local_training["optimizer"] == "unknown"
    assert assumed(model) == [
        "local optimiser not known; the update is taken as one gradient step",
        "number of local steps not known; taken as one",
        "the client reports 1 examples, so as many are rebuilt",
    ]


def test_the_defence_is_part_of_the_threat_model(tmp_path: Path) -> None:
    noise = {"name": "gaussian", "options": {"std": 1e-4}}
    real_auditor(tmp_path, defence=noise).audit_round(1, [make_reply()])
    (record,) = read_ledger(tmp_path).audits
    assert record.threat_model is not None
    known = record.threat_model.defence
    assert known is not None
    assert (known.name, known.noise_std, known.length_lost) == ("gaussian", 1e-4, False)
    assert known.options == {"std": 1e-4, "clip_norm": 0.0}
    assert record.attacks[0].status == "scored"


def test_an_unknown_defence_is_refused_before_the_ledger_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'pruning'"):
        real_auditor(tmp_path / "audit", defence="prunning")
    assert not (tmp_path / "audit").exists()


@pytest.mark.parametrize(
    ("change", "form"),
    [
        ({}, "exact gradient"),
        ({"learning_rate": None}, "gradient direction"),
        ({"steps": 2}, "weight difference"),
        ({"reduction": "sum"}, "exact gradient"),
        ({"optimizer": "adam"}, "gradient signs"),
        ({"max_grad_norm": 1e3}, "exact gradient"),
        ({"max_grad_norm": 1e-3}, "gradient direction"),
        ({"max_grad_norm": 1e3, "images": 2}, "gradient direction"),
        ({"max_grad_norm": 1e3, "noise_multiplier": 0.1}, "defended gradient"),
    ],
)
def test_the_form_of_the_update(spied: Build, change: dict[str, Any], form: str) -> None:
    auditor, _ = spied(training={**ONE_STEP.model_dump(), **change})
    record = only(auditor.audit_round(1, [make_reply(num_examples=change.get("images", 1))]))
    assert record.threat_model is not None
    assert record.threat_model.update_form == form


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"status": "failed"}, "failed", Reason.of("failed")),
        ({"status": "failed", "reason": BROKEN}, "failed", BROKEN),
        ({"status": "timed out"}, "timed out", Reason.of("timed out")),
        ({"reason": BROKEN}, "returned", BROKEN),
    ],
)
def test_clients_without_an_update(
    spied: Build, changes: dict[str, Any], status: str, reason: Reason
) -> None:
    auditor, (spy,) = spied(clients_per_round=None)
    record, other = auditor.audit_round(1, [make_reply(0, **changes), make_reply(1)])
    assert (record.client_status, record.reason) == (status, reason)
    assert [(o.status, o.reason) for o in record.attacks] == [("not tested", reason)]
    assert (record.threat_model is None) is (status != "returned")
    assert record.update_norm is None
    assert record.threat_model is None or record.threat_model.update_form == "none"
    assert other.attacks[0].status == "scored"
    assert len(spy.calls) == 1
    assert written(auditor) == [record, other]


def test_rounds_that_are_not_due(spied: Build) -> None:
    auditor, (spy,) = spied(every=3)
    due = [r for r in range(1, 8) if auditor.is_due(r)]
    assert due == [1, 4, 7]
    unread = make_reply(sent=lambda: pytest.fail("read"), returned=lambda: pytest.fail("read"))
    record = only(auditor.audit_round(2, [unread]))
    assert record.reason == Reason.of("not due", every=3)
    assert [(o.attack, o.status) for o in record.attacks] == [("spy", "not tested")]
    assert only(auditor.audit_round(4, [make_reply()])).attacks[0].status == "scored"
    assert len(spy.calls) == 1


def test_clients_that_are_not_chosen(spied: Build) -> None:
    auditor, (spy,) = spied(clients_per_round=2)
    replies = [make_reply(i) for i in range(4)] + [make_reply(4, status="failed")]
    records = auditor.audit_round(1, replies)
    assert [r.partition for r in records] == [0, 1, 2, 3, 4]
    left = [r.attacks[0] for r in records if r.reason and r.client_status == "returned"]
    assert {o.reason for o in left} == {Reason.of("not chosen", chosen=2, clients=5)}
    assert {o.status for o in left} == {"not tested"}
    assert len(left) == len(spy.calls) == 2


def attacked(auditor: Auditor, round: int, replies: list[ClientReply]) -> set[str]:
    return {r.client for r in auditor.audit_round(round, replies) if r.reason is None}


def test_the_choice_is_seeded(spied: Build) -> None:
    replies = [make_reply(i, node=90 - i) for i in range(6)]
    shuffled = [make_reply(i, node=7 * i) for i in (3, 1, 5, 0, 4, 2)]

    def choices(seed: int, replies: list[ClientReply]) -> list[set[str]]:
        auditor, _ = spied(seed=seed, clients_per_round=2)
        return [attacked(auditor, round, replies) for round in range(1, 7)]

    first = choices(1, replies)
    assert choices(1, shuffled) == first
    assert choices(2, replies) != first
    assert len({frozenset(c) for c in first}) > 1
    assert all(len(c) == 2 for c in first)


def test_everybody_or_all_who_are_left(spied: Build) -> None:
    replies = [make_reply(i) for i in range(3)]
    for most in (None, 3, 9):
        auditor, _ = spied(clients_per_round=most)
        assert len(attacked(auditor, 1, replies)) == 3
    nameless = [make_reply(None, node=n) for n in (8, 5)]
    assert attacked(spied(clients_per_round=9)[0], 1, nameless) == {"8", "5"}


def test_only_updates_that_can_be_audited_are_chosen_from(spied: Build) -> None:
    auditor, _ = spied(clients_per_round=1)
    unfit = [make_reply(0, reason=BROKEN), make_reply(1, status="failed")]
    for round in range(1, 9):
        assert attacked(auditor, round, [*unfit, make_reply(2)]) == {"partition 2"}


@pytest.mark.parametrize("error", [None, RuntimeError("broken")])
def test_threads_of_an_attack(spied: Build, two_threads: None, error: Exception | None) -> None:
    auditor, (spy,) = spied({"error": error}, threads=1)
    auditor.audit_round(1, [make_reply()])
    assert spy.threads == [1]
    assert torch.get_num_threads() == 2


def test_the_truth_callback(spied: Build) -> None:
    asked: list[tuple[int, Client]] = []

    def truth(round: int, client: Client) -> Truth:
        asked.append((round, client))
        return make_truth(seed=50)

    auditor, _ = spied(truth=truth, clients_per_round=1)
    replies = [make_reply(0, truth=lambda: pytest.fail("read")), make_reply(1, status="failed")]
    record, _ = auditor.audit_round(4, replies)
    assert asked == [(4, Client(node_id=1000, partition=0))]
    assert record.truth_digest == truth_digest(make_truth(seed=50))


def test_a_run_and_its_evaluations_are_written(tmp_path: Path) -> None:
    auditor = real_auditor(tmp_path, setting="z=1")
    auditor.record_evaluation(0, "server", {"accuracy": 0.1})
    auditor.record_evaluation(1, "clients", {"loss": float("inf")})
    contents = read_ledger(tmp_path)
    (run,) = contents.runs
    assert (run.run, run.setting) == (auditor.run, "z=1")
    assert run.config == auditor.config.model_dump(mode="json")
    assert (run.model["name"], run.model["parameters"]) == ("Sequential", 547)
    assert {"python", "torch", "flwr", "fl-privacy-audit"} <= set(run.versions)
    found = [(e.run, e.round, e.source, e.metrics) for e in contents.evaluations]
    assert found == [
        (auditor.run, 0, "server", {"accuracy": 0.1}),
        (auditor.run, 1, "clients", {"loss": float("inf")}),
    ]
    assert real_auditor(tmp_path).run != auditor.run


@pytest.mark.parametrize(("count", "client"), [(1, "partition 0"), (2, "2 clients")])
def test_progress_is_told(tmp_path: Path, count: int, client: str) -> None:
    told: list[Progress] = []
    config = audit_config(tmp_path, clients_per_round=None)
    auditor = Auditor(config, model=tiny_net(), on_progress=told.append)
    auditor.audit_round(3, [make_reply(i) for i in range(count)])
    steps = [(p.round, p.client, p.attack, p.step, p.steps) for p in told]
    assert steps == [(3, client, "inverting_gradients", n, 5) for n in range(1, 6)]


def test_attacks_are_told_the_round(spied: Build) -> None:
    auditor, (spy,) = spied()
    for number in (1, 3):
        auditor.audit_round(number, [make_reply()])
    assert sorted({seen.round for seen, _ in spy.calls}) == [1, 3]
