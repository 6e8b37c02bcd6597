"""From scores and controls to a verdict, for each setting, view and attack.

*Leaked*: the attack shows clearly more of the true images than every null control does, on average
or on more records than chance gives. *Withstood these attacks*: the same attack succeeded on undefended
copies of the same updates, and here shows no more than a null control. *Inconclusive*: anything
between, the attack being too weak and there being too few records included. *Not tested*: no
attack ran.

The judge is the measured metric of the lowest rank in the table of metrics. The others are reported beside it; one of
them that says *leaked* is enough to make *withstood* inconclusive. An audit is a lower bound: a
defence that withstood these attacks may fall to others.
"""

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import ControlKind, View

Side = Literal["attack", "undefended"]
SIDES: Final[tuple[Side, ...]] = ("attack", "undefended")
Word = Literal["leaked", "withstood these attacks", "inconclusive", "not tested"]
WORST_FIRST: Final[tuple[Word, ...]] = (
    "leaked",
    "inconclusive",
    "withstood these attacks",
    "not tested",
)
"""The verdict of a setting is the worst of its attacks', in this order."""

LEVEL: Final = 0.99
"""Confidence of the intervals of one setting in one view, all attacks together: with ``m`` attacks
each gets ``1 - (1 - LEVEL) / m`` (Bonferroni), so that trying more attacks does not make a false
*leaked* more likely. It does not depend on what a setting is compared with."""

FEWEST: Final = 5
"""Batches of images below which nothing is concluded. If nothing leaks, an attack and two null
controls come first, second and third by chance, so the attack wins five times out of five in one
case of 243."""

REACH: Final = 0.5
"""A record that gets this far of what its undefended copy leaks is counted, and forbids *withstood*."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class NetLeakage(_Model):
    """A score minus a control's, over the records that have both. Above zero, the score leaks more.

    Attributes:
        metric: Name in the table of metrics.
        of: What is measured: the attack, or its positive control.
        against: The null control that is subtracted.
        mean: Over true batches; of one batch, over its records. In units of the metric, signed
            so that higher means more leakage.
        low: Lower end of its interval at the verdict's confidence; None with one batch.
        high: Upper end, likewise.
        records: Records with both scores.
        batches: Different true batches among them: these are drawn by the bootstrap.
    """

    metric: str
    of: Side
    against: ControlKind
    mean: float
    low: float | None
    high: float | None
    records: int
    batches: int


class RecordLeakage(_Model):
    """One record by the metric that judges, net leakage signed so that higher means more leakage.

    Attributes:
        round: Server round.
        client: As in the ledger.
        attack: Name of the attack.
        score: The attack's, as the metric gives it, in its own direction.
        net: Score minus that of the record's own best null control; None without one.
        undefended: The same of the positive control; None without one.
        reached: Whether it came at least `REACH` as far as its undefended copy, and beats every null
            control of its own by the margin. One such record may be luck; it forbids *withstood*.
        picture: File with original and reconstruction, relative to the run's directory, if kept.
    """

    round: int
    client: str
    attack: str
    score: float
    net: float | None
    undefended: float | None
    reached: bool
    picture: str | None = None


class Verdict(_Model):
    """What may be said of one setting, in one view, under one attack.

    Attributes:
        word: The verdict.
        reason: Why: a code with the figures that decide.
        metric: The metric that judged; None if nothing was scored.
        net: Against the null control that leaves least: this is the headline figure.
        undefended: The same of the positive control; None without one.
        nets: Every metric against every null control, attack and positive control.
        agreement: Each metric's own word; the judge's is among them.
        confidence: Of every interval here.
        records: Records scored.
        batches: Different true batches among them.
        worst: The record that leaks most; None if nothing was scored.
        reached: How many records came that far; see `RecordLeakage`.
    """

    setting: str
    view: View
    attack: str
    word: Word
    reason: Reason
    metric: str | None = None
    net: NetLeakage | None = None
    undefended: NetLeakage | None = None
    nets: list[NetLeakage] = []
    agreement: dict[str, Word] = {}
    confidence: float = LEVEL
    records: int = 0
    batches: int = 0
    worst: RecordLeakage | None = None
    reached: int = 0


class ReplayFit(_Model):
    """The replay check over the records of one view: does the description fit the clients?

    Attributes:
        records: Records that were checked: those with a true batch.
        fitting: Of those, records where the description fits.
        cosine: Median cosine between observed and replayed updates.
        length_ratio: Median ratio of their lengths; None where the description leaves it open.
        hint: The most frequent explanation where it does not fit; None where it always does.
    """

    records: int
    fitting: int
    cosine: float
    length_ratio: float | None
    hint: Reason | None


class SettingVerdict(_Model):
    """What may be said of one setting in one view: the worst over its attacks.

    Attributes:
        word: The verdict.
        reason: Of the attack that decides.
        attack: The attack that decides.
        worst: The record that leaks most, over all attacks.
        attacks: One verdict for each attack.
        replay: Whether the description fits the clients; None where no true batch is known.
        profile: The profile of the run's settings; None where it has none.
        profile_changes: Settings that differ from those of the profile.
        by_risk: Whether records were chosen because their updates seemed to tell most: no random sample,
            so no figure of them is one of the federation.
    """

    setting: str
    view: View
    word: Word
    reason: Reason
    attack: str
    worst: RecordLeakage | None
    attacks: list[Verdict]
    replay: ReplayFit | None = None
    profile: str | None = None
    profile_changes: list[str] = []
    by_risk: bool = False
