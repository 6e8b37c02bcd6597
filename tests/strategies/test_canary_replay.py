"""A replay is the client's own reply, and the app takes canaries in it alone."""

from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod

from fl_privacy_audit.audit.canary import Canary
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.seeds import seed_everything
from fl_privacy_audit.core.types import Truth
from fl_privacy_audit.strategies import (
    audit_mod,
    canary,
    canary_dataset,
    canary_loaders,
    defend,
)
from fl_privacy_audit.strategies.canary_images import MARK, holding
from fl_privacy_audit.strategies.canary_replay import Replay, copy_message
from fl_privacy_audit.strategies.capture import Reading
from tests.support.builders import IMAGE
from tests.support.canary_apps import HELD, Mod, plain_app, quickstart_app
from tests.support.grid import InProcessGrid
from tests.support.judged_cases import open_net, picture

MODS: dict[str, tuple[Mod, ...]] = {
    "none": (),
    "audit_mod": (audit_mod,),
    "defend": (audit_mod, defend("gaussian", seed=5, std=0.01)),
    "local-dp": (audit_mod, LocalDpMod(1.0, 0.1, 10.0, 0.1)),
    "clipping": (audit_mod, fixedclipping_mod),
}


@pytest.mark.parametrize("mods", MODS)
@pytest.mark.parametrize("shape", ["tensors", "loaders"])
def test_a_replay_is_the_client_s_own_reply(mods: str, shape: str) -> None:
    """With the same images, seeds and threads, to the last bit."""
    app = (
        plain_app(lambda context: canary(context) or HELD[1], *MODS[mods])
        if shape == "tensors"
        else quickstart_app(*MODS[mods])
    )
    truth = Truth(
        images=torch.cat([picture(n, seed=4).images for n in range(5)]),
        labels=torch.arange(5) % 3,
    )
    HELD[1] = IMAGE.normalise(truth.images), truth.labels
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
    replay = Replay(
        app=app,
        run_config={"batch-size": 2},
        sent=[copy_message(message)],
        clients=1,
        reading=Reading(image=IMAGE),
    )
    torch.manual_seed(7)
    before = torch.get_rng_state()
    made = replay(Canary(number=1, seed=3, images=truth, spec=IMAGE))
    assert torch.equal(before, torch.get_rng_state())
    seed_everything(3)
    (reply,) = grid.send_and_receive([message])
    own = {k: a.numpy() for k, a in reply.content.array_records["arrays"].items()}
    replayed = made.returned()
    assert own.keys() == replayed.keys()
    assert all(np.array_equal(own[name], replayed[name]) for name in own)
    sent = made.sent()
    assert any(not np.array_equal(sent[name], replayed[name]) for name in sent)
    assert made.reported["loss"] == reply.content.metric_records["metrics"]["loss"]
    assert made.num_examples == reply.content.metric_records["metrics"]["num-examples"]
    trained_on = made.truth()
    assert trained_on is not None and torch.equal(trained_on.images, truth.images)


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
