"""The two panels, and making one of their members for one source."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.core.protocols import Progress

from .calibrate import Calibration, calibrate
from .networks import load_start, make_network
from .pictures import Half, Pictures, fingerprints, half_of, hold_out, without_originals
from .store import Annotator, Panel, paths, save
from .training import Training, train

MOST_HELD_OUT = 1000


@dataclass(frozen=True)
class Member:
    """One row of the table."""

    panel: Panel  # see `store.PANELS`
    network: str  # a name of `networks.NETWORKS`
    light: str  # a cheaper one, for sources of few pictures
    half: Half  # of the training pictures
    seed: int  # seed for all random draws


MEMBERS: dict[str, Member] = {
    "machine-t1": Member("training", "resnet20", light="stem32", half="first", seed=1),
    "machine-t2": Member("training", "resnet20", light="stem24", half="first", seed=2),
    "machine-t3": Member("training", "resnet20", light="stem24", half="first", seed=3),
    "machine-e1": Member("reference", "resnet56", light="stem40", half="second", seed=4),
    "machine-e2": Member("reference", "resnet56", light="stem48", half="second", seed=5),
}
"""Name -> member. The panels share no network, no seed and, given halves, no training picture."""
RATE = 0.1
"""Highest learning rate from random weights; a fifth of it from given ones."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to make."""

    source: str  # name in the corpora
    directory: Path  # where annotators go
    corpora: Sequence[Path] = ()  # whose originals are left out of training and calibration
    start: dict[str, Path] | None = None  # network name -> weights to begin from
    after: str = ""  # another source whose annotator of the same name is begun from
    halves: bool = True  # give each panel its own half of the pictures; for many pictures a class
    precision: float = 0.8  # share of answers that should be right
    steps: int = 300  # of training; 0 leaves the weights as they are
    mirror: bool = True  # mirror half of the pictures
    room: int = 4  # of random crops, in 32 pixels
    light: bool = False  # use the cheaper networks
    candidates: int = 0  # see `store.Annotator`


def make(
    name: str,
    order: Order,
    pictures: Pictures,
    calibration_pictures: Pictures | None = None,
    *,
    progress: Progress = lambda done, steps: None,
    note: Callable[[str], None] = lambda text: None,
) -> Calibration | None:
    """Train, calibrate and save one annotator.

    Without pictures to calibrate on, an eighth of the others is set aside. `progress` is told of the
    training, `note` of what was left out.

    Returns:
        The calibration; None if the annotator was there already.

    Raises:
        CorpusError: No such member, or too few pictures.
        WeightsError: Weights to begin from do not fit.
    """
    if name not in MEMBERS:
        raise CorpusError(f"there is no annotator {name!r}; there are {', '.join(MEMBERS)}")
    member = MEMBERS[name]
    _, card = paths(order.directory, order.source, name)
    if card.exists():
        note(f"{card} is there already and is kept")
        return None
    learnt, aside, dropped = _divided(member, order, pictures, calibration_pictures)
    if dropped:
        note(f"{dropped} pictures are originals of a corpus and are left out")
    network = member.light if order.light else member.network
    weights = _start(order, network, name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(member.seed)
        model = make_network(network, len(pictures.classes))
    if weights:
        load_start(model, weights)
    training = Training(
        steps=order.steps,
        rate=RATE / 5 if weights else RATE,
        seed=member.seed,
        mirror=order.mirror,
        room=order.room,
    )
    checkpoint = order.directory / f"{order.source}-{name}.checkpoint"
    train(model, learnt, training, checkpoint=checkpoint, progress=progress)
    calibration = calibrate(
        model, aside, precision=order.precision, seed=member.seed, candidates=order.candidates
    )
    annotator = Annotator(
        name=name,
        panel=member.panel,
        source=order.source,
        classes=pictures.classes,
        network=network,
        side=int(pictures.pixels.shape[-1]),
        temperature=calibration.temperature,
        threshold=calibration.threshold,
        candidates=order.candidates,
        model=model,
        seen=torch.cat([fingerprints(learnt.pixels), fingerprints(aside.pixels)]),
    )
    start = "random weights"
    if weights:
        start = f"{weights.name}, SHA-256 {hashlib.sha256(weights.read_bytes()).hexdigest()}"
    history = {
        "about": "A machine annotator: no person labelled anything.",
        "trained_on": len(learnt),
        "calibrated_on": len(aside),
        "left_out": dropped,
        "half": member.half if order.halves else "all",
        "start": start,
        "training": training,
        "calibration": calibration,
    }
    save(annotator, order.directory, history)
    checkpoint.unlink(missing_ok=True)
    return calibration


def _divided(
    member: Member, order: Order, pictures: Pictures, calibration_pictures: Pictures | None
) -> tuple[Pictures, Pictures, int]:
    """Pictures to train on and to calibrate on, and how many originals of corpora were dropped."""
    kept, dropped = without_originals(pictures, order.corpora)
    own = half_of(kept, member.half if order.halves else "all")
    if calibration_pictures is None:
        return *hold_out(own, most=MOST_HELD_OUT, seed=member.seed), dropped
    aside, more = without_originals(calibration_pictures, order.corpora)
    return own, aside, dropped + more


def _start(order: Order, network: str, name: str) -> Path | None:
    if not order.after:
        return (order.start or {}).get(network)
    weights, _ = paths(order.directory, order.after, name)
    if not weights.exists():
        raise CorpusError(
            f"annotator {name!r} was not made for source {order.after!r} yet: there is no {weights}"
        )
    return weights
