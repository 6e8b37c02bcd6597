"""What the eye sees of judged pairs, and of pairs whose answer needs no judge."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor
from torch.nn import functional as F

from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.core.files import write_whole
from fl_privacy_audit.lab.manifest import read_picture
from fl_privacy_audit.lab.progress import Stages
from fl_privacy_audit.metrics.eye import SMALL, Eye, resized

from .examples import Judged, original_of

SAME, MILD = 0.9, 0.85
"""Chances that an original itself, and one that is barely damaged, is recognised at 32 pixels."""
BATCH = 32
_KEPT = ("evidence", "own", "share")
_OF = "evidence of"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Evidence of N pairs, and what is known of them."""

    evidence: Tensor  # ``(N, D)`` float16
    own: Tensor  # ``(N, D)`` float16, of the original beside itself
    share: Tensor  # ``(N,)`` share of the judges who recognised it
    weight: Tensor  # ``(N,)``

    def take(self, rows: NDArray[np.bool_]) -> "Seen":
        """Some of the pairs."""
        chosen = torch.from_numpy(rows)
        return Seen(
            evidence=self.evidence[chosen],
            own=self.own[chosen],
            share=self.share[chosen],
            weight=self.weight[chosen],
        )

    def __add__(self, other: "Seen") -> "Seen":
        return Seen(
            evidence=torch.cat([self.evidence, other.evidence]),
            own=torch.cat([self.own, other.own]),
            share=torch.cat([self.share, other.share]),
            weight=torch.cat([self.weight, other.weight]),
        )


def see(
    judged: Judged,
    others: Tensor,
    eye: Eye,
    *,
    weight: float,
    seed: int,
    kept: Path | None,
    progress: Stages,
) -> tuple[Seen, Seen, NDArray[np.bool_]]:
    """`see_judged` and `see_certain`; read from the file `kept`, or written there if it is missing.

    A file is believed if it is of the same pictures, verdicts and seed, and if the first pairs, which are
    looked at anew, come out alike.

    Raises:
        ConfigError: The file is of something else.
        CorpusError: A picture cannot be read.
    """
    if kept is not None and kept.exists():
        return _read(kept, judged, others, eye, weight=weight, seed=seed)
    seen = see_judged(judged, eye, progress)
    certain, apart = see_certain(judged, others, eye, weight=weight, seed=seed, progress=progress)
    if kept is not None:
        tensors = {f"judged.{name}": getattr(seen, name) for name in _KEPT}
        tensors |= {f"certain.{name}": getattr(certain, name) for name in _KEPT}
        tensors["apart"] = torch.from_numpy(apart)
        of = {_OF: _fingerprint(judged, others, seed)}
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, to_safetensors(tensors, metadata=of))
    return seen, certain, apart


def _read(
    kept: Path, judged: Judged, others: Tensor, eye: Eye, *, weight: float, seed: int
) -> tuple[Seen, Seen, NDArray[np.bool_]]:
    another = f"{kept} holds no evidence of these pairs by this eye; name another file"
    try:
        with safe_open(kept, framework="pt") as file:
            of = (file.metadata() or {}).get(_OF)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ConfigError(another) from error
    if of != _fingerprint(judged, others, seed):
        raise ConfigError(another)

    def found(name: str, each: float) -> Seen:
        fields = {field: tensors[f"{name}.{field}"] for field in _KEPT}
        return Seen(**fields, weight=torch.full_like(fields["share"], each))

    seen = found("judged", 1)
    few = judged.take(range(min(BATCH, len(judged.pairs))))
    again = see_judged(few, eye, lambda stage, done, total: None).evidence
    if not torch.allclose(seen.evidence[: len(again)].float(), again.float(), atol=0.01, rtol=0.01):
        raise ConfigError(another)
    return seen, found("certain", weight), tensors["apart"].numpy()


def _fingerprint(judged: Judged, others: Tensor, seed: int) -> str:
    """Of pictures, verdicts and seed."""
    found = hashlib.sha256(f"{seed} {tuple(others.shape)}".encode() + others.numpy().tobytes())
    for pair, folder, verdict in zip(judged.pairs, judged.folders, judged.verdicts, strict=True):
        found.update(f"{pair.key} {pair.label} {sorted(verdict.items())}".encode())
        for path in (pair.original, pair.reconstruction):
            found.update(hashlib.sha256((folder / path).read_bytes()).digest())
    return found.hexdigest()


def see_judged(judged: Judged, eye: Eye, progress: Stages) -> Seen:
    """Evidence of judged pairs, each at its own size."""
    rows, own = [], []
    for start in range(0, len(judged.pairs), BATCH):
        truths, guesses = _pictures(judged, range(start, min(start + BATCH, len(judged.pairs))))
        seen = _see(eye, guesses, truths)
        rows.append(seen[0])
        own.append(seen[1])
        progress("looking", start + len(truths), len(judged.pairs))
    shares = [sum(v.values()) / len(v) for v in judged.verdicts]
    return Seen(
        evidence=torch.cat(rows),
        own=torch.cat(own),
        share=torch.tensor(shares),
        weight=torch.ones(len(shares)),
    )


def see_certain(
    judged: Judged, others: Tensor, eye: Eye, *, weight: float, seed: int, progress: Stages
) -> tuple[Seen, NDArray[np.bool_]]:
    """Evidence of pairs whose answer needs no judge, made of the originals and of other pictures.

    `others` are ``(M, 3, 32, 32)``, of further domains. A picture beside itself or barely damaged is
    recognised as often as originals are; a picture of something else, a recognised reconstruction
    of another class, and noise of any spectrum are not.

    Returns:
        The evidence, and which pairs are made of `others` alone.
    """
    rng = torch.Generator().manual_seed(seed)
    places = {original_of(pair): row for row, pair in enumerate(judged.pairs)}
    chosen = [list(places.values())[i] for i in torch.randperm(len(places), generator=rng)[:800]]
    clean = torch.cat([others, _small(judged, chosen, "original")]) if chosen else others
    foreign = torch.arange(len(clean)) < len(others)
    guesses, truths, shares, apart = [], [], [], []

    def add(made: Tensor, of: Tensor, share: float, alone: Tensor) -> None:
        guesses.append(made.clamp(0, 1))
        truths.append(of)
        shares.append(torch.full((len(made),), share))
        apart.append(alone)

    def some() -> Tensor:
        return torch.randperm(len(clean), generator=rng)[:700]

    rows = some()
    add(clean[rows], clean[rows], SAME, foreign[rows])
    half = len(others) // 2
    add(others[half : 2 * half], others[:half], 0, torch.ones(half, dtype=torch.bool))
    one, another = _mismatched(judged, rng)
    strange = torch.zeros(len(one), dtype=torch.bool)
    if one:
        guess, truth = _small(judged, one, "reconstruction"), _small(judged, another, "original")
        add(guess, truth, 0, strange)
    rows = some()
    add(_noise(clean[rows], rng), clean[rows], 0, foreign[rows])
    rows = some()
    add(_barely_damaged(clean[rows], rng), clean[rows], MILD, foreign[rows])
    guess, truth = torch.cat(guesses), torch.cat(truths)
    found, own = [], []
    for start in range(0, len(guess), BATCH):
        rows = torch.arange(start, min(start + BATCH, len(guess)))
        seen = _see(eye, guess[rows], truth[rows])
        found.append(seen[0])
        own.append(seen[1])
        progress("looking at certain pairs", int(rows[-1]) + 1, len(guess))
    share = torch.cat(shares)
    certain = Seen(
        evidence=torch.cat(found),
        own=torch.cat(own),
        share=share,
        weight=torch.full((len(share),), weight),
    )
    return certain, torch.cat(apart).numpy()


@torch.no_grad()
def _see(eye: Eye, guesses: Tensor, truths: Tensor) -> tuple[Tensor, Tensor]:
    guess, truth = eye.look(guesses), eye.look(truths)
    return eye.evidence(guess, truth).half(), eye.evidence(truth, truth).half()


def _pictures(judged: Judged, rows: range) -> tuple[Tensor, Tensor]:
    read = [
        (
            read_picture(judged.folders[row] / judged.pairs[row].original),
            read_picture(judged.folders[row] / judged.pairs[row].reconstruction),
        )
        for row in rows
    ]
    side = max(max(truth.shape[-2:]) for truth, _ in read)
    truths, guesses = zip(*read, strict=True)
    return _at(truths, side), _at(guesses, side)


def _small(judged: Judged, rows: Sequence[int], field: str) -> Tensor:
    paths = [judged.folders[row] / getattr(judged.pairs[row], field) for row in rows]
    return _at(list(map(read_picture, paths)), SMALL)


def _at(pictures: Sequence[Tensor], side: int) -> Tensor:
    return torch.cat([resized(picture[None], side) for picture in pictures])


def _mismatched(judged: Judged, rng: torch.Generator) -> tuple[list[int], list[int]]:
    """Rows of recognised reconstructions, and for each a row of the same source and another class."""
    one, another = [], []
    for row, (pair, verdict) in enumerate(zip(judged.pairs, judged.verdicts, strict=True)):
        if sum(verdict.values()) * 2 <= len(verdict):
            continue
        for other in torch.randint(len(judged.pairs), (20,), generator=rng).tolist():
            stranger = judged.pairs[other]
            if stranger.source == pair.source and stranger.label != pair.label:
                one.append(row)
                another.append(other)
                break
    return one, another


def _noise(pictures: Tensor, rng: torch.Generator) -> Tensor:
    """Noise, from white to nearly flat, over at most an eighth of the picture's contrast."""
    many, _, side, _ = pictures.shape
    along = torch.fft.fftfreq(side)
    frequency = (along[:, None].square() + along[None].square()).sqrt().clamp(min=1 / side)
    steep = 2.2 * torch.rand(many, 1, 1, 1, generator=rng)
    white = torch.randn(pictures.shape, generator=rng)
    noise = torch.fft.ifft2(torch.fft.fft2(white) * frequency**-steep).real
    noise = noise / noise.std((2, 3), keepdim=True)
    grey = torch.rand(many, 1, 1, 1, generator=rng) < 0.3
    noise = torch.where(grey, 1.4 * noise.mean(1, keepdim=True), noise)
    strength, trace = (torch.rand(many, 1, 1, 1, generator=rng) for _ in range(2))
    tint = 0.3 * (torch.rand(many, 3, 1, 1, generator=rng) - 0.5)
    return 0.5 + (0.1 + 0.3 * strength) * noise + 0.12 * trace * (pictures - 0.5) + tint


def _barely_damaged(pictures: Tensor, rng: torch.Generator) -> Tensor:
    """A little noise, a small shift, mirrored, other contrast, grey, or a little blur, in turn."""
    made = pictures.clone()
    for row, picture in enumerate(pictures):
        kind = row % 6
        if kind == 0:
            made[row] = picture + 0.05 * torch.randn(picture.shape, generator=rng)
        elif kind == 1:
            top, left = torch.randint(7, (2,), generator=rng).tolist()
            padded = F.pad(picture[None], (3, 3, 3, 3), mode="replicate")[0]
            made[row] = padded[:, top : top + SMALL, left : left + SMALL]
        elif kind == 2:
            made[row] = picture.flip(2)
        elif kind == 3:
            contrast = 0.6 + 0.6 * float(torch.rand(1, generator=rng))
            made[row] = 0.5 + (picture - 0.5) * contrast
        elif kind == 4:
            made[row] = picture.mean(0, keepdim=True)
        else:
            blurred = F.avg_pool2d(F.pad(picture[None], (1, 1, 1, 1), mode="replicate"), 3, 1)[0]
            made[row] = (picture + blurred) / 2
    return made
