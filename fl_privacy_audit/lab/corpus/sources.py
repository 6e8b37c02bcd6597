"""Where the images come from: the paper's five domains, any folder, and photographs at hand.

Sun et al. 2023, arXiv:2309.13038, use CIFAR-100, Caltech-101, Imagenette, CelebA (people as
classes) and Stanford Dogs; the last is an image folder. A source has two halves without a picture
in common: networks train on one, and the other is attacked.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import ClassVar

from PIL import Image

from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.core.pictures import open_picture

from .halves import Half, Source, Statistics
from .packaged import PLAIN_STATISTICS, open_lfw, open_photos

CIFAR10_STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
CIFAR100_STATISTICS = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CELEBA_STATISTICS = ((0.506, 0.425, 0.383), (0.266, 0.245, 0.241))
"""Of the paper's released code."""

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".pgm", ".ppm", ".tif", ".tiff")


Opener = Callable[[str, Path, bool], Source]
"""``(name, root, download) -> Source``."""


def open_source(spec: str, root: str | Path, *, download: bool = False) -> Source:
    """Open a source.

    Args:
        spec: A name of `SOURCES`, or ``name=folder`` for an image folder with one sub-folder a
            class.
        root: What torchvision takes as its root.
        download: Let torchvision fetch what is missing.

    Raises:
        CorpusError: No such source, or its files are not there.
    """
    name, _, folder = spec.partition("=")
    if folder:
        return _folder(name, Path(folder))
    if name not in SOURCES:
        raise CorpusError(
            f"there is no source {name!r}; there are {', '.join(SOURCES)}, and name=folder for a "
            "folder of images with one sub-folder per class"
        )
    try:
        return SOURCES[name](name, Path(root), download)
    except CorpusError:
        raise
    except (RuntimeError, OSError, ValueError, KeyError, EOFError, UnpicklingError) as error:
        raise CorpusError(f"source {name!r} cannot be read in {root}: {error}") from error


def _cifar(name: str, root: Path, download: bool) -> Source:
    from torchvision import datasets

    kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    folder = root / kind.base_folder
    _need(name, folder, download)
    if not folder.is_dir():
        kind(str(root), download=True)

    class Lenient(kind):  # type: ignore[misc, valid-type]
        """Takes a copy in another order, or a cut one: only its layout must be right."""

        meta: ClassVar[dict[str, str | None]] = {**kind.meta, "md5": None}

        def _check_integrity(self) -> bool:
            return bool(folder.is_dir())

    def half(word: str) -> Half:
        stored = Lenient(str(root), train=word == "train")
        return Half(
            names=[f"{word}{index:05d}" for index in range(len(stored.data))],
            labels=stored.targets,
            read=lambda index: Image.fromarray(stored.data[index]),
        )

    statistics = CIFAR10_STATISTICS if name == "cifar10" else CIFAR100_STATISTICS
    classes = Lenient(str(root), train=False).classes
    return Source(name, classes, statistics, half("train"), half("test"))


def _caltech101(name: str, root: Path, download: bool) -> Source:
    from torchvision import datasets

    folder = root / "caltech101" / "101_ObjectCategories"
    _need(name, folder, download)
    stored = datasets.Caltech101(str(root), download=download)
    paths = [
        folder / stored.categories[label] / f"image_{number:04d}.jpg"
        for label, number in zip(stored.y, stored.index, strict=True)
    ]
    return _two_halves(name, stored.categories, _files(paths, stored.y), IMAGENET_STATISTICS)


def _imagenette(name: str, root: Path, download: bool) -> Source:
    from torchvision import datasets

    folder = root / "imagenette2-160"
    _need(name, folder, download)
    if not folder.is_dir():
        datasets.Imagenette(str(root), size="160px", download=True)
    splits = [datasets.Imagenette(str(root), split=s, size="160px") for s in ("train", "val")]
    train, attacked = (
        _files(*zip(*((Path(path), label) for path, label in one._samples), strict=True))
        for one in splits
    )
    classes = [words[0] for words in splits[0].classes]
    return Source(name, classes, IMAGENET_STATISTICS, train, attacked)


def _celeba(name: str, root: Path, download: bool) -> Source:
    """People as classes: each person's pictures are dealt to the two halves in turn."""
    from torchvision import datasets

    folder = root / datasets.CelebA.base_folder / "img_align_celeba"
    _need(name, folder, download)
    if not folder.is_dir():
        datasets.CelebA(str(root), download=True)

    class Lenient(datasets.CelebA):  # type: ignore[misc]
        """Takes a cut copy: only its layout must be right."""

        def _check_integrity(self) -> bool:
            return bool(folder.is_dir())

    stored = Lenient(str(root), split="all", target_type="identity")
    owners = [int(one) for one in stored.identity.flatten()]
    people = {person: index for index, person in enumerate(sorted(set(owners)))}
    files = _files([folder / one for one in stored.filename], [people[owner] for owner in owners])
    return _two_halves(name, [f"person {person}" for person in people], files, CELEBA_STATISTICS)


def read_folder(folder: Path, *, empty: bool = True) -> tuple[tuple[str, ...], Half]:
    """The classes of an image folder, one per sub-folder, and all of its pictures.

    `empty` says whether a sub-folder without pictures is a class.

    Raises:
        CorpusError: There is no such folder, or it has no pictures.
    """
    if not folder.is_dir():
        raise CorpusError(f"there is no folder {folder}")
    classes = sorted(e.name for e in folder.iterdir() if e.is_dir() and (empty or _in(e)))
    paths = [(path, label) for label, one in enumerate(classes) for path in _in(folder / one)]
    if not paths:
        raise CorpusError(
            f"{folder} has no sub-folder with pictures; there must be one for each class"
        )
    return tuple(classes), _files([path for path, _ in paths], [label for _, label in paths])


def _folder(name: str, folder: Path, download: bool = False) -> Source:
    del download
    try:
        classes, pictures = read_folder(folder, empty=False)
    except CorpusError as error:
        raise CorpusError(f"source {name!r}: {error}") from None
    return _two_halves(name, classes, pictures, PLAIN_STATISTICS)


def _need(name: str, folder: Path, download: bool) -> None:
    if not folder.is_dir() and not download:
        raise CorpusError(
            f"source {name!r}: there is no folder {folder}; give the folder that torchvision "
            "takes as its root, or allow --download"
        )


def _in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)


def _files(paths: Sequence[Path], labels: Sequence[int]) -> Half:
    return Half(
        names=[f"{path.parent.name}-{path.stem}" for path in paths],
        labels=list(labels),
        read=lambda index: open_picture(paths[index]),
    )


def _two_halves(
    name: str, classes: Sequence[str], pictures: Half, statistics: Statistics
) -> Source:
    """Deal the pictures of each class in turn: the first to be attacked, the next to train on."""
    dealt: Counter[int] = Counter()
    halves: tuple[list[int], list[int]] = ([], [])
    for index, label in enumerate(pictures.labels):
        halves[dealt[label] % 2].append(index)
        dealt[label] += 1
    attacked, train = map(pictures.take, halves)
    return Source(name, list(classes), statistics, train, attacked)


SOURCES: dict[str, Opener] = {
    "cifar10": _cifar,
    "cifar100": _cifar,
    "caltech101": _caltech101,
    "imagenette": _imagenette,
    "celeba": _celeba,
    "folder": _folder,
    "photos": open_photos,
    "lfw": open_lfw,
}
"""Name -> how the source is opened; ``docs/corpus.md`` says what each is."""
