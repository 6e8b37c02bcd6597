"""Batches that are much the same count as one; the oracle is the set of images itself."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fl_privacy_audit import Truth
from fl_privacy_audit.audit.truth import truth_digest, truth_sketch
from fl_privacy_audit.ledger.records import SKETCH, AuditRecord
from fl_privacy_audit.verdicts.batches import BatchNames
from fl_privacy_audit.verdicts.interval import spread
from fl_privacy_audit.verdicts.verdict import FEWEST, LEVEL
from tests.support.builders import audit_line

POOL = torch.rand(400, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def holding(*images: int, client: int = 0) -> AuditRecord:
    rows = list(images)
    truth = Truth(images=POOL[rows], labels=torch.zeros(len(rows), dtype=torch.long))
    line = audit_line(partition=client, digest=truth_digest(truth))
    return line.model_copy(update={"truth_sketch": truth_sketch(truth)})


def drawn(rounds: int, of: int, batch: int, client: int = 0) -> list[AuditRecord]:
    """Each round a batch of the client's images, all of them where ``of == batch``."""
    rng = torch.Generator().manual_seed(client)
    return [
        holding(*(torch.randperm(of, generator=rng)[:batch] + 100 * client).tolist())
        for _ in range(rounds)
    ]


def batches_of(records: Sequence[AuditRecord]) -> list[str]:
    names = BatchNames()
    return [names.name(record) for record in records]


def distinct(records: Sequence[AuditRecord]) -> int:
    return len(set(batches_of(records)))


@pytest.mark.parametrize("batch", [4, 32, 80])
def test_half_the_images_in_common_is_one_batch_and_less_is_not(batch: int) -> None:
    def pair(shared: int) -> int:
        return distinct(
            [holding(*range(batch)), holding(*range(batch - shared, 2 * batch - shared))]
        )

    assert [pair(batch), pair(batch * 3 // 4)] == [1, 1]
    assert [pair(batch // 4), pair(0)] == [2, 2]
    assert 2 * batch > SKETCH or (pair(batch // 2), pair(batch // 2 - 1)) == (1, 2)  # known exactly


def test_a_loader_that_drops_the_last_images_gives_the_same_batch_in_every_round() -> None:
    clients = [*drawn(10, of=40, batch=32), *drawn(10, of=40, batch=32, client=1)]
    assert distinct(clients) == 2
    assert batches_of(clients)[0] == clients[0].truth_digest
    assert distinct(drawn(10, of=100, batch=10)) == 10


def test_without_images_a_digest_tells_and_without_truth_every_record_is_its_own() -> None:
    old = [audit_line(round=i, digest=f"{i % 3}") for i in range(6)]
    assert batches_of(old) == ["0", "1", "2"] * 2
    assert distinct([audit_line(round=i, digest=None) for i in range(6)]) == 6


def test_a_sketch_is_as_long_as_it_may_be_and_knows_no_order() -> None:
    one, other = holding(*range(50)), holding(*reversed(range(50)))
    assert len(one.truth_sketch) == SKETCH
    assert (one.truth_sketch, one.truth_digest) == (other.truth_sketch, other.truth_digest)
    assert len(holding(1, 2).truth_sketch) == 2


# ---- why: scores of an update that holds nothing, of an attack and two null attacks

RUNS = 300


def leaks(scores: NDArray[np.float64]) -> bool:
    """By values ``(3, U)`` that are taken to be independent."""
    return all(spread(scores[0] - null, confidence=LEVEL).low > 0 for null in scores[1:])


@pytest.mark.parametrize(
    ("correlation", "of_images"), [(0.0, (0, 2)), (0.1, (6, 30)), (0.5, (36, 72))]
)
def test_images_that_share_the_luck_of_their_batch_leak_by_chance(
    correlation: float, of_images: tuple[int, int]
) -> None:
    """One in a hundred is allowed; three in a thousand such tests find more than nine of 300."""
    rng = np.random.default_rng(0)
    by_image = by_batch = 0
    for _ in range(RUNS):
        luck = rng.standard_normal((3, FEWEST, 1))
        own = rng.standard_normal((3, FEWEST, 32))
        scores = correlation**0.5 * luck + (1 - correlation) ** 0.5 * own
        by_image += leaks(scores.reshape(3, -1))
        by_batch += leaks(scores.mean(axis=2))
    assert of_images[0] <= by_image <= of_images[1]
    assert by_batch <= 9


@pytest.mark.parametrize(("images", "most", "least"), [(40, 40, 10), (320, 9, 0)])
def test_batches_of_much_the_same_images_leak_by_chance(images: int, most: int, least: int) -> None:
    """Half of the variance is of the image, the same in every round."""
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(RUNS):
        of_image = rng.standard_normal((3, images))
        picks = [rng.choice(images, 32, replace=False) for _ in range(10)]
        rounds = [(of_image[:, pick] + rng.standard_normal((3, 32))).mean(axis=1) for pick in picks]
        found += leaks(np.stack(rounds, axis=1))
    assert least <= found <= most
