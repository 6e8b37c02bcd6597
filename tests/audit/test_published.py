"""What clients published is taken over as it is, and read where it is attacked."""

import stat
from pathlib import Path

import pytest

from fl_privacy_audit import ClientReply, Truth
from fl_privacy_audit.audit.capture_files import read_capture
from fl_privacy_audit.audit.published import PublishedBatches
from fl_privacy_audit.audit.spool import Spool
from fl_privacy_audit.core.errors import TruthError
from fl_privacy_audit.strategies import side_channel
from tests.support.builders import IMAGE, make_reply, make_truth

from .test_spool import BYTES, capture, make, put, same_truth, spool

__all__ = ["spool"]


def published(folder: Path, seed: int, *, epochs: int = 1) -> ClientReply:
    """A client of three images, two and one a step, published as model inputs."""
    truth = make_truth(count=3, seed=seed)
    names = [
        side_channel.write(
            folder, IMAGE.normalise(truth.images[rows]), truth.labels[rows], normalised=True
        )
        for rows in [slice(0, 2), slice(2, 3)] * epochs
    ]
    batches = side_channel.batches(folder, names, IMAGE)
    assert isinstance(batches, PublishedBatches)
    return make_reply(seed, num_examples=3, truth=batches)


@pytest.mark.parametrize("epochs", [1, 2])
def test_what_clients_published_comes_back_joined(
    tmp_path: Path, spool: Spool, epochs: int
) -> None:
    replies = [published(tmp_path, n, epochs=epochs) for n in range(2)]
    before = [reply.truth() for reply in replies]
    folder, left_out = put(spool, capture(replies, tmp_path))
    assert folder is not None and not left_out
    for path in tmp_path.glob("*.npz"):
        path.unlink()
    (view,) = read_capture(folder).views
    for slot, truth in zip(view.targets, before, strict=True):
        assert same_truth(slot.replies[0].truth(), truth)
    assert view.candidates is not None
    assert len(view.candidates()) == 6  # type: ignore[arg-type]
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in folder.iterdir())


def test_batches_of_one_epoch_are_taken_over_unread(
    tmp_path: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies = [published(tmp_path, n) for n in range(2)]
    read: list[Path] = []

    def noted(self: PublishedBatches, path: Path) -> Truth:
        read.append(path)
        return real(self, path)

    real = PublishedBatches._read
    monkeypatch.setattr(PublishedBatches, "_read", noted)
    folder, _ = put(spool, capture(replies, tmp_path))
    assert folder is not None
    assert len(read) == 4, "for candidates, which are few"


def test_a_published_file_that_is_gone_costs_its_own_truth(tmp_path: Path, spool: Spool) -> None:
    replies = [published(tmp_path, n) for n in range(2)]
    assert isinstance(replies[0].truth, PublishedBatches)
    replies[0].truth.files[1].unlink()
    folder, left_out = put(spool, capture(replies, tmp_path))
    assert folder is not None and not left_out
    (view,) = read_capture(folder).views
    gone, there = (slot.replies[0] for slot in view.targets)
    assert gone.truth() is None
    assert gone.no_truth is not None and "cannot be read" in str(gone.no_truth.figures)
    assert same_truth(there.truth(), replies[1].truth())


def test_a_published_link_is_not_followed(tmp_path: Path, spool: Spool) -> None:
    reply = published(tmp_path, 0)
    assert isinstance(reply.truth, PublishedBatches)
    file = reply.truth.files[0]
    file.symlink_to(file.rename(tmp_path / "elsewhere"))
    folder, _ = put(spool, capture([reply], tmp_path))
    assert folder is not None
    (view,) = read_capture(folder).views
    with pytest.raises(TruthError, match="cannot be read"):
        view.targets[0].replies[0].truth()


def test_published_batches_count_as_what_is_in_the_spool(tmp_path: Path) -> None:
    spool = make(tmp_path, spool_bytes=2 * BYTES + 100)
    try:
        _, left_out = put(spool, capture([published(tmp_path, 0)], tmp_path))
        assert [reason.code for _, reason in left_out] == ["spool full"]
    finally:
        spool.close()
