"""What theory allows an attacker, from the strongest there is to one that knows nothing.

*Identification.* An attacker who knows everything but which of ``1/kappa`` candidates was trained
on succeeds with chance at most ``gamma(kappa)``: reconstruction robustness (Balle, Cherubin & Hayes
2022, arXiv 2201.04845; tight for DP-SGD: Hayes, Mahloujifar & Balle 2023, arXiv 2302.07225).

*From scratch.* An attacker without any prior, who rebuilds the image from the noised gradient alone
(Riess et al. 2024, arXiv 2402.12861). Real attackers lie between: the `RiskCorridor`.
"""

import math
from dataclasses import dataclass

from scipy.optimize import minimize_scalar
from scipy.special import gammainc, ndtr, ndtri

from fl_privacy_audit.core.arguments import choice, fraction, not_negative, positive, whole
from fl_privacy_audit.core.config import Neighbours

from .accounting import PLD_LIMIT, epsilon_rdp, loss_distribution
from .empirical import clopper_pearson
from .mechanism import NEIGHBOURS, SampledGaussian

KAPPA_HINT = "it is the chance to be right without the update: one over the number of candidates"


def rero_gaussian(*, mu: float, kappa: float) -> float:
    """``gamma(kappa)`` of a `mu`-GDP release: ``Phi(mu + Phi^-1(kappa))``. Exact.

    Kaissis et al. 2023 (arXiv 2307.03928). `mu`: sensitivity over noise, zero or more. `kappa`:
    chance of success without the release, in (0, 1); with it, in ``[kappa, 1]``, it is what is
    returned.

    >>> round(rero_gaussian(mu=1.0, kappa=0.1), 4)
    0.3891
    """
    not_negative("mu", mu)
    fraction("kappa", kappa, KAPPA_HINT)
    return float(ndtr(mu + ndtri(kappa)))


def rero(
    mechanism: SampledGaussian, *, kappa: float, neighbours: Neighbours = "add-or-remove"
) -> float:
    """``gamma(kappa)`` of a mechanism: the least ``e^epsilon kappa + delta(epsilon)``, any epsilon.

    ``delta`` comes from the privacy loss distribution and holds for the record added and removed
    alike, so the bound errs to the high side only: by nothing to speak of for small kappa, by a few
    hundredths where kappa is a third or more. Without sampling it is `rero_gaussian`.
    """
    fraction("kappa", kappa, KAPPA_HINT)
    choice("neighbours", neighbours, NEIGHBOURS)
    if mechanism.is_silent:
        return 1.0
    unsampled = rero_gaussian(mu=mechanism.mu(neighbours), kappa=kappa)
    if mechanism.sample_rate == 1:
        return unsampled
    if epsilon_rdp(mechanism, delta=1e-5, neighbours=neighbours).epsilon > PLD_LIMIT:
        return unsampled
    losses = loss_distribution(mechanism, neighbours)
    # Convex in e^epsilon, so there is one valley; right of log(1/kappa) the bound exceeds 1.
    valley = minimize_scalar(
        lambda epsilon: math.exp(epsilon) * kappa + float(losses.get_delta_for_epsilon(epsilon)),
        bounds=(-40.0, -math.log(kappa)),
        method="bounded",
        options={"xatol": 1e-7},
    )
    return min(1.0, max(kappa, float(valley.fun)))


def from_scratch_psnr(*, noise_multiplier: float, image_norm: float, repeats: int = 1) -> float:
    """Expected PSNR of the from-scratch attacker, in dB, peak 1.

    The best estimate is the image plus Gaussian noise of ``sigma |X|`` per pixel, where ``sigma``
    is the noise multiplier and ``|X|`` the Euclidean norm of the image with pixels in ``[0, 1]``:
    ``-10 log10(sigma^2 |X|^2 / repeats)``. This is the PSNR of the expected error; the mean PSNR
    lies 4.3 / pixels dB above it. `repeats`: releases the image was part of, whose noise averages
    out.

    >>> round(from_scratch_psnr(noise_multiplier=1e-3, image_norm=0.5 * 3072**0.5), 2)
    31.15
    """
    return -20 * math.log10(_pixel_noise(noise_multiplier, image_norm, repeats))


def from_scratch_success(
    *, eta: float, noise_multiplier: float, image_norm: float, pixels: int, repeats: int = 1
) -> float:
    """Chance that the from-scratch attacker's mean squared error is at most `eta`; 0.01 is 20 dB.

    The error is ``sigma^2 |X|^2 chi^2_N / N`` for ``N`` = C x H x W `pixels`, so this is the
    regularised lower incomplete gamma function at ``(N/2, eta N / (2 sigma^2 |X|^2))``.
    """
    positive("eta", eta)
    whole("pixels", pixels)
    noise = _pixel_noise(noise_multiplier, image_norm, repeats)
    return float(gammainc(pixels / 2, eta * pixels / 2 / noise / noise))


def _pixel_noise(noise_multiplier: float, image_norm: float, repeats: int) -> float:
    positive("noise_multiplier", noise_multiplier)
    positive("image_norm", image_norm, "it is the Euclidean norm of an image that is not black")
    whole("repeats", repeats)
    return noise_multiplier * image_norm / math.sqrt(repeats)


@dataclass(frozen=True, kw_only=True)
class RiskCorridor:
    """Between which bounds an attack on one record can lie."""

    kappa: float  # chance to pick the right candidate without the update
    identification: float  # most that chance can become, whatever the attack: ``gamma(kappa)``
    psnr: float  # what an attacker without prior expects, in dB; infinite without noise
    eta: float  # mean squared error that counts as a reconstruction
    reconstruction: float  # chance of an attacker without prior to reach `eta`
    repeats: int  # steps the record is expected to be part of, at least one

    def is_violated_by(self, *, hits: int, trials: int, confidence: float = 0.99) -> bool:
        """Whether an attack picks the right of ``1/kappa`` candidates more often than DP allows.

        If so, the mechanism is not what it is said to be: by the two-sided Clopper-Pearson interval
        of `hits` in independent `trials`, a false alarm has a chance of ``(1 - confidence) / 2`` at
        most.
        """
        lowest, _ = clopper_pearson(successes=hits, trials=trials, confidence=confidence)
        return lowest > self.identification


def risk_corridor(
    mechanism: SampledGaussian,
    *,
    kappa: float,
    image_norm: float,
    pixels: int,
    eta: float = 0.01,
    neighbours: Neighbours = "add-or-remove",
) -> RiskCorridor:
    """Both bounds for one record of one client.

    `mechanism`: all steps the attacker sees. `kappa`: one over the number of candidates of the
    identification bound, which is for these `neighbours`. The rest is as in `from_scratch_success`.
    """
    positive("image_norm", image_norm, "it is the Euclidean norm of an image that is not black")
    positive("eta", eta)
    whole("pixels", pixels)
    repeats = max(1, math.ceil(mechanism.sample_rate * mechanism.steps - 1e-9))
    psnr, reconstruction = math.inf, 1.0
    if not mechanism.is_silent:
        noise = mechanism.noise_multiplier
        psnr = from_scratch_psnr(noise_multiplier=noise, image_norm=image_norm, repeats=repeats)
        reconstruction = from_scratch_success(
            eta=eta, noise_multiplier=noise, image_norm=image_norm, pixels=pixels, repeats=repeats
        )
    return RiskCorridor(
        kappa=kappa,
        identification=rero(mechanism, kappa=kappa, neighbours=neighbours),
        psnr=psnr,
        eta=eta,
        reconstruction=reconstruction,
        repeats=repeats,
    )
