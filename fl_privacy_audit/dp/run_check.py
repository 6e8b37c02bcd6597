"""The differential-privacy claim of a run, checked against its settings and its ledger."""

import math
from collections import Counter
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from fl_privacy_audit.core.config import ClaimConfig
from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.ledger.ledger import LastRun
from fl_privacy_audit.ledger.records import AuditRecord

from . import DpClaim, Epsilons, Observed, check_claim, risk_corridor


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class EpsilonFigures(_Model):
    """One mechanism's epsilon by two accountants and both neighbour relations; upper bounds all.

    Attributes:
        rdp: Renyi DP (Opacus), add-or-remove.
        pld: Privacy loss distribution (dp-accounting), add-or-remove.
        rdp_replace: Renyi DP, replace-one.
        pld_replace: Privacy loss distribution, replace-one.
    """

    rdp: float
    pld: float
    rdp_replace: float
    pld_replace: float


class ClientSpent(_Model):
    """What one client has spent.

    Attributes:
        client: As in the ledger; ``"any client"`` if none is named there.
        rounds: Rounds counted.
        per_round: Epsilon of one round.
        cumulative: Epsilon over all its rounds.
    """

    client: str
    rounds: int
    per_round: EpsilonFigures
    cumulative: EpsilonFigures


class DpFlag(_Model):
    """One thing that is wrong with a claim.

    Attributes:
        code: A key of `fl_privacy_audit.dp.FLAGS`.
        severity: An ``"error"`` voids the claim.
        message: What is wrong, with figures, and how to mend it.
    """

    code: str
    severity: Literal["error", "warning"]
    message: str


class Corridor(_Model):
    """Between which bounds an attack on one record can lie, from the claim's noise.

    Attributes:
        kappa: Chance to pick the right one of ``1 / kappa`` candidates without the update.
        identification: Most that chance can become, for any attacker (ReRo).
        psnr: What an attacker without any prior expects, in dB; infinite without noise.
        repeats: Releases a record is expected to be part of.
    """

    kappa: float
    identification: float
    psnr: float
    repeats: int


class DpCheck(_Model):
    """What became of the claim of one run.

    Attributes:
        mechanism: ``"dp-sgd"``, ``"local-gaussian"`` or ``"central-gaussian"``.
        delta: Of every epsilon here.
        claimed: The epsilon that is claimed; None if none is.
        covers: The whole ``"run"``, or one ``"round"``.
        neighbours: Of the claim.
        noise_multiplier: Noise over clipping norm in effect, in the worst round.
        clients: What each client has spent.
        flags: What is wrong.
        unchecked: What could not be looked at, and why.
        assumed: What the settings leave open, and what was taken instead.
        corridor: What theory allows an attacker; None where the claim protects whole clients.
    """

    mechanism: str
    delta: float
    claimed: float | None
    covers: str
    neighbours: str
    noise_multiplier: float
    clients: list[ClientSpent]
    flags: list[DpFlag]
    unchecked: list[str]
    assumed: list[str]
    corridor: Corridor | None = None

    @property
    def holds(self) -> bool:
        """Whether no error was found; read `unchecked` before believing it."""
        return all(flag.severity != "error" for flag in self.flags)


DELTA = 1e-5
"""Where the settings name none."""
KAPPA = 0.01
"""The corridor is drawn for picking the right one of a hundred candidates."""


def check_run(run: LastRun) -> DpCheck | None:
    """Check the claim of a run, or what its settings and its clients say of DP without one.

    Returns:
        None where there is nothing to check: no claim, no known noise and no reported epsilon.
    """
    config = run.run.config
    training: dict[str, Any] = config["training"]
    stated: dict[str, Any] | None = config.get("claim")
    reported = reported_epsilons(run)
    if stated is None and training["noise_multiplier"] is None and not reported:
        return None
    assumed = [] if stated else [f"no claim is in the settings; delta is taken as {DELTA:g}"]
    settings = ClaimConfig.model_validate(stated or {"delta": DELTA})
    try:
        claim = _claim(settings, run, assumed)
    except ConfigError as error:
        return _unreadable(settings, run, str(error), assumed)
    seen = _observed(run, settings.mechanism)
    found = check_claim(claim, seen)
    unchecked = list(found.unchecked)
    flags = found.flags
    if stated is None and reported:
        # Clients may report epsilon at another delta than the one taken here.
        flags = tuple(f for f in flags if f.code != "epsilon-understated")
        unchecked.append("Reported epsilons: set `claim.delta` to the delta they are meant at.")
    return DpCheck(
        mechanism=claim.mechanism,
        delta=claim.delta,
        claimed=claim.epsilon,
        covers=claim.epsilon_covers,
        neighbours=claim.neighbours,
        noise_multiplier=found.noise_multiplier,
        clients=[
            ClientSpent(
                client=line.client,
                rounds=line.rounds,
                per_round=_figures(line.in_effect.per_round),
                cumulative=_figures(line.in_effect.cumulative),
            )
            for line in found.clients
        ],
        flags=[DpFlag(code=f.code, severity=f.severity, message=f.message) for f in flags],
        unchecked=unchecked,
        assumed=assumed,
        corridor=_corridor(claim, found.noise_multiplier, run),
    )


def reported_epsilons(run: LastRun) -> dict[str, list[tuple[int, float]]]:
    """Client -> (round, the epsilon it reported), in the order of rounds."""
    series: dict[str, list[tuple[int, float]]] = {}
    for record in sorted(run.audits, key=lambda r: r.round):
        if record.view == "server" and "epsilon" in record.reported:
            series.setdefault(record.client, []).append((record.round, record.reported["epsilon"]))
    return series


def _returned(run: LastRun) -> list[AuditRecord]:
    return [r for r in run.audits if r.view == "server" and r.client_status == "returned"]


def _claim(settings: ClaimConfig, run: LastRun, assumed: list[str]) -> DpClaim:
    """The claim in the words of `theory`.

    Raises:
        ConfigError: The settings do not say enough, or do not go together.
    """
    training: dict[str, Any] = run.run.config["training"]
    clip = settings.clipping_norm or training["max_grad_norm"]
    if clip is None:
        raise ConfigError("the clipping norm is not known; set `claim.clipping_norm`")
    noise, steps, sampled = settings.noise_multiplier, 1, settings.sampled_clients
    if settings.mechanism == "dp-sgd":
        noise = training["noise_multiplier"] if noise is None else noise
        steps = settings.steps_per_round or training["steps"] or 1
        if not (settings.steps_per_round or training["steps"]):
            assumed.append("the number of local steps is not known; taken as one")
    if settings.mechanism == "central-gaussian" and sampled is None:
        sampled = Counter(Counter(r.round for r in _returned(run)).values()).most_common(1)[0][0]
        assumed.append(
            f"noise is taken to be scaled to {sampled} clients, as many as usually reply"
        )
    if settings.sampling == "unknown" and settings.sample_rate == 1 and steps > 1:
        assumed.append("no sample rate is stated; every record is taken to be in every step")
    floats = settings.mechanism == "dp-sgd"  # Opacus adds noise to gradients alone
    return DpClaim(
        mechanism=settings.mechanism,
        delta=settings.delta,
        clipping_norm=clip,
        rounds=max(len({r.round for r in _returned(run)}), 1),
        epsilon=settings.epsilon,
        epsilon_covers=settings.epsilon_covers,
        neighbours=settings.neighbours,
        noise_multiplier=noise,
        sigma=settings.sigma,
        sensitivity=settings.sensitivity,
        sample_rate=settings.sample_rate,
        sampling=settings.sampling,
        steps_per_round=steps,
        accountant=settings.accountant,
        sampled_clients=sampled,
        clipped_by=settings.clipped_by,
        arrays={
            name: dtype
            for name, dtype in run.run.arrays.items()
            if not floats or dtype.startswith(("float", "bfloat"))
        },
        reported_epsilon={
            client: [epsilon for _, epsilon in series]
            for client, series in reported_epsilons(run).items()
        },
    )


def _observed(run: LastRun, mechanism: str) -> Observed:
    norms: dict[int, dict[str, float]] = {}
    weights: dict[int, dict[str, float]] = {}
    returned = _returned(run)
    for record in returned:
        if record.update_norm is not None:
            norms.setdefault(record.round, {})[record.client] = record.update_norm
        if record.num_examples:
            weights.setdefault(record.round, {})[record.client] = float(record.num_examples)
    clients = Counter(record.round for record in returned)
    known = {r: w for r, w in weights.items() if len(w) == clients[r]}
    parameters = run.run.model["parameters"]
    return Observed(
        update_norms=norms,
        complete=bool(norms) and all(r.update_norm is not None for r in returned),
        parameters=int(parameters) or None,
        weights=known if mechanism == "central-gaussian" else {},
        participation=Counter(record.client for record in returned),
    )


def _corridor(claim: DpClaim, multiplier: float, run: LastRun) -> Corridor | None:
    if claim.mechanism == "central-gaussian":
        return None
    pixels = math.prod(run.run.config["image"]["shape"])
    rounds = max(Counter(r.client for r in _returned(run)).values(), default=claim.rounds)
    mechanism = claim.over(rounds, multiplier=multiplier, as_poisson=claim.sampling == "poisson")
    found = risk_corridor(
        mechanism,
        kappa=KAPPA,
        image_norm=0.5 * math.sqrt(pixels),
        pixels=pixels,
        neighbours=claim.neighbours,
    )
    return Corridor(
        kappa=KAPPA,
        identification=found.identification,
        psnr=found.psnr,
        repeats=found.repeats,
    )


def _unreadable(settings: ClaimConfig, run: LastRun, why: str, assumed: list[str]) -> DpCheck:
    """What can be said without knowing the mechanism: whether reported epsilons grow."""
    series = {
        client: [epsilon for _, epsilon in points]
        for client, points in reported_epsilons(run).items()
    }
    shown = DpClaim(
        mechanism="dp-sgd",
        delta=settings.delta,
        clipping_norm=1.0,
        noise_multiplier=1.0,
        rounds=1,
        reported_epsilon=series,
    )
    flags = [f for f in check_claim(shown).flags if f.code == "accountant-reset"]
    return DpCheck(
        mechanism=settings.mechanism,
        delta=settings.delta,
        claimed=settings.epsilon,
        covers=settings.epsilon_covers,
        neighbours=settings.neighbours,
        noise_multiplier=math.nan,
        clients=[],
        flags=[DpFlag(code=f.code, severity=f.severity, message=f.message) for f in flags],
        unchecked=[f"No epsilon can be computed: {why}."],
        assumed=assumed,
    )


def _figures(found: Epsilons) -> EpsilonFigures:
    return EpsilonFigures(
        rdp=found.rdp,
        pld=found.pld,
        rdp_replace=found.rdp_replace,
        pld_replace=found.pld_replace,
    )
