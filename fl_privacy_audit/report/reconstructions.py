"""Originals beside the reconstructions of several runs, as one picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl_privacy_audit.core.pictures import open_picture
from fl_privacy_audit.metrics import METRICS
from fl_privacy_audit.verdicts.compare import LastRun


@dataclass(frozen=True)
class PictureRow:
    """A row of the reconstruction picture: images ``(H, W, C)`` in [0, 255] with captions."""

    title: str
    images: Sequence[NDArray[np.uint8]]
    captions: Sequence[str]


def reconstruction_rows(runs: Sequence[LastRun], *, attack: str, most: int = 6) -> list[PictureRow]:
    """Originals, then each run's reconstructions of the same images.

    Needs runs that are comparable and kept their pictures, one image a record.
    """
    show = METRICS["psnr"].format
    kept = [
        {
            (record.round, record.client): (
                picture,
                show(outcome.scores["psnr"].mean, unit=True),
            )
            for record in run.audits
            for outcome in record.attacks
            if outcome.attack == attack and "psnr" in outcome.scores
            if (picture := run.picture(outcome)) is not None
        }
        for run in runs
    ]
    common = set.intersection(*(set(places) for places in kept)) if kept else set()
    keys = sorted(common)[:most]
    image = runs[0].run.stated.image if runs else None
    if image is None:
        return []
    _, height, width = image.shape
    rows = [
        PictureRow(
            "original",
            [np.asarray(open_picture(kept[0][key][0]))[:height, :width] for key in keys],
            [f"round {key[0]}\n{key[1]}" for key in keys],
        )
    ]
    for run, places in zip(runs, kept, strict=True):
        images = [np.asarray(open_picture(places[key][0]))[height:, :width] for key in keys]
        rows.append(PictureRow(run.run.setting, images, [places[key][1] for key in keys]))
    return rows


def draw_reconstructions(rows: Sequence[PictureRow], path: Path) -> None:
    """Write the picture: one row a setting, the original on top."""
    columns = max((len(row.images) for row in rows), default=0)
    if not columns:
        raise ValueError("there is no picture to draw: no record was scored with pictures kept")
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.35 * columns + 1.6, 1.55 * len(rows) + 0.2), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        for index, axis in enumerate(line):
            axis.set_xticks([])
            axis.set_yticks([])
            axis.imshow(row.images[index], interpolation="nearest")
            axis.set_xlabel(row.captions[index], fontsize=8)
        line[0].set_ylabel(row.title, rotation=0, ha="right", va="center", fontsize=10, labelpad=10)
    with matplotlib.rc_context({"svg.hashsalt": "fl-privacy-audit"}):
        figure.savefig(path, dpi=130)
