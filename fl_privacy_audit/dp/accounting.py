"""Epsilon of the Poisson-sampled Gaussian mechanism, by two accountants and for both neighbours.

Every figure is an upper bound on the true epsilon. Renyi DP is Opacus' analysis; the privacy loss
distribution (PLD) is Google's ``dp-accounting`` and tighter. Without sampling the PLD figure is the
exact closed form.

Opacus and dp-accounting take seconds to import, so they are imported where they are used.
"""

import math
import warnings
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from fl_privacy_audit.core.arguments import choice, fraction, positive, whole
from fl_privacy_audit.core.config import Neighbours

from .gaussian import DELTA_HINT, classic_sigma, gaussian_epsilon
from .mechanism import NEIGHBOURS, SampledGaussian

Floats = NDArray[np.float64]

ORDERS = tuple(tenths / 10 for tenths in range(11, 110)) + tuple(range(12, 64))
"""Renyi orders that Opacus' accountant tries."""
PLD_INTERVAL = 1e-3
"""Widest step of the grid of privacy losses. A wider step is faster and only ever overstates."""
PLD_LIMIT = 200.0
"""Above this no PLD is built: refining a figure that means no privacy would take gigabytes."""


class RdpSpent(NamedTuple):
    """Epsilon by Renyi DP, and the order that gave it."""

    epsilon: float
    order: float


@dataclass(frozen=True, kw_only=True)
class Epsilons:
    """One mechanism's epsilon by Renyi DP and by its privacy loss distribution; upper bounds.

    For neighbours by add-or-remove, and (``_replace``) by replace-one.
    """

    rdp: float
    pld: float
    rdp_replace: float
    pld_replace: float

    def tightest(self, neighbours: Neighbours) -> float:
        """The PLD figure for one neighbour relation."""
        return self.pld if neighbours == "add-or-remove" else self.pld_replace


def epsilons(mechanism: SampledGaussian, *, delta: float) -> Epsilons:
    """All four figures."""
    return Epsilons(
        rdp=epsilon_rdp(mechanism, delta=delta).epsilon,
        pld=epsilon_pld(mechanism, delta=delta),
        rdp_replace=epsilon_rdp(mechanism, delta=delta, neighbours="replace-one").epsilon,
        pld_replace=epsilon_pld(mechanism, delta=delta, neighbours="replace-one"),
    )


def local_dp_epsilons(
    *, clipping_norm: float, sensitivity: float, epsilon: float, delta: float, rounds: int = 1
) -> Epsilons:
    """What Flower's ``LocalDpMod`` really gives a client, for the arguments of the mod.

    It takes its noise from `sensitivity`, zero or more, by the classic formula, whatever the
    clipping norm, and never composes. `rounds` are those that the client takes part in.
    """
    positive("clipping_norm", clipping_norm)
    sigma = classic_sigma(sensitivity=sensitivity, epsilon=epsilon, delta=delta)
    mechanism = SampledGaussian(noise_multiplier=sigma / clipping_norm, steps=rounds)
    return epsilons(mechanism, delta=delta)


def central_dp_epsilons(
    *,
    noise_multiplier: float,
    sampled: int,
    total: int,
    rounds: int,
    delta: float,
    poisson: bool = False,
) -> Epsilons:
    """What Flower's central DP wrappers give a client in the released models.

    `sampled` of `total` clients take part in each of `rounds` releases; the noise on their mean is
    `noise_multiplier` x clip / sampled. `poisson`: whether every client is sampled by its own coin.
    Flower draws a fixed number, so by default nothing is gained by sampling, as in its own
    accountant.
    """
    whole("sampled", sampled)
    whole("total", total, least=sampled, hint="it cannot be less than `sampled`")
    mechanism = SampledGaussian(
        noise_multiplier=noise_multiplier,
        sample_rate=sampled / total if poisson else 1.0,
        steps=rounds,
    )
    return epsilons(mechanism, delta=delta)


def epsilon_rdp(
    mechanism: SampledGaussian, *, delta: float, neighbours: Neighbours = "add-or-remove"
) -> RdpSpent:
    """Epsilon by Opacus' Renyi orders and its conversion (Balle et al. 2020, arXiv 1905.09982)."""
    fraction("delta", delta, DELTA_HINT)
    choice("neighbours", neighbours, NEIGHBOURS)
    if mechanism.is_silent:
        return RdpSpent(math.inf, math.nan)
    return _rdp(mechanism, delta, neighbours)


def epsilon_pld(
    mechanism: SampledGaussian, *, delta: float, neighbours: Neighbours = "add-or-remove"
) -> float:
    """Epsilon by the privacy loss distribution; the exact closed form where nothing is sampled."""
    fraction("delta", delta, DELTA_HINT)
    choice("neighbours", neighbours, NEIGHBOURS)
    if mechanism.is_silent:
        return math.inf
    return _pld(mechanism, delta, neighbours)


@lru_cache(maxsize=512)
def _pld(mechanism: SampledGaussian, delta: float, neighbours: Neighbours) -> float:
    if mechanism.sample_rate == 1:
        return gaussian_epsilon(mu=mechanism.mu(neighbours), delta=delta)
    renyi = _rdp(mechanism, delta, neighbours).epsilon
    if renyi > PLD_LIMIT:
        return min(renyi, gaussian_epsilon(mu=mechanism.mu(neighbours), delta=delta))
    return float(loss_distribution(mechanism, neighbours).get_epsilon_for_delta(delta))


@lru_cache(maxsize=8)
def loss_distribution(mechanism: SampledGaussian, neighbours: Neighbours = "add-or-remove") -> Any:
    """dp-accounting's ``PrivacyLossDistribution``, composed; every rounding to the safe side.

    The noise must be above zero and the epsilon below `PLD_LIMIT`, or it grows beyond memory.
    """
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld import privacy_loss_distribution as pld

    relation = {
        "add-or-remove": NeighboringRelation.ADD_OR_REMOVE_ONE,
        "replace-one": NeighboringRelation.REPLACE_ONE,
    }[neighbours]
    once = pld.from_gaussian_mechanism(
        mechanism.noise_multiplier,
        sampling_prob=mechanism.sample_rate,
        value_discretization_interval=_interval(mechanism),
        neighboring_relation=relation,
    )
    return once.self_compose(mechanism.steps)


def _interval(mechanism: SampledGaussian) -> float:
    """A step well below the spread of one step's loss, or rounding swamps what composes."""
    exponent = 1 / mechanism.noise_multiplier**2
    if exponent > 50:
        return PLD_INTERVAL
    spread = mechanism.sample_rate * math.sqrt(math.expm1(exponent))
    return min(PLD_INTERVAL, max(0.4 * spread, 1e-5))


@lru_cache
def _opacus_analysis() -> Any:
    """Opacus' analysis by itself, which needs NumPy and SciPy; its package would load torch."""
    package = find_spec("opacus")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'opacus'", name="opacus")
    place = Path(package.submodule_search_locations[0], "accountants", "analysis", "rdp.py")
    spec = spec_from_file_location("opacus.accountants.analysis.rdp", place)
    assert spec is not None and spec.loader is not None
    analysis = module_from_spec(spec)
    spec.loader.exec_module(analysis)
    return analysis


@lru_cache(maxsize=512)
def _rdp(mechanism: SampledGaussian, delta: float, neighbours: Neighbours) -> RdpSpent:
    rdp, orders = _opacus_analysis(), ORDERS
    noise, q = mechanism.noise_multiplier, mechanism.sample_rate
    if neighbours == "add-or-remove":
        spent = rdp.compute_rdp(q=q, noise_multiplier=noise, steps=mechanism.steps, orders=orders)
    elif q == 1 or noise < 0.1:
        # Sampling can only help, so this bounds the sampled case too, where so little noise would
        # need a grid of millions of points to say that there is no privacy.
        spent = rdp.compute_rdp(
            q=1.0, noise_multiplier=noise / 2, steps=mechanism.steps, orders=orders
        )
    else:
        spent = _replace_one_rdp(noise, q, np.asarray(orders)) * mechanism.steps
    with warnings.catch_warnings():
        # Opacus warns where the best order is its first or last; the bound holds all the same.
        warnings.filterwarnings("ignore", message="Optimal order is the")
        epsilon, order = rdp.get_privacy_spent(orders=orders, rdp=spent, delta=delta)
    return RdpSpent(max(0.0, float(epsilon)), float(order))


def _replace_one_rdp(noise: float, q: float, orders: Floats) -> Floats:
    """Renyi divergence of one step between the two worst neighbours, by the trapezoid rule.

    They are those of dp-accounting's replace-one: the record at +1 in one, at -1 in the other, and
    with chance 1 - q in neither. The integrand is smooth, so the rule is exact to rounding.
    """
    width = noise / 20
    # The order a has its mass around 2 a - 1, so the largest order needs the furthest point.
    x = np.arange(-1 - 12 * noise, 2 * orders.max() - 1 + 12 * noise, width)

    def log_density(centre: float) -> Floats:
        absent = math.log1p(-q) - x**2 / (2 * noise**2)
        present = math.log(q) - (x - centre) ** 2 / (2 * noise**2)
        return np.asarray(np.logaddexp(absent, present) - math.log(noise * math.sqrt(2 * math.pi)))

    first, second = log_density(1.0), log_density(-1.0)
    moments = [logsumexp(a * first + (1 - a) * second) + math.log(width) for a in orders]
    return np.asarray(moments) / (orders - 1)
