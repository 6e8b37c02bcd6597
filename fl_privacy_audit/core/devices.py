"""Where attacks run."""

import contextlib
from collections.abc import Iterator

import torch

from .errors import ConfigError


def pick_device(name: str) -> torch.device:
    """``"auto"`` -> the GPU if there is one.

    Raises:
        ConfigError: This machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"`device` must be 'auto' or a device of this machine, but got {name!r}: {error}"
        ) from error
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Whether the processor multiplies in bfloat16 natively."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@contextlib.contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let torch use this many threads, and then as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
