"""Training the eye: its head, its calibration, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

from fl_privacy_audit.cli import cli
from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.lab.semsim.calibration import calibration, markdown
from fl_privacy_audit.lab.semsim.evidence import Seen, see
from fl_privacy_audit.lab.semsim.examples import read_judged
from fl_privacy_audit.lab.semsim.eye_training import EyeSettings, calibrated, fit, logits
from fl_privacy_audit.lab.study import read_ratings
from fl_privacy_audit.metrics.eye import EVIDENCE, NARROW
from fl_privacy_audit.metrics.semsim import EYE, load_eye
from tests.support.semsim_corpus import build

Floats = NDArray[np.float64]


def coins(chance: Floats, seed: int = 0) -> NDArray[np.bool_]:
    return np.asarray(np.random.default_rng(seed).random(len(chance)) < chance)


def test_right_chances_have_no_more_error_than_luck_and_wrong_ones_have() -> None:
    chance = np.random.default_rng(1).random(4000)
    right = calibration("right", chance, coins(chance))
    wrong = calibration("wrong", chance**3, coins(chance))
    assert right.error < 2 * right.by_chance < 0.05 < wrong.error
    assert right.brier == pytest.approx(1 / 6, abs=0.02)  # the mean of p (1 - p)
    assert sum(count for *_, count in right.bins) == 4000
    assert "| wrong | 4,000 |" in markdown([right, wrong])


def test_platt_undoes_a_slope_and_an_offset() -> None:
    logit = np.random.default_rng(2).normal(0, 2, 20_000)
    recognised = coins(1 / (1 + np.exp(-(0.5 * logit - 1))))
    assert calibrated(logit, recognised.astype(float)) == pytest.approx((0.5, -1), abs=0.06)


def test_a_head_finds_what_matters_among_much_that_does_not() -> None:
    rng = torch.Generator().manual_seed(0)
    evidence = torch.randn(600, EVIDENCE, generator=rng)
    share = (evidence[:, -NARROW:].sum(1) > 0).float()
    seen = Seen(evidence=evidence.half(), own=evidence.half(), share=share, weight=torch.ones(600))
    head = fit(seen.take(np.arange(600) < 500), EyeSettings(epochs=15))
    told = (logits(head, evidence[500:].half()) > 0) == share[500:].bool().numpy()
    assert told.mean() > 0.75


def test_what_was_seen_is_read_back_and_not_taken_for_another_corpus(tmp_path: Path) -> None:
    if not EYE.is_file():
        pytest.skip("the package holds no weights yet")

    def seen(folder: Path, originals: int) -> tuple[Seen, Seen, NDArray[np.bool_]]:
        corpus, answers = build(folder, originals=originals)
        return see(
            read_judged([corpus], [answers]),
            torch.zeros(0, 3, 32, 32),
            load_eye(),
            weight=0.3,
            seed=0,
            kept=tmp_path / "kept",
            progress=lambda stage, done, total: None,
        )

    first, again = seen(tmp_path / "one", 2), seen(tmp_path / "one", 2)
    for one, other in zip(first[:2], again[:2], strict=True):
        for field in ("evidence", "own", "share", "weight"):
            assert torch.equal(getattr(one, field), getattr(other, field)), field
    assert first[2].tolist() == again[2].tolist()
    for folder, originals in (("two", 3), ("one", 2)):
        if folder == "one":
            (tmp_path / "kept").write_bytes(b"damaged")
        with pytest.raises(
            ConfigError, match="no evidence of these pairs by this eye; name another"
        ):
            seen(tmp_path / folder, originals)


def test_the_command_writes_weights_that_judge_and_pages(tmp_path: Path) -> None:
    if not EYE.is_file():
        pytest.skip("the package holds no weights yet")
    corpus, answers = build(tmp_path / "corpus", originals=6)
    out = tmp_path / "out"
    by = "vision-language-model"
    arguments = ["semsim", "train", corpus, "--answers", answers, "--labelled-by", by]
    arguments += ["--out", out, "--bootstraps", 100]
    result = CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert load_eye(out / "eye.safetensors").head.slope.isfinite()
    assert json.loads((out / "eye.json").read_text())["labels"]["by"] == by
    page = (out / "eye.md").read_text()
    assert "**People did not judge.** A large vision-language model did" in page
    assert (
        "Passes or annotators: ada, bob; two of them agree on\nright or not right in 67% of pictures"
        in page
    )
    ratings = read_ratings(out / "ratings.csv")
    assert (len(ratings.setting), len(ratings.raters)) == (36, 2)
    assert {"semsim", "psnr"} <= set(ratings.metrics)
    assert ratings.recognised.tolist() == [
        verdict["ada"] and verdict["bob"] for verdict in read_judged([corpus], [answers]).verdicts
    ]
    assert "The chance of being recognised" in (out / "originals.md").read_text()
    again = CliRunner().invoke(cli, list(map(str, [*arguments, "--width", 8])))
    assert again.exit_code != 0 and "--width is of the paper's network; add --paper" in again.output
