"""The clients' model as attacks can use it: a private copy that returns class scores.

Users have models in wrappers (DataParallel, torch.compile, Opacus), models that return an object, a
dict or a tuple, models with one score for two classes. Attacks see none of that: names are those of
the model inside, and what comes out is ``(N, K)``.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.dropout import _DropoutNd

from .errors import UpdateError
from .reasons import Reason
from .types import ImageSpec, Mode

Forward = Callable[[nn.Module, Tensor], Any]
"""``(model, inputs (N, C, H, W)) -> scores (N, K)``, where calling the model does not give them."""
WAY_OUT = (
    "Give the Auditor `forward=`, a function of the model and a batch of images that returns "
    "scores (N, K)"
)


def copy_model(model: nn.Module) -> nn.Module:
    """A private copy without DataParallel, torch.compile and Opacus around it or inside it.

    Tensors that a module computes from others before each call, as the old `weight_norm` does,
    refuse to be copied by Python; they are copied as they stand.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in (*vars(module).values(), *module._buffers.values()):
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = _as_it_stands(value)
    return _without_wrappers(copy.deepcopy(model, memo))


def _as_it_stands(value: Tensor) -> Tensor:
    try:
        return value.detach().clone()
    except RuntimeError:
        # What a call under `vmap` has left behind holds no values any more.
        return torch.empty(0)


def _without_wrappers(model: nn.Module) -> nn.Module:
    while (inner := _inside(model)) is not None:
        model = inner
    for name, child in model.named_children():
        if (plain := _without_wrappers(child)) is not child:
            setattr(model, name, plain)
    return model


def _inside(module: nn.Module) -> nn.Module | None:
    inner: Any = None
    kind = type(module).__name__
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner = module.module
    elif kind == "OptimizedModule":
        inner = module._orig_mod
    elif kind.startswith("GradSampleModule"):
        inner = module.to_standard_module()  # type: ignore[operator]
    return inner if isinstance(inner, nn.Module) else None


class Classifier(nn.Module):
    """A model that returns class scores, with parameters, buffers and modules named as inside.

    Args:
        model: Shared, not copied.
        forward: How scores are made with it; by default it is called and its scores are picked.
    """

    def __init__(self, model: nn.Module, forward: Forward | None = None) -> None:
        super().__init__()
        self._parameters, self._buffers = model._parameters, model._buffers
        self._modules = model._modules
        self._non_persistent_buffers_set = model._non_persistent_buffers_set
        # Not registered: as a submodule it would put its name before every other.
        self.__dict__["inner"] = model
        self._given = forward
        self.training = model.training

    def train(self, mode: bool = True) -> "Classifier":
        """As usual, for the model inside too."""
        model: nn.Module = self.__dict__["inner"]
        model.train(mode)
        self.training = mode
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> ``(N, K)`` scores, K at least 2."""
        model: nn.Module = self.__dict__["inner"]
        output = model(inputs) if self._given is None else self._given(model, inputs)
        scores = scores_of(output, len(inputs))
        if scores is None:
            raise UpdateError(_not_scores(output))
        if scores.shape[1] == 1:
            return torch.cat([torch.zeros_like(scores), scores], dim=1)
        return scores


def scores_of(output: Any, count: int) -> Tensor | None:
    """The ``(N, K)`` class scores in what a model returned for N images, or None.

    A tensor itself; the field or key ``logits``; the only tensor of a dict; the first tensor of
    that shape in a tuple. N numbers for N images are one score each.
    """
    if isinstance(output, Tensor):
        if output.ndim <= 1 and output.numel() == count:
            return output.reshape(count, 1)
        return output if output.ndim == 2 and len(output) == count else None
    if isinstance(getattr(output, "logits", None), Tensor):
        return scores_of(output.logits, count)
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        output = {f.name: getattr(output, f.name) for f in dataclasses.fields(output)}
    if isinstance(output, Mapping):
        if isinstance(output.get("logits"), Tensor):
            return scores_of(output["logits"], count)
        tensors = [value for value in output.values() if isinstance(value, Tensor)]
        return scores_of(tensors[0], count) if len(tensors) == 1 else None
    if isinstance(output, tuple | list):
        fitting = (o for o in output if isinstance(o, Tensor) and o.ndim == 2 and len(o) == count)
        return next(fitting, None)
    return None


def _not_scores(output: Any) -> str:
    if isinstance(output, Tensor):
        found = f"a tensor of shape {tuple(output.shape)}"
    elif isinstance(output, Mapping):
        found = f"{type(output).__name__} with {', '.join(map(repr, output))}"
    else:
        found = type(output).__name__
    return f"the model must return class scores of shape (N, K), but returned {found}. {WAY_OUT}"


def classifier(
    model: nn.Module, image: ImageSpec, forward: Forward | None = None
) -> tuple[nn.Module, int, bool]:
    """The model as one that returns scores, how many classes it has, and if it has one score only.

    A model that does so already is returned as it is. Two images are tried, in the mode the model is
    in: some return more in train mode than in eval mode.

    Args:
        model: A private copy, in the mode in which it will be attacked.
        image: What it shall take.
        forward: How scores are made, if calling the model does not give them.

    Raises:
        UpdateError: The model does not take such images, or nothing it returns is ``(N, K)``.
    """
    like = next(model.parameters(), torch.zeros(0))
    probe = torch.zeros(2, *image.shape, dtype=like.dtype, device=like.device)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            output = model(probe) if forward is None else forward(model, probe)
    except Exception as error:
        of = "`forward`" if forward is not None else "the model"
        raise UpdateError(
            f"{of} does not take an image of shape {image.shape}: {error}. "
            f"Set `image.shape` to what the clients train on. {WAY_OUT}, if they call it otherwise"
        ) from error
    scores = scores_of(output, 2)
    if scores is None:
        raise UpdateError(_not_scores(output))
    classes = scores.shape[1]
    if forward is None and output is scores and classes > 1:
        return model, classes, False
    return Classifier(model, forward), max(classes, 2), classes == 1


def attacked_mode(model: nn.Module, mode: Mode, assumptions: list[Reason]) -> None:
    """Put a private copy into the mode the client trained in, free of side effects.

    Batch-norm in train mode uses the statistics of the batch without updating the running ones.
    Dropout is left out: its mask never leaves the client.
    """
    batch_norms = [m for m in model.modules() if isinstance(m, _NormBase)]
    drawing = [m for m in model.modules() if is_dropout(m)]
    if mode == "unknown" and (batch_norms or drawing):
        assumptions.append(Reason.of("mode unknown"))
    model.train(mode != "eval")
    if mode == "eval":
        return
    for norm in batch_norms:
        norm.track_running_stats = False
        if not isinstance(norm, _BatchNorm):
            norm.momentum = 0.0
    for module in drawing:
        module.eval()
    if drawing:
        assumptions.append(Reason.of("dropout unknown"))


def is_dropout(module: nn.Module) -> bool:
    """Whether a module drops something by chance in train mode: dropout, attention, whole paths."""
    if isinstance(module, nn.MultiheadAttention | _DropoutNd):
        share = module.p if isinstance(module, _DropoutNd) else module.dropout
        return bool(share > 0)
    if type(module).__name__ in ("StochasticDepth", "DropPath"):
        return bool(getattr(module, "p", 0) or getattr(module, "drop_prob", 0))
    return False


def refuses_one_image(model: nn.Module, image: ImageSpec) -> bool:
    """Whether batch norm in the model's present mode cannot take a batch of one."""
    if not model.training or not any(isinstance(m, _BatchNorm) for m in model.modules()):
        return False
    like = next(model.parameters())
    probe = torch.zeros(1, *image.shape, dtype=like.dtype, device=like.device)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model(probe)
    except ValueError as error:
        return "more than 1 value per channel" in str(error)
    return False


@contextmanager
def second_derivatives() -> Iterator[None]:
    """Attention by plain mathematics for a while: torch's fused kernels have one derivative only."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
