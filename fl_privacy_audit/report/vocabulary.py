"""The package's own words: all text that a public report or table may hold."""

import string
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from fl_privacy_audit.attacks import ATTACKS
from fl_privacy_audit.core.config import AUTO, AuditConfig
from fl_privacy_audit.core.types import ImageSpec, LocalTraining
from fl_privacy_audit.defences import DEFENCES
from fl_privacy_audit.dp import FLAGS, ClaimCheck
from fl_privacy_audit.ledger.provenance import PACKAGES, SCORED_BY
from fl_privacy_audit.ledger.records import AuditRecord
from fl_privacy_audit.ledger.runs import WEIGHTS
from fl_privacy_audit.metrics import METRICS, SET_METRICS

from .summary import AuditSummary
from .words import CAUSES, DETAILS, LOWER_BOUND, REASONS, STEPS

WITHHELD: Final = "withheld"
"""In place of any other text."""
_IDS: Final = frozenset({"client", "node", "node_id", "partition", "flower_run"})
"""What may name a client or a run, also by a number."""
_FIGURES: Final = (
    *("metric", "mean", "low", "high", "against", "batches", "records", "needed", "available"),
    *(
        "allowed",
        "leaking",
        "lacking",
        "more",
        "share",
        "ratio",
        "own",
        "explained",
        "pairs",
        "noise",
    ),
)
_PLAIN: Final = ("", "accuracy", "loss", "epsilon", "dB", "cpu", "cuda", "auto", "python", "absent")


def known(text: str) -> bool:
    """Whether this is one of the package's own words, not text of a run."""
    return text in _words()


@cache
def _words() -> frozenset[str]:
    """Literals and fields of all that is recorded or shown, rows of the tables, codes and their figures."""
    typed = set(_of_types(AuditConfig, AuditRecord, AuditSummary, ClaimCheck))
    tables = (ATTACKS, METRICS, SET_METRICS, DEFENCES, FLAGS, REASONS)
    options = (option for row in DEFENCES.values() for option in row.options)
    lists: tuple[Iterable[str], ...] = (
        _FIGURES,
        _PLAIN,
        PACKAGES,
        (WEIGHTS, SCORED_BY),
        options,
        _placeholders(),
    )
    training = (*LocalTraining.model_fields, *ImageSpec.model_fields)
    return frozenset({*typed, *training, AUTO, WITHHELD, LOWER_BOUND}.union(*tables, *lists) - _IDS)


def _placeholders() -> Iterator[str]:
    """Names of figures in the words of reasons."""
    words = (
        *REASONS.values(),
        *DETAILS.values(),
        *STEPS.values(),
        *CAUSES.values(),
    )
    for text in words:
        yield from (name for _, name, _, _ in string.Formatter().parse(text) if name)


def _of_types(*annotations: Any) -> Iterator[str]:
    """Literal texts and names of fields, of these types and of all within them."""
    seen: set[Any] = set()
    open_ = list(annotations)
    while open_:
        kind = open_.pop()
        if get_origin(kind) is Literal:
            yield from (text for text in get_args(kind) if isinstance(text, str))
            continue
        open_ += [part for part in get_args(kind) if part is not Ellipsis]
        if not isinstance(kind, type) or kind in seen:
            continue
        seen.add(kind)
        if is_dataclass(kind):
            yield from (field.name for field in fields(kind))
            open_ += get_type_hints(kind).values()
        elif issubclass(kind, BaseModel):
            yield from kind.model_fields
            open_ += [field.annotation for field in kind.model_fields.values()]
