"""The differential-privacy claim of a run, checked against its settings and its ledger."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


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
        code: A key of `fl_privacy_audit.theory.FLAGS`.
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
