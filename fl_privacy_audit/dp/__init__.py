"""Differential privacy: accountants, bounds on attacks, and checks of claims.

These figures stand beside what attacks achieve. Only the lower bounds in ``empirical`` are measured
on attacks. Every function raises `ConfigError` for an argument that is out of range.
"""

from fl_privacy_audit.core.config import Neighbours

from .accounting import (
    Epsilons,
    RdpSpent,
    central_dp_epsilons,
    epsilon_pld,
    epsilon_rdp,
    epsilons,
    local_dp_epsilons,
)
from .bounds import (
    RiskCorridor,
    from_scratch_psnr,
    from_scratch_success,
    rero,
    rero_gaussian,
    risk_corridor,
)
from .claims import ClaimCheck, check_claim
from .dp_claim import DpClaim, Observed
from .effective import ClientEpsilon, Spent
from .empirical import (
    attack_epsilon,
    attack_mu,
    clopper_pearson,
    one_run_ceiling,
    one_run_epsilon,
    one_run_p_value,
)
from .flags import FLAGS, Flag, FlagCode
from .gaussian import (
    analytic_sigma,
    classic_sigma,
    gaussian_delta,
    gaussian_epsilon,
    gaussian_mu,
    mu_from_epsilon,
)
from .mechanism import SampledGaussian

__all__ = [
    "FLAGS",
    "ClaimCheck",
    "ClientEpsilon",
    "DpClaim",
    "Epsilons",
    "Flag",
    "FlagCode",
    "Neighbours",
    "Observed",
    "RdpSpent",
    "RiskCorridor",
    "SampledGaussian",
    "Spent",
    "analytic_sigma",
    "attack_epsilon",
    "attack_mu",
    "central_dp_epsilons",
    "check_claim",
    "classic_sigma",
    "clopper_pearson",
    "epsilon_pld",
    "epsilon_rdp",
    "epsilons",
    "from_scratch_psnr",
    "from_scratch_success",
    "gaussian_delta",
    "gaussian_epsilon",
    "gaussian_mu",
    "local_dp_epsilons",
    "mu_from_epsilon",
    "one_run_ceiling",
    "one_run_epsilon",
    "one_run_p_value",
    "rero",
    "rero_gaussian",
    "risk_corridor",
]
