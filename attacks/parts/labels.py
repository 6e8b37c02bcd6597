"""Where an attack gets the labels from: the update itself."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from fl_privacy_audit.core.errors import UnmetNeedError
from fl_privacy_audit.core.types import LocalTraining, Observation, Update

from . import noise
from .last_layer import features_of, mean_probabilities, towards_one
from .lookalikes import lookalikes
from .replay import by_autograd

STAND_INS = 128
"""Random images that stand in for the client's when their predictions are estimated."""
SCALES = tuple(1.25 ** (step / 9) for step in range(-9, 10))
"""Of the stand-ins' features, or of the slope where there is no bias; tried in turn."""
TRUST = 10.0
"""Cost of a scale's squared logarithm beside squared remainders of the counts."""
SURE = 4.0
"""Score that learned labels start from where a class is named."""
NORMS = 16
"""Stand-ins whose gradients are measured, to tell what clipping leaves."""
HARDLY_CLIPPED = 0.99
MOST_NOISE = 0.5
"""Standard deviation of a count up to which counts are worth reading."""
UNREADABLE = "counting labels needs a last layer that the defence left readable"


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Labels of one guess.

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
    """Random scores, to be moved with the images (Zhu et al. 2019)."""
    scores = torch.randn(seen.num_images, seen.num_classes, generator=rng, dtype=seen.dtype)
    return Labels(scores=scores.to(seen.device), learned=True)


def analytic(seen: Observation, rng: torch.Generator) -> Labels:
    """The label of a batch of one from the sign of the last layer's gradient.

    With softmax cross-entropy only the true class has a negative gradient in the last layer
    (Zhao et al. 2020, "iDLG"). Here the bias gradient is read where there is one: it is
    the probability minus the one-hot label.

    Raises:
        UnmetNeedError: More than one image, no last layer with one row a class, or only signs of
            it are left and several are negative.
    """
    del rng
    if seen.num_images != 1:
        raise UnmetNeedError(
            f"the analytic label rule needs a batch of one, but there are {seen.num_images} images"
        )
    if seen.signs_only:
        return by_signs(seen)
    return _fixed(seen, last_layer_gradient(seen).argmin()[None])


def by_signs(seen: Observation) -> Labels:
    """The classes whose slope is negative, where there are as many as images: one image of each.

    After several steps of Adam the sum of their signs says the same. Where they are fewer, some have
    several images: all are named in turn, and moved from there.

    Raises:
        UnmetNeedError: There are more, or no last layer with one row a class.
    """
    slope = last_layer_gradient(seen)
    classes = (slope < slope.min() / 2).nonzero().flatten()
    if len(classes) > seen.num_images:
        raise UnmetNeedError(
            f"the signs of the last layer name {len(classes)} classes for {seen.num_images} images"
        )
    if len(classes) == seen.num_images:
        return _fixed(seen, classes)
    in_turn = classes[torch.arange(seen.num_images, device=seen.device) % len(classes)]
    return Labels(scores=SURE * _fixed(seen, in_turn).scores, learned=True)


def counts(seen: Observation, rng: torch.Generator) -> Labels:
    """How often each class is in the batch, from the last layer's gradient.

    Summed over the batch, the gradient of the last bias is the predicted probabilities minus the
    class counts (Yin et al. 2021; Wainakh et al. 2022, "LLG",
    arXiv:2105.09369), so

        count_k = B (mean predicted probability_k - bias gradient_k).

    The predictions for the true images are not known; those for random fields with the statistics
    of photographs stand in for them. The update says more: the bias and weight gradients of the last
    layer give the mean of its inputs, to which those of the stand-ins are scaled, one by one; and of
    scales close to that, the one whose counts are nearest to whole numbers is taken.

    Where there is no bias its gradient is read off the weight's, along the direction in which the
    stand-ins' features are most nearly 1; images whose features are stronger then count for more.
    After several steps the predictions are the mean of those at the weights that were sent and
    that came back (Dimitrov et al. 2022 interpolate between them). The B largest remainders decide.

    Where the gradient of each image was clipped, or a defence clipped the update, the slope is
    divided by what that left of it: see `_left_by_clipping`.

    Raises:
        UnmetNeedError: No last linear layer with one row a class, or the length of the gradient is
            not known, or a defence left too little of it.
    """
    count, training = seen.num_images, seen.training
    _need_length(seen)
    if seen.loss is not None:
        raise UnmetNeedError(
            "counting labels needs cross-entropy, but clients minimise a loss of their own"
        )
    last_layer_gradient(seen)
    if not _update_clipped(seen):
        _need_quiet(seen, 1.0)  # clipping in the step can only leave less
    layer = _last_layer(seen)
    inputs = seen.image.normalise(
        lookalikes(seen.image, STAND_INS, rng).to(seen.device, seen.dtype)
    )
    ends = [seen.parameters]
    if seen.gradient is None:
        ends.append({name: tensor + seen.update[name] for name, tensor in seen.parameters.items()})
    features = [features_of(seen, layer.name, weights, inputs) for weights in ends]
    if layer.bias is None:
        slope = layer.weight @ towards_one(features[0])
    else:
        slope = layer.bias
        mean = slope @ layer.weight / slope.square().sum().clamp_min(1e-30)
        features = [f * (mean / f.mean(dim=0).clamp_min(1e-9)).clamp(0, 4) for f in features]
    usual: float | None = 1.0
    if training.max_grad_norm is not None:
        # The loss of one image: its weight is divided out by a mean, or lost to the norm.
        training = training.model_copy(update={"class_weights": None, "reduction": "mean"})
        usual = _usually_left(seen, inputs[:NORMS])
    if _update_clipped(seen):
        # A sum is a mean of another length.
        training = training.model_copy(update={"reduction": "mean"})
        usual = None
    best = None
    for scale in SCALES:
        predicted = torch.zeros_like(slope)
        for weights, hidden in zip(ends, features, strict=True):
            times = scale if layer.bias is not None else 1.0
            predicted += mean_probabilities(layer.name, weights, hidden * times) / len(ends)
        times = 1.0 if layer.bias is not None else scale
        left = _left_by_clipping(predicted, slope, count, usual)
        wanted = _wanted(training, predicted, times * slope / left, count).clamp_min(0)
        whole = _rounded(wanted, count)
        cost = float((wanted - whole).square().sum()) + TRUST * math.log(scale) ** 2
        if best is None or cost < best[0]:
            best = (cost, whole, left)
    assert best is not None
    _need_quiet(seen, best[2])
    every = torch.arange(seen.num_classes, device=seen.device)
    return _fixed(seen, torch.repeat_interleave(every, best[1]))


def recovered(seen: Observation, rng: torch.Generator) -> Labels:
    """The strongest rule that fits: `analytic` for one image, `counts`, `by_signs`, else `learned`."""
    try:
        if seen.num_images == 1:
            return analytic(seen, rng)
        signs = seen.signs_only or seen.training.adaptive
        return by_signs(seen) if signs else counts(seen, rng)
    except UnmetNeedError:
        return learned(seen, rng)


def _fixed(seen: Observation, classes: Tensor) -> Labels:
    return Labels(scores=F.one_hot(classes, seen.num_classes).to(seen.dtype), learned=False)


def last_layer_gradient(seen: Observation) -> Tensor:
    """``(K,)`` gradient of the last layer's bias, or its weight's row sums where there is no bias.

    After several known steps the mean gradient over the steps stands in for the gradient. One score
    for two classes is that of class 1; the slope of class 0 is the opposite.

    Raises:
        UnmetNeedError: The last layer did not train, or has not one row a class.
    """
    name, last = list(_source(seen).items())[-1]
    layer = name.rpartition(".")[0]
    if layer != [name for name, _ in seen.model.named_parameters()][-1].rpartition(".")[0]:
        raise UnmetNeedError(
            f"the label rule needs the gradient of the last layer, but the last that trained is "
            f"`{layer}`"
        )
    last = _row_a_class(seen, last)
    if last.shape[0] != seen.num_classes or last.ndim > 2:
        raise UnmetNeedError(
            "the label rule needs a last layer with one row a class, but the last parameter has "
            f"shape {tuple(last.shape)} for {seen.num_classes} classes"
        )
    return last if last.ndim == 1 else last.sum(dim=1)


def _row_a_class(seen: Observation, tensor: Tensor) -> Tensor:
    one_score = seen.num_classes == 2 and tensor.ndim in (1, 2) and len(tensor) == 1
    return torch.cat([-tensor, tensor]) if one_score else tensor


def _wanted(training: LocalTraining, predicted: Tensor, slope: Tensor, count: int) -> Tensor:
    """``(K,)``: how often each class must be there for this slope of the last layer's scores.

    With predictions p, counts n, class weights w of sum S, label smoothing s and ``W = sum n w``,
    cross-entropy over B images has, per class,

        W slope = (1 - s) (W p - w n) + s B / K (S p - w),

    the left side without W where the loss is a sum. W follows from ``sum n = B``.
    """
    smooth, weights = training.label_smoothing, training.class_weights
    weight = torch.ones_like(predicted)
    if weights is not None:
        weight = torch.tensor(weights).to(predicted).clamp_min(1e-6)
    even = smooth * count / len(predicted) * (weight.sum() * predicted - weight)
    if training.reduction == "sum":
        a, b = predicted / weight, (even - slope) / (1 - smooth) / weight
    else:
        a, b = (predicted - slope / (1 - smooth)) / weight, even / (1 - smooth) / weight
    total = count if weights is None else (count - b.sum()) / a.sum()
    return total * a + b


def _source(seen: Observation) -> Update:
    """The gradient, or the mean gradient over known steps."""
    if seen.gradient is not None:
        return seen.gradient
    training, far = seen.training, _distance_travelled(seen.training)
    apart = training.learning_rate is not None and training.optimizer != "adam"
    decay = training.weight_decay if apart else 0.0
    return {n: -delta / far - decay * seen.parameters[n] for n, delta in seen.update.items()}


def _distance_travelled(training: LocalTraining) -> float:
    """Of weights whose gradient is 1 in every step: rate and steps, and what momentum adds."""
    far = velocity = 0.0
    for _ in range(training.steps or 1):
        velocity = training.momentum * velocity + 1
        far += 1 + training.momentum * velocity if training.nesterov else velocity
    return far * (training.learning_rate or 1.0)


def _need_length(seen: Observation) -> None:
    """Refuse a last layer whose slope has lost its size.

    What clipping takes, in the step or of the update, is made good in `counts`; the weighted means
    of several clients are near enough to that of them all.
    """
    training, defence = seen.training, seen.defence
    near = training.max_grad_norm is not None or training.class_weights is not None
    near |= _update_clipped(seen)
    near &= training.optimizer == "sgd" and training.learning_rate is not None
    unknown = seen.gradient is not None and not seen.gradient_scale_known and not near
    lost = defence is not None and defence.length_lost and not _update_clipped(seen)
    if unknown or training.adaptive or lost:
        raise UnmetNeedError(
            "counting labels needs the length of the gradient: give the local learning rate"
        )
    last = list(_source(seen).values())[-1]
    if defence is not None and defence.zeros_hide and not bool(last.all()):
        raise UnmetNeedError(UNREADABLE)


def _update_clipped(seen: Observation) -> bool:
    """Whether clipping is all that the length of the update was lost to."""
    known = seen.defence
    return known is not None and known.length_lost and known.clip_norm is not None


def _need_quiet(seen: Observation, left: float) -> None:
    """Refuse counts that are mostly noise, of a slope of which clipping left this factor.

    Where the slope itself told the factor, noise made it larger: by no more, on average, than the
    largest of K normal numbers, ``sqrt(2 ln K)`` standard deviations, over the mean probability 1 / K.
    """
    unit = 1.0 if seen.gradient is not None else _distance_travelled(seen.training)
    of_slope = noise.variance(seen) ** 0.5 / unit
    if left != 1:
        left -= seen.num_classes * math.sqrt(2 * math.log(seen.num_classes)) * of_slope
    if seen.num_images * of_slope > MOST_NOISE * left:
        raise UnmetNeedError(UNREADABLE)


def _usually_left(seen: Observation, inputs: Tensor) -> float:
    """Mean factor by which clipping would shorten the gradients of these ``(M, C, H, W)`` inputs."""
    norm = seen.training.max_grad_norm or math.inf
    factors = []
    for at in range(len(inputs)):
        label = torch.tensor([at % seen.num_classes], device=seen.device)

        def loss(weights: Update, x: Tensor = inputs[at : at + 1], y: Tensor = label) -> Tensor:
            return seen.minimised(functional_call(seen.model, {**weights, **seen.buffers}, (x,)), y)

        squares = [
            float(t.detach().square().sum()) for t in by_autograd(loss, seen.parameters).values()
        ]
        factors.append(min(1.0, norm / max(math.sqrt(sum(squares)), 1e-12)))
    return sum(factors) / len(factors)


def _left_by_clipping(predicted: Tensor, slope: Tensor, count: int, usual: float | None) -> float:
    """Mean factor by which the images' gradients, or the whole update, were shortened.

    The slope of a class that no image has is its probability times this factor, that of others is
    less. So the classes with the largest ratios tell, of which at least K - B are in no image; where
    the batch may have all classes, and where clipping would hardly touch a stand-in, the stand-ins.
    No stand-in tells how long the update was (`usual` is None): there the largest ratio must do, which
    is right where a single class is in no image.
    """
    absent = len(slope) - count
    if usual is not None and (usual > HARDLY_CLIPPED or absent < 1):
        return usual
    ratios = (slope / predicted.clamp_min(1e-12)).topk(max(absent, 1)).values
    return float(ratios.median().clamp(1e-12, math.inf if usual is None else 1.0))


@dataclass(frozen=True)
class _LastLayer:
    """Name of a linear layer, and the gradients of its weight ``(K, D)`` and bias ``(K,)``."""

    name: str
    weight: Tensor
    bias: Tensor | None


def _last_layer(seen: Observation) -> _LastLayer:
    source = _source(seen)
    name = list(source)[-1].rpartition(".")[0]
    layer = dict(seen.model.named_modules()).get(name)
    weight = source.get(f"{name}.weight")
    if not isinstance(layer, nn.Linear) or weight is None:
        raise UnmetNeedError("counting labels needs a last layer that is linear, weight included")
    bias = source.get(f"{name}.bias")
    return _LastLayer(
        name, _row_a_class(seen, weight), None if bias is None else _row_a_class(seen, bias)
    )


def _rounded(wanted: Tensor, count: int) -> Tensor:
    """``(K,)`` whole numbers with this sum, near to those that are wanted.

    Where the length of the gradient is wrong, what is wanted may be anything, infinite too.
    """
    wanted = wanted.nan_to_num(nan=0.0, posinf=count).clamp(0, 2 * count)
    whole = wanted.floor().long()
    while int(whole.sum()) > count:
        whole[(whole - wanted).masked_fill(whole == 0, -torch.inf).argmax()] -= 1
    while int(whole.sum()) < count:
        whole[(wanted - whole).argmax()] += 1
    return whole
