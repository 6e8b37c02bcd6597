"""The true batch as it is published or provided: brought into form, or refused."""

from typing import Any

import pytest
import torch

from fl_privacy_audit import Truth
from fl_privacy_audit.audit.truth import check_truth
from fl_privacy_audit.core.errors import TruthError
from tests.support.builders import IMAGE, make_truth


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ((2, 1, 8, 9), 2, r"^true images must be \(N, 1, 8, 8\), but got \(2, 1, 8, 9\)$"),
        ((2, 3, 8, 8), 2, r"^true images must be \(N, 1, 8, 8\), but got \(2, 3, 8, 8\)$"),
        ((1, 8, 8), 1, r"^true images must be \(N, 1, 8, 8\), but got \(1, 8, 8\)$"),
        ((2, 1, 8, 8), 3, r"^true labels must be \(2,\) class indices in 0..2, .*shape \(3,\)$"),
    ],
)
def test_truth_of_the_wrong_shape(images: tuple[int, ...], labels: int, message: str) -> None:
    truth = Truth(images=torch.zeros(images), labels=torch.zeros(labels, dtype=torch.long))
    with pytest.raises(TruthError, match=message):
        check_truth(truth, IMAGE, 3)


@pytest.mark.parametrize(
    ("value", "range_"),
    [(-0.5, r"\[-0.5, 0\]"), (1.2, r"\[0, 1.2\]"), (255, r"\[0, 255\]"), (float("nan"), r"\[nan")],
)
def test_truth_outside_the_range(value: float, range_: str) -> None:
    images = torch.zeros(1, *IMAGE.shape)
    images[0, 0, 0, 0] = value
    with pytest.raises(
        TruthError, match=rf"must be in \[0, 1\], but got {range_}.*; undo the norm"
    ):
        check_truth(Truth(images=images, labels=torch.zeros(1)), IMAGE, 3)


@pytest.mark.parametrize(
    ("labels", "seen"),
    [
        ([0, 3], "they run from 0 to 3; count classes from 0"),
        ([-1, 2], "they run from -1 to 2; count"),
        ([-100, 1], "they run from -100 to 1; -100 marks what cross-entropy ignores"),
        ([255.0, 1.0], "they run from 1 to 255"),
        ([2**40, 1], "they run from 1 to 1099511627776"),
        ([0.0, 0.5], "0.5 is not a whole number"),
        ([float("nan"), 1.0], "nan is not a whole number"),
        ([float("inf"), 1.0], "inf is not a whole number"),
        ([True, False], "they are bool"),
        ([1 + 1j, 0], "they are complex64"),
        ([[0, 1, 0], [1, 0, 0]], r"got shape (2, 3); take `labels.argmax(1)`"),
        ([[0], [1]], "got shape (2, 1); take `labels[:, 0]`"),
        (1, "got shape ()"),
    ],
)
def test_labels_that_are_no_classes_of_the_model(labels: Any, seen: str) -> None:
    truth = Truth(images=torch.zeros(2, *IMAGE.shape), labels=torch.tensor(labels))
    with pytest.raises(TruthError) as caught:
        check_truth(truth, IMAGE, 3)
    assert "must be (2,) class indices in 0..2, one for each image, but " in str(caught.value)
    assert seen in str(caught.value)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.uint8, torch.uint16])
def test_whole_labels_of_any_type_are_classes(kind: torch.dtype) -> None:
    truth = Truth(images=torch.zeros(2, *IMAGE.shape), labels=torch.tensor([2, 0]).to(kind))
    labels = check_truth(truth, IMAGE, 3).labels
    assert (labels.dtype, labels.tolist()) == (torch.int64, [2, 0])


def test_truth_of_integers_is_refused_even_where_they_are_in_range() -> None:
    images = torch.ones(1, *IMAGE.shape, dtype=torch.uint8)
    with pytest.raises(TruthError, match="true images must be floats, but are uint8: divide"):
        check_truth(Truth(images=images, labels=torch.zeros(1)), IMAGE, 3)


def test_truth_is_brought_into_form() -> None:
    images = torch.linspace(-0.005, 1.005, 64, dtype=torch.float64).view(1, *IMAGE.shape)
    truth = check_truth(Truth(images=images, labels=torch.tensor([1])), IMAGE, 3)
    assert truth.images.dtype == torch.float32
    assert (truth.images.min().item(), truth.images.max().item()) == (0, 1)
    assert len(check_truth(make_truth(0), IMAGE, 3).images) == 0


def test_truth_may_carry_a_gradient() -> None:
    images = torch.rand(1, *IMAGE.shape).requires_grad_()
    assert not check_truth(
        Truth(images=images, labels=torch.zeros(1)), IMAGE, 3
    ).images.requires_grad
