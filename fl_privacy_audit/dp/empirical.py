"""Lower bounds on epsilon from what an attack achieved.

A lower bound never says that training is private: only that it is no more private than this. It is
worth a warning when it comes out above the epsilon that was claimed.
"""

import math

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, ndtri
from scipy.stats import beta, binom

from fl_privacy_audit.core.arguments import fraction, not_negative, refuse, whole


def one_run_epsilon(
    *, canaries: int, guesses: int, correct: int, delta: float = 0.0, confidence: float = 0.95
) -> float:
    """Epsilon that one training run refutes, by canaries put in or left out by a coin each.

    Steinke, Nasr & Jagielski 2023 (arXiv 2305.08846): the largest epsilon, zero or more, whose
    `one_run_p_value` is at most ``1 - confidence``. Of all `canaries` the auditor made `guesses`,
    for it may abstain, and `correct` ones were right. `one_run_ceiling`: the most that so many can
    show.

    >>> round(one_run_epsilon(canaries=100, guesses=100, correct=90), 4)
    1.6308
    """
    fraction("confidence", confidence)

    def excess(epsilon: float) -> float:
        p_value = one_run_p_value(
            epsilon=epsilon, canaries=canaries, guesses=guesses, correct=correct, delta=delta
        )
        return p_value - (1 - confidence)

    if excess(0.0) >= 0:
        return 0.0
    high = 1.0
    while excess(high) < 0:
        high *= 2
    return float(brentq(excess, 0.0, high, xtol=1e-12))


def one_run_p_value(
    *, epsilon: float, canaries: int, guesses: int, correct: int, delta: float = 0.0
) -> float:
    """Chance of at least `correct` right guesses under (epsilon, delta)-DP; at most 1.

    ``P[B >= v] + 2 m delta max_i P[v > B >= v - i] / i`` with
    ``B ~ Bin(r, e^epsilon / (1 + e^epsilon))``, for m `canaries`, r `guesses`, v `correct`, epsilon
    of zero or more and delta in [0, 1).
    """
    not_negative("epsilon", epsilon)
    whole("canaries", canaries)
    whole("guesses", guesses)
    whole("correct", correct, least=0)
    if delta != 0:
        fraction("delta", delta)
    if guesses > canaries:
        refuse("guesses", f"at most the {canaries} `canaries`", guesses)
    if correct > guesses:
        refuse("correct", f"at most the {guesses} `guesses`", correct)
    rate = float(expit(epsilon))
    value = float(binom.sf(correct - 1, guesses, rate))
    if delta > 0 and correct > 0:
        below = binom.pmf(np.arange(correct)[::-1], guesses, rate)
        value += 2 * canaries * delta * float(np.max(np.cumsum(below) / np.arange(1, correct + 1)))
    return min(1.0, value)


def one_run_ceiling(*, canaries: int, delta: float = 0.0, confidence: float = 0.95) -> float:
    """The most that a one-run audit can show with this many canaries: every guess right.

    An audit whose result is at its ceiling says "at least this", and needs more canaries.

    >>> round(one_run_ceiling(canaries=32), 3)
    2.321
    """
    return one_run_epsilon(
        canaries=canaries, guesses=canaries, correct=canaries, delta=delta, confidence=confidence
    )


def clopper_pearson(
    *, successes: int, trials: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Exact two-sided interval of a rate; each side misses with at most half of the rest.

    >>> low, high = clopper_pearson(successes=0, trials=1000)
    >>> low, round(high, 6)
    (0.0, 0.003682)
    """
    whole("trials", trials)
    whole("successes", successes, least=0)
    if successes > trials:
        refuse("successes", f"at most the {trials} `trials`", successes)
    fraction("confidence", confidence)
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, successes, trials - successes + 1)) if successes else 0.0
    missed = trials - successes
    high = float(beta.isf(tail, successes + 1, missed)) if missed else 1.0
    return low, high


def attack_epsilon(
    *,
    false_positives: int,
    negatives: int,
    false_negatives: int,
    positives: int,
    delta: float = 0.0,
    confidence: float = 0.95,
) -> float:
    """Epsilon, zero or more, that a membership attack refutes, for any mechanism.

    ``ln((1 - FNR - delta) / FPR)``, or the same with the two rates exchanged, at the upper ends of
    their Clopper-Pearson intervals (Nasr et al. 2023, arXiv 2302.07956). Of `positives` canaries
    put in, the attack called `false_negatives` out; of `negatives` left out, `false_positives` in.
    Half of what `confidence` leaves is spent on each rate.

    >>> round(attack_epsilon(
    ...     false_positives=10, negatives=1000, false_negatives=10, positives=1000), 2)
    3.98
    """
    if delta != 0:
        fraction("delta", delta)
    fpr, fnr = _upper_rates(false_positives, negatives, false_negatives, positives, confidence)
    ratios = ((1 - fnr - delta) / fpr, (1 - fpr - delta) / fnr)
    return max([0.0, *(math.log(ratio) for ratio in ratios if ratio > 0)])


def attack_mu(
    *,
    false_positives: int,
    negatives: int,
    false_negatives: int,
    positives: int,
    confidence: float = 0.95,
) -> float:
    """``mu`` that a membership attack refutes, if the mechanism is Gaussian: tighter then.

    ``Phi^-1(1 - FPR) - Phi^-1(FNR)`` at the upper ends of the intervals (Nasr et al. 2023). With
    `gaussian_epsilon` it becomes an epsilon.

    Returns:
        Zero or more.

    >>> round(attack_mu(false_positives=10, negatives=1000, false_negatives=10, positives=1000), 2)
    4.18
    """
    fpr, fnr = _upper_rates(false_positives, negatives, false_negatives, positives, confidence)
    return max(0.0, -float(ndtri(fpr)) - float(ndtri(fnr)))


def _upper_rates(
    false_positives: int, negatives: int, false_negatives: int, positives: int, confidence: float
) -> tuple[float, float]:
    if false_positives > negatives:
        refuse("false_positives", f"at most the {negatives} `negatives`", false_positives)
    if false_negatives > positives:
        refuse("false_negatives", f"at most the {positives} `positives`", false_negatives)
    _, fpr = clopper_pearson(successes=false_positives, trials=negatives, confidence=confidence)
    _, fnr = clopper_pearson(successes=false_negatives, trials=positives, confidence=confidence)
    return fpr, fnr
