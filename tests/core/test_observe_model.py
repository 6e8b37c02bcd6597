import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

from fl_privacy_audit import ImageConfig
from fl_privacy_audit.core.errors import UpdateError
from fl_privacy_audit.core.models import classifier
from tests.support.builders import IMAGE, ONE_STEP, assumed, made, norm_net, seen_by, tiny_net


@pytest.mark.parametrize("mode", ["train", "eval", "unknown"])
def test_batch_norm_and_dropout(mode: str) -> None:
    model = norm_net()
    inputs = torch.randn(4, *IMAGE.shape, generator=torch.Generator().manual_seed(1))
    training = ONE_STEP.replace(mode=mode)
    seen = seen_by(model, training=training)
    reference = copy.deepcopy(model).train(mode != "eval")
    reference[2].eval()
    buffers = {name: tensor.clone() for name, tensor in seen.buffers.items()}
    got = functional_call(seen.model, {**seen.parameters, **seen.buffers}, (inputs,))
    assert torch.equal(got, reference(inputs))
    assert torch.equal(got, functional_call(seen.model, dict(seen.parameters), (inputs,)))
    assert all(torch.equal(seen.buffers[n], b) for n, b in buffers.items())
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in seen.model.state_dict().items())
    taken = "local training mode not known; taken as train mode"
    masks = "the client's dropout masks are not known; replayed without dropout"
    expected = {"train": [masks], "eval": [], "unknown": [taken, masks]}
    assert assumed(seen) == expected[mode]


def test_instance_norm_keeps_its_statistics() -> None:
    norm = nn.InstanceNorm2d(2, track_running_stats=True)
    seen = seen_by(made(nn.Conv2d(1, 2, 3), norm, nn.Flatten(), nn.Linear(72, 3)))
    before = {name: tensor.clone() for name, tensor in seen.buffers.items()}
    functional_call(seen.model, {**seen.parameters, **seen.buffers}, (torch.ones(1, *IMAGE.shape),))
    assert all(torch.equal(seen.buffers[n], b) for n, b in before.items())


def test_mode_does_not_matter_without_batch_norm_and_dropout() -> None:
    training = ONE_STEP.model_copy(update={"mode": "unknown"})
    assert seen_by(tiny_net(), training=training).assumptions == ()
    idle = made(nn.Flatten(), nn.Dropout(0.0), nn.Linear(64, 3))
    assert seen_by(idle, training=training).assumptions == ()


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_model_is_not_changed(mode: str) -> None:
    model = norm_net().train(mode != "train")
    before, flags = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    seen = seen_by(model, training=ONE_STEP.model_copy(update={"mode": mode}))
    functional_call(seen.model, {}, (torch.rand(2, *IMAGE.shape),))
    assert all(torch.equal(tensor, before[n]) for n, tensor in model.state_dict().items())
    assert [m.training for m in model.modules()] == flags
    assert model[1].track_running_stats
    assert not {t.data_ptr() for t in model.parameters()} & {
        t.data_ptr() for t in [*seen.model.parameters(), *seen.parameters.values()]
    }


@pytest.mark.parametrize(
    ("training", "reported", "count"),
    [
        ({"batch_size": 4}, None, 4),
        ({"batch_size": 4, "steps": 3}, None, 12),
        ({"batch_size": 4, "steps": 3, "images": 5}, None, 5),
        ({"batch_size": 4, "steps": 3}, 12, 12),
        ({"batch_size": 4, "steps": 3}, 100, 12),
        ({"batch_size": 4, "steps": 3}, 7, 7),
        ({"batch_size": 4, "images": 5}, 2, 2),
        ({"batch_size": 4}, 0, 4),
    ],
)
def test_how_many_images(training: dict[str, int], reported: int | None, count: int) -> None:
    config = ONE_STEP.replace(**training)
    seen = seen_by(tiny_net(), training=config, num_examples=reported)
    assert seen.num_images == count
    note = f"the client reports {reported} examples, so as many are rebuilt"
    assert (note in assumed(seen)) is (count == reported and count not in (12, 4))


def test_classes_are_counted_and_nothing_is_drawn() -> None:
    model = norm_net().train()
    state = torch.get_rng_state()
    same, classes, one_score = classifier(model, IMAGE)
    assert same is model
    assert (classes, one_score) == (3, False)
    assert [m.training for m in model.modules()] == [True] * len(list(model.modules()))
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(
        UpdateError,
        match=r"does not take an image of shape \(3, 9, 9\): .*Set `image\.shape` to what the clie",
    ):
        classifier(tiny_net(), ImageConfig(shape=(3, 9, 9), mean=(0, 0, 0), std=(1, 1, 1)))
    with pytest.raises(
        UpdateError,
        match=r"of shape \(N, K\), but returned a tensor of shape \(2, 1, 8.*`forward=`",
    ):
        classifier(nn.Identity(), IMAGE)
    with pytest.raises(UpdateError, match=r"of shape \(N, K\), but returned tuple\."):
        classifier(nn.AdaptiveMaxPool2d(1, return_indices=True), IMAGE)
