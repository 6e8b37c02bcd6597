"""Pretraining of SemSim: which original is a damaged picture of?"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional as F

from fl_privacy_audit.cli import cli
from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.lab.corpus import open_source
from fl_privacy_audit.lab.corpus.augment import translate
from fl_privacy_audit.lab.semsim import TrainSettings
from fl_privacy_audit.lab.semsim.pretraining import (
    MOVED,
    PretrainSettings,
    _batch,
    info_nce,
    moved,
    pretrain,
)
from fl_privacy_audit.lab.semsim.training import blend
from fl_privacy_audit.metrics.semsim import SemSimNet, load_semsim, semsim, to_tensors

SMALL = PretrainSettings(width=4, steps=60, batch=24)


def photographs(count: int = 120) -> torch.Tensor:
    source = open_source("photos", "nowhere")
    return (source.train.pixels(range(count), 32) * 255).round().to(torch.uint8)


def test_the_loss_against_the_obvious_way() -> None:
    cosines = torch.randn(5, 5, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    names = [0, 1, 2, 1, 3]  # two of the five are copies of the same picture
    same = torch.tensor([[a == b for b in names] for a in names])
    loss, found = info_nce(cosines, 0.3, same)
    total, right = 0.0, 0
    for i in range(5):
        others = [j for j in range(5) if j == i or names[j] != names[i]]
        own = torch.exp(cosines[i, i] / 0.3)
        of_row = sum(torch.exp(cosines[i, j] / 0.3) for j in others)
        of_column = sum(torch.exp(cosines[j, i] / 0.3) for j in others)
        total -= float(torch.log(own / of_row) + torch.log(own / of_column))
        right += all(cosines[i, i] >= cosines[j, i] for j in others)
    assert float(loss) == pytest.approx(total / 10, rel=1e-5)
    assert found == pytest.approx(right / 5)
    assert info_nce(torch.eye(4), 0.01, torch.eye(4).bool())[0] < 1e-6


def test_a_copy_is_cut_like_its_original_or_apart_and_twins_are_known() -> None:
    rng = torch.Generator().manual_seed(0)
    sources = [photographs(3)]
    tidy = replace(SMALL, batch=64, joint=True)
    whole, damaged, same = _batch(sources, tidy, rng)
    clean = (whole - damaged).abs().amax(dim=(1, 2, 3)) < 1e-6
    assert 3 < int(clean.sum()) < 40  # some copies are left as they are, and then all is equal
    assert same.diagonal().all() and torch.equal(same, same.T)
    assert len({tuple(row) for row in same.tolist()}) == 3
    whole, damaged, _ = _batch(sources, replace(tidy, joint=False), rng)
    apart = (whole - damaged).abs().amax(dim=(1, 2, 3)) < 1e-6
    assert int(apart.sum()) <= 2  # a crop meets itself in one of 162 draws


def test_a_moved_picture_leaves_black_behind() -> None:
    image = torch.arange(1, 26).view(1, 5, 5)
    for down, right in ((0, 0), (2, -1), (-3, 4)):
        shown = translate(image, down, right)
        for row in range(5):
            for column in range(5):
                y, x = row - down, column - right
                inside = 0 <= y < 5 and 0 <= x < 5
                assert int(shown[0, row, column]) == (int(image[0, y, x]) if inside else 0)
    pictures = torch.full((400, 1, 32, 32), 9, dtype=torch.uint8)
    rng = torch.Generator().manual_seed(0)
    out = moved(pictures, sets=400, rng=rng)
    share = float((out == 0).any(dim=3).any(dim=2).float().mean())
    assert share == pytest.approx(MOVED, abs=0.08)
    alike = moved(pictures, sets=200, rng=rng)
    assert torch.equal(alike[:200], alike[200:])
    assert bool((pictures == 9).all())


def test_it_goes_on_from_weights() -> None:
    start = pretrain([photographs(8)], PretrainSettings(width=2, steps=2, batch=4))
    before = to_tensors(start)
    calm = PretrainSettings(width=2, steps=1, batch=4, rate=1e-9)
    after = to_tensors(pretrain([photographs(8)], calm, start=start))
    torch.testing.assert_close(after["stem.0.weight"], before["stem.0.weight"])
    with pytest.raises(ConfigError, match="of width 2, but `width` is 4; set it to 2"):
        pretrain([photographs(8)], SMALL, start=start)


def test_a_source_of_few_pictures_is_seen_often() -> None:
    rng = torch.Generator().manual_seed(0)
    black, white = torch.zeros(16, 3, 32, 32), torch.full((1, 3, 32, 32), 255.0)
    whole, _, _ = _batch([black.byte(), white.byte()], replace(SMALL, batch=600), rng)
    share = float((whole.mean(dim=(1, 2, 3)) > 0.5).float().mean())
    assert share == pytest.approx(1 / 3, abs=0.06)  # 1 : 16 ** 0.25


def test_it_learns_to_find_originals_and_that_noise_is_far() -> None:
    seen: list[float] = []
    net = pretrain([photographs()], SMALL, on_step=lambda step, loss, found: seen.append(loss))
    assert len(seen) == SMALL.steps
    assert sum(seen[-10:]) < 0.9 * sum(seen[:10])
    truths = photographs(200)[120:].float() / 255  # others than it was trained on
    rng = torch.Generator().manual_seed(1)
    faint = (truths + 0.05 * torch.randn(truths.shape, generator=rng)).clamp(0, 1)
    strong = (truths + 0.6 * torch.randn(truths.shape, generator=rng)).clamp(0, 1)
    near, far = semsim(faint, truths, net=net), semsim(strong, truths, net=net)
    assert (near < far).float().mean() > 0.9


def test_the_same_seed_gives_the_same_weights_and_leaves_random_numbers_alone() -> None:
    short = PretrainSettings(width=2, steps=2, batch=4)
    before = torch.random.get_rng_state()
    first, again = (to_tensors(pretrain([photographs(8)], short)) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = to_tensors(
        pretrain([photographs(8)], PretrainSettings(width=2, steps=2, batch=4, seed=1))
    )
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_blend_is_the_mean_of_start_and_trained() -> None:
    start, trained = SemSimNet(2), SemSimNet(2)
    first = {k: v.clone() for k, v in start.state_dict().items()}
    last = {k: v.clone() for k, v in trained.state_dict().items()}
    blend(trained, start, 0.25)
    for name, value in trained.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.25 * first[name] + 0.75 * last[name])
    assert not torch.equal(trained.state_dict()["stem.0.weight"], last["stem.0.weight"])
    with pytest.raises(ConfigError, match=r"`blend` must be in \[0, 1\), but got 1"):
        TrainSettings(blend=1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 1}, "`batch` must be a whole number of at least 2, but got 1"),
        ({"steps": 0}, "`steps` must be a whole number of at least 1, but got 0"),
        ({"temperature": 0.0}, "`temperature` must be a positive number, but got 0.0"),
    ],
)
def test_bad_settings_are_said(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PretrainSettings(**changes)  # type: ignore[arg-type]


def test_bad_pictures_are_said() -> None:
    for sources in ([], [F.pad(photographs(2), (0, 1))], [photographs(2)[:0]]):
        with pytest.raises(ConfigError, match=r"must be \(N, 3, 32, 32\)"):
            pretrain(sources, SMALL)


def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "start.safetensors"
    arguments = ["semsim", "pretrain", "--source", "photos", "--images", "9", "--out", str(out)]
    arguments += ["--width", "2", "--steps", "2", "--batch", "4"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert f"{out}: pretrained on 9 pictures of 1 sources" in result.output
    assert load_semsim(out).width == 2
    again = CliRunner().invoke(cli, arguments)
    assert again.exit_code != 0
    assert "exists already" in again.output
