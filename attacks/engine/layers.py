"""The gradients of many targets' weights, from one pass of the network over the images of all.

Targets that were sent the same weights differ in their images alone. So all images go through the
network as one batch, and what each target's weights would get is put together at each layer, from
what went into the layer and the slope of what came out of it: for a linear layer the outer product
of the two (Goodfellow 2015, arXiv:1510.01799), for a convolution the same over its patches (Rochette
et al. 2019, arXiv:1912.06015). All of it is ordinary operations, which the tape differentiates once
more, and none of it is a grouped convolution, which processors are slow at.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

from fl_privacy_audit.core.types import Update

Pair = int | tuple[int, ...]
Rule = Callable[..., Tensor]
"""``(layers, *arguments of the function)`` -> its result, once the layer is written down."""


class UnknownLayerError(RuntimeError):
    """A weight is used by something that there is no rule for."""


class Layers(TorchFunctionMode):
    """Writes down each layer that uses a weight while it is active.

    Args:
        weights: By name; what is not among them is a constant.
        count: Targets; the first axis of everything is their images, target by target.
    """

    def __init__(self, weights: Update, count: int) -> None:
        super().__init__()
        self._names = {id(tensor): name for name, tensor in weights.items()}
        self._count = count
        self._edges: list[GradientEdge] = []
        self._slopes: list[Callable[[Tensor], Iterable[tuple[Tensor | None, Tensor]]]] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Each call of torch while it is active."""
        del types
        named = dict(kwargs or {})
        if not any(id(part) in self._names for part in _parts((*args, *named.values()))):
            return func(*args, **named)
        if rule := RULES.get(func):
            return rule(self, *args, **named)
        result = func(*args, **named)
        if any(isinstance(part, Tensor) for part in _parts((result,))):
            raise UnknownLayerError(f"there is no rule for {getattr(func, '__name__', func)}")
        return result

    def write(
        self, result: Tensor, slopes: Callable[[Tensor], Iterable[tuple[Tensor | None, Tensor]]]
    ) -> Tensor:
        """Note what a layer gave, and how the slope of that makes its weights'.

        Args:
            result: Of the layer; what is done to it in place later does not matter.
            slopes: ``slope of the result -> (weight, its gradient for each target)``.
        """
        self._edges.append(get_gradient_edge(result))
        self._slopes.append(slopes)
        return result

    def gradients(self, loss: Tensor) -> dict[str, Tensor]:
        """For each weight ``(targets, ...)``: the gradient of the sum of the targets' losses.

        Raises:
            UnknownLayerError: A weight was not used.
        """
        found: dict[str, Tensor] = {}
        slopes = torch.autograd.grad(loss, self._edges, create_graph=True)
        for slope, make in zip(slopes, self._slopes, strict=True):
            for weight, gradient in make(slope):
                if weight is not None and (name := self._names.get(id(weight))):
                    found[name] = found[name] + gradient if name in found else gradient
        if unused := set(self._names.values()) - set(found):
            raise UnknownLayerError(f"not used: {', '.join(sorted(unused))}")
        return {name: found[name] for name in self._names.values()}

    def apart(self, tensor: Tensor) -> Tensor:
        """``(images of all targets, ...)`` -> ``(targets, images, ...)``."""
        parts: Tensor = tensor.unflatten(0, (self._count, -1))
        return parts


def _parts(values: Iterable[object]) -> Iterable[object]:
    """The values, and those inside of lists and tuples."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from value
        else:
            yield value


def _linear(layers: Layers, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    def slopes(slope: Tensor) -> Iterable[tuple[Tensor | None, Tensor]]:
        out, into = (layers.apart(t).flatten(1, -2) for t in (slope, input))
        if out.shape[1] == 1:
            yield weight, out.transpose(1, 2) * into
            yield bias, out[:, 0]
        else:
            yield weight, torch.bmm(out.transpose(1, 2), into)
            yield bias, out.sum(dim=1)

    return layers.write(F.linear(input, weight, bias), slopes)


def _convolution(
    layers: Layers,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    if groups != 1 or isinstance(padding, str) or input.ndim != 4:
        raise UnknownLayerError("there is no rule for such a convolution")
    kernel = tuple(weight.shape[2:])
    patches = F.unfold(input, kernel, dilation, padding, stride)
    flat = torch.matmul(weight.flatten(1), patches)
    if bias is not None:
        flat = flat + bias[:, None]
    step, edge, apart = (_last(value) for value in (stride, padding, dilation))
    width = (input.shape[-1] + 2 * edge - apart * (kernel[-1] - 1) - 1) // step + 1

    def slopes(out: Tensor) -> Iterable[tuple[Tensor | None, Tensor]]:
        yield weight, _sum(layers, torch.bmm(out, patches.transpose(1, 2))).unflatten(-1, into)
        yield bias, _sum(layers, out.sum(dim=2))

    into = weight.shape[1:]
    # What is done in place to a view leaves no trace in the view's own node.
    result: Tensor = layers.write(flat, slopes).unflatten(-1, (-1, width))
    return result


def _batch_norm(
    layers: Layers,
    input: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    del momentum
    if training or mean is None or variance is None:
        raise UnknownLayerError("batch norm in train mode ties the images of all targets")
    across = (-1, *[1] * (input.ndim - 2))
    scale = (variance + eps).rsqrt().view(across)
    return _affine(layers, (input - mean.view(across)) * scale, weight, bias)


def _group_norm(
    layers: Layers,
    input: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    return _affine(layers, F.group_norm(input, groups, eps=eps), weight, bias)


def _affine(layers: Layers, normal: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """A factor and a summand for each channel."""
    across = (-1, *[1] * (normal.ndim - 2))
    result = normal if weight is None else normal * weight.view(across)

    def slopes(slope: Tensor) -> Iterable[tuple[Tensor | None, Tensor]]:
        yield weight, _sum(layers, (slope * normal).flatten(2).sum(dim=2))
        yield bias, _sum(layers, slope.flatten(2).sum(dim=2))

    return layers.write(result if bias is None else result + bias.view(across), slopes)


def _sum(layers: Layers, images: Tensor) -> Tensor:
    """Over the images of each target."""
    parts = layers.apart(images)
    return parts.sum(dim=1) if parts.shape[1] > 1 else parts[:, 0]


def _last(value: Pair) -> int:
    return value if isinstance(value, int) else value[-1]


RULES: dict[Callable[..., Any], Rule] = {
    F.linear: _linear,
    torch.conv2d: _convolution,
    F.batch_norm: _batch_norm,
    F.group_norm: _group_norm,
}
"""Function of torch that takes weights -> how it is written down."""
