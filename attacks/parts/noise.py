"""What an attacker who knows the mechanism knows about the noise in an update."""

from fl_privacy_audit.core.types import Observation


def floor(seen: Observation) -> float:
    """Cosine distance between the noisy update and the clean one, as far as can be told.

    DP-SGD (Abadi et al. 2016, Algorithm 1) adds normal noise of standard deviation
    ``noise_multiplier * max_grad_norm / batch_size`` to each of the ``d`` coordinates of the
    clipped mean gradient; a defence may add noise to the update, which is that of the gradient
    times the learning rate. So the squared norm that is seen is that of the signal plus ``d`` times
    the noise variance, and the signal is no longer than the clipping norm:

        floor = 1 - |signal| / |seen|.

    A guess whose distance falls below this fits the noise. Returns 0 where no noise is known.
    """
    replayed = seen.update if seen.gradient is None else seen.gradient
    variance, longest = _noise(seen)
    observed = sum(float(t.double().square().sum()) for t in replayed.values())
    if not variance or observed <= 0:
        return 0.0
    coordinates = sum(t.numel() for t in replayed.values())
    signal = min(max(observed - coordinates * variance, 0.0), longest**2)
    return float(1 - (signal / observed) ** 0.5)


def _noise(seen: Observation) -> tuple[float, float]:
    """Variance of the noise in each number, and the longest that the signal can be."""
    training, defence = seen.training, seen.defence
    clip, multiplier = training.max_grad_norm, training.noise_multiplier
    variance, longest = 0.0, float("inf")
    known_scale = seen.gradient is not None and seen.gradient_scale_known
    if clip is not None and multiplier and known_scale:
        variance += (multiplier * clip / training.batch_size) ** 2
        longest = clip
    if defence is not None and defence.noise_std:
        # Where no learning rate is known, the "gradient" is the update itself.
        rate = training.learning_rate if seen.gradient is not None else None
        variance += (defence.noise_std / (rate or 1.0)) ** 2
        longest = min(longest, (defence.clip_norm or float("inf")) / (rate or 1.0))
    return variance, longest
