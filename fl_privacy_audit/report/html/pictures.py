"""Original beside reconstruction, inside the page: only where pictures were kept."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.core.pictures import open_picture
from fl_privacy_audit.core.types import View
from fl_privacy_audit.metrics import title_of
from fl_privacy_audit.report.lines import numbered, score_text, verdict_of
from fl_privacy_audit.report.summary import AuditSummary, RecordScores, SettingSummary

from .plots import metric_info

MOST_IMAGES = 4
"""Images of one record."""

OFF = (
    "No pictures are shown. They are personal data, so audits keep none unless told to "
    "(keep_pictures)."
)
LEFT_OUT = "No pictures are shown: this report was made with --no-pictures."


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One image and what the attack made of it.

    Attributes:
        original: ``data:`` address.
        reconstruction: Likewise.
        caption: Its score.
        alt: For those who cannot see it.
    """

    original: str
    reconstruction: str
    caption: str
    alt: str


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The pictures of one record.

    Attributes:
        title: Setting and record.
        pairs: Worst first; empty where the file cannot be read.
        trouble: Why there are none.
    """

    title: str
    pairs: tuple[Pair, ...]
    trouble: str = ""


def pictures_of(summary: AuditSummary, view: View) -> list[Shown]:
    """The record that leaks most and the one in the middle, of each setting that kept pictures."""
    found = []
    for number, setting in numbered(summary):
        verdict = verdict_of(setting, view)
        records = [
            r
            for r in setting.records
            if r.view == view and r.picture and verdict and r.attack == verdict.attack
        ]
        for word, record in _chosen(summary, records):
            title = (
                f"{number}  {setting.setting}: {word} record, round {record.round}, {record.client}"
            )
            found.append(_shown(title, setting, record, summary))
    return found


def _chosen(
    summary: AuditSummary, records: Sequence[RecordScores]
) -> list[tuple[str, RecordScores]]:
    info = metric_info(summary, summary.primary)
    if info is None:
        return []
    there = [r for r in records if math.isfinite(r.scores.get(info.name, math.nan))]
    ranked = sorted(there, key=lambda r: r.scores[info.name], reverse=info.leaks_when == "high")
    if len(ranked) < 3:
        return [("worst", record) for record in ranked[:1]]
    return [("worst", ranked[0]), ("middle", ranked[len(ranked) // 2])]


def _shown(
    title: str, setting: SettingSummary, record: RecordScores, summary: AuditSummary
) -> Shown:
    info = metric_info(summary, summary.primary)
    assert info is not None and record.picture is not None
    _, height, width = setting.config["image"]["shape"]
    each = record.each[info.name]
    order = sorted(range(len(each)), key=lambda i: each[i], reverse=info.leaks_when == "high")
    try:
        image = open_picture(record.picture)
        pairs = []
        for index in order[:MOST_IMAGES]:
            score = f"{title_of(info.name)} {score_text(info.name, each[index])}"
            left = index * width
            if left + width > image.width or 2 * height > image.height:
                return Shown(title=title, pairs=(), trouble="the picture file is too small")
            pairs.append(
                Pair(
                    original=_address(image.crop((left, 0, left + width, height))),
                    reconstruction=_address(image.crop((left, height, left + width, 2 * height))),
                    caption=score,
                    alt=f"image {index + 1} of round {record.round}, {record.client}",
                )
            )
    except CorpusError as error:
        return Shown(title=title, pairs=(), trouble=f"the picture cannot be read: {error}")
    return Shown(title=title, pairs=tuple(pairs))


def _address(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
