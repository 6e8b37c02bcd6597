"""Models that draw random numbers themselves (functional dropout, say) must not disturb anybody.

They draw from torch's global generators. While an attack calls a model these begin at a seed of the
attack's, so that the same seed gives the same result; afterwards they are as they were.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from fl_privacy_audit.core.models import second_derivatives


@contextmanager
def own_random_numbers(seed: int, devices: Iterable[torch.device]) -> Iterator[None]:
    """Seed torch's global generators for a while: the CPU's, and those of these CUDA devices.

    `torch.manual_seed` would seed every GPU of the machine, those that are not put back too. Since
    every attack calls models in here, attention can be differentiated twice meanwhile.
    """
    used = sorted({device for device in devices if device.type == "cuda"}, key=str)
    with second_derivatives(), torch.random.fork_rng(devices=used):
        torch.default_generator.manual_seed(seed)
        for device in used:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
