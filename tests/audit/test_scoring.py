import hashlib
import re
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fl_privacy_audit import ImageConfig, Truth
from fl_privacy_audit.audit.attack_round import Attempts
from fl_privacy_audit.audit.pictures import save_picture
from fl_privacy_audit.audit.scoring import (
    check_metrics,
    labels_right,
    score_round,
    worst_scores,
)
from fl_privacy_audit.audit.truth import check_truth, key_file, truth_digest
from fl_privacy_audit.core.errors import AttackError, ConfigError
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import Reconstruction
from fl_privacy_audit.ledger.records import AttackOutcome
from fl_privacy_audit.metrics import METRICS
from fl_privacy_audit.report.sentences import say
from tests.support.attempt_cases import attempts, made_of
from tests.support.builders import IMAGE, audit_config, make_truth, outcome

PIXEL = ("mse", "psnr", "ssim")


def score_all(
    of_targets: Sequence[Attempts],
    metrics: Sequence[str] = PIXEL,
    pictures: Sequence[Path | None] | None = None,
    *,
    fail_fast: bool = False,
) -> list[AttackOutcome]:
    config = audit_config(Path(), metrics=metrics, fail_fast=fail_fast)
    return score_round(of_targets, config=config, pictures=pictures or [None] * len(of_targets))


def scored(
    result: Reconstruction, truth: Truth | None, pictures: Path | None = None
) -> AttackOutcome:
    path = None if pictures is None else pictures / "one.png"
    (outcome,) = score_all([attempts(result, truth)], pictures=[path])
    return outcome


def levels(count: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, *shape), generator=rng) / 255


def cut(path: Path, rows: int, columns: int) -> list[list[np.ndarray]]:
    pixels = np.asarray(Image.open(path))
    return [np.split(row, columns, axis=1) for row in np.split(pixels, rows, axis=0)]


def test_scores_in_the_order_of_the_truth() -> None:
    truth = make_truth(3)
    noise = torch.tensor([0.0, 0.2, 0.05]).view(3, 1, 1, 1)
    guesses = (truth.images + noise).clamp(0, 1)
    got = scored(made_of(guesses[[2, 0, 1]], truth.labels.flip(0)), truth)
    assert (got.status, got.reason, got.labels_right) == ("scored", None, 1.0)
    assert (got.objective, got.steps, got.attack) == (0.5, 3, "dlg")
    assert got.details == {"a": 1.0}
    assert tuple(got.scores) == PIXEL
    for name in PIXEL:
        metric = METRICS[name]
        expected = metric.function(guesses, truth.images).tolist()
        assert got.scores[name].each == expected
        assert got.scores[name].mean == pytest.approx(sum(expected) / 3)
        assert got.scores[name].worst == expected[0]
    assert got.scores["psnr"].worst == 100


def test_without_truth_it_is_not_scored(tmp_path: Path) -> None:
    images = levels(2, (1, 8, 8))
    got = scored(made_of(images), None, tmp_path / "pictures")
    assert (got.status, got.reason, got.scores) == ("not scored", Reason.of("no truth"), {})
    assert (got.objective, got.steps, got.seconds, got.budget_seconds) == (0.5, 3, 1.0, 2.0)
    assert (got.picture, got.labels_right, got.details) == ("pictures/one.png", None, {"a": 1.0})
    (row,) = cut(tmp_path / "pictures/one.png", 1, 2)
    assert all(np.array_equal(a, 255 * b[0]) for a, b in zip(row, images, strict=True))


def test_an_empty_batch_is_not_scored(tmp_path: Path) -> None:
    got = scored(made_of(levels(1, (1, 8, 8))), make_truth(0), tmp_path / "pictures")
    assert (got.status, got.reason) == ("not scored", Reason.of("empty batch"))
    assert not (tmp_path / "pictures").exists()


def test_originals_that_nothing_answers_are_noted() -> None:
    truth = make_truth(3)
    got = scored(made_of(truth.images[1:2]), truth)
    assert got.status == "scored"
    assert got.details == {"a": 1.0, "originals without a reconstruction": 2.0}
    assert got.scores["psnr"].each == [100.0]
    assert got.labels_right is None


def test_more_reconstructions_than_originals() -> None:
    truth = make_truth(1)
    got = scored(made_of(torch.cat([levels(2, (1, 8, 8), 5), truth.images])), truth)
    assert got.scores["mse"].each == [0.0]
    assert got.details == {"a": 1.0}


@pytest.mark.parametrize(
    ("guessed", "true", "share"),
    [
        ([0, 1, 2], [2, 1, 0], 1.0),
        ([1, 1, 1], [1, 2, 1], 2 / 3),
        ([1, 2, 2], [1, 1, 2], 2 / 3),
        ([0], [1], 0.0),
        ([0, 1, 1, 1], [1, 0], 1.0),
        ([0], [0, 0], 0.5),
    ],
)
def test_labels_right_counts_a_multiset(guessed: list[int], true: list[int], share: float) -> None:
    assert labels_right(torch.tensor(guessed), torch.tensor(true)) == pytest.approx(share)


def test_digest_tells_batches_apart() -> None:
    truth = Truth(images=levels(3, IMAGE.shape), labels=torch.tensor([0, 1, 2]))

    def digest(images: Tensor) -> str:
        return truth_digest(Truth(images=images, labels=torch.zeros(len(images))))

    same = truth_digest(truth)
    assert digest(truth.images[[2, 0, 1]]) == same
    assert digest(truth.images + 0.1 / 255) == digest(truth.images - 0.1 / 255) == same
    brighter = truth.images.clone()
    brighter[1, 0, 3, 3] = 1 - brighter[1, 0, 3, 3]
    others = [brighter, truth.images[:2], truth.images[[0, 1, 1]], truth.images[[0, 1, 2, 2]]]
    others.append(truth.images.transpose(2, 3))
    assert len({same, *map(digest, others)}) == 1 + len(others)


def test_a_digest_proves_nothing_to_those_without_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = make_truth(1)
    digests = {truth_digest(truth)}
    for user in ("one", "other"):
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / user))
        digests.add(truth_digest(truth))
        assert stat.S_IMODE(key_file().stat().st_mode) == 0o600
        assert [path.name for path in key_file().parent.iterdir()] == ["digest.key"]
    assert len(digests) == 3
    pixels = (truth.images[0] * 255).round().to(torch.uint8).numpy().tobytes()
    unkeyed = hashlib.sha256(hashlib.sha256(pixels).digest()).hexdigest()
    assert unkeyed[:16] not in digests


@pytest.mark.parametrize("content", [None, b"", b"short"])
def test_without_a_key_batches_of_one_run_still_pair(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    content: bytes | None,
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    if content is None:
        (tmp_path / "fl-privacy-audit").touch()
    else:
        key_file().parent.mkdir()
        key_file().write_bytes(content)
    assert truth_digest(make_truth(1)) == truth_digest(make_truth(1))
    assert "cannot be paired with those of other runs" in caplog.text


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_for_the_owner_and_cut_up_again(tmp_path: Path, channels: int) -> None:
    image = ImageConfig(shape=(channels, 8, 9), mean=(0,) * channels, std=(1,) * channels)
    truth = Truth(images=levels(3, image.shape), labels=torch.zeros(3))
    guesses = levels(3, image.shape, 1)
    got = scored(made_of(guesses), check_truth(truth, image, 3), tmp_path / "pictures")
    assert got.picture == "pictures/one.png"
    path = tmp_path / got.picture
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    originals, answers = cut(path, 2, 3)
    expected = truth.images.permute(0, 2, 3, 1).squeeze(-1) * 255
    for cell, guess, wanted in zip(originals, answers, expected, strict=True):
        assert np.array_equal(cell, wanted.round().numpy())
        mine = list(guesses.permute(0, 2, 3, 1).squeeze(-1) * 255)
        assert any(np.array_equal(guess, g.round().numpy()) for g in mine)
        mse = np.mean((cell / 255.0 - guess / 255.0) ** 2)
        assert any(mse == pytest.approx(m, abs=1e-6) for m in got.scores["mse"].each)


def test_a_folder_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    folder.chmod(0o755)
    save_picture(folder / "one.png", [levels(1, IMAGE.shape)])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert stat.S_IMODE((folder / "one.png").stat().st_mode) == 0o600


def test_pictures_do_not_follow_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "pictures").symlink_to("elsewhere")
    with pytest.raises(OSError, match="links are not followed"):
        save_picture(tmp_path / "pictures" / "one.png", [levels(1, IMAGE.shape)])
    assert not list((tmp_path / "elsewhere").iterdir())


def test_no_picture_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert scored(made_of(make_truth(1).images), make_truth(1)).picture is None
    assert not list(tmp_path.iterdir())


def test_small_images_go_without_ssim() -> None:
    truth = Truth(images=levels(1, (1, 5, 9)), labels=torch.tensor([0]))
    got = scored(made_of(truth.images), truth)
    assert set(got.scores) == {"mse", "psnr"}
    assert set(got.unavailable) == {"ssim"}
    assert "images of 7 pixels a side" in say(got.unavailable["ssim"])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(0, 1, 8, 8), "must return images"),
        (torch.zeros(8, 8), "must return images"),
        (torch.full((1, 1, 8, 8), float("nan")), "not finite"),
        (torch.zeros(1, 1, 8, 9), r"return images of \(1, 8, 8\), but returned \(1, 8, 9\)$"),
    ],
)
def test_what_is_no_picture_is_refused(images: Tensor, message: str) -> None:
    truth = Truth(images=levels(1, IMAGE.shape), labels=torch.tensor([0]))
    got = scored(made_of(images), truth)
    assert (got.status, got.scores, got.objective) == ("failed", {}, 0.5)
    assert got.reason is not None and got.reason.cause is not None
    assert re.search(message, say(got.reason))
    with pytest.raises(AttackError, match=message):
        score_all([attempts(made_of(images), truth)], fail_fast=True)


def noisy(count: int, seed: int, *, controls: int = 0) -> Attempts:
    truth = Truth(images=levels(count, (3, 16, 16), seed), labels=torch.zeros(count))
    guesses = (truth.images + 0.1 * levels(count, (3, 16, 16), seed + 50)).clamp(0, 1)
    return attempts(made_of(guesses), truth, controls=controls)


@pytest.mark.usefixtures("made_up_networks")
def test_a_round_is_scored_as_its_targets_one_by_one() -> None:
    unscored = attempts(made_of(levels(1, (3, 16, 16))), None)
    together = [noisy(2, 0, controls=1), unscored, noisy(1, 1), noisy(3, 2)]
    outcomes = score_all(together, tuple(METRICS))
    assert [len(o.scores) for o in outcomes] == [len(METRICS), 0, len(METRICS), len(METRICS)]
    for one, got in zip(together, outcomes, strict=True):
        (alone,) = score_all([one], tuple(METRICS))
        for name, scores in alone.scores.items():
            assert got.scores[name].each == pytest.approx(scores.each, rel=1e-5, abs=1e-7)
            assert got.scores[name].worst == METRICS[name].worst(got.scores[name].each)
    (control,) = outcomes[0].controls
    for name, scores in control.scores.items():
        assert scores.each == pytest.approx(outcomes[0].scores[name].each, rel=1e-5, abs=1e-7)


def test_each_metric_sees_all_pairs_of_a_round_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def count(guesses: Tensor, originals: Tensor) -> Tensor:
        sizes.append(len(guesses))
        return torch.zeros(len(originals), dtype=torch.float64)

    monkeypatch.setitem(METRICS, "mse", replace(METRICS["mse"], function=count))
    score_all([noisy(2, 0, controls=1), noisy(1, 1), noisy(3, 2)], ("mse",))
    assert sizes == [8]


def broken(guesses: Tensor, originals: Tensor) -> Tensor:
    raise RuntimeError("out of memory")


def test_a_metric_that_breaks_costs_no_other_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "mse", replace(METRICS["mse"], function=broken))
    (got,) = score_all([noisy(1, 0)], ("mse", "psnr"))
    assert got.status == "scored"
    assert set(got.scores) == {"psnr"}
    assert got.unavailable == {
        "mse": Reason.of("unexpected error", type="RuntimeError", message="out of memory")
    }
    with pytest.raises(RuntimeError, match="out of memory"):
        score_all([noisy(1, 0)], ("mse", "psnr"), fail_fast=True)


def test_a_value_that_is_not_a_number_is_not_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    def nan(guesses: Tensor, originals: Tensor) -> Tensor:
        return torch.full((len(originals),), float("nan"), dtype=torch.float64)

    monkeypatch.setitem(METRICS, "ssim", replace(METRICS["ssim"], function=nan))
    (got,) = score_all([noisy(1, 0)], ("ssim",), fail_fast=True)
    assert got.scores == {}
    assert "not finite" in say(got.unavailable["ssim"])


def test_unknown_metrics() -> None:
    check_metrics(tuple(METRICS))
    with pytest.raises(
        ConfigError, match=r"^there is no metric 'vif'; there are: semsim, recognised, lpips, "
    ):
        check_metrics(("psnr", "vif"))


def test_the_worst_scores() -> None:
    assert worst_scores([outcome(status="failed")]) == {}
    both = [outcome({"semsim": 0.5, "psnr": 9.0}), outcome({"semsim": 0.25, "psnr": 8.0})]
    assert worst_scores(both) == {"semsim": 0.25, "psnr": 9.0}
