"""The card beside trained weights: data, labels' origin, protocol, figures."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from fl_privacy_audit.core.errors import WeightsError
from fl_privacy_audit.lab.manifest import FORMER
from fl_privacy_audit.lab.pages import render
from fl_privacy_audit.ledger.provenance import versions
from fl_privacy_audit.metrics.semsim import MEAN, SIDE, STD, SemSimNet

from .evaluation import Evaluation
from .examples import FIELDS, Examples, Selection
from .report import figures
from .training import Epoch, TrainSettings

By = Literal["people", "machines", "vision-language-model"]
SCHEMA = 1


def make_card(
    examples: Examples,
    settings: TrainSettings,
    net: SemSimNet,
    history: Sequence[Epoch],
    validation: Evaluation | None,
    weights: Path,
    *,
    labelled_by: By,
    without: Sequence[Selection] = (),
    start: str = "none",
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Everything a reader of the weights has to know, as plain data.

    `validation` is of the originals held back, None if there were none; `start` is the fingerprint of
    the weights it began from, and `notes` are licences and whatever else should be known.
    """
    counts = {
        field: dict(sorted(Counter(getattr(pair, field) for pair in examples.pairs).items()))
        for field in FIELDS
    }
    return {
        "schema": SCHEMA,
        "weights": {
            "file": weights.name,
            "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "bytes": weights.stat().st_size,
            "width": net.width,
            "parameters": sum(p.numel() for p in net.parameters()),
            "input": {"side": SIDE, "mean": MEAN, "std": STD},
        },
        "data": {
            "reconstructions": len(examples.pairs),
            "originals": len(examples.originals),
            "counts": counts,
            "recognisable": float(examples.recognisable.double().mean()),
            "fingerprint": examples.fingerprint(),
        },
        "labels": {
            "by": labelled_by,
            "annotators": list(examples.annotators),
            "rule": examples.rule,
            "threshold": examples.threshold,
        },
        "protocol": {
            "settings": asdict(settings),
            "left_out": [str(s) for s in without],
            "start": start,
        },
        "history": [
            asdict(epoch) | {"auc": None if math.isnan(epoch.auc) else epoch.auc}
            for epoch in history
        ],
        "validation": None if validation is None else _figures(validation),
        "versions": versions(),
        "notes": list(notes),
    }


def write_card(card: Mapping[str, Any], out_dir: Path) -> tuple[Path, Path]:
    """Write ``semsim.json`` and ``semsim.md``."""
    data, page = out_dir / "semsim.json", out_dir / "semsim.md"
    data.write_text(json.dumps(card, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    page.write_text(render("card.md", **card), encoding="utf-8")
    return data, page


def read_card(weights: Path) -> dict[str, Any] | None:
    """The card beside the weights, or None where there is none.

    Raises:
        WeightsError: It cannot be read, or is of other weights.
    """
    path = weights.with_suffix(".json")
    if not path.is_file():
        return None
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        expected = card["weights"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"the card {path} cannot be read: {error!r}") from error
    found = hashlib.sha256(weights.read_bytes()).hexdigest()
    if found != expected:
        raise WeightsError(
            f"the card {path} is of weights with sha256 {expected[:16]}..., but {weights} has "
            f"{found[:16]}...; put the right card beside them, or remove it"
        )
    return card


def seen_in_training(card: Mapping[str, Any] | None, found: Evaluation) -> list[str]:
    """What an evaluation shares with the training of its weights, as sentences."""
    if card is None:
        return ["No card lies beside the weights, so what they were trained on is not known."]
    seen = {FORMER.get(field, field): set(names) for field, names in card["data"]["counts"].items()}
    seen["annotator"] = set(card["labels"]["annotators"])
    return [
        f"Of the {field}s, new to SemSim: {', '.join(sorted({*names} - seen[field])) or 'none'}; "
        f"seen in training: {', '.join(sorted({*names} & seen[field])) or 'none'}."
        for field, names in (*found.names.items(), ("annotator", found.annotators))
    ]


def _figures(found: Evaluation) -> dict[str, Any]:
    return {
        "pairs": found.pairs,
        "originals": found.originals,
        "settings": found.settings,
        "tables": figures(found),
    }
