"""An Auditor for models and losses of one's own: what is recorded of them."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fl_privacy_audit import Auditor, Truth
from fl_privacy_audit.ledger.records import AuditRecord
from tests.support.builders import (
    IMAGE,
    RATE,
    assumed,
    audit_config,
    make_reply,
    make_truth,
    only,
    tiny_net,
    to_arrays,
    trained,
)


def several_labels(scores: Tensor, labels: Tensor) -> Tensor:
    wanted = F.one_hot(labels, 3).float() if labels.ndim == 1 else labels
    return F.binary_cross_entropy_with_logits(scores, wanted)


def three_scores(model: nn.Module, inputs: Tensor) -> Tensor:
    scores: Tensor = model(inputs)[..., 0]
    return scores


class Odd(nn.Module):
    """Scores ``(N, K, 1)``."""

    def __init__(self) -> None:
        super().__init__()
        self.body = tiny_net()

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.body(inputs)[..., None]
        return scores


def audited(directory: Path, truth: Truth, **given: object) -> AuditRecord:
    model, client = Odd(), Odd()
    loss = several_labels(three_scores(client, IMAGE.normalise(truth.images)), make_truth().labels)
    loss.backward()
    with torch.no_grad():
        for parameter in client.parameters():
            assert parameter.grad is not None
            parameter.sub_(RATE * parameter.grad)
    reply = make_reply(
        sent=lambda: to_arrays(model), returned=lambda: to_arrays(client), truth=lambda: truth
    )
    config = audit_config(directory, attacks=["first_linear"], metrics=["psnr"])
    return only(Auditor(config, model=model, **given).audit_round(1, [reply]))  # type: ignore[arg-type]


def test_forward_and_loss_reach_attack_and_replay(tmp_path: Path) -> None:
    record = audited(tmp_path, make_truth(), forward=three_scores, loss=several_labels)
    (outcome,) = record.attacks
    assert outcome.status == "scored"
    assert outcome.scores["psnr"].mean > 40
    assert record.replay is not None
    assert record.replay.fits
    assert record.threat_model is not None
    assert assumed(record.threat_model) == [
        "clients minimise `several_labels`, which the Auditor was given"
    ]


def test_a_model_without_scores_is_not_tested_and_the_way_out_is_named(tmp_path: Path) -> None:
    record = audited(tmp_path, make_truth(), loss=several_labels)
    assert [outcome.status for outcome in record.attacks] == ["not tested"]
    assert record.reason is not None
    assert "returned a tensor of shape (2, 3, 1). Give the Auditor `forward=`" in str(
        record.reason.figures["message"]
    )


def test_labels_that_are_no_class_indices_are_never_scored(tmp_path: Path) -> None:
    truth = make_truth()
    several = Truth(images=truth.images, labels=torch.tensor([[1.0, 0.0, 1.0]]))
    record = audited(tmp_path, several, forward=three_scores, loss=several_labels)
    (outcome,) = record.attacks
    assert outcome.status == "not scored"
    assert outcome.reason is not None
    assert "class indices" in str(outcome.reason.figures["message"])


def test_part_of_the_weights_and_a_layer_that_the_client_froze(tmp_path: Path) -> None:
    model, truth = tiny_net(), make_truth()
    after = to_arrays(trained(model, truth))
    after["3.weight"] = to_arrays(model)["3.weight"]
    del after["3.bias"]
    reply = make_reply(sent=lambda: to_arrays(model), returned=lambda: after, truth=lambda: truth)
    config = audit_config(tmp_path, attacks=["first_linear"], metrics=["psnr"])
    record = only(Auditor(config, model=model).audit_round(1, [reply]))
    assert record.attacks[0].scores["psnr"].mean > 40
    assert record.threat_model is not None
    assert assumed(record.threat_model) == [
        "not returned, so taken as they were sent and not compared: `3.bias`",
        "did not move at all, so taken as frozen by the client and not compared: `3.weight`",
    ]
