"""Whether the metrics say the same: each one's own word, and how alike they rank the records."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from fl_privacy_audit.core.types import View
from fl_privacy_audit.metrics import METRICS, title_of
from fl_privacy_audit.verdicts.verdict import Verdict, Word

from .lines import MINUS, deciding, net_with_interval, numbered, verdict_of
from .summary import AuditSummary

FEWEST = 5
"""Records below which no correlation is given."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """What one metric says of one setting."""

    word: Word | None  # its own verdict; None where it was not measured
    net: str  # net leakage against the null control that leaves least, with its interval


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Every metric on every setting of one view."""

    heads: tuple[str, ...]  # titles of the metrics, the judge's first
    # Number, setting, and what each metric says.
    rows: tuple[tuple[int, str, tuple[Said, ...]], ...]
    # Title of a metric, and its rank correlation with each metric, as text.
    ranks: tuple[tuple[str, tuple[str, ...]], ...]
    records: int  # records behind `ranks`


def agreement(summary: AuditSummary, view: View) -> Agreement | None:
    """None where nothing was scored in this view."""
    names = [m.name for m in summary.metrics]
    names.sort(key=lambda name: name != summary.primary)
    rows = []
    for number, setting in numbered(summary):
        one = deciding(verdict_of(setting, view))
        if one is None or not one.agreement:
            continue
        rows.append((number, setting.setting, tuple(_said(one, name) for name in names)))
    if not rows:
        return None
    ranks, records = _ranks(summary, view, names)
    heads = tuple(title_of(name) for name in names)
    return Agreement(heads=heads, rows=tuple(rows), ranks=ranks, records=records)


def _said(one: Verdict, name: str) -> Said:
    nets = [n for n in one.nets if n.metric == name and n.of == "attack"]
    net = min(nets, key=lambda n: n.mean, default=None)
    return Said(word=one.agreement.get(name), net=net_with_interval(net))


def _ranks(
    summary: AuditSummary, view: View, names: list[str]
) -> tuple[tuple[tuple[str, tuple[str, ...]], ...], int]:
    """Spearman's correlation between metrics over records, signed so that higher means more leakage."""
    table = [
        [METRICS[name].sign * r.scores[name] for name in names]
        for s in summary.settings
        for r in s.records
        if r.view == view and all(math.isfinite(r.scores.get(name, math.nan)) for name in names)
    ]
    if len(table) < FEWEST or len(names) < 2:
        return (), len(table)
    ranks = np.apply_along_axis(rankdata, 0, np.asarray(table, dtype=np.float64))
    with np.errstate(invalid="ignore"):  # a metric whose records are all alike has no correlation
        found = np.corrcoef(ranks, rowvar=False)
    rows = [
        tuple("-" if np.isnan(v) else f"{v:+.2f}".replace("-", MINUS) for v in row) for row in found
    ]
    return tuple(zip(map(title_of, names), rows, strict=True)), len(table)
