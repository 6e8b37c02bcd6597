"""Temperature, threshold and reliability have known answers; so has the dealing of pictures."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor, nn

from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.lab.machines import Pictures, calibrate
from fl_privacy_audit.lab.machines.calibrate import (
    LEAST,
    NEVER,
    best_temperature,
    best_threshold,
    decide,
    reliability,
)
from fl_privacy_audit.lab.machines.looks import likeliest, looks, stretch
from fl_privacy_audit.lab.machines.pictures import half_of, hold_out, read_pictures
from tests.support.annotator_cases import save_folder, shapes


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_was_applied_is_found(temperature: float) -> None:
    rng = Generator().manual_seed(0)
    honest = 2 * torch.randn(20_000, 5, generator=rng)
    truth = torch.multinomial(honest.softmax(dim=1), 1, generator=rng).flatten()
    assert best_temperature(honest * temperature, truth) == pytest.approx(temperature, rel=0.05)


def test_the_surest_look_answers() -> None:
    scores = torch.tensor([[[0.0, math.log(3.0) * 2]], [[math.log(9.0) * 2, 0.0]]])
    confidence, named = likeliest(scores, 2.0)
    assert confidence.item() == pytest.approx(0.9)
    assert named.item() == 0
    confidence, named = likeliest(scores[:1], 2.0)
    assert confidence.item() == pytest.approx(0.75)
    assert named.item() == 1


def test_squinting_brings_a_noisy_picture_nearer_to_the_clean_one() -> None:
    clean = (shapes(20).pixels / 255).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    noise = torch.randn(clean.shape, generator=Generator().manual_seed(0))
    noisy = (clean + 0.3 * noise).clamp(0, 1)
    plain, *squints = looks(noisy)
    assert torch.equal(plain, noisy)

    def likeness(one: Tensor) -> float:
        mine, true = (each - each.mean(dim=(2, 3), keepdim=True) for each in (one, clean))
        return float(F.cosine_similarity(mine.flatten(1), true.flatten(1)).mean())

    for squint in squints:
        assert likeness(squint) > likeness(plain) + 0.05


def test_stretching_undoes_a_loss_of_contrast() -> None:
    picture = shapes(1).pixels / 255
    lost = 0.6 + 0.2 * (picture - picture.mean())
    torch.testing.assert_close(stretch(lost), stretch(picture), atol=1e-4, rtol=0)


@given(
    grades=st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=60),
    precision=st.sampled_from([0.0, 0.5, 0.8, 1.0]),
)
def test_the_threshold_is_the_lowest_of_all_that_would_do(
    grades: list[tuple[int, bool]], precision: float
) -> None:
    """The oracle tries every confidence that occurs."""
    confidence = torch.tensor([grade / 20 for grade, _ in grades], dtype=torch.float64)
    right = torch.tensor([good for _, good in grades])
    would_do = []
    for candidate in confidence.unique().tolist():
        given = confidence >= candidate
        if int(given.sum()) >= LEAST and float(right[given].double().mean()) >= precision:
            would_do.append(candidate)
    expected = min(would_do, default=NEVER)
    assert best_threshold(confidence, right, precision) == expected


def test_no_confidence_reaches_never() -> None:
    assert best_threshold(torch.ones(50), torch.zeros(50, dtype=torch.bool), 0.9) == NEVER
    assert decide(torch.tensor([1.0]), torch.tensor([0]), NEVER).tolist() == [-1]


def test_reliability_by_hand() -> None:
    confidence = torch.tensor([0.25, 0.25, 1.0, 0.95], dtype=torch.float64)
    right = torch.tensor([True, False, True, True])
    bins, error = reliability(confidence, right)
    assert [one.count for one in bins] == [0, 0, 2, 0, 0, 0, 0, 0, 0, 2]
    assert bins[2].right == 0.5
    assert bins[9].confidence == pytest.approx(0.975)
    assert math.isnan(bins[0].right)
    assert error == pytest.approx(0.5 * 0.25 + 0.5 * 0.025)


class Brightest(nn.Module):
    """Names the brightest channel, sure of it where it is far ahead."""

    def forward(self, pixels: Tensor) -> Tensor:
        return 30 * pixels.mean(dim=(2, 3))


def colours(count: int) -> Pictures:
    labels = torch.arange(count) % 3
    pixels = torch.full((count, 3, 12, 12), 60, dtype=torch.uint8)
    pixels[torch.arange(count), labels] = 200
    return Pictures(classes=("red", "green", "blue"), pixels=pixels, labels=labels)


def test_calibrating_a_judge_of_colours() -> None:
    found = calibrate(Brightest(), colours(300), precision=0.95)
    assert found.habits["clean"].right == 1
    answered = found.habits["corrupted"]
    assert 0.05 < answered.answered < 1
    total = found.pictures
    assert total == 300 * 2 + 150
    assert sum(one.count for one in found.reliability) == total
    blanks = found.habits["blank"]
    right = answered.right_if_answered * answered.answered * 600
    given = answered.answered * 600 + blanks.answered * 150
    assert right / given >= 0.95
    assert blanks.right == 0
    again = calibrate(Brightest(), colours(300), precision=0.95)
    assert repr(found) == repr(again)  # NaN differs from itself


def test_asking_for_more_precision_means_fewer_answers() -> None:
    shares = [
        calibrate(Brightest(), colours(300), precision=wanted).habits["corrupted"].answered
        for wanted in (0.6, 0.9, 0.99)
    ]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[-1]


def test_a_choice_among_fewer_classes_is_easier() -> None:
    every, two = (calibrate(Brightest(), colours(300), candidates=some) for some in (0, 2))
    assert two.pictures == 200 * 2 + 100
    assert two.habits["corrupted"].right > every.habits["corrupted"].right


def test_too_few_pictures_to_calibrate_on() -> None:
    with pytest.raises(CorpusError, match="9 held-out pictures are too few to calibrate on"):
        calibrate(Brightest(), colours(9))


@given(count=st.integers(4, 90), seed=st.integers(0, 99))
def test_halves_and_held_out_pictures_share_nothing(count: int, seed: int) -> None:
    numbers = torch.arange(count)
    pictures = Pictures(
        classes=("a", "b", "c"), pixels=numbers.view(-1, 1, 1, 1), labels=numbers % 3
    )
    first, second = (half_of(pictures, half, seed=seed) for half in ("first", "second"))
    common = set(first.pixels.flatten().tolist()) & set(second.pixels.flatten().tolist())
    single = {n for n in range(count) if count < 6 and (numbers % 3 == n % 3).sum() == 1}
    assert common == single
    assert len(first) + len(second) == count + len(single)
    learnt, aside = hold_out(pictures, most=5, seed=seed)
    assert not set(learnt.pixels.flatten().tolist()) & set(aside.pixels.flatten().tolist())
    assert set(learnt.labels.tolist()) == {0, 1, 2}
    assert 1 <= len(aside) <= 5


def test_pictures_are_read_from_folders(tmp_path: Path) -> None:
    saved = shapes(12)
    folder = save_folder(saved, tmp_path / "pictures")
    (folder / "empty").mkdir()
    read = read_pictures(folder, size=16)
    assert read.classes == ("bar", "cross", "disc", "empty", "pole")
    assert sorted(read.pixels.flatten(1).sum(dim=1).tolist()) == sorted(
        saved.pixels.flatten(1).sum(dim=1).tolist()
    )
    assert torch.bincount(read.labels).tolist() == [3, 3, 3, 0, 3]
    (folder / "bar" / "bad.png").write_bytes(b"?")
    with pytest.raises(CorpusError, match=r"the picture .*bad.png is damaged"):
        read_pictures(folder)
    with pytest.raises(CorpusError, match=r"there is no folder .*none"):
        read_pictures(tmp_path / "none")
    with pytest.raises(CorpusError, match="has no sub-folder with pictures"):
        read_pictures(tmp_path / "pictures" / "empty")
    with pytest.raises(CorpusError, match="there is no folder"):
        read_pictures(f"cifar10:{tmp_path}")
