from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from fl_privacy_audit.audit.pictures import save_picture
from fl_privacy_audit.ledger.records import Record
from fl_privacy_audit.report.reconstructions import (
    PictureRow,
    draw_reconstructions,
    reconstruction_rows,
)
from fl_privacy_audit.verdicts.compare import LastRun
from tests.support.builders import audit_line, kept, outcome, run_line


def plain(colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    return np.full((4, 4, 3), colour, dtype=np.uint8)


def test_the_picture_is_a_grid(tmp_path: Path) -> None:
    colours = [[(200, 40 * i, 60 + 90 * j) for i in range(3)] for j in range(2)]
    names = ("original", "DP-SGD")
    rows = [
        PictureRow(name, [plain(c) for c in line], [f"{i} dB" for i in range(3)])
        for name, line in zip(names, colours, strict=True)
    ]
    path = tmp_path / "grid.png"
    draw_reconstructions(rows, path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    middles = []
    for line in colours:
        places = [np.argwhere((pixels == colour).all(axis=2)) for colour in line]
        assert all(len(place) > 1000 for place in places)
        middles.append([place.mean(axis=0) for place in places])
    grid = np.array(middles)
    assert np.ptp(grid[:, :, 0], axis=1).max() < 1
    assert np.ptp(grid[:, :, 1], axis=0).max() < 1
    assert (np.diff(grid[:, :, 0], axis=0) > 50).all()
    assert (np.diff(grid[:, :, 1], axis=1) > 50).all()


@pytest.mark.parametrize("rows", [[], [PictureRow("original", [], [])]])
def test_nothing_to_draw(rows: list[PictureRow], tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^there is no picture to draw: no record was scored with"
    ):
        draw_reconstructions(rows, tmp_path / "grid.png")
    assert not (tmp_path / "grid.png").exists()


def drawn(directory: Path, shape: tuple[int, int, int], shades: dict[int, float]) -> LastRun:
    """A run that kept one picture a round: the round's own shade of grey, then the guess."""
    records: list[Record] = [
        run_line(directory.name, image={"shape": shape, "mean": [0], "std": [1]})
    ]
    for round, shade in shades.items():
        original = torch.full((1, *shape), round / 10)
        name = save_picture(
            directory / f"pictures/{round}.png", [original, torch.full((1, *shape), shade)]
        )
        score = outcome({"psnr": 100 * shade}, picture=name)
        records.append(audit_line(score, round=round))
    return kept(directory, records)


def test_rows_of_the_picture(tmp_path: Path) -> None:
    first = drawn(tmp_path / "a", (1, 8, 8), {1: 0.2, 2: 0.4, 3: 0.6})
    other = drawn(tmp_path / "b", (1, 8, 8), {3: 0.8, 2: 1.0})
    rows = reconstruction_rows([first, other], attack="inverting_gradients")
    assert [r.title for r in rows] == ["original", "a", "b"]
    assert {image.shape for r in rows for image in r.images} == {(8, 8, 3)}
    assert [[int(image.mean()) for image in r.images] for r in rows] == [
        [51, 76],
        [102, 153],
        [255, 204],
    ]
    assert rows[0].captions == ["round 2\npartition 0", "round 3\npartition 0"]
    assert rows[2].captions == ["100.0 dB", "80.0 dB"]
    few = reconstruction_rows([first], attack="inverting_gradients", most=1)
    assert [len(r.images) for r in few] == [1, 1]
    assert [len(r.images) for r in reconstruction_rows([first], attack="dlg")] == [0, 0]


def test_pictures_that_are_not_square(tmp_path: Path) -> None:
    rows = reconstruction_rows(
        [drawn(tmp_path, (1, 8, 12), {1: 0.5})], attack="inverting_gradients"
    )
    assert {image.shape for r in rows for image in r.images} == {(8, 12, 3)}
