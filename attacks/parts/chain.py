"""A network as a plain chain: what R-GAP can walk backwards."""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.grad import conv2d_input

from fl_privacy_audit.core.errors import UnmetNeedError
from fl_privacy_audit.core.models import copy_model
from fl_privacy_audit.core.types import Observation

from .randomness import own_random_numbers


@dataclass(frozen=True, kw_only=True)
class Activation:
    """An activation that is known with its inverse, elementwise.

    Attributes:
        inverse: Output -> input.
        slope: Input -> derivative.
        one_sided: Whether outputs of zero hide the input (ReLU).
    """

    inverse: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    one_sided: bool = False


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution (a linear layer is one of 1x1 on a 1x1 image) and the activation after it.

    Attributes:
        name: Name of the module.
        weight: ``(O, C, k, l)``, float64.
        bias: ``(O,)`` or None.
        stride: Stride of the convolution.
        padding: Likewise, zeros.
        dilation: Likewise.
        shape: ``(C, H, W)`` of the input.
        activation: What follows; the identity after the last layer.
    """

    name: str
    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    shape: tuple[int, int, int]
    activation: Activation

    def apply(self, inputs: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> ``(N, O, H', W')`` without the bias."""
        return F.conv2d(
            inputs,
            self.weight,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
        )

    def pull_back(self, outputs: Tensor) -> Tensor:
        """The transpose: ``(N, O H' W')``, gradients say -> ``(N, C, H, W)``."""
        inputs: Tensor = conv2d_input(
            (len(outputs), *self.shape),
            self.weight,
            outputs.reshape(len(outputs), *self.out_shape),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
        )
        return inputs

    @cached_property
    def out_shape(self) -> tuple[int, ...]:
        """``(O, H', W')`` of the output."""
        return tuple(self.apply(self.weight.new_zeros(1, *self.shape)).shape[1:])

    @property
    def inputs(self) -> int:
        """Numbers in the input."""
        return math.prod(self.shape)

    @property
    def outputs(self) -> int:
        """Numbers in the output."""
        return math.prod(self.out_shape)


IDENTITY = Activation(inverse=lambda out: out, slope=torch.ones_like)


def leaky(slope: float) -> Activation:
    """LeakyReLU; ReLU for slope 0."""
    return Activation(
        inverse=(lambda out: torch.where(out > 0, out, out / slope)) if slope else torch.relu,
        slope=lambda z: torch.where(z > 0, 1.0, slope).to(z.dtype),
        one_sided=not slope,
    )


SIGMOID = Activation(
    inverse=lambda out: out.clamp(1e-12, 1 - 1e-12).logit(),
    slope=lambda z: z.sigmoid() * (1 - z.sigmoid()),
)
TANH = Activation(
    inverse=lambda out: out.clamp(-1 + 1e-12, 1 - 1e-12).atanh(),
    slope=lambda z: 1 - z.tanh().square(),
)
_CALLS: dict[Any, Activation] = {
    F.relu: leaky(0.0),
    torch.relu: leaky(0.0),
    "relu": leaky(0.0),
    F.sigmoid: SIGMOID,
    torch.sigmoid: SIGMOID,
    "sigmoid": SIGMOID,
    F.tanh: TANH,
    torch.tanh: TANH,
    "tanh": TANH,
}
_RESHAPES: tuple[Any, ...] = (torch.flatten, torch.reshape, "flatten", "view", "reshape")
_SHAPE_WORDS: tuple[Any, ...] = ("size", getattr, operator.getitem)


def chain(seen: Observation) -> list[Layer]:
    """The layers from image to scores.

    Raises:
        UnmetNeedError: The model is no plain chain of layers with a known inverse.
    """
    model = copy_model(seen.model)
    try:
        with own_random_numbers(0, []):
            graph = fx.symbolic_trace(model).graph
    except Exception as error:
        raise UnmetNeedError(
            f"rgap cannot trace this model ({error}); it walks plain sequences of layers only"
        ) from error
    tensors = {n: t.detach().double() for n, t in (*seen.parameters.items(), *seen.buffers.items())}
    layers: list[Layer] = []
    current = torch.zeros(1, *seen.image.shape, dtype=torch.float64, device=seen.device)
    waiting: Layer | None = None
    previous: fx.Node | None = None
    for node in graph.nodes:
        if node.op == "placeholder" and previous is None:
            previous = node
            continue
        if node.target in _SHAPE_WORDS:
            continue
        if previous not in node.all_input_nodes or len(_images(node)) != 1:
            raise _refuse(f"`{node.name}` does not take the output of the layer before it alone")
        previous = node
        if node.op == "output":
            break
        module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.Conv2d | nn.Linear):
            if waiting is not None:
                layers.append(waiting)
            waiting, current = _linear(str(node.target), module, tensors, current)
            continue
        if _passes(module):
            continue
        if isinstance(module, nn.Flatten) or node.target in _RESHAPES:
            current = current.flatten(1)
            continue
        activation = _activation(module, node)
        if activation is None:
            what = node.target if module is None else f"{node.target}` ({type(module).__name__})"
            raise _refuse(f"`{what}{'`' if module is None else ''} has no known inverse")
        if waiting is None or waiting.activation is not IDENTITY:
            raise _refuse(f"`{node.name}` does not follow a convolution or a linear layer")
        waiting = replace(waiting, activation=activation)
    if waiting is None or waiting.activation is not IDENTITY or current.ndim != 2:
        raise _refuse("the last layer is not linear")
    if waiting.shape[1:] != (1, 1):
        raise _refuse("the last layer is a convolution")
    return [*layers, waiting]


def _refuse(reason: str) -> UnmetNeedError:
    return UnmetNeedError(
        f"rgap cannot walk this model backwards: {reason}. It needs a plain chain of Conv2d (zero "
        "padding, one group) and Linear with LeakyReLU, ReLU, Sigmoid or Tanh between them, and "
        "no pooling or normalisation; use an attack that searches"
    )


def _images(node: fx.Node) -> list[fx.Node]:
    return [n for n in node.all_input_nodes if n.target not in _SHAPE_WORDS]


def _passes(module: nn.Module | None) -> bool:
    """Whether a module hands on what it gets: dropout does where it is switched off."""
    if isinstance(module, nn.Dropout | nn.Dropout2d):
        return not (module.training and module.p > 0)
    return isinstance(module, nn.Identity)


def _activation(module: nn.Module | None, node: fx.Node) -> Activation | None:
    match module:
        case nn.LeakyReLU():
            return leaky(module.negative_slope)
        case nn.ReLU():
            return leaky(0.0)
        case nn.Sigmoid():
            return SIGMOID
        case nn.Tanh():
            return TANH
    if node.target is F.leaky_relu:
        slope = node.kwargs.get("negative_slope", node.args[1] if len(node.args) > 1 else 0.01)
        assert isinstance(slope, int | float)
        return leaky(float(slope))
    return _CALLS.get(node.target)


def _linear(
    name: str, module: nn.Conv2d | nn.Linear, tensors: dict[str, Tensor], current: Tensor
) -> tuple[Layer, Tensor]:
    weight, bias = tensors[f"{name}.weight"], tensors.get(f"{name}.bias")
    if isinstance(module, nn.Linear):
        if current.ndim != 2:
            raise _refuse(f"linear layer `{name}` does not follow a flatten")
        weight, current = weight[..., None, None], current[..., None, None]
        stride, padding, dilation = (1, 1), (0, 0), (1, 1)
    else:
        if module.groups != 1 or module.padding_mode != "zeros" or isinstance(module.padding, str):
            raise _refuse(
                f"`{name}` (Conv2d) has groups, padding by name or padding other than zeros"
            )
        stride, padding, dilation = _two(module.stride), _two(module.padding), _two(module.dilation)
    channels, height, width = current.shape[1:]
    layer = Layer(
        name=name,
        weight=weight,
        bias=bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        shape=(channels, height, width),
        activation=IDENTITY,
    )
    out = layer.apply(current)
    return layer, out.flatten(1) if isinstance(module, nn.Linear) else out


def _two(pair: tuple[int, ...]) -> tuple[int, int]:
    return pair[0], pair[1]
