import copy
import random
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fl_privacy_audit import Auditor, Truth
from fl_privacy_audit.ledger.records import AuditRecord
from tests.support.builders import (
    audit_config,
    made,
    make_reply,
    make_truth,
    norm_net,
    only,
    real_auditor,
    tiny_net,
    to_arrays,
    trained,
)
from tests.support.spies import Build


def comparable(records: list[AuditRecord]) -> list[dict[str, Any]]:
    clock: Any = {
        "node_id": True,
        "time": True,
        "run": True,
        "attacks": {"__all__": {"seconds", "budget_seconds", "needed_seconds", "picture"}},
    }
    return [r.model_dump(exclude=clock) for r in records]


def test_the_same_seed_gives_the_same_record(tmp_path: Path) -> None:
    def run(name: str, seed: int, noise: int) -> list[dict[str, Any]]:
        torch.manual_seed(noise)
        auditor = real_auditor(
            tmp_path / name, seed=seed, keep_pictures=True, clients_per_round=None
        )
        replies = [make_reply(i, node=10 * noise + i) for i in range(2)]
        return comparable([*auditor.audit_round(1, replies), *auditor.audit_round(2, replies)])

    first = run("a", 3, 1)
    assert run("b", 3, 2) == first
    assert run("c", 4, 1) != first
    pictures = [[p.read_bytes() for p in sorted((tmp_path / d).glob("*/*"))] for d in "ab"]
    assert pictures[0] == pictures[1]
    assert len(set(pictures[0])) == 4
    assert len({r["attacks"][0]["seed"] for r in first}) == 4


def _state() -> tuple[object, ...]:
    kind, keys, *rest = np.random.get_state(legacy=True)
    return random.getstate(), kind, bytes(np.asarray(keys)), *rest, torch.get_rng_state().tolist()


class Masked(nn.Module):
    """Dropout as a function: nothing tells it to stop but the training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.last = made(nn.Linear(64, 3))

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.last(nn.functional.dropout(images.flatten(1), 0.5, self.training))
        return scores


@pytest.mark.parametrize("make", [tiny_net, norm_net, Masked])
def test_global_state_is_left_alone(
    tmp_path: Path, two_threads: None, make: Callable[[], nn.Module]
) -> None:
    model = make()
    sent, back = to_arrays(model), to_arrays(trained(copy.deepcopy(model).eval(), make_truth()))
    reply = make_reply(sent=lambda: sent, returned=lambda: back)
    before = _state()
    auditor = Auditor(audit_config(tmp_path), model=model)
    record = only(auditor.audit_round(1, [reply]))
    assert record.attacks[0].status == "scored"
    assert _state() == before
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("as_function", [False, True])
def test_the_model_is_never_changed(tmp_path: Path, as_function: bool) -> None:
    model = norm_net().train()
    before, flags = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    after = trained(model, make_truth())
    auditor = Auditor(audit_config(tmp_path), model=(lambda: model) if as_function else model)
    reply = make_reply(sent=lambda: to_arrays(model), returned=lambda: to_arrays(after))
    assert only(auditor.audit_round(1, [reply])).attacks[0].status == "scored"
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert [m.training for m in model.modules()] == flags
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def tensors(of: object) -> Iterator[Tensor]:
    if isinstance(of, Tensor):
        yield of
    elif isinstance(of, nn.Module):
        yield from of.state_dict().values()
    elif is_dataclass(of):
        for part in fields(of):
            yield from tensors(getattr(of, part.name))
    elif isinstance(of, dict):
        for part in of.values():
            yield from tensors(part)
    else:
        assert not isinstance(of, (Truth, np.ndarray))


def test_the_truth_never_reaches_the_attack(spied: Build) -> None:
    auditor, (spy,) = spied()
    assert only(auditor.audit_round(1, [make_reply()])).attacks[0].status == "scored"
    ((seen, given),) = spy.calls
    assert set(given) == {"rng", "seconds", "progress"}
    assert isinstance(given["rng"], torch.Generator)
    names = {f.name for f in fields(seen)}
    assert not names & {"truth", "images", "labels"}
    pixels = make_truth().images.numel()
    assert all(t.numel() != pixels or t.ndim < 3 for t in tensors(seen))


def test_the_truth_does_not_move_the_attack(tmp_path: Path) -> None:
    def attack(name: str, truth: Truth | None) -> tuple[Any, ...]:
        auditor = real_auditor(tmp_path / name, keep_pictures=True)
        (outcome,) = only(auditor.audit_round(1, [make_reply(truth=lambda: truth)])).attacks
        assert outcome.picture is not None
        pixels = np.asarray(Image.open(tmp_path / name / outcome.picture))
        return outcome.status, outcome.objective, outcome.seed, pixels[-8:].tolist()

    blind = attack("blind", None)
    assert blind[0] == "not scored"
    assert attack("right", make_truth())[1:] == blind[1:]
    assert attack("wrong", make_truth(seed=9))[1:] == blind[1:]
    assert attack("more", make_truth(2, seed=9))[1:] == blind[1:]
