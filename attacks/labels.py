"""Where an attack gets the labels from: the update itself."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from fl_privacy_audit.errors import UnmetNeedError
from fl_privacy_audit.types import Observation


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Labels of one trial.

    Attributes:
        scores: ``(N, K)``: scores before softmax where they are learned, else one-hot.
        learned: Whether `scores` are moved together with the images.
    """

    scores: Tensor
    learned: bool

    def probabilities(self) -> Tensor:
        """``(N, K)`` targets for the cross-entropy."""
        return self.scores.softmax(dim=1) if self.learned else self.scores

    def classes(self) -> Tensor:
        """``(N,)`` most probable class."""
        return self.scores.detach().argmax(dim=1)


LabelRule = Callable[[Observation, torch.Generator], Labels]


def learned(seen: Observation, rng: torch.Generator) -> Labels:
    """Random scores, to be moved with the images (Zhu et al. 2019, Eq. 4)."""
    scores = torch.randn(seen.num_images, seen.num_classes, generator=rng, dtype=seen.dtype)
    return Labels(scores=scores.to(seen.device), learned=True)


def analytic(seen: Observation, rng: torch.Generator) -> Labels:
    """The label of a batch of one from the sign of the last layer's gradient.

    With softmax cross-entropy only the true class has a negative gradient in the last layer
    (Zhao et al. 2020, "iDLG", Eq. 5-7). Here the bias gradient is read where there is one: it is
    the probability minus the one-hot label.

    Raises:
        UnmetNeedError: More than one image, or no last layer with one row a class.
    """
    del rng
    if seen.num_images != 1:
        raise UnmetNeedError(
            f"the analytic label rule needs a batch of one, but there are {seen.num_images} images"
        )
    label = last_layer_gradient(seen).argmin()
    scores = F.one_hot(label[None], seen.num_classes).to(seen.dtype)
    return Labels(scores=scores, learned=False)


def counts(seen: Observation, rng: torch.Generator) -> Labels:
    """How often each class is in the batch, from the last layer's gradient.

    Summed over the batch, the gradient of the last bias is the predicted probabilities minus the
    class counts (Yin et al. 2021; Wainakh et al. 2022, "LLG"), so

        count_k = B (mean predicted probability_k - bias gradient_k).

    The predictions for the true images are not known; those for random inputs stand in for them,
    which is close on an untrained network and rough on a trained one. Where there is no bias, each
    row sum of the weight gradient is divided by the mean sum of the last layer's inputs, estimated
    in the same way; images whose features are stronger then count for more than one. The B largest
    remainders decide.

    Raises:
        UnmetNeedError: No last layer with one row a class, or the length of the gradient is not
            known.
    """
    count = seen.num_images
    if seen.gradient is not None and not seen.gradient_scale_known:
        raise UnmetNeedError(
            "counting labels needs the length of the gradient: give the local learning rate"
        )
    gradient = last_layer_gradient(seen)
    predicted, feature_sum = _typical(seen, rng)
    if not _ends_with_bias(seen):
        gradient = gradient / feature_sum
    wanted = (count * (predicted - gradient)).clamp_min(0)
    found = wanted.floor().long()
    while int(found.sum()) > count:
        found[(found - wanted).masked_fill(found == 0, -torch.inf).argmax()] -= 1
    while int(found.sum()) < count:
        found[(wanted - found).argmax()] += 1
    classes = torch.repeat_interleave(torch.arange(seen.num_classes, device=seen.device), found)
    return Labels(scores=F.one_hot(classes, seen.num_classes).to(seen.dtype), learned=False)


def recovered(seen: Observation, rng: torch.Generator) -> Labels:
    """The strongest rule that fits: `analytic` for one image, `counts`, else `learned`."""
    if seen.num_images == 1:
        return analytic(seen, rng)
    try:
        return counts(seen, rng)
    except UnmetNeedError:
        return learned(seen, rng)


def last_layer_gradient(seen: Observation) -> Tensor:
    """``(K,)`` gradient of the last layer's bias, or its weight's row sums where there is no bias.

    After several known steps the mean gradient over the steps stands in for the gradient.

    Raises:
        UnmetNeedError: The last parameters do not have one row a class.
    """
    source = seen.gradient
    if source is None:
        steps, rate = seen.training.steps or 1, seen.training.learning_rate or 1.0
        source = {name: -delta / (steps * rate) for name, delta in seen.update.items()}
    last = list(source.values())[-1]
    if last.shape[0] != seen.num_classes or last.ndim > 2:
        raise UnmetNeedError(
            "the label rule needs a last layer with one row a class, but the last parameter has "
            f"shape {tuple(last.shape)} for {seen.num_classes} classes"
        )
    return last if last.ndim == 1 else last.sum(dim=1)


def _ends_with_bias(seen: Observation) -> bool:
    return list(seen.update.values())[-1].ndim == 1


def _typical(seen: Observation, rng: torch.Generator, draws: int = 64) -> tuple[Tensor, Tensor]:
    """Mean predictions ``(K,)`` for random inputs, and the mean sum of the last layer's inputs."""
    shape = (draws, *seen.image.shape)
    inputs = torch.randn(shape, generator=rng, dtype=seen.dtype).to(seen.device)
    last = list(seen.parameters)[-1]
    bias_free = {**seen.parameters}
    leaf = seen.parameters[last].detach().requires_grad_()
    bias_free[last] = leaf
    with torch.enable_grad():
        scores = functional_call(seen.model, {**bias_free, **seen.buffers}, (inputs,))
        # Each row of the last weight has the layer's inputs for its gradient.
        (slope,) = torch.autograd.grad(scores[:, 0].mean(), leaf)
    return scores.detach().softmax(dim=1).mean(dim=0), slope[0].sum()
