"""The truth goes through a private file, by a random name, and is gone afterwards."""

import stat
from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord, RecordDict

from fl_privacy_audit.core.errors import TruthError
from fl_privacy_audit.strategies import audit_mod, publish_batch, side_channel
from fl_privacy_audit.strategies.mods import KEY
from tests.support.cases import image_config, photos
from tests.support.grid import InProcessGrid

SPEC = image_config()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(side_channel.DIRECTORY_VARIABLE, str(tmp_path / "truth"))
    return tmp_path / "truth"


def test_a_batch_comes_back_as_it_was(folder: Path) -> None:
    labels = torch.tensor([3, 1])
    name = side_channel.write(photos(count=2), labels, normalised=False)
    (file,) = folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    truth = side_channel.read([name], SPEC)
    assert torch.equal(truth.images, photos(count=2))
    assert torch.equal(truth.labels, labels)
    side_channel.discard([name])
    side_channel.discard([name])
    assert not list(folder.iterdir())


def test_model_inputs_are_turned_back_into_pixels() -> None:
    name = side_channel.write(SPEC.normalise(photos()), torch.zeros(4), normalised=True)
    assert torch.allclose(side_channel.read([name], SPEC).images, photos(), atol=1e-6)


def test_an_image_used_in_two_steps_counts_once() -> None:
    labels = torch.arange(4)
    first = side_channel.write(photos()[:3], labels[:3], normalised=False)
    second = side_channel.write(photos()[1:], labels[1:], normalised=False)
    truth = side_channel.read([first, second], SPEC)
    assert torch.equal(truth.images, photos())
    assert torch.equal(truth.labels, labels)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "a" * 31, "A" * 32])
def test_only_our_own_names_are_read(name: str) -> None:
    with pytest.raises(TruthError, match="is not the name of a published batch"):
        side_channel.read([name], SPEC)


def test_a_file_that_is_not_here_says_why() -> None:
    with pytest.raises(TruthError, match="only where clients and server share a machine"):
        side_channel.read(["0" * 32], SPEC)


def test_a_folder_behind_a_link_is_refused(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir()
    folder.symlink_to(folder.parent / "elsewhere")
    with pytest.raises(TruthError, match="belongs to another user"):
        side_channel.directory()


def message() -> Message:
    InProcessGrid(None, 1)  # type: ignore[arg-type]  # gives messages a run identity
    return Message(content=RecordDict(), dst_node_id=1, message_type="train")


def context() -> Context:
    return Context(
        run_id=1, node_id=1, node_config={"partition-id": 7}, state=RecordDict(), run_config={}
    )


def test_the_mod_names_partition_and_batch_and_leaves_no_state(folder: Path) -> None:
    here = context()

    def train(msg: Message, ctxt: Context) -> Message:
        publish_batch(ctxt, photos()[:1], torch.tensor([0]), normalised=False)
        publish_batch(ctxt, photos()[1:2], torch.tensor([0]), normalised=False)
        return Message(content=RecordDict({"m": MetricRecord({"n": 1})}), reply_to=msg)

    reply = audit_mod(message(), here, train)
    record = reply.content.config_records[KEY]
    assert record["partition-id"] == 7
    batches = record["batches"]
    assert isinstance(batches, list)
    assert len(batches) == 2
    assert KEY not in here.state
    assert len(list(folder.iterdir())) == 2


def test_without_the_mod_nothing_is_published(folder: Path) -> None:
    publish_batch(context(), photos(), torch.zeros(4), normalised=False)
    assert not folder.exists()


def test_a_client_that_raises_leaves_no_batch_behind(folder: Path) -> None:
    def train(msg: Message, ctxt: Context) -> Message:
        publish_batch(ctxt, photos(), torch.zeros(4), normalised=False)
        raise RuntimeError("later trouble")

    with pytest.raises(RuntimeError, match="later trouble"):
        audit_mod(message(), context(), train)
    assert not list(folder.iterdir())


def test_a_failed_client_leaves_no_batch_behind(folder: Path) -> None:
    def train(msg: Message, ctxt: Context) -> Message:
        publish_batch(ctxt, photos(), torch.zeros(4), normalised=False)
        return Message(Error(code=2, reason="later trouble"), reply_to=msg)

    reply = audit_mod(message(), context(), train)
    assert reply.has_error()
    assert not list(folder.iterdir())


def test_state_of_an_earlier_round_is_not_sent_again() -> None:
    here = context()
    here.state[KEY] = ConfigRecord({"batches": ["0" * 32]})
    reply = audit_mod(
        message(), here, lambda msg, ctxt: Message(content=RecordDict(), reply_to=msg)
    )
    assert reply.content.config_records[KEY]["batches"] == []
