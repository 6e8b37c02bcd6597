"""What the ledger holds: three kinds of line, each a pydantic model with a schema version.

Version 1 knew no controls and no release view; what its lines lack is empty here. Versions 1 and 2
held reasons as sentences: they are read as reasons with the code ``"text"``.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    field_validator,
    model_validator,
)

from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import OPTIONS, ControlKind, KnownDefence, Options, View

SCHEMA_VERSION: Final = 3

AttackStatus = Literal["scored", "not scored", "not tested", "failed"]
UpdateForm = Literal["exact gradient", "gradient direction", "weight difference", "none"]
NULLS: Final[tuple[ControlKind, ...]] = ("noise", "other client", "grey")
"""Controls that hold nothing of the true batch. What scores no better has leaked nothing."""

SKETCH: Final = 32
"""Fingerprints of true images that a record keeps at most."""

UNAVAILABLE = "unavailable: "
"""How ledgers before version 3 began the detail of a metric that could not be computed."""


def _from_text(value: Any) -> Any:
    return Reason.of("text", text=value) if isinstance(value, str) else value


Why = Annotated[Reason, BeforeValidator(_from_text)]


class _Recorded(BaseModel):
    # ser_json_inf_nan: a diverged objective must stay readable as such.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class _Line(_Recorded):
    schema_version: Literal[1, 2, 3] = SCHEMA_VERSION
    time: str


class RunRecord(_Line):
    """First line of a run: how it was audited.

    Attributes:
        run: Random id of the run; every later line of the run carries it.
        setting: The user's word for it.
        config: The whole `AuditConfig`.
        model: Class name, parameter count and a fingerprint of names and shapes.
        versions: Of Python and the packages that matter.
        arrays: Every array of the model's state -> its dtype, ``"float32"``; what Flower's own
            noise is added to. Empty in ledgers of version 1.
    """

    kind: Literal["run"] = "run"
    run: str
    setting: str
    config: dict[str, Any]
    model: dict[str, str | int]
    versions: dict[str, str]
    arrays: dict[str, str] = Field(default_factory=dict)


class ThreatModel(_Recorded):
    """What the attacker is, knows and assumes.

    Attributes:
        server: ``"honest but curious"``: it follows the protocol and looks at what it gets.
        view: ``"server"``: it sees each client's update. ``"release"``: it sees the global model
            of each round, and nothing else.
        update_form: What the update was taken for.
        local_training: Known settings of local training; None where not known.
        image: Shape and normalisation, taken as known.
        num_images: How many images were to be rebuilt.
        labels: Where labels come from.
        defence: What is known of the client's defence; None where there is none.
        assumptions: Whatever had to be assumed.
    """

    server: Literal["honest but curious"] = "honest but curious"
    view: View
    update_form: UpdateForm
    local_training: dict[str, str | int | float | list[float] | None]
    image: dict[str, list[int] | list[float]]
    num_images: int | None
    labels: Literal["not given"] = "not given"
    defence: KnownDefence | None = None
    assumptions: list[str]


class Scores(_Recorded):
    """One metric over the images of one attack.

    Attributes:
        each: One value for each true image that a reconstruction answers, in the order of the
            truth; `AttackOutcome.details` says how many have none.
        mean: Their mean.
        worst: The one that leaks most.
    """

    each: list[float]
    mean: float
    worst: float


class _Outcome(_Recorded):
    """What attack and control have in common.

    Attributes:
        status: ``"scored"``; ``"not scored"``: attacked, but no truth to compare with; ``"not
            tested"``: not attacked; ``"failed"``: the attack raised or diverged.
        reason: Why, for every status but ``"scored"``.
        scores: By metric.
        objective: The attack's own objective, lower is better; None where no attack ran.
        steps: Optimiser steps, summed over restarts.
        stopped: Why the attack ended.
        seconds: Wall time; 0 where a reconstruction was there already.
        seed: Seed of its generator, or of a control's noise; None where there is none.
    """

    status: AttackStatus
    reason: Why | None = None
    scores: dict[str, Scores] = Field(default_factory=dict)
    objective: float | None = None
    steps: int = 0
    stopped: str | None = None
    seconds: float = 0.0
    seed: int | None = None


class ControlOutcome(_Outcome):
    """What the same attack, from the same start, makes of something else than the update.

    It is scored against the same true batch as the attack it belongs to, so that scores can be
    compared pair by pair.

    Attributes:
        kind: ``"noise"``: Gaussian noise, tensor by tensor as long as the update. ``"other
            client"``: the update of another client of the round, who trained on other images.
            ``"grey"``: one colour, the mean that the clients subtract; no attack is needed.
            ``"undefended"``: the positive control, what the client would have sent for its true
            batch by plain training without any defence.
    """

    kind: ControlKind


class AttackOutcome(_Outcome):
    """What one attack did to one observation.

    Attributes:
        attack: Name in the table of attacks.
        threat_model: Letter of Carletti et al. 2025; None for an attack outside the table.
        options: Options that differ from the paper's.
        budget_seconds: Time it was allowed.
        labels_right: Share of labels recovered, as a multiset; None where it is not known.
        unavailable: Metrics without a score here, and a picture that could not be kept: why.
        details: Further figures of the attack.
        picture: File with original and reconstruction, if pictures are kept.
        controls: At most one of each kind; where there is no truth to score them with, noise alone, for
            its objective.
    """

    attack: str
    threat_model: str | None = None
    options: Options = Field(default_factory=dict, validation_alias=OPTIONS)
    budget_seconds: float | None = None
    labels_right: float | None = None
    unavailable: dict[str, Why] = Field(default_factory=dict)
    details: dict[str, float | str] = Field(default_factory=dict)
    picture: str | None = None
    controls: list[ControlOutcome] = Field(default_factory=list)

    def control(self, kind: ControlKind) -> ControlOutcome | None:
        """The control of this kind, if there is one."""
        return next((c for c in self.controls if c.kind == kind), None)

    @model_validator(mode="before")
    @classmethod
    def _unavailable_from_details(cls, data: Any) -> Any:
        """Ledgers before version 3 kept the reason among the details."""
        details = data.get("details") if isinstance(data, dict) else None
        if not isinstance(details, dict) or "unavailable" in data:
            return data
        gone = {
            name: text.removeprefix(UNAVAILABLE)
            for name, text in details.items()
            if isinstance(text, str) and text.startswith(UNAVAILABLE)
        }
        kept = {name: value for name, value in details.items() if name not in gone}
        return {**data, "details": kept, "unavailable": gone}

    @field_validator("details", mode="before")
    @classmethod
    def _numbers_from_words(cls, details: dict[str, Any]) -> dict[str, Any]:
        """JSON has no infinity: such numbers are written as words."""
        words = ("Infinity", "-Infinity", "NaN")
        return {k: float(v) if v in words else v for k, v in details.items()}


class ReplayCheck(_Recorded):
    """The true batch trained as told, beside the real update: does the description fit the client?

    Attributes:
        cosine: Between the observed and the replayed update.
        length_ratio: Length of the observed update over that of the replayed one; None where the
            description leaves the length open.
        cosine_range: Between which cosines the description fits, given rounding and what the
            client draws by chance.
        length_range: Between which ratios it fits; None where the length is open.
        fits: Whether both do. Where they do not, the record is not evidence of safety.
        hint: What would explain the difference; None where there is none.
    """

    cosine: float
    length_ratio: float | None
    cosine_range: tuple[float, float]
    length_range: tuple[float, float] | None
    fits: bool
    hint: Reason | None = None


class AuditRecord(_Line):
    """One round, one view, one client; in the release view, all clients of the round.

    Attributes:
        run: The run it belongs to.
        round: Server round, from 1.
        client: ``partition 3`` where the partition is known, else Flower's node id; ``all
            clients`` in the release view.
        node_id: Flower's node id; 0 in the release view.
        partition: The client's partition, if it was published.
        view: What the attacker sees.
        client_status: Whether the client returned an update.
        reason: Why nothing was attacked; None if something was.
        threat_model: None only where the client returned nothing.
        update_norm: Euclidean norm of the weight difference; None if it could not be read.
        num_examples: What the client reported.
        reported: Other numbers the client reported, ``epsilon`` say.
        truth_digest: Fingerprint of the true batch, to pair runs; None where there is no truth.
        truth_sketch: The `SKETCH` smallest fingerprints of its images, to tell which batches are much the
            same; empty in ledgers that have none.
        replay: Whether what the audit was told fits the client; None where there is no truth.
        attacks: One outcome for each attack.
        clients: Whose updates the release is made of; empty in the server view.
    """

    kind: Literal["audit"] = "audit"
    run: str
    round: int
    client: str
    node_id: int
    partition: int | None = None
    view: View = "server"
    client_status: Literal["returned", "failed", "timed out"] = "returned"
    reason: Why | None = None
    threat_model: ThreatModel | None = None
    update_norm: float | None = None
    num_examples: int | None = None
    reported: dict[str, float] = Field(default_factory=dict)
    truth_digest: str | None = None
    truth_sketch: list[str] = Field(default_factory=list)
    replay: ReplayCheck | None = None
    attacks: list[AttackOutcome] = Field(default_factory=list)
    clients: list[str] = Field(default_factory=list)


class EvaluationRecord(_Line):
    """The model's quality after a round, as the federation itself measured it.

    Attributes:
        run: The run it belongs to.
        round: Server round; 0 is before training.
        source: Measured by the server or averaged over clients.
        metrics: By name.
    """

    kind: Literal["evaluation"] = "evaluation"
    run: str
    round: int
    source: Literal["server", "clients"]
    metrics: dict[str, float]


Record = RunRecord | AuditRecord | EvaluationRecord
RECORD: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="kind")])
