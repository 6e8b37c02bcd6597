"""A replay is the client's own reply, and the app takes canaries in it alone."""

import json
import pickle
import subprocess
import sys
import types
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl_privacy_audit.audit.capture import Capture, CapturedView
from fl_privacy_audit.audit.handover import Handover
from fl_privacy_audit.audit.schedule import Canary, ClientReply, Slot
from fl_privacy_audit.audit.spool import Spool
from fl_privacy_audit.core.exchange import Arrays
from fl_privacy_audit.core.guard import Guard
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.seeds import seed_everything
from fl_privacy_audit.core.types import Client, Truth
from fl_privacy_audit.strategies import canary, canary_dataset, canary_loaders
from fl_privacy_audit.strategies.canary_images import MARK, holding
from fl_privacy_audit.strategies.canary_replay import Replay
from fl_privacy_audit.strategies.capture import Reading
from fl_privacy_audit.strategies.messages import copy_message, message_of
from fl_privacy_audit.strategies.named_app import NamedApp, name_of
from tests.support import named_apps
from tests.support.builders import IMAGE, audit_config
from tests.support.canary_apps import HELD, canaries_or_own, plain_app
from tests.support.grid import InProcessGrid
from tests.support.judged_cases import open_net, picture
from tests.support.named_apps import MODS, app_of


def held_by_a_client() -> Truth:
    truth = Truth(
        images=torch.cat([picture(n, seed=4).images for n in range(5)]),
        labels=torch.arange(5) % 3,
    )
    HELD[1] = IMAGE.normalise(truth.images), truth.labels
    return truth


def own_reply(app: ClientApp) -> tuple[Message, Message]:
    """What a client was sent, and what it made of it."""
    grid = InProcessGrid(app, 1)
    (context,) = grid.contexts.values()
    context.run_config = {"batch-size": 2}
    context.node_config["partition-id"] = 1  # by which some draw their noise
    content = RecordDict(
        {
            "arrays": ArrayRecord(open_net().state_dict()),
            "config": ConfigRecord({"lr": 0.1, "clipping_norm": 0.05, "name": "kept"}),
        }
    )
    message = Message(content, context.node_id, "train")
    seed_everything(3)
    (reply,) = grid.send_and_receive([message])
    return message, reply


def replay_of(app: ClientApp, message: Message) -> Replay:
    return Replay(
        app=app,
        run_config={"batch-size": 2},
        sent=[copy_message(message)],
        clients=1,
        reading=Reading(image=IMAGE),
    )


def check_alike(
    reply: Message, replayed: Arrays, reported: Mapping[str, float], examples: int | None
) -> None:
    """To the last bit."""
    own = {k: a.numpy() for k, a in reply.content.array_records["arrays"].items()}
    assert own.keys() == replayed.keys()
    assert all(np.array_equal(own[name], replayed[name]) for name in own)
    assert reported["loss"] == reply.content.metric_records["metrics"]["loss"]
    assert examples == reply.content.metric_records["metrics"]["num-examples"]


@pytest.mark.parametrize("mods", MODS)
@pytest.mark.parametrize("shape", ["tensors", "loaders"])
def test_a_replay_is_the_client_s_own_reply(mods: str, shape: str) -> None:
    """With the same images, seeds and threads."""
    app, truth = app_of(shape, mods), held_by_a_client()
    message, reply = own_reply(app)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    made = replay_of(app, message)(Canary(number=1, seed=3, images=truth, spec=IMAGE))
    assert torch.equal(before, torch.get_rng_state())
    check_alike(reply, made.returned(), made.reported, made.num_examples)
    sent, replayed = made.sent(), made.returned()
    assert any(not np.array_equal(sent[name], replayed[name]) for name in sent)
    trained_on = made.truth()
    assert trained_on is not None and torch.equal(trained_on.images, truth.images)


ELSEWHERE = """
import pickle, sys
from fl_privacy_audit.audit.capture_files import read_capture
from fl_privacy_audit.audit.handover import Handover
handed, canary, folders = pickle.load(sys.stdin.buffer)
made = []
for packed, folder in zip(handed, folders):
    elsewhere = Handover.unpacked(packed).elsewhere
    (slot,) = read_capture(folder, elsewhere).targets
    reply = slot.replay(canary)
    made.append((reply.returned(), dict(reply.reported), reply.num_examples, reply.truth().images))
sys.stdout.buffer.write(pickle.dumps(made))
"""


def test_a_replay_by_another_process_is_the_client_s_own_reply_too(tmp_path: Path) -> None:
    """All of them, from the spool, in a process that knows nothing but names."""
    truth, folders, replies, handed = held_by_a_client(), [], [], []
    spool = Spool.make(tmp_path, "run", audit_config(tmp_path))
    for app in (app_of(shape, mods) for shape in ("tensors", "loaders") for mods in MODS):
        message, reply = own_reply(app)
        who = ClientReply(client=Client(1), num_examples=5)
        replay = replay_of(app, message)
        slot = Slot(round=1, view="canary", replies=(who,), replay=replay)
        view = CapturedView(targets=[slot], spares=[], seconds=60)
        what = Capture(run="run", round=1, views=[view])
        folder, left_out = spool.put(what, None, Guard(), Counter())
        assert folder is not None and left_out == []
        name = name_of(app)
        assert name is not None and name.startswith("tests.support.named_apps:")
        named = NamedApp(name=name, image=IMAGE, weights=frozenset())
        handed.append(Handover(model=open_net(), elsewhere=named).packed())
        folders.append(folder)
        replies.append(reply)
    canary = Canary(number=1, seed=3, images=truth, spec=IMAGE)
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        input=pickle.dumps((handed, canary, folders)),
        stdout=subprocess.PIPE,
        check=True,
    )
    for reply, (arrays, reported, examples, images) in zip(
        replies, pickle.loads(done.stdout), strict=True
    ):
        check_alike(reply, arrays, reported, examples)
        assert torch.equal(images, truth.images)
    spool.close()


def test_a_message_is_read_as_it_was_written() -> None:
    """Settings of every kind, and arrays that nobody can decode."""
    strange = Array(dtype="whatever", shape=(3,), stype="a.kind", data=b"\x00\xff\x01")
    content = RecordDict(
        {
            "weights": ArrayRecord(OrderedDict(a=Array(np.arange(6.0).reshape(2, 3)))),
            "masked": ArrayRecord(OrderedDict(b=strange, c=Array(np.zeros(2, np.int8)))),
            "empty": ArrayRecord(),
            "numbers": MetricRecord({"loss": 0.1, "counts": [1, 2]}),
            "settings": ConfigRecord(
                {"key": b"\x80", "keys": [b"a", b""], "on": True, "n": 2**60, "of": ["x"], "no": []}
            ),
        }
    )
    message = copy_message(Message(content, 5, "train", group_id="7"))
    errand = replay_of(ClientApp(), message).errand(1)
    assert errand is not None
    told = json.loads(json.dumps(errand.settings))
    again = message_of(told, errand.arrays)
    assert dict(again.content) == dict(message.content)
    assert vars(again.metadata) | CHANGES == vars(message.metadata) | CHANGES


CHANGES = {"_message_id": "", "_created_at": 0.0}
"""Of the metadata of each message."""


@pytest.mark.parametrize("odd", [object(), float("nan"), (1, 2)])
def test_a_run_config_that_no_file_can_hold_is_not_sent_elsewhere(odd: object) -> None:
    message, _ = own_reply(app_of("tensors", "none"))
    replay = replace(replay_of(ClientApp(), message), run_config={"odd": odd})
    assert replay.errand(1) is None


def test_what_no_module_has_a_name_for_has_none() -> None:
    assert name_of(plain_app(canaries_or_own)) is None
    assert name_of(named_apps.counted) == "tests.support.named_apps:counted"
    module = types.ModuleType("made_up")
    module.app = app = plain_app(canaries_or_own)  # type: ignore[attr-defined]
    sys.modules["made_up"] = module
    try:
        assert name_of(app) is None, "no other process finds that module"
    finally:
        del sys.modules["made_up"]


def context_of(mark: str | None) -> Context:
    node_config: dict[str, Any] = {} if mark is None else {MARK: mark}
    return Context(run_id=1, node_id=2, node_config=node_config, state=RecordDict(), run_config={})


def test_real_clients_have_no_canaries() -> None:
    for mark in (None, "somebody's"):
        context = context_of(mark)
        given = [canary(context), canary_dataset(context), canary_loaders(context, 2)]
        assert given == [None] * 3


def test_what_is_read_of_a_data_set_is_known() -> None:
    truth = Truth(images=torch.rand(5, 1, 8, 8), labels=torch.arange(5) % 3)
    with holding(truth, IMAGE) as (mark, held):
        context = context_of(mark)
        assert held.trained_on() == Reason.of("canaries not taken")
        plain = canary_dataset(context)
        by_name = canary_dataset(context, keys=("img", "label"), normalised=False)
        loaders = canary_loaders(context, 2)
        assert plain is not None and by_name is not None and loaders is not None
        assert len(plain) == len(by_name) == 5
        image, label = plain[1]
        assert torch.equal(image, IMAGE.normalise(truth.images)[1]) and label == 1
        assert torch.equal(by_name[-1]["img"], truth.images[4]) and by_name[-1]["label"] == 1
        with pytest.raises(IndexError):
            plain[5]
        [*loaders[1]]  # testing is not training
        trained_on = held.trained_on()
        assert isinstance(trained_on, Truth)
        assert torch.equal(trained_on.images, truth.images[[1, 4]])
        assert [len(labels) for _, labels in loaders[0]] == [2, 2, 1]
        everything = held.trained_on()
        assert isinstance(everything, Truth) and len(everything.labels) == 5
    assert canary(context) is None
