import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fl_privacy_audit import TrainingConfig, Truth
from fl_privacy_audit.core.errors import UpdateError
from fl_privacy_audit.core.observe import observe, update_norm
from tests.support.builders import (
    IMAGE,
    ONE_STEP,
    QUICK,
    RATE,
    Arrays,
    assumed,
    make_truth,
    norm_net,
    seen_by,
    tiny_net,
    to_arrays,
    trained,
)


def autograd(model: nn.Module, truth: Truth) -> dict[str, torch.Tensor]:
    inputs = IMAGE.normalise(truth.images).to(next(model.parameters()).dtype)
    loss = nn.functional.cross_entropy(model(inputs), truth.labels)
    named = dict(model.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


@pytest.mark.parametrize("double", [False, True])
@QUICK
@given(
    rate=st.floats(1e-3, 1.0),
    decay=st.just(0.0) | st.floats(1e-4, 0.1),
    count=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_one_sgd_step_gives_the_gradient(
    double: bool, rate: float, decay: float, count: int, seed: int
) -> None:
    model = tiny_net(seed)
    model = model.double() if double else model
    truth = make_truth(count, seed)
    after = trained(model, truth, rate=rate, decay=decay)
    training = ONE_STEP.model_copy(update={"learning_rate": rate, "weight_decay": decay})
    seen = seen_by(model, to_arrays(after), training=training)
    assert seen.gradient is not None
    assert seen.gradient_scale_known
    assert seen.assumptions == ()
    expected = autograd(model, truth)
    assert list(seen.gradient) == list(expected)
    for name, gradient in seen.gradient.items():
        assert gradient.dtype == expected[name].dtype
        lost = 8 * torch.finfo(gradient.dtype).eps / rate
        torch.testing.assert_close(gradient, expected[name], rtol=lost, atol=lost)


def test_the_update_is_returned_minus_sent() -> None:
    model = tiny_net()
    after = trained(model, make_truth())
    seen = seen_by(model, to_arrays(after))
    before, later = model.state_dict(), after.state_dict()
    for name, update in seen.update.items():
        assert torch.equal(seen.parameters[name], before[name])
        assert torch.equal(update, later[name] - before[name])
    flat = np.concatenate([(later[n] - before[n]).numpy().ravel() for n in before])
    assert update_norm(seen.update) == pytest.approx(float(np.linalg.norm(flat)), rel=1e-6)


@pytest.mark.parametrize(("optimizer", "decay"), [("adam", 0.0), ("adamw", 0.0), ("adamw", 0.1)])
def test_the_first_step_of_adam_gives_the_signs(optimizer: str, decay: float) -> None:
    model, truth = tiny_net(), make_truth(3)
    expected = {name: gradient.sign() for name, gradient in autograd(model, truth).items()}
    after = {
        name: tensor.detach() - 0.01 * (expected[name] + decay * tensor.detach())
        for name, tensor in model.named_parameters()
    }
    training = ONE_STEP.model_copy(
        update={"optimizer": optimizer, "learning_rate": 0.01, "weight_decay": decay}
    )
    seen = seen_by(model, {n: t.numpy() for n, t in after.items()}, training=training)
    assert seen.gradient is not None and not seen.gradient_scale_known
    for name, gradient in seen.gradient.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-4)


STEPS = "number of local steps not known; taken as one"
DIRECTION = "local learning rate not known; only the gradient's direction is used"
OPTIMISER = "local optimiser not known; the update is taken as one gradient step"
THREE = (
    "3 local steps with an unknown optimiser or learning rate; the update is taken as one "
    "gradient step"
)


@pytest.mark.parametrize(
    ("optimizer", "rate", "steps", "scale_known", "assumptions"),
    [
        ("sgd", RATE, 1, True, []),
        ("sgd", RATE, None, True, [STEPS]),
        ("sgd", None, 1, False, [DIRECTION]),
        ("sgd", None, 3, False, [THREE, DIRECTION]),
        ("unknown", RATE, 1, False, [OPTIMISER]),
        ("unknown", RATE, 3, False, [OPTIMISER, THREE]),
        ("unknown", None, None, False, [OPTIMISER, STEPS, DIRECTION]),
    ],
)
def test_what_is_not_known_is_assumed_aloud(
    optimizer: str, rate: float | None, steps: int | None, scale_known: bool, assumptions: list[str]
) -> None:
    training = TrainingConfig.model_validate(
        {"optimizer": optimizer, "learning_rate": rate, "steps": steps}
    )
    model, truth = tiny_net(), make_truth()
    seen = seen_by(model, to_arrays(trained(model, truth)), training=training)
    assert seen.gradient is not None
    assert seen.gradient_scale_known is scale_known
    assert assumed(seen) == assumptions
    for name, gradient in autograd(model, truth).items():
        expected = gradient if rate else gradient * RATE
        torch.testing.assert_close(seen.gradient[name], expected, rtol=1e-4, atol=1e-5)


def test_several_known_steps_are_no_gradient() -> None:
    model = tiny_net()
    training = ONE_STEP.model_copy(update={"steps": 2})
    after = trained(model, make_truth(), steps=2)
    seen = seen_by(model, to_arrays(after), training=training)
    assert seen.gradient is None
    assert not seen.gradient_scale_known
    assert seen.assumptions == ()
    assert float(seen.update["1.weight"].norm()) > 0


@pytest.mark.parametrize(
    ("which", "message"), [("sent", "sent to the client"), ("back", "returned by the client")]
)
def test_names_and_shapes_must_fit(which: str, message: str) -> None:
    model = tiny_net()
    good = to_arrays(model)

    def refused(bad: Arrays, match: str) -> None:
        sent, back = (bad, good) if which == "sent" else (good, bad)
        with pytest.raises(UpdateError, match=match):
            observe(model, sent, back, image=IMAGE, training=ONE_STEP)

    refused({**good, "x": np.zeros(1)}, rf"{message} do not fit .*: unknown `x`; not found nothing")
    refused({}, f"no weights were {message}")
    wide = {**good, "3.bias": np.zeros(5, dtype=np.float32)}
    refused(wide, rf"`3\.bias` {message} has shape \(5,\), but the audited model has \(3,\)")
    for value in (np.nan, np.inf, -np.inf):
        torn = {**good, "3.bias": np.array([0, value, 0], dtype=np.float32)}
        refused(
            torn, rf"`3\.bias` {message} holds values that are not finite; lower the local lear"
        )


def test_opacus_prefix_is_removed_and_noted_once() -> None:
    model = tiny_net()
    after = to_arrays(trained(model, make_truth()))
    plain = seen_by(model, after)
    prefixed = {f"_module.{name}": array for name, array in to_arrays(model).items()}
    back = {f"_module.{name}": array for name, array in after.items()}
    seen = observe(model, prefixed, back, image=IMAGE, training=ONE_STEP)
    assert [a.split(",")[0] for a in assumed(seen)] == ["weights carry Opacus's `_module.` prefix"]
    assert all(torch.equal(seen.update[n], t) for n, t in plain.update.items())
    with pytest.raises(UpdateError, match=r"unknown `_module\.1\.weight`; not found nothing"):
        seen_by(model, {"_module.1.weight": after["1.weight"]})


def test_integer_buffers_and_frozen_parameters() -> None:
    model = norm_net()
    model[0].requires_grad_(False)
    counted = np.array(7, dtype=np.int64)
    seen = seen_by(model, {"1.num_batches_tracked": counted})
    assert set(seen.update) == {"1.weight", "1.bias", "4.weight", "4.bias"}
    assert set(seen.update) == set(seen.parameters) == set(seen.gradient or {})
    assert {"0.weight", "0.bias", "1.running_mean"} <= set(seen.buffers)
    assert torch.equal(seen.buffers["0.weight"], model.state_dict()["0.weight"])
    assert seen.buffers["1.num_batches_tracked"].item() == 0
    assert seen.returned_buffers["1.num_batches_tracked"].item() == 7
    assert seen.returned_buffers["1.num_batches_tracked"].dtype == torch.int64


def test_layers_frozen_for_the_auditor_alone_are_said() -> None:
    model = tiny_net()
    after = to_arrays(trained(model, make_truth()))
    model[1].requires_grad_(False)
    seen = seen_by(model, after)
    assert set(seen.update) == {"3.weight", "3.bias"}
    assert assumed(seen) == [
        (
            "frozen in the model given to the Auditor, so not compared, but trained by the client: "
            "`1.weight`, `1.bias`"
        )
    ]


def test_buffers_outside_the_state_dict() -> None:
    model = tiny_net()
    model.register_buffer("scale", torch.ones(1), persistent=False)
    assert set(seen_by(model).update) == set(to_arrays(tiny_net()))


def test_more_images_than_a_machine_has_room_for_are_refused() -> None:
    training = ONE_STEP.replace(steps=None, epochs=1)
    with pytest.raises(UpdateError, match="see what the client reports as `num-examples`"):
        seen_by(tiny_net(), to_arrays(tiny_net(seed=1)), training=training, num_examples=2**53)


@pytest.mark.parametrize(("images", "steps", "batch"), [(5, 1, 5), (32, 1, 32), (70, 3, 32)])
def test_a_batch_of_an_epoch_holds_no_more_than_all_images(
    images: int, steps: int, batch: int
) -> None:
    told = TrainingConfig(optimizer="sgd", epochs=1, batch_size=32).for_client(images)
    assert (told.steps, told.batch_size) == (steps, batch)
