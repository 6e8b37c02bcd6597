"""What the ledger holds: five kinds of line, each a pydantic model with a schema version.

Version 1 knew no controls and no release view; what its lines lack is empty here. Versions 1 and 2
held reasons as sentences: they are read as reasons with the code ``"text"``.
"""

from math import isfinite
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from fl_privacy_audit.core.numbers import LARGEST
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import (
    OPTIONS,
    ControlKind,
    KnownDefence,
    MeasuredEpsilon,
    Options,
    View,
)

SCHEMA_VERSION: Final = 3
Count = Annotated[int, Field(gt=-LARGEST, lt=LARGEST)]
"""A number of a record that counts or names something."""


def in_range(count: int | None) -> int | None:
    """A count, where it can be a `Count`.

    Raises:
        ValueError: It cannot.
    """
    if count is not None and not -LARGEST < count < LARGEST:
        raise ValueError(f"must be between -{LARGEST} and {LARGEST}, but got {count}")
    return count


AttackStatus = Literal["scored", "not scored", "not tested", "failed"]
UpdateForm = Literal[
    "exact gradient",
    "defended gradient",
    "gradient direction",
    "gradient signs",
    "weight difference",
    "none",
]
NULLS: Final[tuple[ControlKind, ...]] = ("noise", "other client", "grey")
"""Controls that hold nothing of the true batch. What scores no better has leaked nothing."""

SKETCH: Final = 32
"""Fingerprints of true images that a record keeps at most."""

UNAVAILABLE = "unavailable: "
"""How ledgers before version 3 began the detail of a metric that could not be computed."""


def _from_text(value: Any) -> Any:
    return Reason.of("text", text=value) if isinstance(value, str) else value


Why = Annotated[Reason, BeforeValidator(_from_text)]


def _numbers_from_words(details: dict[str, float | str]) -> dict[str, float | str]:
    """JSON has no infinity: such numbers are written as words."""
    return {k: float(v) if v in ("Infinity", "-Infinity", "NaN") else v for k, v in details.items()}


Details = Annotated[dict[str, float | str], AfterValidator(_numbers_from_words)]


class _Recorded(BaseModel):
    # ser_json_inf_nan: a diverged objective must stay readable as such.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class _Line(_Recorded):
    schema_version: Literal[1, 2, 3] = SCHEMA_VERSION
    time: str


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class _Named(_Read):
    name: str


class _Image(_Read):
    shape: Annotated[list[Annotated[int, Field(ge=1, le=2**20)]], Field(min_length=3, max_length=3)]


class _Training(_Read):
    max_grad_norm: float | None = None
    noise_multiplier: float | None = None
    steps: int | None = None
    batch_size: int | None = None


class Stated(_Read):
    """What readers take from the settings of a run; an older or later audit may have stated more."""

    image: _Image | None = None
    attacks: list[_Named] = []
    views: Annotated[list[View], Field(min_length=1)] = ["server"]
    training: _Training = _Training()
    claim: dict[str, Any] | None = None
    defence: _Named | None = None
    every: int = 1
    clients_per_round: int | None = None
    choose: str = "random"
    seconds_per_round: float | None = None
    profile: str | None = None
    data: str | None = None
    tester: str | None = None
    retest_days: int | None = None


def _refuse_odd_numbers(value: Any) -> None:
    """Refuse what JSON has no word for, and integers of more digits than can be written."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            _refuse_odd_numbers(each)
    elif (isinstance(value, float) and not isfinite(value)) or (
        isinstance(value, int) and abs(value) >= LARGEST
    ):
        raise ValueError("holds a number that no setting can have")


Measured = tuple[float, float, float]
"""A figure between the ends of its 95% interval."""


class ProbedMechanism(_Recorded):
    """What client mods, or a strategy, did to known updates when the run began."""

    view: View  # ``"server"``: of what leaves a client; ``"release"``: of what leaves the strategy
    by: list[str]  # mods and layers, outermost first
    sensitivity: Measured  # length by which one update changes what leaves
    noise: Measured  # standard deviation on each number
    epsilon: Measured  # of one round, add-or-remove, if the noise is normal
    delta: float
    faults: list[Why]  # where what they state of themselves does not hold


class RunRecord(_Line):
    """First line of a run: how it was audited. It stands once more where the run was taken up again."""

    kind: Literal["run"] = "run"
    run: str  # random id of the run; every later line of the run carries it
    setting: str  # the user's word for it
    config: dict[str, Any]  # the whole `AuditConfig`
    model: dict[str, str | Count]  # class name, parameter count, fingerprint of names and shapes
    versions: dict[str, str]  # of Python and the packages that matter
    flower_run: Count | None = None  # Flower's id of the run; None where it is not known
    # Settings that differ from those of the profile in `config`, where there is one.
    profile_changes: list[str] = Field(default_factory=list)
    fab_hash: str | None = None  # Flower's hash of the app that ran; None where there is none
    # Every array of the model's state -> its dtype, ``"float32"``; what Flower's own noise is added
    # to. Empty in ledgers of version 1.
    arrays: dict[str, str] = Field(default_factory=dict)
    # What strategy and clients' app (``by``) state of differential privacy, in terms of a claim.
    claim_read: dict[str, float | Count | str] = Field(default_factory=dict)
    probed: list[ProbedMechanism] = Field(default_factory=list)

    @property
    def stated(self) -> Stated:
        """The settings that readers need, as far as there are any."""
        return Stated.model_validate(self.config)

    @field_validator("config", mode="after")
    @classmethod
    def _can_be_read(cls, config: dict[str, Any]) -> dict[str, Any]:
        _refuse_odd_numbers(config)
        try:
            Stated.model_validate(config)
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(str(part) for part in problem["loc"])
            raise ValueError(f"{place}: {problem['msg']}") from None
        return config


class ThreatModel(_Recorded):
    """What the attacker is, knows and assumes."""

    # ``"honest but curious"``: it follows the protocol and looks at what it gets.
    server: Literal["honest but curious"] = "honest but curious"
    # ``"server"``: it sees each client's update. ``"release"``: it sees the global model of each
    # round, and nothing else.
    view: View
    update_form: UpdateForm  # what the update was taken for
    # Known settings of local training; None where not known.
    local_training: dict[str, str | int | float | list[float] | None]
    image: dict[str, list[int] | list[float]]  # shape and normalisation, taken as known
    num_images: Count | None  # how many images were to be rebuilt
    labels: Literal["not given"] = "not given"  # where labels come from
    # What is known of the client's defence; None where there is none.
    defence: KnownDefence | None = None
    assumptions: list[Reason]  # whatever had to be assumed

    @field_validator("assumptions", mode="before")
    @classmethod
    def _of_sentences(cls, notes: object) -> object:
        """Earlier versions wrote them as sentences."""
        if not isinstance(notes, list):
            return notes
        return [Reason.of("as recorded", text=n) if isinstance(n, str) else n for n in notes]


class Scores(_Recorded):
    """One metric over the images of one attack."""

    # One value for each true image that a reconstruction answers, in the order of the truth;
    # `AttackOutcome.details` says how many have none.
    each: list[float]
    mean: float  # their mean
    worst: float  # the one that leaks most


class _Outcome(_Recorded):
    """What attack and control have in common."""

    # ``"scored"``; ``"not scored"``: attacked, but no truth to compare with; ``"not tested"``: not
    # attacked; ``"failed"``: the attack raised or diverged.
    status: AttackStatus
    reason: Why | None = None  # why, for every status but ``"scored"``
    scores: dict[str, Scores] = Field(default_factory=dict)  # by metric
    # Place of each true image of `scores`, of the first 256, among the candidates of the attack, sorted
    # by likeness to the reconstruction; from 1. Empty where there was nothing to choose from.
    ranks: list[float] = Field(default_factory=list)
    # The attack's own objective, lower is better; None where no attack ran.
    objective: float | None = None
    steps: Count = 0  # optimiser steps, summed over restarts
    stopped: str | None = None  # why the attack ended
    seconds: float = 0.0  # wall time; 0 where a reconstruction was there already
    # Seed of its generator, or of a control's noise; None where there is none.
    seed: Count | None = None


class ControlOutcome(_Outcome):
    """What the same attack, from the same start, makes of something else than the update.

    It is scored against the same true batch as the attack it belongs to, so that scores can be
    compared pair by pair.
    """

    # ``"noise"``: Gaussian noise, tensor by tensor as long as the update. ``"other client"``: the
    # update of another client of the round, who trained on other images. ``"grey"``: one colour,
    # the mean that the clients subtract; no attack is needed. ``"undefended"``: the positive
    # control, what the client would have sent for its true batch by plain training without any
    # defence.
    kind: ControlKind


class AttackOutcome(_Outcome):
    """What one attack did to one observation."""

    attack: str  # name in the table of attacks, or ``"auto"`` where it came to none
    chosen: Reason | None = None  # why `auto` chose it; None where the settings name it
    # Letter of Carletti et al. 2025; None for an attack outside the table.
    threat_model: str | None = None
    # Options that differ from the paper's.
    options: Options = Field(default_factory=dict, validation_alias=OPTIONS)
    budget_seconds: float | None = None  # time it was allowed
    # Time that all its steps take here, as measured; None where nobody knows.
    needed_seconds: float | None = None
    # Share of labels recovered, as a multiset; None where it is not known.
    labels_right: float | None = None
    # Among how many pictures `ranks` are, with the true one: of the round, of a canary public ones.
    candidates: Count = 0
    # Metrics without a score here, and a picture that could not be kept: why.
    unavailable: dict[str, Why] = Field(default_factory=dict)
    details: Details = Field(default_factory=dict)  # further figures of the attack
    picture: str | None = None  # file with original and reconstruction, if pictures are kept
    # At most one of each kind; without a truth to score with noise alone, for its objective.
    controls: list[ControlOutcome] = Field(default_factory=list)

    @property
    def allowed(self) -> float | None:
        """Share of its steps that its time allowed, where that ran out and what it needs is known."""
        if self.stopped != "out of time" or not self.needed_seconds:
            return None
        return min((self.budget_seconds or 0.0) / self.needed_seconds, 1.0)

    def control(self, kind: ControlKind) -> ControlOutcome | None:
        """The control of this kind, if there is one."""
        return next((c for c in self.controls if c.kind == kind), None)

    @model_validator(mode="after")
    def _details_of_old_ledgers(self) -> Self:
        """Ledgers before version 3 kept among the details why a metric is not available."""
        if "unavailable" in self.model_fields_set:
            return self
        gone = {
            name: Reason.of("text", text=text.removeprefix(UNAVAILABLE))
            for name, text in self.details.items()
            if isinstance(text, str) and text.startswith(UNAVAILABLE)
        }
        if not gone:
            return self
        kept = {name: value for name, value in self.details.items() if name not in gone}
        return self.model_copy(update={"details": kept, "unavailable": gone})


class ReplayCheck(_Recorded):
    """The true batch trained as told, beside the real update: does the description fit the client?"""

    cosine: float  # between the observed and the replayed update
    # Length of the observed update over that of the replayed one; None where the description leaves
    # the length open.
    length_ratio: float | None
    # Between which cosines the description fits, given rounding and what the client draws by
    # chance.
    cosine_range: tuple[float, float]
    # Between which ratios it fits; None where the length is open.
    length_range: tuple[float, float] | None
    # Whether both do; None where chance moves an update so far that nobody can tell. Where they do
    # not, or nobody can tell, the record is not evidence of safety.
    fits: bool | None
    hint: Reason | None = None  # why not, as far as that is known; None where both do


class AuditRecord(_Line):
    """One round, one view, one client; in the release view, all clients of the round."""

    kind: Literal["audit"] = "audit"
    run: str  # the run it belongs to
    round: Count  # server round, from 1
    # ``partition 3`` where the partition is known, else Flower's node id; ``all clients`` in the
    # release view.
    client: str
    node_id: Count  # Flower's node id; 0 in the release view
    partition: Count | None = None  # the client's partition, if it was published
    view: View = "server"  # what the attacker sees
    # Whether the client returned an update.
    client_status: Literal["returned", "failed", "timed out"] = "returned"
    reason: Why | None = None  # why nothing was attacked; None if something was
    chosen: Reason | None = None  # why it among the round's clients; None if by chance or all
    threat_model: ThreatModel | None = None  # None only where the client returned nothing
    # Euclidean norm of the weight difference; None if it could not be read.
    update_norm: float | None = None
    num_examples: Count | None = None  # what the client reported
    # Other numbers the client reported, ``epsilon`` say.
    reported: dict[str, float] = Field(default_factory=dict)
    # Fingerprint of the true batch, to pair runs; None where there is no truth.
    truth_digest: str | None = None
    # The `SKETCH` smallest fingerprints of its images, to tell which batches are much the same.
    truth_sketch: list[str] = Field(default_factory=list)
    # Whether what the audit was told fits the client; None where there is no truth.
    replay: ReplayCheck | None = None
    no_replay: Reason | None = None  # why that was not found out, where there is a truth
    attacks: list[AttackOutcome] = Field(default_factory=list)  # one outcome for each attack
    # Whose updates the release is made of; empty in the server view.
    clients: list[str] = Field(default_factory=list)


class EvaluationRecord(_Line):
    """The model's quality after a round, as the federation itself measured it."""

    kind: Literal["evaluation"] = "evaluation"
    run: str  # the run it belongs to
    round: Count  # server round; 0 is before training
    source: Literal["server", "clients"]  # measured by the server or averaged over clients
    metrics: dict[str, float]  # by name


class MeasurementRecord(_Line):
    """Epsilon as canaries measured it up to this round, in replays of a client or as clients themselves."""

    kind: Literal["measurement"] = "measurement"
    run: str  # the run it belongs to
    round: Count  # the last round that was measured
    records: Count  # images of the replayed client; replies, where clients are the canaries
    of_a_round: MeasuredEpsilon
    over_rounds: MeasuredEpsilon  # over all rounds that were measured


class GapRecord(_Line):
    """Something is missing above this line."""

    kind: Literal["gap"] = "gap"
    run: str  # the run that it is missing of
    reason: Why  # what, and how much


Record = RunRecord | AuditRecord | EvaluationRecord | MeasurementRecord | GapRecord
RECORD: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="kind")])
