"""An annotator on disk: weights as safetensors, and a card as JSON that says what it is."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from fl_privacy_audit.core.errors import CorpusError, WeightsError
from fl_privacy_audit.core.files import write_whole

from .networks import make_network

Panel = Literal["training", "reference"]
PANELS: tuple[Panel, ...] = ("training", "reference")
"""Answers of the first may train a metric; answers of the second only judge it."""
SEEN = "seen"


@dataclass(frozen=True, kw_only=True)
class Annotator:
    """One annotator of one source, ready to answer."""

    name: str  # the same for every source
    panel: Panel  # of `PANELS`
    source: str  # whose pictures it names
    classes: Sequence[str]  # in the order of its scores
    network: str  # name of the network
    side: int  # pictures are brought to this side first
    temperature: float  # scores are divided by it
    threshold: float  # least confidence of an answer
    # it was calibrated to choose among so many classes, and is told which classes occur in a
    # corpus, as people are given candidates; 0 for all classes
    candidates: int
    model: nn.Module  # pixels in [0, 1] -> scores, in evaluation mode
    seen: Tensor  # fingerprints of the pictures that it was trained and calibrated on


FACTS = [field.name for field in fields(Annotator) if field.name not in ("model", SEEN)]
"""Fields of an annotator that its card holds."""


def paths(directory: Path, source: str, name: str) -> tuple[Path, Path]:
    """Weights and card of an annotator."""
    stem = f"{source}-{name}"
    return directory / f"{stem}.safetensors", directory / f"{stem}.json"


def save(annotator: Annotator, directory: Path, history: dict[str, Any]) -> None:
    """Write an annotator into a folder that exists.

    The card has the history too: how it was trained and calibrated. It comes last, so that a card
    means a whole annotator.
    """
    weights, card = paths(directory, annotator.source, annotator.name)
    tensors = {key: value.contiguous() for key, value in annotator.model.state_dict().items()}
    content = to_safetensors({**tensors, SEEN: annotator.seen})
    write_whole(weights, content)
    facts = {name: getattr(annotator, name) for name in FACTS}
    facts["sha256"] = hashlib.sha256(content).hexdigest()
    write_whole(card, json.dumps({**facts, **history}, indent=1, default=asdict))


def load_all(directory: Path, *, panel: Panel | None = None) -> list[Annotator]:
    """Every annotator of a folder, or those of one panel, by file name.

    Raises:
        CorpusError: There are none.
        WeightsError: One cannot be used.
    """
    everyone = map(load, sorted(directory.glob("*.json")))
    chosen = [one for one in everyone if panel in (None, one.panel)]
    if not chosen:
        which = f" of panel {panel!r}" if panel else ""
        raise CorpusError(
            f"there is no annotator{which} in {directory}; make some by "
            "`fl-privacy-audit annotators train`"
        )
    return chosen


def load(card: Path) -> Annotator:
    """Read one annotator by its card.

    Raises:
        WeightsError: The card or the weights are damaged, or do not belong together.
    """
    weights = card.with_suffix(".safetensors")
    try:
        facts = {"candidates": 0, **json.loads(card.read_text(encoding="utf-8"))}
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        if digest != facts["sha256"]:
            raise WeightsError(
                f"the weights {weights} are not those of its card: SHA-256 {digest}, but the card "
                f"says {facts['sha256']}; train the annotator again"
            )
        tensors = load_file(weights)
        model = make_network(facts["network"], len(facts["classes"]))
        seen = tensors.pop(SEEN)
        model.load_state_dict(tensors)
        return Annotator(
            **{name: facts[name] for name in FACTS},
            model=model.eval().to(memory_format=torch.channels_last),
            seen=seen,
        )
    except WeightsError:
        raise
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise WeightsError(
            f"the annotator {card} cannot be read: {error}; train it again"
        ) from error
