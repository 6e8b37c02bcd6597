"""What a natural image looks like, whatever the update says."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from fl_privacy_audit.core.errors import UnmetNeedError
from fl_privacy_audit.core.types import Observation


def total_variation(inputs: Tensor, seen: Observation) -> Tensor:
    """Mean absolute difference of neighbours, both ways (Rudin et al. 1992; anisotropic).

    The border is not padded: padding pulls it to grey.
    """
    del seen
    across = (inputs[..., :, 1:] - inputs[..., :, :-1]).abs().mean()
    down = (inputs[..., 1:, :] - inputs[..., :-1, :]).abs().mean()
    return across + down


def double_opponent_variation(inputs: Tensor, seen: Observation) -> Tensor:
    """Isotropic total variation of the channels and of their differences (Geiping et al. 2022).

    Mean over pixels and channels of the length of the gradient. Edges of natural images lie in the
    same place in all colours, so the differences red-green, green-blue and blue-red are smooth too.
    """
    del seen
    parts = [inputs]
    if inputs.shape[1] == 3:
        parts.append(inputs - inputs.roll(1, dims=1))
    both = torch.cat(parts, dim=1)
    across = both[..., 1:, 1:] - both[..., 1:, :-1]
    down = both[..., 1:, 1:] - both[..., :-1, 1:]
    # The small number keeps the slope of the root finite where an image is flat.
    return (across.square() + down.square() + 1e-8).sqrt().mean()


def batch_norm_statistics(inputs: Tensor, seen: Observation) -> Tensor:
    """Distance of the guess's batch-norm statistics from the clients' (after Yin et al. 2021).

    Mean over the batch-norm layers of the squared distances of means and of variances, each
    relative to the mean variance of the layer. What is aimed at is `client_statistics`.

    Raises:
        UnmetNeedError: The model has no batch norm with running statistics.
    """
    goals = client_statistics(seen)
    misfits: list[Tensor] = []

    def compare(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            del module
            (features,) = arguments
            axes = [axis for axis in range(features.ndim) if axis != 1]
            mean, variance = goals[name]
            scale = variance.mean().clamp_min(1e-12)
            off_mean = (features.mean(dim=axes) - mean).square().mean() / scale
            off_variance = (features.var(dim=axes) - variance).square().mean() / scale.square()
            misfits.append(off_mean + off_variance)

        return hook

    layers = dict(seen.model.named_modules())
    handles = [layers[name].register_forward_pre_hook(compare(name)) for name in goals]
    try:
        functional_call(seen.model, {**seen.parameters, **seen.buffers}, (inputs,))
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(misfits).mean()


def client_statistics(seen: Observation) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and variance ``(C,)`` that each batch-norm layer saw on the client, by layer.

    A client in train mode moves its running statistics towards its batch's, and sends them back:

        after = (1 - momentum) before + momentum * batch,

    which gives the batch's own statistics. Where the running statistics did not move (eval mode)
    those of the model stand in: they are the training data's. Layers whose statistics stay at home,
    or came back broken, are left out.

    Raises:
        UnmetNeedError: The model has no batch norm with running statistics.
    """
    statistics = {}
    for name, module in seen.model.named_modules():
        kept = [f"{name}.running_{which}" for which in ("mean", "var")]
        if not isinstance(module, _BatchNorm) or any(n not in seen.returned_buffers for n in kept):
            continue
        before = [seen.buffers[n] for n in kept]
        after = [seen.returned_buffers[n] for n in kept]
        share = module.momentum
        if seen.training.mode == "eval" or not share:
            statistics[name] = (before[0], before[1])
            continue
        moved = [(a - (1 - share) * b) / share for a, b in zip(after, before, strict=True)]
        statistics[name] = (moved[0], moved[1].clamp_min(0))
    if not statistics:
        raise UnmetNeedError(
            "the batch-norm prior needs a model with batch norm whose running statistics are sent, "
            "as finite numbers; use an attack without that prior"
        )
    return statistics
