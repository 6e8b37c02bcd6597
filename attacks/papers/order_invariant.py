"""Data leakage in federated averaging: epochs of shuffled mini-batches.

Dimitrov, Balunovic, Konstantinov, Vechev: "Data Leakage in Federated Averaging", TMLR 2022,
arXiv:2206.12395. Threat model C of Carletti et al. 2025 (parameter-aware): the number of local
steps, the batch size and the learning rate. A client that goes through its images in a new order
every epoch cannot be replayed with one set of images in one order, so here every epoch has guesses
of its own. They are the same images, in another order: what does not depend on the order must be
the same for all epochs. At the end the epochs are matched and averaged.
"""

from dataclasses import replace

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fl_privacy_audit.attacks.engine import OptimisationAttack
from fl_privacy_audit.attacks.parts import labels
from fl_privacy_audit.attacks.parts.labels import Labels
from fl_privacy_audit.attacks.parts.replay import (
    Replay,
    local_training,
    steps_of_an_epoch,
    unrolled,
)
from fl_privacy_audit.core.errors import UnmetNeedError
from fl_privacy_audit.core.types import Observation

from .swept_inversion import swept_inversion

FADED = 1e-3
"""Of the invariance's weight, what is left at the end."""
OTHER_CLASS = 1e6
"""Cost of matching images of different classes: never, where there is another way."""


def order_invariant(
    *,
    steps: int = 300,
    restarts: int = 1,
    learning_rate: float = 0.1,
    invariance: float = 1.0,
) -> OptimisationAttack:
    """Unrolled epochs with images of their own, tied by the mean and maximum over each epoch.

    The authors' settings on CIFAR-100 are 200 steps of Adam at 0.1, total variation 2e-4, and
    6.075 on the distance of maxima of random convolutions; here the images themselves are
    aggregated, by mean and maximum. Beyond the paper: the signed steps, the schedule and the
    prior of `swept_inversion`. The weight of the invariance is found by the same rule, which sees
    no image: it starts where it pulls the first guess as hard as the distance does, and fades to
    a thousandth of that.

    Which images share a batch is a guess, another one in each restart; of restarts that fit the
    update differently well the one with the least distance wins, so more of them pay.

    Args:
        steps: Adam steps of a restart.
        restarts: Fresh starts, each with the labels in other orders.
        learning_rate: At the start, in normalised pixel units.
        invariance: Weight of the distance between the epochs' aggregates at the start, in units of
            the balance.
    """
    recipe = swept_inversion(steps=steps, restarts=restarts, learning_rate=learning_rate)

    def tie(seen: Observation, restart: int) -> tuple[float, float]:
        return invariance, invariance * FADED

    return replace(
        recipe,
        name="order_invariant",
        start=start_each_epoch,
        labels=labels_each_epoch,
        replay=replay_epochs,
        priors=(*recipe.priors, (tie, order_invariance)),
        finish=matched_mean,
    )


def epochs(seen: Observation) -> int:
    """How often the client went through its images.

    Raises:
        UnmetNeedError: Not a whole number of times.
    """
    if seen.gradient is not None:
        return 1
    each = steps_of_an_epoch(seen.training.batch_size, seen.num_images)
    steps = seen.training.steps or each
    if steps % each:
        raise UnmetNeedError(
            f"it needs whole epochs, but {steps} local steps are not a multiple of {each}, the "
            "batches of one epoch; give the numbers of steps and images, and the batch size"
        )
    return steps // each


def replay_epochs(seen: Observation) -> Replay:
    """The local steps, with images of its own for each epoch; or the one gradient."""
    if seen.gradient is not None:
        return local_training(seen)
    return unrolled(seen, epochs_apart=True)


def start_each_epoch(seen: Observation, rng: torch.Generator) -> Tensor:
    """Standard normal inputs, ``(E N, C, H, W)``, one epoch after the other."""
    shape = (epochs(seen) * seen.num_images, *seen.image.shape)
    return torch.randn(shape, generator=rng, dtype=seen.dtype)


def labels_each_epoch(seen: Observation, rng: torch.Generator) -> Labels:
    """``(E N, K)``: the batch's labels in another order every epoch, since batches mix classes."""
    of_the_batch = labels.recovered(seen, rng)
    times = epochs(seen)
    if times == 1:
        return of_the_batch
    orders = [torch.randperm(seen.num_images, generator=rng) for _ in range(times)]
    scores = torch.cat(
        [of_the_batch.scores[order.to(of_the_batch.scores.device)] for order in orders]
    )
    return Labels(scores=scores, learned=of_the_batch.learned)


def order_invariance(inputs: Tensor, seen: Observation) -> Tensor:
    """Mean squared distance of the epochs' aggregates from their mean, mean and maximum alike.

    For aggregates ``g`` this is half the mean over all ordered pairs of epochs of
    ``|g(X_i) - g(X_j)|^2`` (the order-invariant prior of Dimitrov et al. 2022), in one pass.
    """
    sets = inputs.view(-1, seen.num_images, *inputs.shape[1:])
    mean = sets.mean(dim=1)
    extreme = sets.amax(dim=1)
    return sum(
        ((part - part.mean(dim=0, keepdim=True)).square().mean() for part in (mean, extreme)),
        start=inputs.new_zeros(()),
    )


def matched_mean(inputs: Tensor, classes: Tensor, seen: Observation) -> tuple[Tensor, Tensor]:
    """Images of all epochs assigned to those of the first, class by class, and averaged.

    Args:
        inputs: ``(E N, C, H, W)``.
        classes: ``(E N,)``.
        seen: The observation.

    Returns:
        ``(N, C, H, W)`` and ``(N,)``.
    """
    count = seen.num_images
    sets, kinds = inputs.view(-1, count, *inputs.shape[1:]), classes.view(-1, count)
    total = sets[0].clone()
    for images, kind in zip(sets[1:], kinds[1:], strict=True):
        cost = torch.cdist(sets[0].flatten(1), images.flatten(1)).square()
        cost = cost + OTHER_CLASS * (kinds[0][:, None] != kind[None])
        _, order = linear_sum_assignment(cost.cpu().numpy())
        total = total + images[torch.from_numpy(order).to(images.device)]
    return total / len(sets), kinds[0]
