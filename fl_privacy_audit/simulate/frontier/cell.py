"""One place of the frontier: training replayed on canaries, and attacked as any client's update is."""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fl_privacy_audit.audit import Auditor, ClientReply
from fl_privacy_audit.audit.schedule import Canary
from fl_privacy_audit.audit.scoring import ORIGINALS
from fl_privacy_audit.core.config import AuditConfig
from fl_privacy_audit.core.local_training import Chance, train_locally
from fl_privacy_audit.core.models import classifier, copy_model
from fl_privacy_audit.core.photographs import crop
from fl_privacy_audit.core.pictures import open_picture, pairs_in
from fl_privacy_audit.core.types import Client
from fl_privacy_audit.defences import defend_weights, make_applied_defence
from fl_privacy_audit.ledger.reading import read_lines
from fl_privacy_audit.ledger.records import AttackOutcome, AuditRecord
from fl_privacy_audit.metrics.identification import identification_pixels
from fl_privacy_audit.report.frontier import Leakage, Place
from fl_privacy_audit.verdicts.recognition import Recognisable

METRICS: Final = ("recognised", "psnr", "ssim")
GALLERY: Final = 100
_TRAINING = threading.Lock()
"""Places that are measured at the same time train one after the other: chance is the process's."""
CHANCE: Final = "other client"
"""What chance gives: another replay's reconstructions beside these originals, which costs no attack."""


def measure(
    config: AuditConfig, model: nn.Module, place: Place, folder: Path, *, replays: int
) -> Leakage:
    """What attacks get of canaries at one place.

    Args:
        config: Of the place.
        model: With the weights that are sent.
        place: For the result.
        folder: Of its ledger and pictures.
        replays: How many clients are replayed, each on images of its own.

    Raises:
        AuditError: The model does not take the images, or something else went wrong.
    """
    started = time.monotonic()
    settings = config.replace(
        directory=folder,
        views=("canary",),
        canary=config.canary.replace(replays=replays),
        controls=(CHANCE,),
        metrics=METRICS,
        keep_pictures=True,
        every=1,
        at_end="wait",
        setting=f"batch {place.batch}",
    )
    with _TRAINING:
        auditor = Auditor(settings, model=model)
        auditor.stand_back = False
        # Training is done before the clock of the attacks starts.
        canaries = (auditor.canaries.draw(1, number + 1, None) for number in range(replays))
        replies = {canary.number: _trained(settings, model, canary) for canary in canaries}
        auditor.audit_round(1, [], replay=_Made(replies))
    auditor.finish()
    records = [one for one in read_lines(folder) if isinstance(one, AuditRecord)]
    return _leakage(records, settings, place, time.monotonic() - started)


class _Made(dict[int, ClientReply]):
    """Replays that were made before, by the numbers of their canaries."""

    def __call__(self, canary: Canary) -> ClientReply:
        return self[canary.number]

    def errand(self, number: int) -> None:
        """Nothing is left to be made elsewhere."""


def _trained(config: AuditConfig, model: nn.Module, canary: Canary) -> ClientReply:
    """A client that trains as told on these images."""
    training = config.training
    trained = copy_model(model).train(training.mode != "eval")
    scoring, *_ = classifier(trained, config.image)
    before = {name: tensor.detach().clone() for name, tensor in trained.state_dict().items()}
    weights = {n: p for n, p in trained.named_parameters() if p.requires_grad}
    rest = {n: t for n, t in before.items() if n not in weights}
    rng = torch.Generator().manual_seed(canary.seed)
    result = train_locally(
        scoring,
        weights,
        rest,
        config.image.normalise(canary.images.images),
        canary.images.labels,
        training,
        chance=Chance(order=_shuffled(rng), dropout=True, noise=True, rng=rng),
    )
    after = {n: before[n] + result.update[n] if n in weights else result.buffers[n] for n in before}
    if config.defence.name not in ("none", "dp-sgd"):
        defence = make_applied_defence(config.defence.name, config.defence.options)
        after = defend_weights(before, after, defence, rng=rng)
    return ClientReply(
        client=Client(canary.number),
        sent=lambda: _arrays(before),
        returned=lambda: _arrays(after),
        num_examples=len(canary.images.labels),
        truth=lambda: canary.images,
    )


def _shuffled(rng: torch.Generator) -> Callable[[int, int], list[int]]:
    return lambda epoch, count: torch.randperm(count, generator=rng).tolist()


def _arrays(tensors: dict[str, Tensor]) -> "OrderedDict[str, np.ndarray]":
    return OrderedDict((name, tensor.detach().cpu().numpy()) for name, tensor in tensors.items())


def _leakage(
    records: list[AuditRecord], settings: AuditConfig, place: Place, seconds: float
) -> Leakage:
    """Of the attack that showed most; where none ran, why."""
    names = {o.attack for r in records for o in r.attacks if o.scores}
    if not names:
        reasons = [r.reason for r in records if r.reason is not None]
        reasons += [o.reason for r in records for o in r.attacks if o.reason is not None]
        return Leakage(place=place, reason=reasons[0] if reasons else None, seconds=seconds)
    each = [_of_attack(name, records, settings, place, seconds) for name in sorted(names)]
    return max(each, key=lambda one: (one.recognisable or 0.0, one.worst_psnr))


def _of_attack(
    name: str, records: list[AuditRecord], settings: AuditConfig, place: Place, seconds: float
) -> Leakage:
    outcomes = [o for r in records for o in r.attacks if o.attack == name and o.scores]
    shown, chance = Recognisable(), Recognisable()
    for outcome in outcomes:
        other = outcome.control(CHANCE)
        if "recognised" in outcome.scores:
            shown.add(outcome.scores["recognised"].each)
        if other is not None and "recognised" in other.scores:
            chance.add(other.scores["recognised"].each)
    worst = [v for o in outcomes for v in o.scores["psnr"].each if math.isfinite(v)]
    images = sum(len(o.scores["psnr"].each) for o in outcomes)
    return Leakage(
        place=place,
        attack=name,
        images=images,
        recognisable=shown.expected / shown.images if shown.images else None,
        low=shown.low / shown.images if shown.images else None,
        high=shown.high / shown.images if shown.images else None,
        by_chance=chance.high / chance.images if chance.images else None,
        worst_psnr=max(worst),
        identification=_identified(outcomes, settings),
        candidates=GALLERY + images,
        held=max(int(o.details.get(ORIGINALS, len(o.scores["psnr"].each))) for o in outcomes),
        picture=next((f"{o.picture}" for o in outcomes if o.picture), None),
        seconds=seconds,
    )


def _identified(outcomes: Sequence[AttackOutcome], settings: AuditConfig) -> float | None:
    """Share of reconstructions that are nearer to their own original than to any other picture."""
    _, height, width = settings.image.shape
    kept = [open_picture(settings.directory / o.picture) for o in outcomes if o.picture]
    pairs = [pair for picture in kept for pair in pairs_in(picture, height, width)]
    if not pairs:
        return None
    originals, rebuilt = (_pixels(side) for side in zip(*pairs, strict=True))
    return identification_pixels(rebuilt, originals, gallery(width, height)).value


@lru_cache
def gallery(width: int, height: int) -> Tensor:
    """``(GALLERY, 3, H, W)`` pictures that no client trains on, among which an original must be found."""
    pictures = [crop(index, "gallery").resize((width, height)) for index in range(GALLERY)]
    return _pixels(pictures)


def _pixels(pictures: Sequence[Image.Image]) -> Tensor:
    stacked = np.stack([np.asarray(picture) for picture in pictures])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255
