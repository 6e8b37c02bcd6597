"""A release whose clients are defended is replayed client by client: a mean of clipped is no clipped mean."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fl_privacy_audit.audit.schedule import ClientReply, Release
from fl_privacy_audit.core.exchange import Arrays
from fl_privacy_audit.defences import make_applied_defence
from fl_privacy_audit.ledger.records import ReplayCheck
from tests.support.builders import (
    make_reply,
    make_truth,
    only,
    real_auditor,
    tiny_net,
    to_arrays,
    trained,
)

COUNTS = (1, 3, 2, 4)
"""Images of the clients."""
CLIP = 0.03
"""Below the length of each update."""
Updates = list[dict[str, torch.Tensor]]


def updates(seeds: tuple[int, ...] = (0, 1, 2, 3)) -> Updates:
    before = to_arrays(tiny_net())
    return [
        {
            name: torch.tensor(after) - torch.tensor(before[name])
            for name, after in to_arrays(trained(tiny_net(), make_truth(count, seed))).items()
        }
        for count, seed in zip(COUNTS, seeds, strict=True)
    ]


def clipped(update: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    length = float(torch.cat([t.flatten() for t in update.values()]).norm())
    assert length > CLIP
    return {name: t * (CLIP / length) for name, t in update.items()}


def mean(each: Updates) -> dict[str, torch.Tensor]:
    total = sum(COUNTS)
    return {
        n: sum(c * u[n] for c, u in zip(COUNTS, each, strict=True)) / total  # type: ignore[misc]
        for n in each[0]
    }


def checked(
    directory: Path, released: dict[str, torch.Tensor], name: str, options: dict[str, Any]
) -> ReplayCheck:
    """The release's replay check, where the clients published what `updates` are of."""
    before = to_arrays(tiny_net())
    after: Arrays = {n: before[n] + np.asarray(released[n]) for n in before}
    replies: list[ClientReply] = [
        make_reply(seed, num_examples=count, truth=lambda c=count, s=seed: make_truth(c, s))
        for seed, count in enumerate(COUNTS)
    ]
    auditor = real_auditor(directory, views=["release"], defence={"name": name, "options": options})
    release = Release(before=lambda: before, after=lambda: after)
    record = only([r for r in auditor.audit_round(1, replies, release) if r.view == "release"])
    assert record.replay is not None, record.no_replay
    return record.replay


APPLIED = [
    ("pruning", {"share": 0.5}),
    ("sign", {}),
    ("quantisation", {"bits": 8}),
    ("gaussian", {"std": 1e-3}),
    ("gaussian", {"std": 1e-3, "clip_norm": CLIP}),
]
CENTRAL = {"noise_multiplier": 0.05, "clipping_norm": CLIP, "num_sampled_clients": len(COUNTS)}


@pytest.mark.parametrize(("name", "options"), APPLIED, ids=str)
@pytest.mark.parametrize("rightly", [True, False])
def test_the_mean_of_defended_updates(
    tmp_path: Path, name: str, options: dict[str, Any], rightly: bool
) -> None:
    defence = make_applied_defence(name, options)
    made = updates() if rightly else updates((9, 8, 7, 6))
    rngs = [torch.Generator().manual_seed(100 + n) for n in range(len(COUNTS))]
    released = mean([defence.apply(u, rng) for u, rng in zip(made, rngs, strict=True)])
    assert checked(tmp_path, released, name, options).fits is rightly


@pytest.mark.parametrize("rightly", [True, False])
@pytest.mark.parametrize("name", ["server-clipping", "client-clipping"])
def test_the_mean_of_clipped_updates_and_the_servers_noise(
    tmp_path: Path, name: str, rightly: bool
) -> None:
    rng = torch.Generator().manual_seed(5)
    std = CENTRAL["noise_multiplier"] * CLIP / len(COUNTS)
    made = updates() if rightly else updates((9, 8, 7, 6))
    released = {
        n: t + std * torch.randn(t.shape, generator=rng)
        for n, t in mean([clipped(update) for update in made]).items()
    }
    assert checked(tmp_path, released, name, CENTRAL).fits is rightly
