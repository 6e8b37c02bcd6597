"""Original beside reconstruction, inside the page: only where pictures were kept."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.core.pictures import open_picture, pairs_in
from fl_privacy_audit.core.types import View
from fl_privacy_audit.metrics import METRICS, title_of
from fl_privacy_audit.report.lines import score_text
from fl_privacy_audit.report.summary import AuditSummary, RecordScores, SettingSummary

from .plots import judged

MOST_IMAGES = 4
"""Images of one record."""

OFF = (
    "No pictures are shown. They are personal data, so audits keep none unless told to "
    "(keep_pictures)."
)
LEFT_OUT = "No pictures are shown: this report was made with --no-pictures."


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One image and what the attack made of it, as ``data:`` addresses."""

    original: str
    reconstruction: str
    caption: str  # its score
    alt: str  # for those who cannot see it


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The pictures of one record."""

    title: str  # setting and record
    pairs: tuple[Pair, ...] = ()  # worst first; empty where the file cannot be read
    trouble: str = ""  # why there are none


def pictures_of(summary: AuditSummary, view: View) -> list[Shown]:
    """The record that leaks most and the one in the middle, of each setting that kept pictures."""
    found = []
    for number, setting, _, records in judged(summary, view):
        for word, record in _chosen(records, summary.primary or ""):
            title = (
                f"{number}  {setting.setting}: {word} record, round {record.round}, {record.client}"
            )
            found.append(_shown(title, setting, record, summary.primary or ""))
    return found


def _chosen(records: Sequence[RecordScores], metric: str) -> list[tuple[str, RecordScores]]:
    there = [r for r in records if r.picture and math.isfinite(r.scores[metric])]
    ranked = sorted(there, key=lambda r: -METRICS[metric].sign * r.scores[metric])
    if len(ranked) < 3:
        return [("worst", record) for record in ranked[:1]]
    return [("worst", ranked[0]), ("middle", ranked[len(ranked) // 2])]


def _shown(title: str, setting: SettingSummary, record: RecordScores, metric: str) -> Shown:
    stated = setting.stated.image
    if stated is None:
        return Shown(title=title, trouble="the settings do not say how large images are")
    _, height, width = stated.shape
    each = record.each[metric]
    order = sorted(range(len(each)), key=lambda i: -METRICS[metric].sign * each[i])
    try:
        image = open_picture(record.picture or "")
    except CorpusError as error:
        return Shown(title=title, trouble=f"the picture cannot be read: {error}")
    kept = pairs_in(image, height, width)
    if len(kept) < len(each):
        return Shown(title=title, trouble="the picture is not of the size of this audit's")
    pairs = []
    for index in order[:MOST_IMAGES]:
        original, reconstruction = kept[index]
        pairs.append(
            Pair(
                original=_address(original),
                reconstruction=_address(reconstruction),
                caption=f"{title_of(metric)} {score_text(metric, each[index])}",
                alt=f"image {index + 1} of round {record.round}, {record.client}",
            )
        )
    return Shown(title=title, pairs=tuple(pairs))


def _address(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
