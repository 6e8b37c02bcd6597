"""The Gaussian mechanism in closed form: exact, and the classic formula that is not.

A release of sensitivity ``S`` with noise of standard deviation ``sigma`` is exactly ``mu``-GDP with
``mu = S / sigma`` (Dong, Roth & Su 2019, arXiv 1905.02383); ``T`` of them together are
``mu * sqrt(T)``-GDP. Everything here is a function of ``mu``.
"""

from math import exp, inf, isinf, log, sqrt

from scipy.optimize import brentq
from scipy.special import erfcx, ndtr, ndtri

from fl_privacy_audit.core.arguments import fraction, not_negative, positive, whole

CLASSIC_LIMIT = 1.0
"""The classic formula is proved for epsilon below this (Dwork & Roth 2014, theorem A.1)."""

DELTA_HINT = "1e-5, or less than one over the number of records, is usual"


def gaussian_mu(*, noise_multiplier: float, sensitivity: float = 1.0, releases: int = 1) -> float:
    """``mu`` of Gaussian releases, each with noise `noise_multiplier`, above zero, x clip.

    `sensitivity`, in clipping norms, is 1 if a neighbour lacks one contribution, 2 if one
    contribution is replaced by another.

    >>> gaussian_mu(noise_multiplier=2.0, releases=16)
    2.0
    """
    positive("noise_multiplier", noise_multiplier)
    positive("sensitivity", sensitivity)
    whole("releases", releases)
    return sensitivity * sqrt(releases) / noise_multiplier


def gaussian_delta(*, mu: float, epsilon: float) -> float:
    """The smallest delta at which a `mu`-GDP release is (epsilon, delta)-DP. Exact.

    ``Phi(-epsilon/mu + mu/2) - e^epsilon Phi(-epsilon/mu - mu/2)``, from Balle & Wang 2018
    (arXiv 1805.06530), theorem 8, in a form without overflow or cancellation, for `mu` above zero
    and `epsilon` of zero or more.

    >>> round(gaussian_delta(mu=1.0, epsilon=1.0), 6)
    0.126937
    """
    positive("mu", mu)
    not_negative("epsilon", epsilon)
    return _delta(mu, epsilon / mu - mu / 2)


def _delta(mu: float, t: float) -> float:
    # With t = epsilon/mu - mu/2, e^epsilon Phi(-t - mu) is exp(-t^2/2) erfcx((t + mu)/sqrt 2) / 2.
    second = float(erfcx((t + mu) / sqrt(2)))
    if t < 0:
        return float(ndtr(-t)) - exp(-t * t / 2) * second / 2
    return exp(-t * t / 2) * (float(erfcx(t / sqrt(2))) - second) / 2


def gaussian_epsilon(*, mu: float, delta: float) -> float:
    """The smallest epsilon at which a `mu`-GDP release is (epsilon, delta)-DP. Exact.

    >>> round(gaussian_epsilon(mu=1.0, delta=1e-5), 4)
    4.3772
    """
    positive("mu", mu)
    fraction("delta", delta, DELTA_HINT)
    if _delta(mu, -mu / 2) <= delta:  # at epsilon zero
        return 0.0
    lowest = max(-mu / 2, -40.0)  # where delta is 1 but for 1e-300
    highest = -float(ndtri(delta)) + 1e-6  # where the first term alone is below delta
    t = brentq(lambda t: _delta(mu, t) - delta, lowest, highest, xtol=1e-14)
    return mu * t + mu * mu / 2


def epsilons_between(
    sensitivity: tuple[float, float, float], noise: tuple[float, float, float], *, delta: float
) -> tuple[float, float, float]:
    """Epsilon of one release whose sensitivity and noise (standard deviation) are known from measurement.

    All three are a figure between the ends of its interval, as low, value, high. The least sensitivity goes with the
    most noise. Without noise epsilon is infinite, without sensitivity zero.

    >>> [round(epsilon, 2) for epsilon in epsilons_between((0.9, 1.0, 1.0), (1.0, 1.0, 1.1), delta=1e-5)]
    [3.48, 4.38, 4.38]
    """
    low, value, high = (
        _epsilon(length, spread, delta)
        for length, spread in zip(sensitivity, reversed(noise), strict=True)
    )
    return low, value, high


def _epsilon(length: float, spread: float, delta: float) -> float:
    if length == 0:
        return 0.0
    if isinf(length) or spread == 0:
        return inf
    return gaussian_epsilon(mu=length / spread, delta=delta)


def mu_from_epsilon(*, epsilon: float, delta: float) -> float:
    """The largest ``mu`` that is (epsilon, delta)-DP: the inverse of `gaussian_epsilon`.

    >>> round(mu_from_epsilon(epsilon=4.377178, delta=1e-5), 4)
    1.0
    """
    not_negative("epsilon", epsilon)
    fraction("delta", delta, DELTA_HINT)
    high = 1.0
    while gaussian_delta(mu=high, epsilon=epsilon) < delta:
        high *= 2
    low = high / 2
    while gaussian_delta(mu=low, epsilon=epsilon) > delta:
        low /= 2
    return float(
        brentq(lambda mu: gaussian_delta(mu=mu, epsilon=epsilon) - delta, low, high, xtol=1e-15)
    )


def analytic_sigma(*, sensitivity: float, epsilon: float, delta: float) -> float:
    """The least noise that makes one release (epsilon, delta)-DP, for any epsilon.

    >>> round(analytic_sigma(sensitivity=1.0, epsilon=10.0, delta=1e-5), 4)
    0.4999
    """
    positive("sensitivity", sensitivity)
    return sensitivity / mu_from_epsilon(epsilon=epsilon, delta=delta)


def classic_sigma(*, sensitivity: float, epsilon: float, delta: float) -> float:
    """The classic calibration ``S sqrt(2 ln(1.25/delta)) / epsilon``, that of Flower's LocalDpMod.

    It is proved only for epsilon below `CLASSIC_LIMIT`. Beyond that it may add too little noise:
    asked for epsilon 10 at delta 1e-5 it gives 10.39. Use `analytic_sigma` there. A `sensitivity`
    of zero is no noise at all.

    >>> round(classic_sigma(sensitivity=1.0, epsilon=1.0, delta=1e-5), 3)
    4.845
    """
    not_negative("sensitivity", sensitivity)
    positive("epsilon", epsilon)
    fraction("delta", delta, DELTA_HINT)
    return sensitivity * sqrt(2 * log(1.25 / delta)) / epsilon
