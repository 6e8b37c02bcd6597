"""From what a linear layer got of images back to pictures, by ridge regression."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from fl_privacy_audit.attacks.parts.randomness import own_random_numbers
from fl_privacy_audit.core.errors import ConfigError, CorpusError
from fl_privacy_audit.core.models import copy_model
from fl_privacy_audit.core.pictures import open_picture
from fl_privacy_audit.core.types import ImageSpec, Observation

FIELDS: Final = 4000
"""Random fields, or pictures, that the decoder is fitted on."""
RIDGE: Final = 1e-2


def through(seen: Observation, pictures: Tensor) -> tuple[dict[str, tuple[Tensor, Tensor]], Tensor]:
    """What linear layers got and gave for pictures, in the order in which they ran, and the scores."""
    model = copy_model(seen.model)
    passed: dict[str, tuple[Tensor, Tensor]] = {}

    def remember(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[Tensor, ...], returned: Tensor) -> None:
            passed[name] = (given[0], returned)

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(remember(name))
    inputs = seen.image.normalise(pictures.to(seen.device, seen.dtype))
    with torch.no_grad(), own_random_numbers(0, [seen.device]):
        scores: Tensor = functional_call(model, {**seen.parameters, **seen.buffers}, (inputs,))
    return passed, scores


def decoded(seen: Observation, layer: str, features: Tensor, pictures: Tensor) -> Tensor:
    """``(N, n)`` features -> ``(N, C, H, W)`` pixels, linear, by ridge regression."""
    known = torch.cat([through(seen, part)[0][layer][0].cpu() for part in pictures.split(500)])
    given, wanted = known.double(), pictures.flatten(1).double()
    centre, mean = given.mean(dim=0), wanted.mean(dim=0)
    power = (given - centre).T @ (given - centre)
    ridge = RIDGE * power.diagonal().mean().clamp_min(1e-300) * torch.eye(len(power)).double()
    # Solved for the features, which are few, in place of every pixel's column of the decoder.
    solved = torch.linalg.solve(power + ridge, (features - centre).T)
    pixels = ((given - centre) @ solved).T @ (wanted - mean) + mean
    images: Tensor = pixels.view(-1, *seen.image.shape).clamp(0, 1).float()
    return images


def read_pictures(folder: str, image: ImageSpec) -> Tensor:
    """``(N, C, H, W)`` in [0, 1]: the pictures of a folder and of those in it, resized.

    Raises:
        ConfigError: There are none.
    """
    files = sorted(path for path in Path(folder).expanduser().rglob("*") if path.is_file())
    channels, height, width = image.shape
    read: list[Tensor] = []
    for path in files[:FIELDS]:
        try:
            opened = open_picture(path)
        except CorpusError:
            continue
        picture = opened.convert("RGB" if channels == 3 else "L").resize((width, height))
        pixels = torch.from_numpy(np.array(picture)).view(height, width, -1).permute(2, 0, 1)
        read.append(pixels.float() / 255)
    if not read:
        raise ConfigError(
            f"feature_unmixing found no pictures in {folder!r} to fit its decoder on; name a folder "
            "of image files, or leave `pictures` out"
        )
    return torch.stack(read)
