"""Judged pairs and values of metrics as the study's table."""

from collections.abc import Mapping
from pathlib import Path

from fl_privacy_audit.core.tables import Kind, write_table
from fl_privacy_audit.lab.study.table import Floats

from .examples import Judged, original_of

RATINGS = "ratings.csv"


def write_ratings(path: Path, judged: Judged, values: Mapping[str, Floats]) -> bool:
    """Write the table that `study` reads, of pairs that all annotators named; False if it takes two.

    Classes of several sources get different numbers. Annotators are numbered, not named.

    Raises:
        AuditError: It cannot be written.
    """
    rows = [i for i, named in enumerate(judged.named) if named.keys() == set(judged.annotators)]
    if len(judged.annotators) < 2 or not rows:
        return False
    offsets = _offsets(judged)
    table = []
    for i in rows:
        pair, offset = judged.pairs[i], offsets[judged.pairs[i].source]
        named = (judged.named[i][annotator] for annotator in judged.annotators)
        answers = {f"rater{k}": a + offset if a >= 0 else a for k, a in enumerate(named, start=1)}
        table.append(
            {"folder": pair.setting, "image": original_of(pair), "true_label": pair.label + offset}
            | answers
            | {metric: float(found[i]) for metric, found in values.items()}
        )
    kinds: dict[str, Kind] = {"folder": "string", "image": "string", "true_label": "int64"}
    kinds |= {f"rater{k}": "int64" for k in range(1, len(judged.annotators) + 1)}
    write_table(path, kinds | dict.fromkeys(values, "double"), table)
    return True


def _offsets(judged: Judged) -> dict[str, int]:
    """What to add to the class numbers of each source so that no two sources share one."""
    most: dict[str, int] = {}
    for pair, named in zip(judged.pairs, judged.named, strict=True):
        most[pair.source] = max(most.get(pair.source, 0), pair.label, *named.values())
    offsets, total = {}, 0
    for source in sorted(most):
        offsets[source] = total
        total += most[source] + 1
    return offsets
