"""The image of a vision transformer, from the gradient of its positional embedding.

Lu, Zhang, Zhao, He, Cheng: "APRIL: Finding the Achilles' Heel on Privacy for Vision Transformers", CVPR
2022, arXiv:2112.14087, Sec. 3. Threat model A of Carletti et al. 2025 (eavesdropper): model and update. Needs
one image, and a learned positional embedding that is added to the patches' tokens.

What is added to a token has the token's own gradient: the embedding's gradient ``G`` gives away the slope of the
loss at each of the ``T`` tokens. Where attention reads the tokens ``Z`` as they are, by weights ``W_i``, the
paper solves ``G' Z = sum_i W_i' dW_i`` (Theorem 1). Most transformers normalise the tokens first and carry them
past the attention, where that does not hold. The layer that makes tokens of patches ``P`` then gives them away,
whatever follows: ``dW = G' P``. It is solved where that layer was trained, the paper's equation where not. Both
need no more tokens than the tokens have numbers.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from fl_privacy_audit.attacks.parts import closed_form, replay
from fl_privacy_audit.attacks.parts.randomness import own_random_numbers
from fl_privacy_audit.core.errors import UnmetNeedError
from fl_privacy_audit.core.models import copy_model
from fl_privacy_audit.core.protocols import Progress
from fl_privacy_audit.core.types import Observation, Reconstruction, Update

SAME: Final = 1e-6
"""Relative difference below which two results of a probe in float64 are one."""
RANK: Final = 1e-7
"""Singular values below this share of the largest count as missing rank: weights are float32."""
SEARCH: Final = "use an attack that searches"


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """How a model makes tokens of an image, and what each is added.

    Attributes:
        layer: Name of the convolution or linear layer that makes them.
        places: ``(T, P)``: for each number of each patch its place in the flattened image; -1 is padding.
        positions: Name of the positional embedding.
        width: How many numbers a token has: ``d``.
        first: Its row that is added to the first patch's token.
        scale: What the layer's output is multiplied by before that.
        readers: Names of the weights that read all tokens as they are, of the attention and of nothing else;
            empty where something else does too.
    """

    layer: str
    places: Tensor
    positions: str
    width: int
    first: int
    scale: float
    readers: tuple[str, ...]

    @property
    def rows(self) -> slice:
        """The rows of the embedding that belong to patches."""
        return slice(self.first, self.first + len(self.places))


@final
@dataclass(frozen=True, kw_only=True)
class April:
    """Solves for the patches.

    Attributes:
        name: Name in the table of attacks.
    """

    name: str = "april"

    def reconstruct(
        self,
        seen: Observation,
        *,
        rng: torch.Generator,
        seconds: float = float("inf"),
        progress: Progress | None = None,
    ) -> Reconstruction:
        """See `fl_privacy_audit.core.protocols.Attack.reconstruct`.

        The objective is the relative residual of the replayed gradient; where the label cannot be read, that of
        the equation that was solved.

        Raises:
            UnmetNeedError: A batch, several steps, or no such embedding.
            AttackError: The gradient is not finite.
        """
        del seconds
        tokens, gradient = embedded(seen), closed_form.one_gradient(seen, self.name)
        if f"{tokens.layer}.weight" in gradient:
            patches, misfit, missing = _from_layer(tokens, gradient)
        else:
            patches, misfit, missing = _from_attention(seen, tokens, gradient)
        inputs = _image(tokens.places, patches, seen)
        label, objective = closed_form.judged(seen, inputs, rng, misfit)
        if progress is not None:
            progress(1, 1)
        return Reconstruction(
            images=closed_form.pixels(seen, inputs),
            labels=label,
            objective=objective,
            steps=1,
            stopped="finished",
            exact=objective < closed_form.GOOD_ENOUGH and not missing,
            details={
                "positional embedding": tokens.positions,
                "patches": float(len(patches)),
                "rank missing": float(missing),
                "part of the equation that no image explains": misfit,
            },
        )


def april() -> April:
    """The attack; it has no settings."""
    return April()


def _from_layer(tokens: Tokens, gradient: Update) -> tuple[Tensor, float, int]:
    """Patches ``(T, P)`` from ``dW = G' P``; what is left over, and the rank that is missing."""
    slopes = tokens.scale * _rows(gradient[tokens.positions], tokens.width)[tokens.rows]
    weight = gradient[f"{tokens.layer}.weight"].flatten(1)
    return _solve(slopes.T, weight)


def _from_attention(
    seen: Observation, tokens: Tokens, gradient: Update
) -> tuple[Tensor, float, int]:
    """The same by Theorem 1: tokens from ``sum W' dW = G' Z``, then patches from tokens."""
    weights = {**seen.buffers, **seen.parameters}
    read = sum(weights[name].double().T @ gradient[name] for name in tokens.readers)
    assert isinstance(read, Tensor)
    found, misfit, missing = _solve(_rows(gradient[tokens.positions], tokens.width).T, read)
    added = _rows(weights[tokens.positions].double(), tokens.width)
    outputs = (found - added)[tokens.rows] / tokens.scale
    if (bias := weights.get(f"{tokens.layer}.bias")) is not None:
        outputs = outputs - bias.double()
    patches, _, lacking = _solve(weights[f"{tokens.layer}.weight"].double().flatten(1), outputs.T)
    return patches.T, misfit, missing + lacking


def _solve(matrix: Tensor, goal: Tensor) -> tuple[Tensor, float, int]:
    """Shortest solution, relative length of what is left over, and how many unknowns stay open."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    kept = s > RANK * s[0]
    found = v[kept].mH @ ((u[:, kept].mH @ goal) / s[kept, None])
    left = (matrix @ found - goal).norm() / goal.norm().clamp_min(1e-300)
    return found, float(left), matrix.shape[1] - int(kept.sum())


def _image(places: Tensor, patches: Tensor, seen: Observation) -> Tensor:
    """Model inputs ``(1, C, H, W)``; where patches overlap their mean."""
    inside = places >= 0
    total = patches.new_zeros(math.prod(seen.image.shape))
    counts = total.clone()
    total.index_add_(0, places[inside], patches[inside])
    counts.index_add_(0, places[inside], torch.ones_like(patches[inside]))
    return (total / counts).view(1, *seen.image.shape)


def embedded(seen: Observation) -> Tokens:
    """How the model makes tokens, found by two passes through it: of numbered pixels, and of noise.

    Raises:
        UnmetNeedError: A batch, several steps, or a model that does not fit.
        AttackError: The gradient is not finite.
    """
    closed_form.need_one_image(seen, "april", SEARCH)
    gradient = closed_form.one_gradient(seen, "april")
    numbered = _Pass(seen, torch.arange(1, math.prod(seen.image.shape) + 1.0))
    noise = torch.rand(math.prod(seen.image.shape), generator=torch.Generator().manual_seed(0))
    probe = _Pass(seen, noise)
    probe.differentiate(seen)
    patched = False
    narrow: tuple[str, int, int] | None = None
    for name, given in numbered.inputs.items():
        places = _places(probe.model.get_submodule(name), given, math.prod(seen.image.shape))
        if places is None or name not in probe.slopes:
            continue
        patched = True
        found = _positions(probe, name, places, gradient)
        if found is None:
            continue
        if f"{name}.weight" not in gradient and not found.readers:
            continue
        if len(places) <= probe.slopes[name].shape[1]:
            return found
        narrow = name, len(places), probe.slopes[name].shape[1]
    if narrow is not None:
        name, count, width = narrow
        raise UnmetNeedError(
            f"april solves for {count} patches by the {width} numbers of a token of `{name}`: the image is "
            f"not determined; {SEARCH}"
        )
    what = (
        "a learned positional embedding that is added to the token of each patch, with its gradient and that of "
        "what reads the patches"
        if patched
        else "a layer that makes tokens of patches of the image"
    )
    raise UnmetNeedError(f"april needs {what}, but found none in this model; {SEARCH}")


class _Pass:
    """One pass of a flattened image through the model, in float64.

    Attributes:
        inputs: What each convolution, linear layer and attention was given.
        outputs: What each convolution and linear layer made of it, ``(T, d)``.
        slopes: Of a loss by these outputs, once it is differentiated.
        gradients: Of that loss by the trained weights.
    """

    def __init__(self, seen: Observation, flat: Tensor) -> None:
        self.model = copy_model(seen.model)
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.slopes: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}
        self._taps: dict[str, Tensor] = {}
        for name, module in self.model.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.register_forward_hook(self._remember(name))
            elif isinstance(module, nn.MultiheadAttention):
                module.register_forward_pre_hook(self._note(name), with_kwargs=True)
        wide = replay.cast(seen, torch.float64)
        self.weights = {n: p.detach().requires_grad_() for n, p in wide.parameters.items()}
        self.all = {**wide.buffers, **self.weights}
        inputs = flat.to(seen.device, torch.float64).view(1, *seen.image.shape)
        with torch.enable_grad(), own_random_numbers(0, [seen.device]):
            self.scores: Tensor = functional_call(self.model, self.all, (inputs,))

    def _remember(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if name in self.inputs:
                return output
            self.inputs[name], self.outputs[name] = given[0].detach(), output.detach()
            self._taps[name] = torch.zeros_like(output, requires_grad=True)
            return output + self._taps[name]

        return hook

    def _note(
        self, name: str
    ) -> Callable[[nn.Module, tuple[Tensor, ...], Mapping[str, Tensor]], None]:
        def hook(module: nn.Module, given: tuple[Tensor, ...], named: Mapping[str, Tensor]) -> None:
            query = given[0] if given else named["query"]
            self.inputs.setdefault(name, query.detach())

        return hook

    def differentiate(self, seen: Observation) -> None:
        """Of the first class's loss."""
        label = torch.zeros(1, dtype=torch.long, device=seen.device)
        leaves = {**self.weights, **self._taps}
        with torch.enable_grad():
            slopes = torch.autograd.grad(
                F.cross_entropy(self.scores, label), list(leaves.values()), allow_unused=True
            )
        given = {n: s for n, s in zip(leaves, slopes, strict=True) if s is not None}
        self.gradients = {n: given[n] for n in self.weights if n in given}
        for name in self._taps.keys() & given.keys():
            module = self.model.get_submodule(name)
            self.slopes[name] = _tokens(module, given[name])
            self.outputs[name] = _tokens(module, self.outputs[name])


def _tokens(module: nn.Module, output: Tensor) -> Tensor:
    """What a layer made of one image, ``(T, d)``."""
    if isinstance(module, nn.Conv2d):
        return output.flatten(2)[0].T
    return output.reshape(-1, output.shape[-1])


def _patches(module: nn.Module, given: Tensor) -> Tensor | None:
    """What a layer reads for each of its outputs, ``(T, P)``, padded by zeros."""
    if isinstance(module, nn.Linear):
        return given.reshape(-1, given.shape[-1])
    if not isinstance(module, nn.Conv2d) or module.groups != 1 or given.ndim != 4:
        return None
    if isinstance(module.padding, str) or module.padding_mode != "zeros":
        return None
    how = module.kernel_size, module.dilation, module.padding, module.stride
    return F.unfold(given, *how)[0].T


def _places(module: nn.Module, given: Tensor, numbers: int) -> Tensor | None:
    """Where in the flattened image the numbers lie that a layer reads; None unless it reads them all."""
    patches = _patches(module, given)
    if patches is None or not torch.equal(patches, patches.round()):
        return None
    if float(patches.min()) < 0 or float(patches.max()) > numbers:
        return None
    places = patches.long() - 1
    return places if len(places[places >= 0].unique()) == numbers else None


def _positions(probe: _Pass, layer: str, places: Tensor, gradient: Update) -> Tokens | None:
    """The embedding whose slopes are those of the tokens that the layer makes."""
    slopes = probe.slopes[layer]
    read = _patches(probe.model.get_submodule(layer), probe.inputs[layer])
    weight = probe.gradients.get(f"{layer}.weight")
    if read is None or (weight is not None and not _alike(weight.flatten(1), slopes.T @ read)):
        return None
    width = slopes.shape[1]
    for name in gradient:
        if name not in probe.gradients or not _holds_tokens(probe.gradients[name], width):
            continue
        rows = _rows(probe.gradients[name], width)
        for first in _starts(rows, slopes):
            part = rows[first : first + len(slopes)]
            scale = float((part * slopes).sum() / part.square().sum())
            if not _alike(scale * part, slopes):
                continue
            found = Tokens(
                layer=layer,
                places=places,
                positions=name,
                width=width,
                first=first,
                scale=scale,
                readers=(),
            )
            return replace(found, readers=_readers(probe, found, gradient))
    return None


def _holds_tokens(embedding: Tensor, width: int) -> bool:
    """Whether this can be a positional embedding: ``(..., T, d)`` or ``(1, d, h, w)``."""
    shape = embedding.shape
    return len(shape) > 1 and (shape[-1] == width or (len(shape) > 2 and shape[-3] == width))


def _rows(embedding: Tensor, width: int) -> Tensor:
    """A positional embedding as ``(T, d)``."""
    if embedding.shape[-1] != width:
        embedding = embedding.flatten(-2).mT
    return embedding.reshape(-1, width)


def _starts(rows: Tensor, slopes: Tensor) -> Iterator[int]:
    """Where rows begin the first of which points the way of the first slope."""
    last = len(rows) - len(slopes)
    lengths = rows.norm(dim=1) * slopes[0].norm()
    along = rows @ slopes[0]
    near = ((along.abs() - lengths).abs() < SAME * lengths) & (lengths > 0)
    yield from (first for first in near.nonzero().flatten().tolist() if first <= last)


def _readers(probe: _Pass, tokens: Tokens, gradient: Update) -> tuple[str, ...]:
    """Weights that read all tokens as they are, if nothing else does; see `Tokens.readers`."""
    added = _rows(probe.all[tokens.positions].detach(), tokens.width)
    made = tokens.scale * probe.outputs[tokens.layer] + added[tokens.rows]
    names = []
    given = None
    for name, inputs in probe.inputs.items():
        rows = inputs.reshape(-1, inputs.shape[-1])
        if rows.shape != added.shape or not _alike(rows[tokens.rows], made):
            continue
        attention = isinstance(probe.model.get_submodule(name), nn.MultiheadAttention)
        names.append(f"{name}.in_proj_weight" if attention else f"{name}.weight")
        given = rows
    if given is None or not all(n in gradient and n in probe.gradients for n in names):
        return ()
    read = sum(probe.weights[n].detach().T @ probe.gradients[n] for n in names)
    assert isinstance(read, Tensor)
    slopes = _rows(probe.gradients[tokens.positions], tokens.width)
    return tuple(names) if _alike(read, slopes.T @ given) else ()


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).norm() <= SAME * other.norm())
