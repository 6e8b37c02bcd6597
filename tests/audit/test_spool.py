"""What comes out of the spool is what went in, for the owner alone and no more than there is room for."""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl_privacy_audit import Client, ClientReply, Truth
from fl_privacy_audit.audit.capture import Capture, captured
from fl_privacy_audit.audit.capture_files import earlier_records, read_capture
from fl_privacy_audit.audit.schedule import Release, Slot, schedule
from fl_privacy_audit.audit.spool import _HELD, Spool
from fl_privacy_audit.audit.tensors import NAMES, read_arrays, write_arrays
from fl_privacy_audit.core.guard import Guard
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.ledger.spools import spools
from tests.support.builders import (
    QUICK,
    audit_config,
    make_reply,
    make_truth,
    tiny_net,
    to_arrays,
    trained,
)

BYTES = sum(array.nbytes for array in to_arrays(tiny_net()).values())
TRUTH_BYTES = 4 * 64 + 8


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = make(tmp_path)
    yield made
    made.close()


def make(directory: Path, **settings: Any) -> Spool:
    return Spool.make(directory, "run", audit_config(directory, controls=True, **settings))


def capture(replies: list[ClientReply], directory: Path, *, release: bool = False) -> Capture:
    views = ["server", "release"] if release else ["server"]
    config = audit_config(directory, clients_per_round=2, views=views)
    made = Release(
        before=lambda: to_arrays(tiny_net()),
        after=lambda: to_arrays(trained(tiny_net(), make_truth(seed=1))),
    )
    return captured("run", 3, schedule(config, 3, replies, made))


def put(spool: Spool, what: Capture) -> tuple[Path | None, list[tuple[Slot, Reason]]]:
    return spool.put(what, None, Guard(), Counter())


def same_truth(one: Truth | None, other: Truth | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


def alike(one: Slot, other: Slot, *, spare: bool = False) -> bool:
    (mine,), (theirs,) = one.replies, other.replies
    assert (one.view, one.round, one.name) == (other.view, other.round, other.name)
    assert (mine.num_examples, dict(mine.reported)) == (theirs.num_examples, dict(theirs.reported))
    assert dict(mine.config) == dict(theirs.config)
    for arrays, others in ((mine.sent(), theirs.sent()), (mine.returned(), theirs.returned())):
        assert [*arrays] == [*others]
        assert all(np.array_equal(arrays[name], others[name]) for name in arrays)
    return same_truth(mine.truth(), theirs.truth())


def test_a_capture_comes_back_as_it_was(tmp_path: Path, spool: Spool) -> None:
    reported = {"epsilon": float("nan"), "loss": float("inf")}
    replies = [make_reply(n, reported=reported, config={"lr": 0.1 * n}) for n in range(4)]
    one = capture(replies, tmp_path)
    folder, left_out = put(spool, one)
    assert folder is not None
    assert left_out == []
    other = read_capture(folder)
    (view,), (again,) = one.views, other.views
    assert (other.run, other.round, again.seconds) == ("run", 3, view.seconds)
    assert len(again.targets) == len(view.targets) == 2
    for target, same in zip(view.targets, again.targets, strict=True):
        (mine,), (theirs,) = target.replies, same.replies
        numbers = zip(mine.reported.values(), theirs.reported.values(), strict=True)
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in numbers)
        plain = [
            replace(slot, replies=(replace(slot.replies[0], reported={}),))
            for slot in (target, same)
        ]
        assert alike(*plain)
    assert len(again.spares) == 1, "one client for the null control, of the two that there are"


def test_the_release_comes_with_the_truth_of_all_and_the_weights_of_none(
    tmp_path: Path, spool: Spool
) -> None:
    replies = [make_reply(n) for n in range(3)]
    server, released = capture(replies, tmp_path, release=True).views
    folder, _ = put(spool, Capture(run="run", round=3, views=[released]))
    assert folder is not None
    ((view),) = read_capture(folder).views
    (slot,) = view.targets
    assert slot.release is not None
    after = slot.release.after()
    assert all(
        np.array_equal(after[n], a)
        for n, a in to_arrays(trained(tiny_net(), make_truth(seed=1))).items()
    )
    assert [str(reply.client) for reply in slot.replies] == [str(r.client) for r in replies]
    assert all(same_truth(r.truth(), make_truth(seed=n)) for n, r in enumerate(slot.replies))
    assert all(reply.returned() == {} for reply in slot.replies)
    assert size(folder) < 2 * BYTES + 3 * TRUTH_BYTES + 5000
    assert server.targets


def let_go(spool: Spool) -> None:
    """As the kernel does when its process ends."""
    _HELD.remove(spool._lock)
    os.close(spool._lock)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_what_was_sent_to_all_is_written_once(tmp_path: Path, spool: Spool) -> None:
    folder, _ = put(spool, capture([make_reply(n) for n in range(2)], tmp_path))
    assert folder is not None
    assert size(folder) < 3 * BYTES + 2 * TRUTH_BYTES + 5000


def test_its_owner_alone_can_read_it(tmp_path: Path, spool: Spool) -> None:
    put(spool, capture([make_reply(0)], tmp_path))
    paths = [tmp_path / "spool", *(tmp_path / "spool").rglob("*")]
    assert len(paths) > 6
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in paths)


def test_what_there_is_no_room_for_is_left_out_and_said(tmp_path: Path) -> None:
    spool = make(tmp_path, spool_bytes=2 * BYTES + TRUTH_BYTES + 10)
    folder, left_out = put(spool, capture([make_reply(n) for n in range(2)], tmp_path))
    assert folder is not None
    (kept,) = read_capture(folder).targets
    ((slot, reason),) = left_out
    assert {kept.name, slot.name} == {"partition 0", "partition 1"}
    assert reason.code == "spool full"
    assert reason.figures == {"needed": 264e-6, "free": 10e-6, "most": 4650e-6}
    nothing, left_out = put(spool, capture([make_reply(0)], tmp_path))
    assert nothing is None
    assert [reason.code for _, reason in left_out] == ["spool full"]
    assert len(spool.captures()) == 1
    spool.done(folder)
    assert put(spool, capture([make_reply(0)], tmp_path))[0] is not None
    spool.close()


def test_a_thousand_clients_are_read_one_after_the_other(tmp_path: Path) -> None:
    alive = most = 0

    class Weights(dict[str, Any]):
        def __init__(self) -> None:
            nonlocal alive, most
            super().__init__({"weight": np.zeros(1000, np.float32)})
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    replies = [
        make_reply(None, node=n, sent=Weights, returned=Weights, publish=False) for n in range(1000)
    ]
    config = audit_config(tmp_path, clients_per_round=None)
    spool = make(tmp_path, spool_bytes=100_000)
    folder, left_out = put(spool, captured("run", 1, schedule(config, 1, replies, None)))
    assert folder is not None
    assert len(read_capture(folder).targets) == 24
    assert len(left_out) == 976
    assert most <= 3
    spool.close()


def raising() -> Any:
    raise ArithmeticError("these bytes are no weights")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"returned": raising}, "unexpected error"),
        ({"returned": lambda: {"names": np.array(["text"])}}, "update does not fit"),
        ({"returned": lambda: {"w": np.zeros(2, np.complex64)}}, "update does not fit"),
    ],
)
def test_a_reply_that_cannot_be_kept_costs_its_own_record(
    tmp_path: Path, spool: Spool, change: dict[str, Any], code: str
) -> None:
    what = capture([make_reply(0, **change), make_reply(1)], tmp_path)
    folder, left_out = put(spool, what)
    assert folder is not None
    assert [(slot.name, reason.code) for slot, reason in left_out] == [("partition 0", code)]
    assert [slot.name for slot in read_capture(folder).targets] == ["partition 1"]
    assert alike(what.targets[1], read_capture(folder).targets[0])


def test_a_truth_that_cannot_be_read_is_a_reason(tmp_path: Path, spool: Spool) -> None:
    what = capture([make_reply(0)], tmp_path)
    folder, _ = spool.put(what, lambda server_round, client: raising(), Guard(), Counter())
    assert folder is not None
    (reply,) = read_capture(folder).targets[0].replies
    assert reply.truth() is None
    assert reply.no_truth is not None
    assert reply.no_truth.figures["message"] == "these bytes are no weights"


def test_a_full_disk_costs_the_capture(
    tmp_path: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fl_privacy_audit.audit.capture_writer.write_arrays", full)
    folder, left_out = put(spool, capture([make_reply(0), make_reply(1)], tmp_path))
    assert folder is None
    assert [reason.code for _, reason in left_out] == ["capture failed"] * 2
    assert [path.name for path in spool.folder.iterdir() if path.is_dir()] == []


def test_targets_of_one_name_are_counted(tmp_path: Path, spool: Spool) -> None:
    twice = [ClientReply(**vars(make_reply(None, node=7))) for _ in range(2)]
    what = capture(twice, tmp_path)
    folder, _ = spool.put(what, None, Guard(), Counter({("server", "7"): 1}))
    assert folder is not None
    assert len(earlier_records(folder)) == len(what.targets)
    assert earlier_records(folder) == [1, 2][: len(what.targets)]


def test_a_spool_goes_to_one_process_at_a_time_and_drafts_go(tmp_path: Path) -> None:
    spool = make(tmp_path)
    folder, _ = put(spool, capture([make_reply(0)], tmp_path))
    assert list(spools(tmp_path)) == []
    assert Spool.take(spool.folder) is None
    (spool.folder / "00000001-aa.part").mkdir()
    let_go(spool)
    assert list(spools(tmp_path)) == [spool.folder]
    taken = Spool.take(spool.folder)
    assert taken is not None
    assert (taken.run, taken.config) == ("run", spool.config)
    assert taken.captures() == [folder]
    assert not (spool.folder / "00000001-aa.part").exists()
    taken.done(taken.captures()[0])
    taken.close()
    assert not (tmp_path / "spool").exists()


def test_captures_that_are_kept_stay_and_are_not_taken_up_again(tmp_path: Path) -> None:
    spool = make(tmp_path, keep_captures=True)
    folder, _ = put(spool, capture([make_reply(0)], tmp_path))
    assert folder is not None
    spool.done(folder)
    spool.close()
    taken = Spool.take(spool.folder)
    assert taken is not None
    assert (taken.captures(), taken.kept()) == ([], [folder])
    taken.close()


ARRAYS = st.dictionaries(
    st.text(max_size=4),
    st.tuples(
        st.sampled_from([*NAMES, ">f4", ">i8"]),
        st.lists(st.integers(0, 3), max_size=3),
        st.booleans(),
    ),
    max_size=4,
)


@QUICK
@given(ARRAYS)
def test_arrays_come_back_with_names_types_and_shapes(
    tmp_path_factory: pytest.TempPathFactory, made: dict[str, Any]
) -> None:
    arrays = {
        name: np.arange(int(np.prod(shape))).astype(kind).reshape(shape)[:: -1 if turned else 1]
        if shape
        else np.array(1).astype(kind)
        for name, (kind, shape, turned) in made.items()
    }
    path = tmp_path_factory.mktemp("arrays") / "0"
    write_arrays(path, arrays)
    back = read_arrays(path, list(arrays))
    assert [*back] == [*arrays]
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype.newbyteorder("=")
        assert back[name].shape == array.shape
        assert np.array_equal(back[name], array)


def test_a_client_is_told_by_node_and_partition(tmp_path: Path, spool: Spool) -> None:
    reply = make_reply(5, node=2**62)
    folder, _ = put(spool, capture([reply], tmp_path))
    assert folder is not None
    assert read_capture(folder).targets[0].replies[0].client == Client(2**62, 5)


def test_a_forked_child_does_not_hold_the_spool(tmp_path: Path) -> None:
    spool = make(tmp_path)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:  # lives on when its parent has let go
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    try:
        let_go(spool)
        taken = Spool.take(spool.folder)  # waits until the child has come so far
        assert taken is not None
        taken.close()
    finally:
        os.write(writer, b"x")
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)
