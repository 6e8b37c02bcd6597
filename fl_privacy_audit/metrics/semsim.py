"""SemSim: how far a reconstruction is from what its original shows, as trained eyes judge it.

`semsim` and `recognised` go by `.eye`: a pretrained network and a head trained on judgements of
reconstructions, which gives the chance that somebody who sees the reconstruction alone names what the
original shows. Verdicts go by `semsim`.

The network of Sun et al. (2023, arXiv:2309.13038) is there too: a ResNet18 with a 3x3 stem and no
max-pool, its pooled features trained by a triplet loss with the original as anchor, a recognisable
reconstruction as positive and an unrecognisable one as negative. `semsim_paper` is its distance, and
`embed` puts single pictures where they can be searched. Differences from the released code, on purpose:
embeddings have length one in training *and* in scoring, pictures are resized with antialiasing, and a
pair is a pair by position, never by a listing of files. There every picture passes at 32x32.
"""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_safetensors
from torch import Tensor, nn
from torch.nn import functional as F

from fl_privacy_audit.core.errors import MetricUnavailable, WeightsError

from .eye import Eye, chances, distance
from .pairs import check_pixels

SIDE = 32
MEAN = (0.5071, 0.4867, 0.4408)
STD = (0.2675, 0.2565, 0.2761)
"""Of CIFAR-100, the constants of the paper's code; used in training and in scoring."""
WEIGHTS = Path(__file__).parent / "data" / "semsim.safetensors"
"""The weights of the paper's network that come with the package."""
SHA256 = "a24033ddd93db7e37f969c345f47ddf15c3b664845ea3d94d6191edd033885e1"
"""Of `WEIGHTS`."""
EYE = WEIGHTS.with_name("eye.safetensors")
"""Those of the eye."""
EYE_SHA256 = "d6bab07c5a3160de56ddd9940fe9cdc41ba2abd8c2241a2abd31eebb76ad29f5"
"""Of `EYE`."""
HEADER = {"format": "pt", "of": "fl-privacy-audit SemSim"}
EYES = "head.linear.weight"
"""A tensor that weights of an eye hold, and those of the paper's network do not."""
_COUNTER = "num_batches_tracked"


class SemSimNet(nn.Module):
    """ResNet18 without a classifier: pictures at 32x32 in, pooled features out.

    `width`: channels of the first stage; the paper's is 64. The embedding has eight times as many.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.width = width
        self.stem = _convolution(3, width, 3, 1)
        stages, channels = [], width
        for number in range(4):
            wide = width * 2**number
            first = _Block(channels, wide, 1 if number == 0 else 2)
            stages.append(nn.Sequential(first, _Block(wide, wide, 1)))
            channels = wide
        self.stages = nn.Sequential(*stages)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 3, 32, 32)`` from `prepare` -> ``(N, 8 * width)``, each row of length one."""
        if self.width % 8 == 0:  # a third faster; others make oneDNN crash in the gradient
            x = x.to(memory_format=torch.channels_last)
        features: Tensor = self.stages(F.relu(self.stem(x))).mean(dim=(2, 3))
        return F.normalize(features, dim=1)


Net = SemSimNet | Eye
_AnyNet = TypeVar("_AnyNet", SemSimNet, Eye)


def prepare(images: Tensor) -> Tensor:
    """Bring pictures to what the network sees: RGB, 32x32, normalised.

    ``(N, 1 or 3, H, W)`` in ``[0, 1]``, clamped -> ``(N, 3, 32, 32)`` float32 on the same device.

    Raises:
        ValueError: Another shape.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"images to embed must be (N, 1 or 3, H, W) in [0, 1], but got {tuple(images.shape)}"
        )
    x = images.detach().float().clamp(0, 1)
    if tuple(x.shape[-2:]) != (SIDE, SIDE):
        x = F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", antialias=True)
    return (x.expand(-1, 3, -1, -1) - _column(MEAN, x)) / _column(STD, x)


@torch.no_grad()
def embed(images: Tensor, *, net: SemSimNet | None = None, batch: int = 64) -> Tensor:
    """Embeddings of pictures of any size, computed in batches on their device.

    ``(N, 1 or 3, H, W)`` in ``[0, 1]`` -> ``(N, D)`` float32, each row of length one. `net` is in
    evaluation mode, on the device of the images; the shipped one if None. More than `batch`
    pictures at a time do not fit the caches of a processor.

    Raises:
        MetricUnavailable: No network is given and the package holds no weights.
        ValueError: Another shape, or values that are not pixels in ``[0, 1]``.
    """
    check_pixels(images)
    net = load_semsim(device=images.device) if net is None else net
    if not len(images):
        return torch.empty(0, 8 * net.width, device=images.device)
    return torch.cat([net(prepare(part)) for part in images.split(batch)])


def semsim(reconstructions: Tensor, originals: Tensor, *, net: Net | None = None) -> Tensor:
    """SemSim of each pair, in ``[0, 2]``; lower means more leakage, and equal pictures are 0.

    By an eye `eye.distance`: 2 means that nothing recognisable is left; it is not symmetric, as only
    the original is known to be one. By a network of the paper: the Euclidean distance of the two
    embeddings.

    Pairs of ``(N, C, H, W)`` in ``[0, 1]``, whose sizes may differ; `net` in evaluation mode, on
    the device of the originals; the shipped eye if None -> ``(N,)`` float64.

    Raises:
        MetricUnavailable: No network is given and the package holds no weights.
        ValueError: Shapes differ, or values are not pixels in ``[0, 1]``.
    """
    _check_pairs(reconstructions, originals)
    net = load_eye(device=originals.device) if net is None else net
    if isinstance(net, Eye):
        return distance(*chances(net, reconstructions, originals))
    guesses, truths = embed(reconstructions, net=net), embed(originals, net=net)
    apart: Tensor = (guesses.double() - truths.double()).norm(dim=1)
    return apart.clamp(max=2)


def semsim_paper(reconstructions: Tensor, originals: Tensor) -> Tensor:
    """`semsim` by the shipped network of the paper."""
    return semsim(reconstructions, originals, net=load_semsim(device=originals.device))


def recognised(reconstructions: Tensor, originals: Tensor, *, net: Eye | None = None) -> Tensor:
    """The chance that somebody who sees the reconstruction alone names what the original shows.

    Calibrated on judgements of a large vision-language model (see `docs/semsim.md`), not of people.
    Pairs and `net` as in `semsim` -> ``(N,)`` float64 in ``[0, 1]``; higher means more leakage.

    Raises:
        MetricUnavailable: No network is given and the package holds no weights.
        ValueError: Shapes differ, or values are not pixels in ``[0, 1]``.
    """
    _check_pairs(reconstructions, originals)
    return chances(net or load_eye(device=originals.device), reconstructions, originals)[0]


def load_semsim(
    path: str | Path | None = None, *, device: torch.device | str = "cpu", sha256: str | None = None
) -> SemSimNet:
    """The paper's network with its weights, in evaluation mode; loaded once for each file and device.

    Only safetensors files are read, so nothing is ever unpickled. Without a `path` they are the
    package's, whose `sha256` is always checked; that of another file if given.

    Raises:
        MetricUnavailable: The package holds no weights.
        WeightsError: The file cannot be read, or its checksum, names or shapes are wrong.
    """
    found = load_net(WEIGHTS if path is None else path, device, SHA256 if path is None else sha256)
    if not isinstance(found, SemSimNet):
        raise WeightsError(f"{path} holds an eye, not the paper's network")
    return found


def load_net(
    path: str | Path, device: torch.device | str = "cpu", sha256: str | None = None
) -> Net:
    """Weights of either kind, told apart by the names in the file; errors as `load_semsim`."""
    path = Path(path)
    if path in (WEIGHTS, EYE) and not path.is_file():
        raise MetricUnavailable(
            f"the weights of SemSim are not in this installation ({path}); install the "
            "package again, or train your own with `fl-privacy-audit semsim train`"
        )
    return _loaded(path, str(device), sha256)


def load_eye(
    path: str | Path | None = None, *, device: torch.device | str = "cpu", sha256: str | None = None
) -> Eye:
    """The eye with its weights; as `load_semsim`, and with the same errors."""
    found = load_net(EYE if path is None else path, device, EYE_SHA256 if path is None else sha256)
    if not isinstance(found, Eye):
        raise WeightsError(f"{path} holds the paper's network, not an eye")
    return found


@lru_cache(maxsize=8)
def _loaded(path: Path, device: str, sha256: str | None) -> Net:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"the weights {path} cannot be read: {error.strerror}") from error
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise WeightsError(
            f"the weights {path} have sha256 {found[:16]}..., but {sha256[:16]}... is expected; "
            "the file was changed or damaged: get it again"
        )
    try:
        tensors = read_safetensors(content)
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a safetensors file: {error}") from error
    if EYES in tensors:
        return eye_from_tensors(tensors, name=str(path)).to(device)
    return from_tensors(tensors, name=str(path)).to(device)


def from_tensors(tensors: dict[str, Tensor], *, name: str) -> SemSimNet:
    """A network in evaluation mode from tensors of `to_tensors`; its width is read off the stem.

    Raises:
        WeightsError: A name is missing, unknown, or of another shape; `name` is the file's.
    """
    stem = tensors.get("stem.0.weight")
    if stem is None or stem.ndim != 4:
        raise WeightsError(f"{name} holds no weights of SemSim: it lacks `stem.0.weight`")
    with torch.random.fork_rng(devices=[]):  # loading must not move anybody's random numbers
        net = SemSimNet(len(stem))
    return _filled(net, tensors, name)


def eye_from_tensors(tensors: dict[str, Tensor], *, name: str) -> Eye:
    """An eye in evaluation mode from tensors of `to_tensors`; raises as `from_tensors`."""
    with torch.random.fork_rng(devices=[]):
        return _filled(Eye(), tensors, name)


def _filled(net: _AnyNet, tensors: dict[str, Tensor], name: str) -> _AnyNet:
    wanted = {key: value for key, value in net.state_dict().items() if not key.endswith(_COUNTER)}
    for key in sorted(wanted.keys() ^ tensors.keys()):
        what = "lacks" if key in wanted else "holds an unknown"
        raise WeightsError(f"{name} holds no weights of SemSim: it {what} `{key}`")
    for key, value in wanted.items():
        if tensors[key].shape != value.shape:
            raise WeightsError(
                f"{name}: `{key}` must be {tuple(value.shape)}, but is {tuple(tensors[key].shape)}"
            )
        if not bool(tensors[key].isfinite().all()):
            raise WeightsError(f"{name}: `{key}` holds values that are not finite")
    net.load_state_dict({key: value.float() for key, value in tensors.items()}, strict=False)
    return net.requires_grad_(False).eval()


def to_tensors(net: Net) -> dict[str, Tensor]:
    """What is stored: filters and matrices in half precision, everything else in single."""
    return {
        key: (value.half() if value.ndim > 1 else value.float()).detach().cpu().contiguous()
        for key, value in net.state_dict().items()
        if not key.endswith(_COUNTER)
    }


class _Block(nn.Module):
    """The basic block of He et al. (2016, arXiv:1512.03385)."""

    def __init__(self, channels: int, wide: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(channels, wide, 3, stride)
        self.second = _convolution(wide, wide, 3, 1)
        same = stride == 1 and channels == wide
        self.skip = nn.Identity() if same else _convolution(channels, wide, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.second(F.relu(self.first(x)))
        return F.relu(inner + self.skip(x))


def _convolution(channels: int, wide: int, side: int, stride: int) -> nn.Sequential:
    filters = nn.Conv2d(channels, wide, side, stride, padding=side // 2, bias=False)
    return nn.Sequential(filters, nn.BatchNorm2d(wide))


def _check_pairs(reconstructions: Tensor, originals: Tensor) -> None:
    if len(reconstructions) != len(originals):
        raise ValueError(
            "images to compare must be paired, but got "
            f"{len(reconstructions)} reconstructions and {len(originals)} originals"
        )


def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device).view(1, -1, 1, 1)
