"""Runs with a known outcome: small networks, several clients and rounds, judged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fl_privacy_audit import Auditor, Client, ClientReply, Truth
from fl_privacy_audit.ledger.ledger import last_run, read_ledger
from fl_privacy_audit.verdicts.rules import judge_run
from fl_privacy_audit.verdicts.verdict import SettingVerdict
from tests.support.builders import IMAGE, Arrays, audit_config, made, to_arrays, trained

Tamper = Callable[[Arrays, Arrays, np.random.Generator], Arrays]
"""``(sent, returned, rng) -> returned``: a defence, or worse."""


def open_net(seed: int = 0) -> nn.Sequential:
    """One that the closed-form attack on the first linear layer reads like a book."""
    return made(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3), seed=seed)


def picture(number: int, seed: int) -> Truth:
    """An image with structure, unlike noise and unlike grey."""
    rng = torch.Generator().manual_seed(1000 * seed + number)
    coarse = torch.rand(1, 1, 3, 3, generator=rng)
    images = nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear", align_corners=True)
    return Truth(images=images, labels=torch.tensor([number % 3]))


def unchanged(sent: Arrays, returned: Arrays, rng: np.random.Generator) -> Arrays:
    del sent, rng
    return returned


def replaced_by_noise(sent: Arrays, returned: Arrays, rng: np.random.Generator) -> Arrays:
    """Every tensor of the update replaced by noise of its norm: nothing of the image is left."""
    out: Arrays = {}
    for name, before in sent.items():
        drawn = rng.standard_normal(before.shape)
        moved = np.subtract(returned[name], before)
        far = np.linalg.norm(moved) / np.linalg.norm(drawn)
        out[name] = np.add(before, far * drawn).astype(np.float32)
    return out


def gaussian(std: float) -> Tamper:
    """Noise on what leaves the client."""

    def tamper(sent: Arrays, returned: Arrays, rng: np.random.Generator) -> Arrays:
        del sent
        return {
            name: np.add(array, std * rng.standard_normal(array.shape)).astype(np.float32)
            for name, array in returned.items()
        }

    return tamper


def replies(
    model: nn.Module, server_round: int, clients: int, *, seed: int, tamper: Tamper
) -> list[ClientReply]:
    """Each client takes one step on an image of its own."""
    out = []
    for partition in range(clients):
        truth = picture(server_round * clients + partition, seed)
        rng = np.random.default_rng([seed, server_round, partition])
        sent = to_arrays(model)
        returned = tamper(sent, to_arrays(trained(model, truth)), rng)
        out.append(
            ClientReply(
                client=Client(node_id=1000 + partition, partition=partition),
                sent=lambda sent=sent: sent,  # type: ignore[misc]
                returned=lambda returned=returned: returned,  # type: ignore[misc]
                num_examples=1,
                truth=lambda truth=truth: truth,  # type: ignore[misc]
            )
        )
    return out


def audited(
    directory: Path,
    *,
    tamper: Tamper = unchanged,
    seed: int = 0,
    rounds: int = 3,
    clients: int = 2,
    net: Callable[[int], nn.Sequential] = open_net,
    **settings: Any,
) -> SettingVerdict:
    """Audit a few rounds with all controls and judge the server's view."""
    config = audit_config(
        directory,
        **{
            "attacks": ["first_linear"],
            "controls": True,
            "metrics": ["mse", "psnr", "ssim"],
            "clients_per_round": None,
            "image": IMAGE,
            "seed": seed,
            **settings,
        },
    )
    model = net(seed)
    auditor = Auditor(config, model=model)
    for server_round in range(1, rounds + 1):
        auditor.audit_round(
            server_round, replies(model, server_round, clients, seed=seed, tamper=tamper)
        )
    (verdict, *_) = judge_run(last_run(read_ledger(directory)))
    return verdict
