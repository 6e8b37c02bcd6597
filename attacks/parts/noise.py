"""What an attacker who knows the mechanism knows about the noise in an update."""

from fl_privacy_audit.core.types import Observation


def to_signal(seen: Observation) -> float:
    """Energy of the noise in the update over that of the signal, as far as can be told, in [0, inf].

    DP-SGD (Abadi et al. 2016, Algorithm 1) adds normal noise of standard deviation
    ``noise_multiplier * max_grad_norm / batch_size`` to each of the ``d`` coordinates of the
    clipped mean gradient; a defence may add noise to the update, which is that of the gradient
    times the learning rate. So the squared norm that is seen is that of the signal plus ``d`` times
    the noise variance, and the signal is no longer than the clipping norm. 0 where no noise is known.
    """
    replayed = seen.update if seen.gradient is None else seen.gradient
    noisy, longest = variance(seen), _longest(seen)
    observed = sum(float(t.double().square().sum()) for t in replayed.values())
    if not noisy or observed <= 0:
        return 0.0
    coordinates = sum(t.numel() for t in replayed.values())
    signal = min(max(observed - coordinates * noisy, 0.0), longest**2)
    return observed / signal - 1 if signal > 0 else float("inf")


def floor(seen: Observation) -> float:
    """Cosine distance between the noisy update and the clean one: ``1 - |signal| / |seen|``.

    A guess whose distance falls below this fits the noise. Returns 0 where no noise is known.
    """
    return float(1 - (1 + to_signal(seen)) ** -0.5)


def variance(seen: Observation) -> float:
    """Of the noise in each number of the gradient; of the update where that is no gradient."""
    training, defence = seen.training, seen.defence
    clip, multiplier = training.max_grad_norm, training.noise_multiplier
    found = 0.0
    if clip is not None and multiplier and _in_gradients(seen):
        found += (multiplier * clip / training.batch_size) ** 2
    if defence is not None:
        found += (defence.noise_std / _unit(seen)) ** 2
    return found


def _longest(seen: Observation) -> float:
    """The longest that the signal can be, where noise of that mechanism is known."""
    training, defence = seen.training, seen.defence
    longest = float("inf")
    if training.max_grad_norm is not None and training.noise_multiplier and _in_gradients(seen):
        longest = training.max_grad_norm
    if defence is not None and defence.noise_std:
        longest = min(longest, (defence.clip_norm or float("inf")) / _unit(seen))
    return longest


def _in_gradients(seen: Observation) -> bool:
    """Whether the gradient is in its own units, so that a clipping norm can be compared with it."""
    known = seen.training.optimizer == "sgd" and seen.training.learning_rate is not None
    return seen.gradient is not None and known


def _unit(seen: Observation) -> float:
    """Of the gradient in units of the update; 1 where no rate is known: it is the update itself."""
    return (seen.gradient is not None and seen.training.learning_rate) or 1.0
