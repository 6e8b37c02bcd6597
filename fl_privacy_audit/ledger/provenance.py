"""Where a figure comes from: the versions and the model behind a run."""

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version

from torch import nn

from fl_privacy_audit.metrics.semsim import EYE_SHA256

from .runs import WEIGHTS

SCORED_BY = EYE_SHA256[:12]
PACKAGES = ("fl-privacy-audit", "flwr", "torch", "torchvision", "opacus", "numpy", "scikit-image")


def versions() -> dict[str, str]:
    """Versions of Python, of SemSim's weights and of the packages that shape a result.

    Weights are named by the first digits of their SHA-256; a package that is not installed is "absent".
    """
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found | {WEIGHTS: SCORED_BY}


def describe_model(model: nn.Module) -> dict[str, str | int]:
    """Class name, number of trainable parameters, fingerprint of names and shapes."""
    layout = [f"{name}{tuple(tensor.shape)}" for name, tensor in model.state_dict().items()]
    return {
        "name": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "layout": hashlib.sha256("\n".join(layout).encode()).hexdigest()[:16],
    }


def array_types(model: nn.Module) -> dict[str, str]:
    """Every array of the model's state, buffers included -> its dtype, ``"float32"``."""
    return {
        name: str(tensor.dtype).removeprefix("torch.")
        for name, tensor in model.state_dict().items()
    }
