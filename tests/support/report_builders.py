"""Ledgers of a sweep, written by hand: thirteen settings, no attack runs."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import ControlKind, View
from fl_privacy_audit.ledger.ledger import Ledger
from fl_privacy_audit.ledger.provenance import versions
from fl_privacy_audit.ledger.records import (
    AttackOutcome,
    AuditRecord,
    ControlOutcome,
    EvaluationRecord,
    Record,
    RunRecord,
    Scores,
    ThreatModel,
)
from fl_privacy_audit.verdicts.compare import Row
from tests.support.builders import audit_config

SHAPE = (3, 16, 16)
TRAINING: dict[str, Any] = {
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "steps": 1,
    "batch_size": 1,
    "mode": "train",
}
NULLS: dict[ControlKind, float] = {"noise": 0.05, "other client": 0.11, "grey": 0.13}
ATTACK = "swept_inversion"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One run.

    Attributes:
        name: The run's word for itself.
        server: How much of the image shows, 0 to 1, where the server sees.
        release: The same where the release is seen.
        accuracy: After the last round.
        changes: Of the audit's configuration.
        reported: Epsilon that clients report, per round.
        copies: How much shows of undefended copies; None for no positive control.
        nulls: Whether null controls ran.
        truth: Whether the true images are known.
        pictures: Whether pictures are kept.
    """

    name: str
    server: float
    release: float = 0.04
    accuracy: float | None = 0.8
    changes: dict[str, Any] = field(default_factory=dict)
    reported: tuple[float, ...] = ()
    copies: float | None = 0.82
    nulls: bool = True
    truth: bool = True
    pictures: bool = False
    views: tuple[View, ...] = ("server", "release")
    rounds: int = 6
    clients: int = 3


def dp_sgd(noise: float, **claim: Any) -> dict[str, Any]:
    return {
        "training": {**TRAINING, "max_grad_norm": 1.0, "noise_multiplier": noise},
        "claim": {
            "mechanism": "dp-sgd",
            "delta": 1e-5,
            "sample_rate": 0.02,
            "sampling": "poisson",
            "accountant": "persistent",
            **claim,
        },
    }


def flower(
    mechanism: Literal["central-gaussian", "local-gaussian"], **claim: Any
) -> dict[str, Any]:
    settings = {"mechanism": mechanism, "delta": 1e-5, "clipping_norm": 1.0, **claim}
    return {"claim": settings}


SWEEP: tuple[Setting, ...] = (
    Setting(name="no defence", server=0.82, release=0.3, accuracy=0.871),
    Setting(name="Gaussian noise 1e-3", server=0.74, release=0.26, accuracy=0.868),
    Setting(name="Gaussian noise 1e-2", server=0.24, release=0.09, accuracy=0.829),
    Setting(name="Gaussian noise 1e-1", server=0.0, release=0.0, accuracy=0.412),
    Setting(name="pruning 0.7", server=0.66, release=0.24, accuracy=0.866),
    Setting(name="pruning 0.99", server=0.12, release=0.05, accuracy=0.803),
    Setting(name="8-bit quantisation", server=0.78, release=0.28, accuracy=0.87),
    Setting(name="sign", server=0.41, release=0.15, accuracy=0.79),
    Setting(
        name="DP-SGD z=0.3", server=0.2, release=0.06, accuracy=0.744,
        changes=dp_sgd(0.3, epsilon=8.0), reported=(2.9,) * 6,
    ),
    Setting(
        name="DP-SGD z=1", server=0.01, release=0.0, accuracy=0.601,
        changes=dp_sgd(1.0, epsilon=8.0), reported=(0.4, 0.6, 0.7, 0.9, 1.0, 1.1),
    ),
    Setting(
        name="DP-SGD z=2", server=0.0, release=0.0, accuracy=0.498,
        changes=dp_sgd(2.0, epsilon=8.0), reported=(0.1, 0.11, 0.12, 0.13, 0.14, 0.15),
    ),
    Setting(
        name="Flower ServerSide fixed clipping", server=0.8, release=0.0, accuracy=0.622,
        changes=flower("central-gaussian", noise_multiplier=1.0, sampled_clients=3, clipped_by="server"),
    ),
    Setting(
        name="Flower ClientSide fixed clipping", server=0.79, release=0.0, accuracy=0.617,
        changes=flower("central-gaussian", noise_multiplier=1.0, sampled_clients=3),
    ),
)  # fmt: skip


def write_sweep(folder: Path, settings: tuple[Setting, ...] = SWEEP, **changes: Any) -> list[Path]:
    """One ledger a setting, in the order given."""
    return [
        write_setting(folder / f"{number:02}", replace(setting, **changes))
        for number, setting in enumerate(settings, start=1)
    ]


def write_setting(directory: Path, setting: Setting) -> Path:
    Ledger(directory).append(_lines(directory, setting))
    return directory


def _lines(directory: Path, setting: Setting) -> list[Record]:
    base: dict[str, Any] = {
        "training": TRAINING,
        "image": {"shape": SHAPE, "mean": (0.5,) * 3, "std": (0.25,) * 3},
        "attacks": [{"name": ATTACK, "options": {"steps": 400}}],
        "views": setting.views,
        "controls": True,
        "clients_per_round": setting.clients,
    }
    config = audit_config(directory, setting=setting.name, **{**base, **setting.changes})
    run = f"{abs(hash_of(setting.name)):016x}"[:12]
    lines: list[Record] = [
        RunRecord(
            time="2026-11-24T09:00:00+00:00",
            run=run,
            setting=setting.name,
            config=config.model_dump(mode="json"),
            model={"name": "LeNet", "parameters": 61706, "layout": "5d41402abc4b2a76"},
            versions=versions(),
        )
    ]
    for number in range(1, setting.rounds + 1):
        for view in setting.views:
            clients = range(setting.clients) if view == "server" else range(1)
            lines += [_record(directory, setting, run, number, view, c) for c in clients]
        if setting.accuracy is not None:
            reached = setting.accuracy * (0.55 + 0.45 * number / setting.rounds)
            lines.append(
                EvaluationRecord(
                    time=f"2026-11-24T09:{number:02}:30+00:00",
                    run=run,
                    round=number,
                    source="server",
                    metrics={"accuracy": round(reached, 4)},
                )
            )
    return lines


def hash_of(name: str) -> int:
    """The same in every process."""
    total: int = sum(ord(c) * 31**i for i, c in enumerate(name))
    return total % (1 << 31)


def _record(
    directory: Path, setting: Setting, run: str, number: int, view: View, client: int
) -> AuditRecord:
    # Images, and so controls, are those of round and client: paired over settings.
    of_image = np.random.default_rng([number, client, view == "release"])
    own = np.random.default_rng([hash_of(setting.name), number, client, view == "release"])
    strength = setting.server if view == "server" else setting.release
    hardness = float(of_image.uniform(0.75, 1.1))
    chance = float(of_image.normal(0, 0.02))
    shown = strength * hardness * float(own.uniform(0.9, 1.08))
    who = f"partition {client}" if view == "server" else "all clients"
    outcome = AttackOutcome(
        attack=ATTACK,
        options={"steps": 400},
        status="scored" if setting.truth else "not scored",
        reason=None if setting.truth else Reason.of("no truth"),
        steps=400,
        seconds=7.3,
        labels_right=1.0,
        scores=_scores(shown, chance, own) if setting.truth else {},
        controls=_controls(setting, view, hardness, chance, of_image) if setting.truth else [],
        picture=_picture(directory, of_image, shown, own) if setting.pictures else None,
    )
    reported = setting.reported if view == "server" else ()
    return AuditRecord(
        time=f"2026-11-24T09:{number:02}:00+00:00",
        run=run,
        round=number,
        client=who,
        node_id=1000 + client if view == "server" else 0,
        partition=client if view == "server" else None,
        view=view,
        threat_model=ThreatModel(
            view=view,
            update_form="exact gradient",
            local_training={"optimizer": "sgd", "learning_rate": 0.1, "steps": 1, "momentum": None},
            image={"shape": [*SHAPE], "mean": [0.5] * 3, "std": [0.25] * 3},
            num_images=1 if view == "server" else 3,
            assumptions=[Reason.of("mode unknown")],
        ),
        update_norm=0.9,
        num_examples=50,
        reported={"epsilon": reported[number - 1]} if reported else {},
        truth_digest=f"{number}-{client}-{view}" if setting.truth else None,
        attacks=[outcome],
        clients=[f"partition {c}" for c in range(setting.clients)] if view == "release" else [],
    )


def _scores(shown: float, chance: float, rng: np.random.Generator) -> dict[str, Scores]:
    ssim = float(np.clip(0.1 + chance + 0.9 * shown + rng.normal(0, 0.015), -1, 1))
    psnr = float(12 + 14 * shown + rng.normal(0, 0.5))
    return {n: one(v) for n, v in {"mse": 10 ** (-psnr / 10), "psnr": psnr, "ssim": ssim}.items()}


def one(value: float) -> Scores:
    return Scores(each=[value], mean=value, worst=value)


def _controls(
    setting: Setting, view: View, hardness: float, chance: float, rng: np.random.Generator
) -> list[ControlOutcome]:
    found = []
    if setting.nulls:
        for kind, level in NULLS.items():
            ssim, psnr = level + chance, 10.5 + 10 * level + chance
            scores = {"mse": one(10 ** (-psnr / 10)), "psnr": one(psnr), "ssim": one(ssim)}
            found.append(ControlOutcome(kind=kind, status="scored", scores=scores, steps=400))
    if setting.copies is not None:
        shown = setting.copies * hardness * (1.0 if view == "server" else 0.4)
        scores = _scores(shown, chance, rng)
        found.append(ControlOutcome(kind="undefended", status="scored", scores=scores, steps=400))
    return found


def _picture(
    directory: Path, of_image: np.random.Generator, shown: float, own: np.random.Generator
) -> str:
    """The original above what the attack made of it, as the audit keeps them."""
    coarse = of_image.uniform(0, 255, (4, 4, 3)).astype(np.uint8)
    original = np.asarray(Image.fromarray(coarse).resize(SHAPE[1:], Image.Resampling.BICUBIC))
    noise = own.uniform(0, 255, original.shape)
    mixed = np.clip(shown, 0, 1) * original + (1 - np.clip(shown, 0, 1)) * noise
    name = f"pictures/{own.integers(1 << 60):x}.png"
    (directory / "pictures").mkdir(parents=True, exist_ok=True)
    both = np.concatenate([original, mixed.astype(np.uint8)])
    Image.fromarray(both).save(directory / name)
    return name


def row(**changes: Any) -> Row:
    fields: dict[str, Any] = {
        "setting": "no defence",
        "attack": "dlg",
        "accuracy": None,
        "epsilon_reported": None,
        "epsilon_in_effect": None,
        "scores": {},
        "attacked": 0,
        "not_scored": 0,
        "failed": 0,
        "not_tested": 0,
        "view": "server",
        "verdict": "inconclusive",
        "reason": Reason.of("no null attack"),
        "net": None,
    }
    return Row(**{**fields, **changes})
