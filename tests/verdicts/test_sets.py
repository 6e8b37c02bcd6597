"""Metrics of whole sets, from the pictures that an audit kept."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from fl_privacy_audit.audit.pictures import save_picture
from fl_privacy_audit.cli import cli
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.metrics import SET_METRICS
from fl_privacy_audit.report.markdown import render_markdown
from fl_privacy_audit.report.summary import summarise
from fl_privacy_audit.verdicts.compare import compare
from tests.support.builders import IMAGE, audit_line, outcome, run_line, write_ledger


def ledger(folder: Path, images: int) -> Path:
    """So many images in three records; each reconstruction is a faint copy, and one is another's."""
    rng = torch.Generator().manual_seed(0)
    originals = torch.rand(images, *IMAGE.shape, generator=rng)
    guesses = 0.9 * originals + 0.05
    guesses[0] = originals[1]
    lines = []
    for number, rows in enumerate(torch.arange(images).tensor_split(3), start=1):
        name = save_picture(folder / "pictures" / f"{number}.png", [originals[rows], guesses[rows]])
        lines.append(audit_line(outcome({"psnr": 20.0}, picture=name), round=number))
    return write_ledger(folder, [run_line("open"), *lines])


def test_kept_pictures_are_scored_together(tmp_path: Path) -> None:
    folder = ledger(tmp_path, 12)
    assert compare([folder]).rows[0].sets == {}
    (row,) = compare([folder], sets=True).rows
    assert list(row.sets) == list(SET_METRICS)
    pixels = row.sets["identification_pixels"]
    assert pixels.value == pytest.approx(11 / 12) and pixels.images == 12
    assert pixels.chance == pytest.approx(1 / 12)
    assert row.sets["fid"].value is None
    assert row.sets["fid"].reason == Reason.of("too few pictures", pictures=12, needed=2049)
    assert SET_METRICS["frechet_semsim"].least == 193
    said = "identification by pixels 0.92 (12 images, by chance 0.083)"
    run = CliRunner().invoke
    shown = run(cli, ["compare", str(folder), "--sets", "--format", "md"]).output
    assert (
        said in shown and "FID not computed (there are 12 pictures, and 2049 are needed)" in shown
    )
    assert said in render_markdown(summarise([folder], sets=True))
    table = tmp_path / "t.csv"
    assert run(cli, ["export", str(folder), "--to", str(table), "--sets"]).exit_code == 0
    assert "identification_pixels,0.916" in table.read_text()


def test_few_or_missing_pictures_are_a_reason(tmp_path: Path) -> None:
    folder = ledger(tmp_path, 9)
    (tmp_path / "pictures" / "1.png").unlink()
    (row,) = compare([folder], sets=True).rows
    assert {figure.images for figure in row.sets.values()} == {6}
    assert all(figure.value is None for figure in row.sets.values())
