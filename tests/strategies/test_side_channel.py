"""The truth goes through a private file in a round's folder, by a random name, and is gone afterwards."""

import logging
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from fl_privacy_audit import Auditor, Truth, read_ledger
from fl_privacy_audit.audit.published import PublishedBatches
from fl_privacy_audit.core import private_folders
from fl_privacy_audit.core.errors import TruthError
from fl_privacy_audit.core.private_folders import DIRECTORY_VARIABLE
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import Client
from fl_privacy_audit.ledger.records import AuditRecord
from fl_privacy_audit.strategies import AuditedStrategy, audit_mod, side_channel
from fl_privacy_audit.strategies.mods import KEY, _warn_once
from tests.support.builders import IMAGE, audit_config, make_truth, tiny_net
from tests.support.cases import image_config, photos
from tests.support.grid import FIRST_NODE, InProcessGrid
from tests.support.publishing import client, publish
from tests.support.spies import Spy

SPEC = image_config()
LABELS = torch.arange(4)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path / "truth"))
    return tmp_path / "truth"


@pytest.fixture
def folder(home: Path) -> Iterator[Path]:
    folder = side_channel.open_round([1], 1)
    yield folder
    side_channel.close_round(folder)
    assert not list(home.iterdir())


def read(folder: Path, names: list[str]) -> Truth:
    batches = side_channel.batches(folder, names, SPEC)
    assert isinstance(batches, PublishedBatches)
    return batches()


def test_a_batch_comes_back_as_it_was(home: Path, folder: Path) -> None:
    name = side_channel.write(folder, photos(), LABELS, normalised=False)
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE(home.stat().st_mode) == 0o700
    truth = read(folder, [name])
    assert torch.equal(truth.images, photos())
    assert torch.equal(truth.labels, LABELS)


def test_model_inputs_are_turned_back_into_pixels(folder: Path) -> None:
    name = side_channel.write(folder, SPEC.normalise(photos()), LABELS, normalised=True)
    assert torch.allclose(read(folder, [name]).images, photos(), atol=1e-6)


def test_an_image_used_in_two_steps_counts_once(folder: Path) -> None:
    first = side_channel.write(folder, photos()[:3], LABELS[:3], normalised=False)
    second = side_channel.write(folder, photos()[1:], LABELS[1:], normalised=False)
    truth = read(folder, [first, second])
    assert torch.equal(truth.images, photos())
    assert torch.equal(truth.labels, LABELS)


def test_an_image_that_is_twice_in_a_batch_counts_twice(folder: Path) -> None:
    twice = [0, 1, 0]
    names = [
        side_channel.write(folder, photos()[chosen], LABELS[chosen], normalised=False)
        for chosen in (twice, [0, 2])
    ]
    truth = read(folder, names)
    assert torch.equal(truth.images, photos()[[*twice, 2]])


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (photos().numpy(), LABELS.numpy()),
        (photos().double().numpy(), LABELS.int().tolist()),
        (photos().numpy().tolist(), LABELS.float()),
        (list(photos().numpy()), list(LABELS.numpy())),
        (list(photos()), list(LABELS)),
        (photos().clone().requires_grad_(), tuple(LABELS)),
        (photos().to(memory_format=torch.channels_last), LABELS),
        (photos().numpy()[::-1][::-1], LABELS.to(torch.uint8)),
    ],
)
def test_arrays_of_any_kind_are_taken(folder: Path, images: Any, labels: Any) -> None:
    name = side_channel.write(folder, images, labels, normalised=False)
    truth = read(folder, [name])
    assert torch.equal(truth.images, photos())
    assert torch.equal(truth.labels, LABELS)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_taken(folder: Path, kind: torch.dtype) -> None:
    name = side_channel.write(folder, photos().to(kind), LABELS, normalised=False)
    assert torch.equal(read(folder, [name]).images, photos().to(kind).float())


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "a" * 31, "A" * 32])
def test_only_our_own_names_are_read(folder: Path, name: str) -> None:
    refused = side_channel.batches(folder, [name], SPEC)
    assert isinstance(refused, Reason)
    assert "is not the name of a published batch" in refused.said


def test_a_file_that_is_not_here_says_so(folder: Path) -> None:
    with pytest.raises(TruthError, match="cannot be read"):
        read(folder, ["0" * 32])


def test_a_folder_behind_a_link_is_refused(home: Path) -> None:
    (home.parent / "elsewhere").mkdir()
    home.symlink_to(home.parent / "elsewhere")
    with pytest.raises(TruthError, match="belongs to another user"):
        private_folders.make_home()


def test_a_folder_that_was_there_keeps_its_mode(home: Path) -> None:
    home.mkdir(mode=0o755)
    home.chmod(0o755)
    side_channel.open_round([1], 1)
    assert stat.S_IMODE(home.stat().st_mode) == 0o755


def test_a_round_is_found_by_its_nodes_in_its_run_while_it_is_open() -> None:
    folder = side_channel.open_round([5, 6], 7)
    assert side_channel.find_round(6, 7) == folder
    assert side_channel.find_round(4, 7) is None
    assert side_channel.find_round(6, 8) is None
    side_channel.close_round(folder)
    assert side_channel.find_round(6, 7) is None


def test_a_client_finds_no_round_of_a_server_that_is_gone(folder: Path) -> None:
    assert side_channel.find_round(1, 1) == folder
    os.close(private_folders._HELD.pop(folder))  # as a kill does
    assert side_channel.find_round(1, 1) is None


def federate(
    directory: Path,
    app: ClientApp,
    *,
    rounds: int = 1,
    nodes: int = 2,
    lost: tuple[int, ...] = (),
    truth: Any = None,
    **settings: Any,
) -> tuple[AuditRecord, ...]:
    settings = {"clients_per_round": None, "metrics": ["mse"], **settings}
    config = audit_config(directory, **settings)
    auditor = Auditor(config, model=tiny_net(), truth=truth, attacks=[Spy()])
    strategy = FedAvg(fraction_evaluate=0.0, min_evaluate_nodes=0)
    AuditedStrategy(strategy, auditor=auditor).start(
        grid=InProcessGrid(app, nodes, lost=lost),
        initial_arrays=ArrayRecord(tiny_net().state_dict()),
        num_rounds=rounds,
    )
    return read_ledger(directory).audits


def no_truth(records: tuple[AuditRecord, ...]) -> Reason | None:
    (reason,) = {outcome.reason for record in records for outcome in record.attacks}
    return reason


def test_a_published_batch_is_scored_and_nothing_of_it_stays(tmp_path: Path, home: Path) -> None:
    files: list[int] = []
    app = client(publish, audit_mod, after=lambda c: files.append(len(list(home.glob("*/*.npz")))))
    records = federate(tmp_path, app)
    assert files == [1, 2]
    assert [o.status for r in records for o in r.attacks] == ["scored"] * 2
    assert {r.partition for r in records} == {0, 1}
    assert not list(home.iterdir())


def test_a_round_that_is_not_due_has_nothing_written(tmp_path: Path, home: Path) -> None:
    files: list[int] = []
    app = client(publish, audit_mod, after=lambda c: files.append(len(list(home.glob("*/*.npz")))))
    records = federate(tmp_path, app, rounds=3, every=2)
    assert files == [1, 2, 0, 0, 1, 2]
    assert {r.partition for r in records} == {0, 1}, "the partition is told in every round"


def test_nothing_is_written_where_the_truth_comes_from_elsewhere(
    tmp_path: Path, home: Path
) -> None:
    def truth(server_round: int, who: Client) -> Truth:
        return make_truth(seed=who.partition or 0)

    records = federate(tmp_path, client(publish, audit_mod), truth=truth)
    assert [o.status for r in records for o in r.attacks] == ["scored"] * 2
    assert not home.exists()


def test_a_machine_without_a_request_of_the_server_has_nothing_written(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(message: Message, context: Context, call_next: Any) -> Message:
        monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path / "other machine"))
        reply: Message = call_next(message, context)
        monkeypatch.setenv(DIRECTORY_VARIABLE, str(home))
        return reply

    records = federate(tmp_path, client(publish, elsewhere, audit_mod))
    assert no_truth(records) == Reason.of("no shared folder")
    assert not (tmp_path / "other machine").exists()


def test_lost_and_failed_clients_leave_no_batch(tmp_path: Path, home: Path) -> None:
    seen: list[int] = []

    def after(context: Context) -> None:
        seen.append(len(list(home.glob("*/*.npz"))))
        if context.node_config["partition-id"] == 0:
            raise RuntimeError("later trouble")

    def lose(message: Message, context: Context, call_next: Any) -> Message:
        reply: Message = call_next(message, context)
        if context.node_config["partition-id"] == 1:
            reply.metadata.__dict__["_reply_to_message_id"] = "of another day"
        return reply

    federate(tmp_path, client(publish, lose, audit_mod, after=after), nodes=3, rounds=2)
    assert seen == [1, 2, 3] * 2
    assert not list(home.iterdir())


def test_a_client_that_is_late_leaves_no_batch(home: Path) -> None:
    folder = side_channel.open_round([1], 1)
    side_channel.close_round(folder)
    with pytest.raises(FileNotFoundError):
        side_channel.write(folder, photos(), LABELS, normalised=False)
    assert not list(home.iterdir())


@pytest.mark.parametrize("mods", [(), (audit_mod,)])
def test_the_record_tells_a_missing_mod_from_a_batch_that_is_not_published(
    tmp_path: Path, mods: Any
) -> None:
    records = federate(tmp_path, client(publish if not mods else lambda context: None, *mods))
    assert no_truth(records) == Reason.of("nothing published" if mods else "no audit_mod")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"images": torch.zeros(1, *IMAGE.shape, dtype=torch.uint8)}, "must be floats.*uint8.*255"),
        ({"images": np.zeros((1, *IMAGE.shape), dtype=np.int64)}, "must be floats.*int64"),
        ({"images": torch.zeros(IMAGE.shape)}, r"must be \(N, C, H, W\)"),
        ({"images": None}, "."),
        ({"images": [object()]}, "."),
        ({"labels": torch.zeros(1, 3)}, "class indices"),
        ({"labels": torch.tensor([0.5])}, "class indices"),
        ({"labels": [0, 1]}, r"must be \(1,\) class indices.*got shape \(2,\)"),
        ({"labels": [-100]}, "0 or more.*-100 marks what cross-entropy ignores"),
        ({"labels": [True]}, "they are bool"),
        ({"labels": "cat"}, "."),
    ],
)
def test_what_cannot_be_published_is_a_reason_and_never_an_error(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    records = federate(tmp_path, client(lambda c: publish(c, **changes), audit_mod))
    reason = no_truth(records)
    assert reason is not None
    assert reason.code == "publishing failed"
    assert re.search(why, str(reason.figures["message"]))


def test_a_folder_that_cannot_be_written_stops_no_client_and_is_said_once(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(file: Any, **arrays: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    _warn_once.cache_clear()
    monkeypatch.setattr(np, "savez", full)
    with caplog.at_level(logging.WARNING, logger="fl_privacy_audit"):
        records = federate(tmp_path, client(publish, audit_mod), rounds=2)
    reason = no_truth(records)
    assert reason is not None
    assert "No space left" in str(reason.figures["message"])
    assert caplog.text.count("could not be published") == 1
    assert not list(home.iterdir())


def test_a_truth_folder_that_cannot_be_made_stops_no_training(tmp_path: Path, home: Path) -> None:
    home.write_text("a file in its place")
    records = federate(tmp_path, client(publish, audit_mod))
    assert [r.client_status for r in records] == ["returned"] * 2
    assert no_truth(records) == Reason.of("no shared folder")


def test_hostile_names_stop_nothing_and_read_nothing(tmp_path: Path, home: Path) -> None:
    def hostile(message: Message, context: Context, call_next: Any) -> Message:
        reply: Message = call_next(message, context)
        record = reply.content.config_records[KEY]
        record["batches"] = ["../../../etc/passwd"]
        if context.node_config["partition-id"] == 1:
            record["partition-id"] = "none"
            record["batches"] = [b"raw"]
        return reply

    records = federate(tmp_path, client(publish, hostile, audit_mod))
    assert {o.reason.code for r in records for o in r.attacks if o.reason} == {"truth does not fit"}
    assert {r.partition for r in records} == {0, None}
    assert not list(home.iterdir())


def test_an_evaluation_is_let_through_as_it_is() -> None:
    InProcessGrid(None, 1)  # type: ignore[arg-type]  # gives messages a run identity
    message = Message(content=RecordDict(), dst_node_id=1, message_type="evaluate")
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    reply = Message(content=RecordDict({"c": ConfigRecord()}), reply_to=message)
    assert audit_mod(message, context, lambda m, c: reply) is reply
    assert list(reply.content) == ["c"]


def test_without_the_mod_nothing_is_published(home: Path) -> None:
    context = Context(
        run_id=1,
        node_id=FIRST_NODE,
        node_config={"partition-id": 0},
        state=RecordDict(),
        run_config={},
    )
    publish(context)
    assert not home.exists()


def test_a_link_in_place_of_a_batch_is_not_followed(tmp_path: Path) -> None:
    folder = side_channel.open_round([1], 0)
    name = side_channel.write(folder, photos(), LABELS, normalised=False)
    moved = (folder / f"{name}.npz").rename(tmp_path / "elsewhere.npz")
    (folder / f"{name}.npz").symlink_to(moved)
    with pytest.raises(TruthError, match="cannot be read"):
        read(folder, [name])
