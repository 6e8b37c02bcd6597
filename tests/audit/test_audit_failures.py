from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fl_privacy_audit import Auditor, ClientReply, Truth
from fl_privacy_audit.attacks import choose
from fl_privacy_audit.core.errors import (
    ConfigError,
    LedgerError,
    TruthError,
    UnmetNeedError,
    UpdateError,
)
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import Observation, Reconstruction
from fl_privacy_audit.ledger.ledger import read_ledger
from fl_privacy_audit.ledger.records import AuditRecord
from fl_privacy_audit.report.sentences import say
from tests.support.builders import (
    ONE_STEP,
    audit_config,
    make_reply,
    make_truth,
    only,
    real_auditor,
    tiny_net,
    to_arrays,
)
from tests.support.spies import Build, Spy


def written(auditor: Auditor) -> list[AuditRecord]:
    return list(read_ledger(auditor.ledger.path).audits)


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (
            RuntimeError("it broke"),
            "failed",
            Reason.of("unexpected error", type="RuntimeError", message="it broke"),
        ),
        (
            UnmetNeedError("it needs one image"),
            "not tested",
            Reason.of("unmet need", message="it needs one image"),
        ),
    ],
)
def test_an_attack_that_raises(spied: Build, error: Exception, status: str, reason: Reason) -> None:
    auditor, spies = spied({"error": error}, attacks=["first", "second"])
    spies[1].error = None
    record = only(auditor.audit_round(1, [make_reply()]))
    assert record.reason is None
    assert [(o.attack, o.status, o.reason) for o in record.attacks] == [
        ("first", status, reason),
        ("second", "scored", None),
    ]
    assert record.attacks[0].scores == {}
    assert written(auditor) == [record]
    assert only(auditor.audit_round(2, [make_reply()])).round == 2


def test_a_need_of_a_real_attack_that_is_not_met(tmp_path: Path) -> None:
    training = {**ONE_STEP.model_dump(), "batch_size": 2}
    auditor = real_auditor(tmp_path, attacks=["idlg"], training=training)
    (outcome,) = only(auditor.audit_round(1, [make_reply(num_examples=2)])).attacks
    assert outcome.status == "not tested"
    assert outcome.reason == Reason.of(
        "unmet need", message="it works on a batch of at most 1, but there are 2 images"
    )


def not_finite(value: float) -> ClientReply:
    arrays = to_arrays(tiny_net())
    arrays["3.bias"] = np.full(3, value, dtype=np.float32)
    return make_reply(returned=lambda: arrays)


def test_an_update_that_is_not_finite(spied: Build) -> None:
    auditor, (spy,) = spied()
    record = only(auditor.audit_round(1, [not_finite(float("nan"))]))
    assert record.client_status == "returned"
    assert record.reason is not None
    assert record.reason.code == "update does not fit"
    assert "`3.bias` returned by the client holds values that are not fin" in say(record.reason)
    assert [(o.status, o.reason) for o in record.attacks] == [("not tested", record.reason)]
    assert (record.update_norm, record.truth_digest) == (None, None)
    assert not spy.calls
    assert written(auditor) == [record]


def test_an_attack_that_meets_overflow(tmp_path: Path) -> None:
    arrays = {name: np.full_like(array, 1e38) for name, array in to_arrays(tiny_net()).items()}
    auditor = real_auditor(tmp_path)
    record = only(auditor.audit_round(1, [make_reply(sent=lambda: arrays)]))
    (outcome,) = record.attacks
    assert outcome.status == "failed"
    assert outcome.reason is not None
    assert say(outcome.reason).startswith("the update, or the gradient made of it, is not finite")
    assert repr(written(auditor)) == repr([record])


def test_one_client_does_not_spoil_another(tmp_path: Path) -> None:
    huge = {name: np.full_like(array, 1e38) for name, array in to_arrays(tiny_net()).items()}
    replies = [
        make_reply(0, sent=lambda: huge),
        not_finite(float("inf")),
        make_reply(2, sent=lambda: 1 // 0),
        make_reply(3),
        make_reply(4, truth=lambda: 1 // 0),
    ]
    auditor = real_auditor(tmp_path, clients_per_round=None)
    records = auditor.audit_round(1, replies)
    status = ["failed", "not tested", "not tested", "scored", "not scored"]
    assert [r.attacks[0].status for r in records] == status
    assert records[2].reason is not None
    assert say(records[2].reason) == "ZeroDivisionError: integer division or modulo by zero"
    assert {repr(r) for r in written(auditor)} == {repr(r) for r in records}


def test_an_attack_that_runs_out_of_time(tmp_path: Path) -> None:
    auditor = real_auditor(tmp_path, seconds_per_round=1e-9)
    (outcome,) = only(auditor.audit_round(1, [make_reply()])).attacks
    assert (outcome.status, outcome.stopped) == ("scored", "out of time")
    assert outcome.steps == 1
    assert outcome.budget_seconds == 0


def test_the_time_is_shared_evenly(spied: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    for module in ("auditor", "attacker", "schedule"):
        fake = SimpleNamespace(now=lambda: clock[0])
        monkeypatch.setattr(f"fl_privacy_audit.audit.{module}.clock", fake)
    auditor, _ = spied(seconds_per_round=60, clients_per_round=None, attacks=["one", "two"])

    def slow() -> dict[str, Any]:
        clock[0] += 30
        return to_arrays(tiny_net())

    replies = [make_reply(0, status="failed"), make_reply(1), make_reply(2, sent=slow)]
    shares = [o.budget_seconds for r in auditor.audit_round(1, replies) for o in r.attacks]
    # Of 30 seconds a tenth is kept for the replay check, and then for scoring until that is known.
    first, second = 30 * 0.9 / 2 / 2 * 0.9, pytest.approx(30 * 0.9 / 2, rel=0.05)
    assert shares == [None, None, first, second, first, second]


def wrong() -> Truth:
    return Truth(images=torch.full((1, 1, 8, 8), 2.0), labels=torch.tensor([1]))


def one_hot() -> Truth:
    truth = make_truth()
    return Truth(images=truth.images, labels=nn.functional.one_hot(truth.labels, 3))


def no_class() -> Truth:
    return Truth(images=make_truth().images, labels=torch.tensor([3]))


def in_numpy() -> Truth:
    truth: Any = SimpleNamespace(images=make_truth().images.numpy(), labels=np.array([-100.0]))
    return truth  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("truth", "reason"),
    [
        (lambda: None, "no true batch was published or provided"),
        (lambda: make_truth(0), "the client's batch held no image"),
        (wrong, "true images must be in [0, 1], but got [2, 2]; undo"),
        (lambda: 1 // 0, "ZeroDivisionError: "),
        (one_hot, "true labels must be (1,) class indices"),
        (no_class, "true labels must be (1,) class indices in 0..2, one for each image, but they"),
        (in_numpy, "true labels must be (1,) class indices in 0..2, one for each image, but they"),
    ],
)
def test_without_a_usable_truth(spied: Build, truth: Callable[[], Truth], reason: str) -> None:
    auditor, (spy,) = spied()
    record = only(auditor.audit_round(1, [make_reply(truth=truth)]))
    (outcome,) = record.attacks
    assert (record.reason, outcome.status, outcome.scores) == (None, "not scored", {})
    assert outcome.reason is not None
    assert say(outcome.reason).startswith(reason)
    assert len(spy.calls) == 1


def test_labels_outside_the_classes_reach_neither_scores_nor_controls(tmp_path: Path) -> None:
    auditor = real_auditor(tmp_path, controls=True)
    record = only(auditor.audit_round(1, [make_reply(truth=no_class)]))
    (outcome,) = record.attacks
    assert (outcome.status, outcome.scores, record.truth_digest) == ("not scored", {}, None)
    assert not [c for c in outcome.controls if "IndexError" in str(c.reason)]
    assert "in 0..2, one for each image, but they run from 3 to 3" in str(outcome.reason)


@pytest.mark.parametrize(
    ("how", "reply", "expected"),
    [
        ({"error": RuntimeError("it broke")}, make_reply(), RuntimeError),
        ({"error": UnmetNeedError("one image")}, make_reply(), UnmetNeedError),
        ({}, not_finite(float("nan")), UpdateError),
        ({}, make_reply(truth=wrong), TruthError),
    ],
)
def test_fail_fast(
    spied: Build, how: dict[str, Any], reply: ClientReply, expected: type[Exception]
) -> None:
    auditor, _ = spied(how, fail_fast=True)
    with pytest.raises(expected):
        auditor.audit_round(1, [reply])
    assert only(spied(how)[0].audit_round(1, [reply])).round == 1


@pytest.mark.parametrize("value", [2.0, float("nan")])
def test_one_attack_does_not_spoil_another(spied: Build, value: float) -> None:
    auditor, spies = spied(attacks=["first", "second"])
    spies[0].value = value
    record = only(auditor.audit_round(1, [make_reply()]))
    assert record.reason is None
    assert record.attacks[1].status == "scored"
    assert record.attacks[0].status in ("scored", "failed")


def test_images_that_are_not_numbers_are_a_failure(spied: Build) -> None:
    auditor, _ = spied({"value": float("nan")})
    assert only(auditor.audit_round(1, [make_reply()])).attacks[0].status == "failed"


def test_a_result_that_cannot_be_kept(spied: Build, tmp_path: Path) -> None:
    (tmp_path / "pictures").write_text("in the way", encoding="utf-8")
    auditor, _ = spied(keep_pictures=True)
    (outcome,) = only(auditor.audit_round(1, [make_reply()])).attacks
    assert (outcome.status, outcome.objective, outcome.steps) == ("scored", 1.0, 2)
    assert outcome.picture is None
    assert outcome.unavailable["picture"].code == "picture not kept"


def test_a_model_with_nothing_to_train(tmp_path: Path) -> None:
    model = tiny_net().requires_grad_(False)
    record = only(Auditor(audit_config(tmp_path), model=model).audit_round(1, [make_reply()]))
    assert record.attacks[0].status in ("failed", "not tested")


def test_weights_that_did_not_move(tmp_path: Path) -> None:
    reply = make_reply(returned=lambda: to_arrays(tiny_net()))
    (outcome,) = only(real_auditor(tmp_path).audit_round(1, [reply])).attacks
    assert outcome.status == "not tested"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attacks": ["idgl"]}, r"^there is no attack 'idgl'; .*Did you mean 'idlg'\?$"),
        (
            {"attacks": [{"name": "dlg", "options": {"step": 3}}]},
            r"^attack 'dlg' has no option 'step'; it has steps, restarts, learning_rate",
        ),
        (
            {"device": "abacus"},
            r"^`device` must be 'auto' or a device of this machine, but got 'ab",
        ),
        (
            {"device": "cuda:99"},
            r"^`device` must be 'auto' or a device of this machine, .*cuda:99'",
        ),
    ],
)
def test_what_an_auditor_refuses(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        real_auditor(tmp_path / "audit", **settings)
    assert not (tmp_path / "audit").exists()


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    auditor = real_auditor(tmp_path / "file")
    with pytest.raises(LedgerError, match=r"file/ledger\.jsonl cannot be written: "):
        auditor.begin()


class Nameless:
    """Has a name when it is registered, and none when it is used."""

    asked = 0

    @property
    def name(self) -> str:
        self.asked += 1
        if self.asked > 1:
            raise SystemExit("no name")
        return "nameless"

    def reconstruct(self, seen: Observation, **given: Any) -> Reconstruction:
        raise NotImplementedError


def test_what_nobody_foresaw_costs_one_attack(tmp_path: Path) -> None:
    config = audit_config(tmp_path, clients_per_round=None)
    auditor = Auditor(config, model=tiny_net(), attacks=[Nameless(), Spy()])
    records = auditor.audit_round(1, [make_reply(0), make_reply(1)])
    assert [[o.status for o in r.attacks] for r in records] == [["failed", "scored"]] * 2
    assert "SystemExit: no name" in str(records[0].attacks[0].reason)


def test_a_choice_that_goes_wrong_costs_one_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = iter([False, True])

    def chosen(*given: Any) -> Any:
        return choose(*given) if next(sound) else 1 // 0

    monkeypatch.setattr("fl_privacy_audit.audit.lineup.choose", chosen)
    auditor = real_auditor(tmp_path, attacks=["auto"], clients_per_round=None)
    one, other = auditor.audit_round(1, [make_reply(0), make_reply(1)])
    (outcome,) = one.attacks
    assert (outcome.attack, outcome.status) == ("auto", "not tested")
    assert "ZeroDivisionError" in str(outcome.reason)
    assert other.attacks[0].status == "scored"
