"""What was exchanged, under the names that the model has.

Weights arrive under the names of wrappers, as a list without names, or only in part; buffers arrive
that nobody can use. Here they get the model's names, or an error that says what to do.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .errors import UpdateError
from .reasons import Figure, Reason
from .types import Observation

Arrays = Mapping[str, NDArray[np.generic]]
OPACUS_PREFIX = "_module."
WRAPPERS = ("_orig_mod", "module", "_module")
"""Parts of names that torch.compile, DataParallel and Opacus put in."""
ADAPTER = re.compile(r"(lora_\w+)\.default(?=\.|$)")
"""PEFT leaves the adapter's name out where it saves the weights."""
UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
"""Half the distance between two numbers of a type, relative."""


def named_as(model: nn.Module, arrays: Arrays, which: str, assumptions: list[Reason]) -> Arrays:
    """The arrays under the model's own names, in its shapes; buffers without use are left out.

    Args:
        model: The audited model, without wrappers.
        arrays: What was exchanged; may be a part of the model.
        which: For messages: ``"sent to the client"``.
        assumptions: Grows, never twice by the same.

    Raises:
        UpdateError: A name is not the model's, a shape does not fit, a weight is not finite.
    """
    if not arrays:
        raise UpdateError(
            f"no weights were {which}: the message holds no arrays. Put the model's `state_dict()` "
            "into its `ArrayRecord`"
        )
    expected = model.state_dict()
    found = _renamed(model, arrays, assumptions)
    unknown = [name for name in found if name not in expected]
    if unknown:
        raise UpdateError(
            f"the weights {which} do not fit the audited model: unknown {some(unknown)}; not found "
            f"{some([n for n in expected if n not in found])}. Arrays need the names of the model's "
            "`state_dict()`, or may be a list of all of them in that order. Part of the model is "
            "enough, but nothing else: keep control variates and the like in a record of their own; "
            "if the clients train another architecture, give the Auditor that one"
        )
    parameters = dict(model.named_parameters(remove_duplicate=False))
    fitting: dict[str, NDArray[np.generic]] = {}
    for name, array in found.items():
        wanted = tuple(expected[name].shape)
        shaped = _shaped(array, wanted)
        if name in parameters:
            fitting[name] = _sound_weight(name, array, shaped, wanted, which)
        elif shaped is None:
            shapes = {"shape": str(tuple(array.shape)), "wanted": str(wanted)}
            _note(assumptions, "buffer shape differs", name=name, which=which, **shapes)
        elif _is_finite(shaped):
            fitting[name] = shaped
        else:
            _note(assumptions, "buffer not finite", name=name, which=which)
    return fitting


def _sound_weight(
    name: str,
    array: NDArray[np.generic],
    shaped: NDArray[np.generic] | None,
    wanted: tuple[int, ...],
    which: str,
) -> NDArray[np.generic]:
    if shaped is None:
        raise UpdateError(
            f"`{name}` {which} has shape {tuple(array.shape)}, but the audited model has {wanted}. "
            "Make the model that you give the Auditor with the settings of the clients', such as "
            "the number of classes"
        )
    if not _is_finite(shaped):
        raise UpdateError(
            f"`{name}` {which} holds values that are not finite; "
            "lower the local learning rate or clip the gradient"
        )
    return shaped


def _is_finite(array: NDArray[np.generic]) -> bool:
    return bool(np.isfinite(_wide(array)).all())


def _wide(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """NumPy knows bfloat16 as somebody else's type, which it can only convert."""
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def as_tensor(array: NDArray[np.generic], like: Tensor) -> Tensor:
    """An array as a tensor of this type, on its device."""
    return torch.tensor(_wide(array), dtype=like.dtype, device=like.device)


def _shaped(array: NDArray[np.generic], shape: tuple[int, ...]) -> NDArray[np.generic] | None:
    """The array in this shape, if they differ by sides of one only."""
    if [n for n in array.shape if n != 1] != [n for n in shape if n != 1]:
        return None
    return array.reshape(shape)


def _renamed(model: nn.Module, arrays: Arrays, assumptions: list[Reason]) -> Arrays:
    expected = model.state_dict()
    if all(name in expected for name in arrays):
        return arrays
    if arrays and all(name.isdecimal() for name in arrays):
        return _from_list(model, arrays, assumptions)
    plain = {_plain(name): name for name in expected}
    wanted = [plain.get(_plain(name), name) for name in arrays]
    if len(plain) < len(expected) or len(set(wanted)) < len(wanted):
        return arrays
    if all(name.startswith(OPACUS_PREFIX) for name in arrays):
        _note(assumptions, "prefix of Opacus")
    return dict(zip(wanted, arrays.values(), strict=True))


def _plain(name: str) -> str:
    parts = ADAPTER.sub(r"\1", name).split(".")
    return ".".join(part for part in parts if part not in WRAPPERS)


def _from_list(model: nn.Module, arrays: Arrays, assumptions: list[Reason]) -> Arrays:
    """Arrays named ``0, 1, 2``: all of the state, or all parameters, or those that are trained."""
    listed = [arrays[name] for name in sorted(arrays, key=int)]
    state = model.state_dict()
    parameters = [name for name, _ in model.named_parameters()]
    orders = {
        "the model's state": list(state),
        "the model's state but for counters": [
            name for name, tensor in state.items() if tensor.is_floating_point()
        ],
        "the model's parameters": parameters,
        "the model's trainable parameters": [
            name for name, tensor in model.named_parameters() if tensor.requires_grad
        ],
    }
    for order, names in orders.items():
        if len(names) == len(listed) and all(
            _shaped(array, tuple(state[name].shape)) is not None
            for name, array in zip(names, listed, strict=True)
        ):
            _note(assumptions, "weights without names", order=order)
            return dict(zip(names, listed, strict=True))
    raise UpdateError(
        f"the {len(listed)} arrays have no names, and in order they fit neither the audited "
        f"model's state ({len(state)} arrays) nor its parameters "
        f"({len(parameters)}). Exchange `ArrayRecord(model.state_dict())`, or give the Auditor the "
        "architecture whose arrays these are"
    )


def note_what_is_missing(
    model: nn.Module, sent: Arrays, returned: Arrays, assumptions: list[Reason]
) -> None:
    """Say what was not exchanged, and what is used in its place."""
    state = {n: t for n, t in model.state_dict().items() if t.is_floating_point()}
    trained = {name for name, tensor in model.named_parameters() if tensor.requires_grad}
    private = [name for name in state if name not in sent]
    if private:
        _note(assumptions, "weights not sent", **_some(private))
    kept = [name for name in state if name in trained and name in sent and name not in returned]
    if kept:
        _note(assumptions, "weights not returned", **_some(kept))
    moved = [
        name
        for name, tensor in model.named_parameters()
        if not tensor.requires_grad
        and name in sent
        and name in returned
        and not np.array_equal(sent[name], returned[name])
    ]
    if moved:
        _note(assumptions, "frozen for the Auditor alone", **_some(moved))
    extra = [name for name in private if name in trained and name in returned]
    if extra:
        _note(assumptions, "returned but never sent", **_some(extra))


def rounding_of(returned: Arrays, names: list[str]) -> float:
    """Euclidean length of the error that rounding of the returned weights puts into an update.

    Each error is even within half the distance of two numbers of the array's type.
    """
    squares = 0.0
    for name in names:
        array = returned[name]
        unit = UNIT.get(array.dtype.name, 0.0)
        squares += (unit * float(np.linalg.norm(_wide(array).astype(np.float64)))) ** 2 / 3
    return math.sqrt(squares)


def without_frozen(seen: Observation) -> Observation:
    """Parameters that did not move at all while others did were frozen: taken as fixed weights.

    Not where the client's defence drops numbers or rounds them to zero: there a zero says nothing.
    """
    known = seen.defence
    if known is not None and (known.zeros_hide or known.name == "quantisation"):
        return seen
    frozen = [name for name, tensor in seen.update.items() if not bool(tensor.any())]
    if not frozen or len(frozen) == len(seen.update):
        return seen

    def moved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in tensors.items() if name not in frozen}

    return replace(
        seen,
        parameters=moved(seen.parameters),
        buffers={**seen.buffers, **{name: seen.parameters[name] for name in frozen}},
        update=moved(seen.update),
        gradient=None if seen.gradient is None else moved(seen.gradient),
        assumptions=(
            *seen.assumptions,
            Reason.of("taken as frozen", **_some(frozen)),
        ),
    )


def some(names: list[str], most: int = 3) -> str:
    """A few of the names for a message."""
    if not names:
        return "nothing"
    shown = ", ".join(f"`{name}`" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _some(names: list[str], most: int = 3) -> dict[str, Figure]:
    """A few of the names, and how many more there are."""
    return {"names": names[:most], "more": max(len(names) - most, 0)}


def _note(assumptions: list[Reason], code: str, **figures: Figure) -> None:
    note = Reason.of(code, **figures)
    if note not in assumptions:
        assumptions.append(note)
