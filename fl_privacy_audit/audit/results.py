"""What an attack returned, taken in: whatever it was, what comes out can be scored and recorded."""

from collections.abc import Mapping
from functools import partial
from itertools import islice
from typing import Any, Final

import torch
from torch import Tensor

from fl_privacy_audit.core.errors import AttackError
from fl_privacy_audit.core.guard import Guard
from fl_privacy_audit.core.texts import MOST, clean
from fl_privacy_audit.core.types import Reconstruction

MOST_DETAILS: Final = 100
MOST_NAME: Final = 100
"""Characters of the name of a detail, and of why an attack stopped."""
MOST_STEPS: Final = 2**53


def plain_result(result: object, guard: Guard) -> Reconstruction | Exception:
    """See `_plain`; what cannot be taken in is an error, and so is an error."""
    if isinstance(result, Exception):
        return result
    return guard.call("the result of an attack", partial(_plain, result), often=True)


def _plain(result: object) -> Reconstruction:
    """A copy of a reconstruction that holds only plain numbers, clean text and tensors on the CPU.

    Whether its images are pictures that can be scored is not looked at.

    Args:
        result: What an attack from anywhere returned.

    Raises:
        AttackError: It is no reconstruction, or a field of it is of another kind.
    """
    if not isinstance(result, Reconstruction):
        raise AttackError(
            f"the attack must return a Reconstruction, but returned {_kind(result)}: return "
            "`fl_privacy_audit.core.types.Reconstruction(images=..., ...)`"
        )
    stopped: Any = result.stopped
    return Reconstruction(
        images=_images(result.images),
        labels=None if result.labels is None else _labels(result.labels),
        objective=_number("objective", result.objective),
        steps=_steps(result.steps),
        stopped=clean(stopped, MOST_NAME)
        if isinstance(stopped, str)
        else _refuse("stopped", stopped),  # type: ignore[arg-type]
        exact=bool(result.exact),
        details=_details(result.details),
    )


def _refuse(name: str, value: object, needed: str = "text") -> Any:
    raise AttackError(f"`{name}` of a reconstruction must be {needed}, but the attack gave {value}")


def _kind(value: object) -> str:
    return type(value).__name__


def _images(images: Any) -> Tensor:
    if not isinstance(images, Tensor) or images.is_complex():
        _refuse("images", _kind(images), "a tensor (N, C, H, W) of floats")
    plain: Tensor = images.detach().to_dense().as_subclass(Tensor).cpu().clone()
    return plain if plain.is_floating_point() else plain.float()


def _labels(labels: Any) -> Tensor:
    needed = "None or (N,) class indices"
    plain = torch.as_tensor(labels).detach().as_subclass(Tensor).cpu()
    if plain.ndim != 1:
        _refuse("labels", f"shape {tuple(plain.shape)}", needed)
    if plain.is_complex() or not torch.equal(plain, plain.long().to(plain.dtype)):
        _refuse("labels", "other values", needed)
    return plain.long()


def _number(name: str, value: Any) -> float:
    if value is None or isinstance(value, str | bytes):
        _refuse(name, _kind(value), "a number")
    return float(value)


def _steps(value: Any) -> int:
    steps = _number("steps", value)
    if not (0 <= steps <= MOST_STEPS and steps == int(steps)):
        _refuse("steps", f"{steps:g}", "a whole number from 0")
    return int(steps)


def _details(details: Any) -> Mapping[str, float | str]:
    if not isinstance(details, Mapping):
        _refuse("details", _kind(details), "a mapping")
    kept = islice(details.items(), MOST_DETAILS)
    return {clean(str(name), MOST_NAME): _detail(value) for name, value in kept}


def _detail(value: Any) -> float | str:
    if not isinstance(value, str | bytes):
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError, RuntimeError):
            pass  # no number, or several
    return clean(str(value), MOST)
