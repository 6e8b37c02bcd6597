"""What the tests of the core build again and again: tiny clients, and ledgers written by hand."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import Phase, settings
from numpy.typing import NDArray
from torch import nn

from fl_privacy_audit import (
    AuditConfig,
    Auditor,
    Client,
    ClientReply,
    ImageConfig,
    TrainingConfig,
    Truth,
)
from fl_privacy_audit.core.observe import observe
from fl_privacy_audit.core.types import Observation
from fl_privacy_audit.ledger.ledger import FILE_NAME, Ledger, read_ledger
from fl_privacy_audit.ledger.provenance import describe_model
from fl_privacy_audit.ledger.records import (
    AttackOutcome,
    AttackStatus,
    AuditRecord,
    EvaluationRecord,
    Record,
    RunRecord,
    Scores,
)
from fl_privacy_audit.verdicts.compare import LastRun, last_run

from .local_training import plain_training

QUICK = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
IMAGE = ImageConfig(shape=(1, 8, 8), mean=(0.5,), std=(0.25,))
RATE = 0.1
ONE_STEP = TrainingConfig(optimizer="sgd", learning_rate=RATE, steps=1, mode="train")
Arrays = dict[str, NDArray[np.generic]]


def made(*layers: nn.Module, seed: int = 0) -> nn.Sequential:
    """The layers with weights drawn from a seed of their own."""
    rng = torch.Generator().manual_seed(seed)
    model = nn.Sequential(*layers)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.3)
    return model


def tiny_net(seed: int = 0) -> nn.Sequential:
    return made(nn.Flatten(), nn.Linear(64, 8), nn.Sigmoid(), nn.Linear(8, 3), seed=seed)


def norm_net(seed: int = 0) -> nn.Sequential:
    conv, norm, drop = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5)
    return made(conv, norm, drop, nn.Flatten(), nn.Linear(72, 3), seed=seed)


def to_arrays(model: nn.Module) -> Arrays:
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


def make_truth(count: int = 1, seed: int = 0) -> Truth:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=rng)
    return Truth(images=torch.rand(count, *IMAGE.shape, generator=rng), labels=labels)


def trained(
    model: nn.Module, truth: Truth, *, rate: float = RATE, decay: float = 0.0, steps: int = 1
) -> nn.Module:
    """A client's copy of the model after plain SGD steps on one batch."""
    inputs = IMAGE.normalise(truth.images).to(next(model.parameters()).dtype)
    training = TrainingConfig(optimizer="sgd", learning_rate=rate, weight_decay=decay)
    batches = [range(len(inputs))] * steps
    return plain_training(model, inputs, truth.labels, training, batches)


def seen_by(
    model: nn.Module,
    returned: Arrays | None = None,
    *,
    training: TrainingConfig = ONE_STEP,
    num_examples: int | None = None,
) -> Observation:
    sent = to_arrays(model)
    back = {**sent, **(returned or {})}
    return observe(model, sent, back, image=IMAGE, training=training, num_examples=num_examples)


def make_reply(
    partition: int | None = 0, *, node: int | None = None, publish: bool = True, **changes: Any
) -> ClientReply:
    """A client that took one step on one image of its own, from the weights of `tiny_net`."""
    number = partition or 0
    truth = make_truth(seed=number)
    model = tiny_net()
    fields: dict[str, Any] = {
        "client": Client(node_id=1000 + number if node is None else node, partition=partition),
        "sent": lambda: to_arrays(model),
        "returned": lambda: to_arrays(trained(model, truth)),
        "num_examples": 1,
        "truth": lambda: truth if publish else None,
    }
    return ClientReply(**{**fields, **changes})


def audit_config(directory: Path, /, **changes: Any) -> AuditConfig:
    settings: dict[str, Any] = {
        "image": IMAGE,
        "directory": directory,
        "training": ONE_STEP,
        "device": "cpu",
        "controls": False,
        "executor": "inline",
        "attacks": [{"name": "inverting_gradients", "options": {"steps": 5}}],
    }
    return AuditConfig.build({**settings, **changes})


def real_auditor(directory: Path, **settings: Any) -> Auditor:
    return Auditor(audit_config(directory, **settings), model=tiny_net())


def only(records: list[AuditRecord]) -> AuditRecord:
    (record,) = records
    return record


def run_line(setting: str = "no defence", run: str = "run", **config: Any) -> RunRecord:
    settings = audit_config(Path("somewhere"), setting=setting, **config).model_dump(mode="json")
    model = describe_model(tiny_net())
    versions = {"python": "3.11"}
    return RunRecord(
        time="then", run=run, setting=setting, config=settings, model=model, versions=versions
    )


def outcome(
    scores: Mapping[str, float] | None = None,
    *,
    status: AttackStatus = "scored",
    attack: str = "inverting_gradients",
    **more: Any,
) -> AttackOutcome:
    scored = {k: Scores(each=[v], mean=v, worst=v) for k, v in (scores or {}).items()}
    return AttackOutcome(attack=attack, status=status, scores=scored, **more)


def audit_line(
    *outcomes: AttackOutcome,
    run: str = "run",
    round: int = 1,
    partition: int = 0,
    digest: str | None = "same",
    **more: Any,
) -> AuditRecord:
    return AuditRecord(
        time="then",
        run=run,
        round=round,
        client=f"partition {partition}",
        node_id=1000 + partition,
        partition=partition,
        truth_digest=digest,
        attacks=list(outcomes),
        **more,
    )


def evaluation_line(run: str = "run", round: int = 1, **metrics: float) -> EvaluationRecord:
    return EvaluationRecord(time="then", run=run, round=round, source="server", metrics=metrics)


def write_ledger(directory: Path, records: Iterable[Record], *, torn: bytes = b"") -> Path:
    """Write a ledger, then raw bytes after it."""
    Ledger(directory).append(records)
    with (directory / FILE_NAME).open("ab") as file:
        file.write(torn)
    return directory


def kept(directory: Path, records: list[Record]) -> LastRun:
    return last_run(read_ledger(write_ledger(directory, records)))
