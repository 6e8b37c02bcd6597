"""The differential-privacy claim of a run, checked against its settings and its ledger."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

from pydantic import ValidationError

from fl_privacy_audit.core.config import ClaimConfig
from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import MeasuredEpsilon
from fl_privacy_audit.ledger.records import EvaluationRecord, MeasurementRecord, RunRecord
from fl_privacy_audit.ledger.runs import Reply

from .bounds import RiskCorridor, risk_corridor
from .case import below
from .claims import ClaimCheck, check_claim
from .dp_claim import DpClaim, Observed

DELTA = 1e-5
"""Delta if the settings give none."""
DEFAULTS = ClaimConfig(delta=DELTA).model_dump(exclude={"delta"})
STRATEGY, SPENT = "the strategy", "epsilon spent"
"""Under which name, beside clients, stands what a strategy's own accountant counts; and its metric."""
PROMISED = {"delta", "epsilon", "epsilon_covers", "neighbours", "accountant", "sampling"}
"""Fields of a claim that say what is promised, and not by which mechanism."""
REPLAYED, RELEASED = "the clients' app", "the released model"
"""Whose epsilon canaries measure: images that are canaries, and clients that are."""
KAPPA = 0.01
"""The corridor is drawn for picking the right one of a hundred candidates."""


class Run(Protocol):
    """A run as far as it is looked at here."""

    @property
    def run(self) -> RunRecord:
        """Its settings."""

    @property
    def evaluations(self) -> Sequence[EvaluationRecord]:
        """What the federation measured itself."""

    @property
    def measured(self) -> MeasurementRecord | None:
        """What canaries showed, if they were used."""

    @property
    def replies(self) -> Sequence[Reply]:
        """What its clients gave."""


def check_run(run: Run) -> ClaimCheck | None:
    """Check the claim of a run, or what its settings and its clients say of DP without one.

    Returns:
        None if there is nothing to check: no claim, no known noise and no reported epsilon.
    """
    stated = _with_read(run.run)
    training = run.run.stated.training
    reported = reported_epsilons(run)
    measured = run.measured
    if stated is None and training.noise_multiplier is None and not (reported or measured):
        return None
    assumed = _assumed(run.run, stated)
    try:
        settings = ClaimConfig.model_validate({"delta": DELTA, **(stated or {})})
    except ValidationError as error:
        wrong = ", ".join(dict.fromkeys(str(e["loc"][0]) for e in error.errors() if e["loc"]))
        unread = ClaimConfig(delta=DELTA)
        return _without_epsilon(unread, run, f"the claim cannot be read ({wrong})", assumed)
    try:
        claim = _claim(settings, run, assumed)
    except ConfigError as error:
        return _without_epsilon(settings, run, str(error), assumed)
    check = _beside_measured(check_claim(claim, _observed(run, settings)), settings, run)
    if (stated or {}).get("delta") is None and reported:
        # Clients may report epsilon at another delta than the one taken here.
        of_delta = ("epsilon-understated", "measured-above-claim")
        check = replace(
            check,
            flags=tuple(flag for flag in check.flags if flag.code not in of_delta),
            unchecked=(
                *check.unchecked,
                "Reported epsilons: set `claim.delta` to the delta they are meant at.",
            ),
        )
    corridor = _corridor(claim, check.noise_multiplier, run)
    probed = tuple(run.run.probed)
    return replace(check, assumed=tuple(assumed), corridor=corridor, probed=probed)


def _with_read(run: RunRecord) -> dict[str, Any] | None:
    """The claim of the settings, and what they leave open as the strategy or the mods have it."""
    typed = run.stated.claim
    read = {name: value for name, value in run.claim_read.items() if name != "by"}
    if typed is None:
        return read or None
    if not _about_the_same(run):
        return typed
    given = _given(typed)
    if "epsilon" in given:  # it says itself what it covers
        read.pop("epsilon_covers", None)
    return {**read, **given}


def _about_the_same(run: RunRecord) -> bool:
    """Whether what was typed and what was read are of one mechanism, or nothing typed tells which."""
    given, read = _given(run.stated.claim or {}), run.claim_read
    open_ = given.keys() <= PROMISED and run.stated.training.noise_multiplier is None
    mechanism = given.get("mechanism", DEFAULTS["mechanism"])
    return bool(read) and (open_ or mechanism == read.get("mechanism"))


def _given(typed: dict[str, Any]) -> dict[str, Any]:
    """What was typed and is no default."""
    return {name: value for name, value in typed.items() if value != DEFAULTS.get(name)}


def _assumed(run: RunRecord, stated: dict[str, Any] | None) -> list[str]:
    if run.stated.claim is not None:
        return []
    delta = f"delta is taken as {DELTA:g}"
    if not stated:
        return [f"no claim is in the settings; {delta}"]
    by = f"no claim is in the settings; it is read from {run.claim_read.get('by')}"
    return [by if "delta" in stated else f"{by}; {delta}"]


def reported_epsilons(run: Run) -> dict[str, list[tuple[int, float]]]:
    """Client -> (round, the epsilon it reported), in the order of rounds; and `STRATEGY`'s.

    What cannot be an epsilon, such as NaN or a number below zero, is left out: a client's word must
    not make a ledger unreadable.
    """
    series: dict[str, list[tuple[int, float]]] = {}
    stated = [r for r in run.replies if r.view == "server" and r.epsilon >= 0]
    for reply in sorted(stated, key=lambda r: r.round):
        series.setdefault(reply.client, []).append((reply.round, reply.epsilon))
    spent = [(e.round, e.metrics[SPENT]) for e in run.evaluations if SPENT in e.metrics]
    return {**series, STRATEGY: spent} if spent else series


def _returned(run: Run) -> list[Reply]:
    return [r for r in run.replies if r.view == "server" and r.returned]


def _claim(settings: ClaimConfig, run: Run, assumed: list[str]) -> DpClaim:
    """The claim as `check_claim` takes it.

    Raises:
        ConfigError: The settings do not say enough, or do not go together.
    """
    training = run.run.stated.training
    clip = settings.clipping_norm or training.max_grad_norm
    if clip is None:
        raise ConfigError("the clipping norm is not known; set `claim.clipping_norm`")
    noise, steps, sampled = settings.noise_multiplier, 1, settings.sampled_clients
    if settings.mechanism == "dp-sgd":
        noise = training.noise_multiplier if noise is None else noise
        if noise is None and (told := _told(run, "noise")):
            noise = min(told.values())
            assumed.append("the noise multiplier is the least that clients' accountants were told")
        steps = settings.steps_per_round or training.steps or 1
        if not (settings.steps_per_round or training.steps):
            assumed.append("the number of local steps is not known; taken as one")
    if settings.mechanism == "central-gaussian" and sampled is None:
        replies_per_round = Counter(record.round for record in _returned(run))
        if not replies_per_round:
            raise ConfigError("no client replied; set `claim.sampled_clients`")
        sampled = Counter(replies_per_round.values()).most_common(1)[0][0]
        assumed.append(
            f"noise is taken to be scaled to {sampled} clients, as many as usually reply"
        )
    if settings.sampling == "unknown" and settings.sample_rate == 1 and steps > 1:
        assumed.append("no sample rate is stated; every record is taken to be in every step")
    only_floats = settings.mechanism == "dp-sgd"  # Opacus adds noise to gradients alone
    stated = {
        **settings.model_dump(),
        "clipping_norm": clip,
        "noise_multiplier": noise,
        "steps_per_round": steps,
        "sampled_clients": sampled,
    }
    return DpClaim(
        **stated,
        rounds=max(len({r.round for r in _returned(run)}), _rounds_measured(run), 1),
        arrays={
            name: dtype
            for name, dtype in run.run.arrays.items()
            if not only_floats or dtype.startswith(("float", "bfloat"))
        },
        reported_epsilon=_reported_series(run),
    )


def _observed(run: Run, settings: ClaimConfig) -> Observed:
    norms: dict[int, dict[str, float]] = defaultdict(dict)
    weights: dict[int, dict[str, float]] = defaultdict(dict)
    most: Counter[str] = Counter()  # records that a client said it trained on in a round
    returned = _returned(run)
    for record in returned:
        if record.update_norm is not None:
            norms[record.round][record.client] = record.update_norm
        if record.num_examples:
            weights[record.round][record.client] = float(record.num_examples)
            most[record.client] = max(record.num_examples, most[record.client])
    clients = Counter(record.round for record in returned)
    known = {r: w for r, w in weights.items() if len(w) == clients[r]}
    return Observed(
        update_norms=norms,
        complete=bool(norms) and all(r.update_norm is not None for r in returned),
        parameters=_parameters(run),
        weights=known if settings.mechanism == "central-gaussian" else {},
        participation=Counter(record.client for record in returned),
        records=most,
        **_stated(run),
        noise=_told(run, "noise"),
        rates=_told(run, "rate"),
        batch_size=run.run.stated.training.batch_size,
        measured=_comparable(run, settings),
        probed=_contradicted(run.run, settings),
    )


def _contradicted(run: RunRecord, settings: ClaimConfig) -> dict[str, list[Reason]]:
    """Mods or layers -> what known updates showed that is not as they state, or as is claimed."""
    view = "release" if settings.mechanism == "central-gaussian" else "server"
    found: dict[str, list[Reason]] = {}
    for probed in run.probed:
        faults = list(probed.faults)
        low, value, _ = probed.epsilon
        most = settings.epsilon
        comparable = probed.view == view and settings.mechanism != "dp-sgd"
        if comparable and most is not None and probed.delta >= settings.delta and below(most, low):
            code = "epsilon of a round is above the one claimed"
            faults.append(Reason.of(code, stated=most, measured=value))
        found[", ".join(probed.by)] = faults
    return found


def _stated(run: Run) -> dict[str, Any]:
    """What was read, to be held beside what was typed."""
    read = run.run.claim_read
    if run.run.stated.claim is None or not _about_the_same(run.run):
        return {}
    figures = {name: value for name, value in read.items() if isinstance(value, int | float)}
    return {"stated": figures, "stated_by": str(read.get("by"))}


def _told(run: Run, what: Literal["noise", "rate"]) -> dict[str, float]:
    """Client -> what its accountant was told last, where it is known."""
    values = [(r.client, getattr(r, what)) for r in _returned(run)]
    return {client: value for client, value in values if 0 <= value < math.inf}


def _rounds_measured(run: Run) -> int:
    return run.measured.over_rounds.rounds if run.measured else 0


def _comparable(run: Run, settings: ClaimConfig) -> dict[str, list[MeasuredEpsilon]]:
    """What canaries showed, as far as it may be held against the claim."""
    if run.measured is None or _why_not_comparable(run, settings):
        return {}
    bounds = [run.measured.of_a_round, run.measured.over_rounds]
    return {RELEASED if bounds[0].unit == "client" else REPLAYED: bounds}


def _why_not_comparable(run: Run, settings: ClaimConfig) -> str:
    """Why a measurement says nothing against the claim, whatever it is; empty where it may."""
    measured = run.measured
    assert measured is not None
    if measured.of_a_round.unit == "client":
        return _why_no_client_compares(settings)
    if settings.mechanism == "central-gaussian":
        return "the claim is for the released model, and the replay shows what a client sends"
    if settings.mechanism == "local-gaussian" and settings.neighbours == "add-or-remove":
        return (
            "it is of one image there or not, and the claim of a whole update there or not, which an "
            "image can change by twice as much"
        )
    returned = _returned(run)
    rounds = max(Counter(r.client for r in returned).values(), default=measured.over_rounds.rounds)
    if measured.over_rounds.rounds > rounds:
        return f"no real client took part in more than {rounds} rounds"
    training = run.run.stated.training
    hidden = (training.batch_size or 0) / settings.sample_rate if settings.sample_rate < 1 else 0
    most = max([round(hidden), *(r.num_examples or 0 for r in returned)])
    if settings.mechanism == "dp-sgd" and measured.records < most:
        return (
            f"the replayed client held {measured.records} images and real ones up to {most}, among "
            "which sampling hides more"
        )
    return ""


def _why_no_client_compares(settings: ClaimConfig) -> str:
    if settings.mechanism != "central-gaussian":
        return "canary clients show what the released model tells, and the claim is of what a client sends"
    if settings.sampling == "poisson" and settings.sample_rate < 1:
        return "canary clients are in every round, and the claim counts on clients that are sampled"
    return ""


def _beside_measured(check: ClaimCheck, settings: ClaimConfig, run: Run) -> ClaimCheck:
    """The check with what canaries showed, and why that is not held against the claim."""
    if run.measured is None:
        return check
    why = _why_not_comparable(run, settings)
    said = [f"The epsilon measured is not held against the claim: {why}."] if why else []
    return replace(
        check,
        measured=(run.measured.of_a_round, run.measured.over_rounds),
        unchecked=(*check.unchecked, *said),
    )


def _parameters(run: Run) -> int | None:
    count = run.run.model.get("parameters")
    return count if isinstance(count, int) and count > 0 else None


def _corridor(claim: DpClaim, multiplier: float, run: Run) -> RiskCorridor | None:
    image = run.run.stated.image
    if claim.mechanism == "central-gaussian" or image is None:
        return None
    pixels = math.prod(image.shape)
    rounds = max(Counter(r.client for r in _returned(run)).values(), default=claim.rounds)
    mechanism = claim.over(rounds, multiplier=multiplier, as_poisson=claim.sampling == "poisson")
    return risk_corridor(
        mechanism,
        kappa=KAPPA,
        image_norm=0.5 * math.sqrt(pixels),
        pixels=pixels,
        neighbours=claim.neighbours,
    )


def _without_epsilon(settings: ClaimConfig, run: Run, why: str, assumed: list[str]) -> ClaimCheck:
    """What can be said without knowing the mechanism: of delta, and whether epsilons grow."""
    any_mechanism = DpClaim(
        mechanism="dp-sgd",
        delta=settings.delta,
        clipping_norm=1.0,
        noise_multiplier=1.0,
        rounds=1,
        reported_epsilon=_reported_series(run),
    )
    records = _observed(run, settings).records
    check = check_claim(any_mechanism, Observed(records=records))
    return replace(
        _beside_measured(check, settings, run),
        mechanism=settings.mechanism,
        claimed=settings.epsilon,
        covers=settings.epsilon_covers,
        neighbours=settings.neighbours,
        noise_multiplier=math.nan,
        clients=(),
        flags=tuple(f for f in check.flags if f.code in ("accountant-reset", "delta-too-large")),
        unchecked=(f"No epsilon can be computed: {why}.",),
        assumed=tuple(assumed),
    )


def _reported_series(run: Run) -> dict[str, list[float]]:
    """Client -> the epsilon it reported after each round."""
    return {
        client: [epsilon for _, epsilon in series]
        for client, series in reported_epsilons(run).items()
        if client != STRATEGY
    }
