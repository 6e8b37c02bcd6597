"""What ``semsim train`` does without ``--paper``: the eye, cross-validated, with its card."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save as to_safetensors
from torch import Tensor

from fl_privacy_audit.core.errors import ConfigError, CorpusError
from fl_privacy_audit.core.files import write_whole
from fl_privacy_audit.lab.manifest import read_picture
from fl_privacy_audit.lab.pages import render
from fl_privacy_audit.lab.progress import Stages
from fl_privacy_audit.lab.study.rank import auc
from fl_privacy_audit.lab.study.table import Floats
from fl_privacy_audit.ledger.provenance import versions
from fl_privacy_audit.metrics.eye import SIDE, SMALL, Backbone, Eye, distance, resized
from fl_privacy_audit.metrics.semsim import HEADER, load_eye, to_tensors

from .calibration import FEW, Calibration, by_kind, calibration
from .calibration import markdown as calibration_tables
from .evaluation import RIVALS, evaluate, measure
from .evidence import see
from .examples import FIELDS, Judged, Selection
from .eye_training import (
    EyeSettings,
    calibrated,
    cross_fit,
    folded,
    folds_of,
    kinds_of,
    train_eye,
)
from .ratings import RATINGS, write_ratings
from .report import markdown as evaluation_page

PICTURES = {".png", ".webp", ".jpg", ".jpeg"}


def train(
    judged: Judged,
    settings: EyeSettings,
    out_dir: Path,
    *,
    labelled_by: str,
    start: Path | None,
    published: Path | None,
    others: Path | None,
    evidence: Path | None,
    without: Sequence[Selection],
    notes: Sequence[str],
    bootstraps: int,
    progress: Stages,
) -> tuple[Path, ...]:
    """Train the eye's head and write weights, card and the pages of two cross-validations.

    The backbone is that of `start`, the shipped eye if None, or the `published` one. `others` is a
    folder with pictures of further domains, for pairs whose answer needs no judge. `evidence` is a file
    for what the backbone saw, which takes most of the time; a later training reads it.

    Raises:
        ConfigError: The folder holds weights already, or `evidence` is of other pairs.
        CorpusError: All pairs are recognised, or none; a picture cannot be read.
    """
    weights = out_dir / "eye.safetensors"
    if weights.exists():
        raise ConfigError(f"{out_dir} holds trained weights already; choose another folder")
    recognised = judged.recognised
    if recognised.all() or not recognised.any():
        raise CorpusError("an eye needs recognised and unrecognised pairs; judge more of them")
    backbone = _backbone(start, published)
    eye = Eye()
    eye.backbone = backbone
    seen, certain, apart = see(
        judged,
        torch.zeros(0, 3, SMALL, SMALL) if others is None else _pictures(others),
        eye.eval(),
        weight=settings.certain,
        seed=settings.seed,
        kept=evidence,
        progress=progress,
    )
    foreign = certain.take(apart)
    fold = folds_of(judged, settings.folds, settings.seed)
    share = seen.share.double().numpy()

    def held_back(sets: list[NDArray[np.bool_]]) -> tuple[Floats, Floats, NDArray[np.int64]]:
        """Logits of pairs and originals, a mean where a pair is in several sets; how many sets."""
        mine, own, times = np.zeros(len(fold)), np.zeros(len(fold)), np.zeros(len(fold), np.int64)
        for away, found in zip(
            sets, cross_fit(seen, foreign, sets, settings, progress=progress), strict=True
        ):
            mine[away] += found[0]
            own[away] += found[1]
            times[away] += 1
        return mine / times.clip(1), own / times.clip(1), times

    mine, own, _ = held_back([fold == number for number in range(settings.folds)])
    by = calibrated(mine, share)
    eye = train_eye(backbone, seen + certain, settings, by=by)
    out_dir.mkdir(parents=True, exist_ok=True)
    write_whole(weights, to_safetensors(to_tensors(eye), metadata=HEADER))
    kinds = kinds_of(judged)
    counts = Counter(kind for each in kinds for kind in each)
    often = sorted(kind for kind, count in counts.items() if count >= FEW)
    files, tables, aucs = [weights], {}, {}
    values, _ = measure(judged, RIVALS, progress=progress)
    kinds_away = held_back([np.array([kind in each for each in kinds]) for kind in often])
    for name, title, (pair, original, times) in (
        ("originals", "Originals held back", (mine, own, np.ones(len(fold), np.int64))),
        ("kinds", "Kinds of damage, and attacks, held back", kinds_away),
    ):
        rows = np.flatnonzero(times)
        if not len(rows):
            continue
        chance, chance_own = (_sigmoid(by[0] * x + by[1])[rows] for x in (pair, original))
        lost = distance(torch.from_numpy(chance), torch.from_numpy(chance_own)).numpy()
        aucs[name] = float(auc(chance, recognised[rows])[0])
        tables[name] = [
            calibration(title.lower(), chance, recognised[rows]),
            *by_kind(chance, recognised[rows], [kinds[row] for row in rows]),
        ]
        some = judged.take(rows.tolist())
        known = {"semsim": lost} | {metric: found[rows] for metric, found in values.items()}
        if name == "originals" and write_ratings(out_dir / RATINGS, some, known):
            files.append(out_dir / RATINGS)
        found = evaluate(some, known=known, bootstraps=bootstraps, progress=progress)
        page = out_dir / f"{name}.md"
        page.write_text(
            evaluation_page(found, name=title)
            + "\n\n## The chance of being recognised\n\n"
            + f"Its own pooled AUC is {aucs[name]:.3f}.\n\n"
            + calibration_tables(tables[name])
            + "\n",
            encoding="utf-8",
        )
        files.append(page)
    card = _card(judged, recognised, settings, weights, by, tables, labelled_by, without, notes)
    card["data"]["certain"] = len(certain.share)
    files += [out_dir / "eye.json", out_dir / "eye.md"]
    files[-2].write_text(json.dumps(card, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    held = {name: {**asdict(found[0]), "auc": aucs[name]} for name, found in tables.items()}
    files[-1].write_text(render("eye.md", held_back=held, **card), encoding="utf-8")
    return tuple(files)


def _agreement(judged: Judged) -> float | None:
    """In which share of pictures two annotators say the same; None where none has two."""
    same = [
        one == other
        for verdict in judged.verdicts
        for one, other in combinations(verdict.values(), 2)
    ]
    return float(np.mean(same)) if same else None


def _backbone(start: Path | None, published: Path | None) -> Backbone:
    if published is None:
        return load_eye(start).backbone
    return folded(torch.load(published, map_location="cpu", weights_only=True))


def _pictures(folder: Path) -> Tensor:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
    if not files:
        raise ConfigError(f"{folder} holds no pictures ({', '.join(sorted(PICTURES))})")
    return torch.cat([resized(read_picture(path)[None], SMALL) for path in files])


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)))


def _card(
    judged: Judged,
    recognised: NDArray[np.bool_],
    settings: EyeSettings,
    weights: Path,
    by: tuple[float, float],
    tables: dict[str, list[Calibration]],
    labelled_by: str,
    without: Sequence[Selection],
    notes: Sequence[str],
) -> dict[str, Any]:
    counts = {
        field: dict(sorted(Counter(getattr(pair, field) for pair in judged.pairs).items()))
        for field in FIELDS
    }
    return {
        "schema": 1,
        "weights": {
            "file": weights.name,
            "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "bytes": weights.stat().st_size,
            "input": {"side": SIDE, "small": SMALL},
            "calibration": {"slope": by[0], "offset": by[1]},
        },
        "data": {
            "reconstructions": len(judged.pairs),
            "counts": counts,
            "recognisable": float(recognised.mean()),
        },
        "labels": {
            "by": labelled_by,
            "annotators": list(judged.annotators),
            "agreement": _agreement(judged),
            "rule": "named",
        },
        "protocol": {"settings": asdict(settings), "left_out": [str(one) for one in without]},
        "calibration": {name: [asdict(one) for one in found] for name, found in tables.items()},
        "versions": versions(),
        "notes": list(notes),
    }
