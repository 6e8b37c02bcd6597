"""Differential privacy: accountants, bounds on attacks, and checks of claims.

These figures stand beside what attacks achieve. Only the lower bounds in ``empirical`` are measured
on attacks. Every function raises `ConfigError` for an argument that is out of range.
"""

from fl_privacy_audit.core.config import Neighbours as Neighbours
from fl_privacy_audit.core.types import MeasuredEpsilon as MeasuredEpsilon

from .accounting import Epsilons as Epsilons
from .accounting import RdpSpent as RdpSpent
from .accounting import central_dp_epsilons as central_dp_epsilons
from .accounting import epsilon_pld as epsilon_pld
from .accounting import epsilon_rdp as epsilon_rdp
from .accounting import epsilons as epsilons
from .accounting import local_dp_epsilons as local_dp_epsilons
from .bounds import RiskCorridor as RiskCorridor
from .bounds import from_scratch_psnr as from_scratch_psnr
from .bounds import from_scratch_success as from_scratch_success
from .bounds import rero as rero
from .bounds import rero_gaussian as rero_gaussian
from .bounds import risk_corridor as risk_corridor
from .canaries import gaussian_canaries_mu as gaussian_canaries_mu
from .canaries import measure_epsilon as measure_epsilon
from .canaries import one_run_scores_epsilon as one_run_scores_epsilon
from .claims import ClaimCheck as ClaimCheck
from .claims import check_claim as check_claim
from .dp_claim import DpClaim as DpClaim
from .dp_claim import Observed as Observed
from .effective import ClientEpsilon as ClientEpsilon
from .effective import Spent as Spent
from .empirical import attack_epsilon as attack_epsilon
from .empirical import attack_mu as attack_mu
from .empirical import clopper_pearson as clopper_pearson
from .empirical import one_run_ceiling as one_run_ceiling
from .empirical import one_run_epsilon as one_run_epsilon
from .empirical import one_run_p_value as one_run_p_value
from .flags import FLAGS as FLAGS
from .flags import Flag as Flag
from .flags import FlagCode as FlagCode
from .gaussian import analytic_sigma as analytic_sigma
from .gaussian import classic_sigma as classic_sigma
from .gaussian import gaussian_delta as gaussian_delta
from .gaussian import gaussian_epsilon as gaussian_epsilon
from .gaussian import gaussian_mu as gaussian_mu
from .gaussian import mu_from_epsilon as mu_from_epsilon
from .mechanism import SampledGaussian as SampledGaussian
