"""What an attacker who knows a DP-SGD mechanism knows about the noise in an update."""

from fl_privacy_audit.types import Observation


def floor(seen: Observation) -> float:
    """Cosine distance between the noisy update and the clean one, as far as can be told.

    DP-SGD (Abadi et al. 2016, Algorithm 1) adds normal noise of standard deviation
    ``noise_multiplier * max_grad_norm / batch_size`` to each of the ``d`` coordinates of the
    clipped mean gradient, so the squared norm that is seen is that of the signal plus ``d`` times
    the noise variance, and the signal is no longer than the clipping norm. With one step

        floor = 1 - |signal| / |seen|.

    A guess whose distance falls below this fits the noise. Returns 0 where no noise is known.
    """
    training = seen.training
    clip, noise = training.max_grad_norm, training.noise_multiplier
    if clip is None or not noise or seen.gradient is None:
        return 0.0
    observed = sum(float(t.double().square().sum()) for t in seen.gradient.values())
    if not seen.gradient_scale_known or observed <= 0:
        return 0.0
    coordinates = sum(t.numel() for t in seen.gradient.values())
    signal = observed - coordinates * (noise * clip / training.batch_size) ** 2
    signal = min(max(signal, 0.0), clip**2)
    return float(1 - (signal / observed) ** 0.5)
