"""Models as people have them: attention, other outputs, other losses, batch norm, weight norm."""

import copy
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from fl_privacy_audit import ImageConfig, Truth
from fl_privacy_audit.attacks import make_attack, reconstruct_each
from fl_privacy_audit.attacks.engine import OptimisationAttack
from fl_privacy_audit.attacks.parts.labels import counts
from fl_privacy_audit.audit.replay_check import check_replay
from fl_privacy_audit.core.errors import ConfigError, UnmetNeedError, UpdateError
from fl_privacy_audit.core.models import copy_model
from fl_privacy_audit.core.observe import observe
from fl_privacy_audit.core.types import Observation
from tests.support.builders import (
    IMAGE,
    ONE_STEP,
    RATE,
    assumed,
    made,
    make_truth,
    tiny_net,
    to_arrays,
)
from tests.support.cases import LeNet, image_config, photos, seeded

Loss = Callable[[Tensor, Tensor], Tensor]
WIDE = ImageConfig(shape=(3, 16, 16), mean=(0.5,) * 3, std=(0.25,) * 3)


def after_one_step(
    model: nn.Module,
    truth: Truth,
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor],
    image: ImageConfig = IMAGE,
) -> nn.Module:
    model = copy_model(model)
    loss(model, image.normalise(truth.images), truth.labels).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(RATE * parameter.grad)
    return model


def seen_of(
    model: nn.Module,
    truth: Truth,
    trains: Callable[[nn.Module, Tensor, Tensor], Tensor],
    image: ImageConfig = IMAGE,
    **more: Any,
) -> Observation:
    told = {"batch_size": len(truth.images), **more.pop("training", {})}
    return observe(
        model,
        to_arrays(model),
        to_arrays(after_one_step(model, truth, trains, image)),
        image=image,
        training=ONE_STEP.replace(**told),
        **more,
    )


def attacked(
    seen: Observation, name: str = "inverting_gradients", *, backend: str = "", **settings: Any
) -> Any:
    attack = make_attack(name, settings)
    if backend:
        assert isinstance(attack, OptimisationAttack)
        attack = replace(attack, backend=backend)
    (result,) = reconstruct_each(attack, [seen], rngs=[torch.Generator().manual_seed(0)])
    if isinstance(result, Exception):
        raise result
    return result


def psnr(images: Tensor, truth: Truth) -> float:
    return float(-10 * (images - truth.images).square().mean().log10())


class Encoder(nn.Module):
    """Torch's own transformer on four patches."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)
        self.head = nn.Linear(16, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        patches = inputs.reshape(-1, 2, 4, 2, 4).transpose(2, 3).reshape(-1, 4, 16)
        scores: Tensor = self.head(self.encoder(patches).mean(dim=1))
        return scores


def cross(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs), labels)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("backend", ["sequential", "vmap"])
def test_attention_is_attacked(mode: str, backend: str) -> None:
    model, truth = Encoder().train(mode == "train"), make_truth()
    seen = seen_of(model, truth, cross, training={"mode": mode})
    assert check_replay(seen, truth, seed=0).fits
    found = attacked(seen, steps=60, restarts=1, backend=backend)
    assert found.objective < 0.1
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()


def test_a_vision_transformer_is_attacked() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(16, 4, 2, 2, 16, 32, num_classes=3)
    nn.init.normal_(model.heads.head.weight)
    truth = Truth(images=torch.rand(1, 3, 16, 16), labels=torch.tensor([1]))
    seen = seen_of(model, truth, cross, WIDE)
    assert check_replay(seen, truth, seed=0).fits
    assert attacked(seen, steps=10, restarts=1).objective < 1


def test_dropout_inside_attention_is_chance() -> None:
    model, truth = Encoder(dropout=0.3).train(), make_truth(4)
    torch.manual_seed(5)
    seen = seen_of(model, truth, cross)
    assert "the client's dropout masks are not known; replayed without dropout" in assumed(seen)
    assert not any(m.training for m in seen.model.modules() if isinstance(m, nn.MultiheadAttention))
    found = check_replay(seen, truth, seed=0)
    assert found.fits
    assert found.cosine < 0.999


@dataclass
class Output:
    loss: Tensor | None
    logits: Tensor


Inception = namedtuple("Inception", ["logits", "aux_logits"])
SHAPES: dict[str, Callable[[Tensor], Any]] = {
    "an object": lambda scores: Output(None, scores),
    "a dict": lambda scores: {"logits": scores, "hidden": scores[None]},
    "a dict of one": lambda scores: OrderedDict(out=scores),
    "a tuple": lambda scores: (scores[:, None], scores, scores[:, :2]),
    "a named tuple": lambda scores: Inception(scores, None),
}


class Shaped(nn.Module):
    def __init__(self, shape: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.body, self.shape = tiny_net(), shape

    def forward(self, inputs: Tensor) -> Any:
        return self.shape(self.body(inputs))


@pytest.mark.parametrize("name", SHAPES)
def test_scores_in_what_a_model_returns(name: str) -> None:
    model, truth = Shaped(SHAPES[name]), make_truth()
    seen = seen_of(model, truth, lambda m, x, y: F.cross_entropy(m.get_submodule("body")(x), y))
    assert seen.num_classes == 3
    assert list(seen.update) == list(to_arrays(model))
    assert check_replay(seen, truth, seed=0).fits
    assert psnr(attacked(seen, "first_linear").images, truth) > 40
    assert psnr(attacked(seen, steps=80, restarts=1).images, truth) > 12


def test_a_model_that_returns_more_in_train_mode() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = tiny_net()

        def forward(self, inputs: Tensor) -> Any:
            scores = self.body(inputs)
            return Inception(scores, scores) if self.training else scores

    model, truth = Auxiliary().train(), make_truth()
    seen = seen_of(model, truth, lambda m, x, y: F.cross_entropy(m(x).logits, y))
    assert check_replay(seen, truth, seed=0).fits


def test_forward_for_everything_else() -> None:
    class Maps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = made(nn.Conv2d(1, 3, 3), nn.Sigmoid())

        def forward(self, inputs: Tensor, scale: float) -> Tensor:
            maps: Tensor = self.body(inputs) * scale
            return maps

    model, truth = Maps(), make_truth()

    def scores(model: nn.Module, inputs: Tensor) -> Tensor:
        found: Tensor = model(inputs, scale=2.0).mean(dim=(2, 3))
        return found

    with pytest.raises(UpdateError, match=r"missing 1 required positional .*`forward="):
        seen_of(model, truth, lambda m, x, y: F.cross_entropy(scores(m, x), y))
    seen = seen_of(model, truth, lambda m, x, y: F.cross_entropy(scores(m, x), y), forward=scores)
    assert check_replay(seen, truth, seed=0).fits
    assert attacked(seen, steps=5, restarts=1).steps == 5


def binary_net(squeeze: bool = False) -> nn.Module:
    tail = [nn.Flatten(0)] if squeeze else []
    return made(nn.Flatten(), nn.Linear(64, 8), nn.Sigmoid(), nn.Linear(8, 1), *tail)


def binary(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(model(inputs).reshape(-1), labels.float())


@pytest.mark.parametrize("squeeze", [False, True])
@pytest.mark.parametrize("label", [0, 1])
def test_one_logit_is_binary_cross_entropy(squeeze: bool, label: int) -> None:
    model = binary_net(squeeze)
    truth = Truth(images=make_truth().images, labels=torch.tensor([label]))
    seen = seen_of(model, truth, binary)
    assert seen.num_classes == 2
    assert any("one score an image" in text for text in assumed(seen))
    assert check_replay(seen, truth, seed=0).fits
    found = attacked(seen, "swept_inversion", steps=60)
    assert found.labels.tolist() == [label]
    assert found.objective < 0.05
    with pytest.raises(UpdateError, match=r"one score .* leave `loss` out"):
        seen_of(model, truth, binary, loss=F.binary_cross_entropy_with_logits)


def test_labels_of_one_logit_are_counted() -> None:
    model = seeded(LeNet)
    assert isinstance(model, LeNet)
    model.head = nn.Linear(model.head.in_features, 1)
    nn.init.normal_(model.head.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    nn.init.zeros_(model.head.bias)
    truth = Truth(images=turned_photos(6), labels=torch.tensor([0, 0, 1, 1, 1, 1]))
    seen = seen_of(model, truth, binary, image_config(32))
    found = counts(seen, torch.Generator().manual_seed(0)).classes()
    assert found.tolist() == truth.labels.tolist()


def turned_photos(count: int) -> Tensor:
    return torch.cat([photos(32).rot90(turn, (2, 3)) for turn in range(4)])[:count]


WEIGHTS = (3.5, 1.6, 2.1, 3.4, 0.6, 3.7, 2.1, 3.5, 2.8, 2.2)
PLAIN = {"label_smoothing": 0.0, "class_weights": None, "reduction": "mean"}


def one_hot_bce(scores: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(scores, F.one_hot(labels, 3).to(scores.dtype))


LOSSES: dict[str, Loss] = {
    "indices only": one_hot_bce,  # `F.one_hot` cannot be batched: attacks must do without
    "probabilities only": nn.BCEWithLogitsLoss(),
    "both": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 5.0]), label_smoothing=0.1),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_the_users(name: str) -> None:
    loss, model, truth = LOSSES[name], tiny_net(), make_truth()
    of_client = one_hot_bce if name == "probabilities only" else loss
    seen = seen_of(model, truth, lambda m, x, y: of_client(m(x), y), loss=loss)
    assert check_replay(seen, truth, seed=0).fits
    assert not check_replay(
        seen_of(model, truth, lambda m, x, y: of_client(m(x), y)), truth, seed=0
    ).fits
    found = attacked(seen, steps=80, restarts=2)
    assert found.labels.tolist() == truth.labels.tolist()
    assert found.objective < 0.05
    many = seen_of(model, make_truth(3), lambda m, x, y: of_client(m(x), y), loss=loss)
    if name == "indices only":
        with pytest.raises(UnmetNeedError, match="takes class indices only"):
            attacked(many, "swept_inversion", steps=2)
    else:
        assert attacked(many, "swept_inversion", steps=2).steps


def test_a_loss_that_cannot_be_called() -> None:
    model, truth = tiny_net(), make_truth()
    with pytest.raises(ConfigError, match=r"`loss` must take scores \(N, 3\).*it returned \(4,\)"):
        seen_of(model, truth, cross, loss=nn.CrossEntropyLoss(reduction="none"))
    with pytest.raises(ConfigError, match="not both"):
        seen_of(model, truth, cross, loss=one_hot_bce, training={"reduction": "sum"})
    with pytest.raises(ConfigError, match="each of the model's 3 classes, but has 2"):
        seen_of(model, truth, cross, training={"class_weights": (1, 2)})


@pytest.mark.parametrize(
    "told",
    [
        {"label_smoothing": 0.1},
        {"class_weights": WEIGHTS},
        {"reduction": "sum"},
        {"label_smoothing": 0.1, "class_weights": WEIGHTS, "reduction": "sum"},
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_cross_entropy_as_it_is_set(told: dict[str, Any], seed: int) -> None:
    model, photographs = seeded(LeNet, seed), image_config(32)
    rng = torch.Generator().manual_seed(seed)
    truth = Truth(images=turned_photos(8), labels=torch.randint(10, (8,), generator=rng))
    weights = told.get("class_weights")
    loss = nn.CrossEntropyLoss(
        weight=None if weights is None else torch.tensor(weights),
        label_smoothing=told.get("label_smoothing", 0.0),
        reduction=told.get("reduction", "mean"),
    )
    seen = seen_of(model, truth, lambda m, x, y: loss(m(x), y), photographs, training=told)
    assert check_replay(seen, truth, seed=0).fits
    assert not check_replay(
        replace(seen, training=seen.training.replace(**PLAIN)), truth, seed=0
    ).fits
    one_hot = F.one_hot(truth.labels, 10).float()
    scores = torch.randn(8, 10, generator=rng)
    torch.testing.assert_close(seen.minimised(scores, truth.labels), loss(scores, truth.labels))
    torch.testing.assert_close(seen.minimised(scores, one_hot), loss(scores, truth.labels))
    found = counts(seen, torch.Generator().manual_seed(0)).classes()
    assert found.tolist() == sorted(truth.labels.tolist())


@pytest.mark.parametrize("steps", [1, 3])
def test_old_weight_norm(steps: int) -> None:
    model, truth = tiny_net(), make_truth()
    with pytest.warns(FutureWarning, match="deprecated"):
        nn.utils.weight_norm(model[1])
    model(IMAGE.normalise(truth.images))
    seen = seen_of(model, truth, cross)
    assert {"1.weight_g", "1.weight_v"} <= set(seen.update)
    assert check_replay(seen, truth, seed=0).fits
    for backend in ("sequential", "vmap"):
        assert attacked(seen, steps=20, restarts=2, backend=backend).objective < 0.5
    assert check_replay(seen, truth, seed=steps).fits


def norm_on_vectors() -> nn.Module:
    return made(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def test_batch_norm_with_a_last_batch_of_one() -> None:
    model = norm_on_vectors()
    arrays = to_arrays(model)
    training = ONE_STEP.model_copy(update={"steps": None, "epochs": 2, "batch_size": 4})
    seen = observe(model, arrays, arrays, image=IMAGE, training=training, num_examples=9)
    assert (seen.num_images, seen.training.steps) == (8, 4)
    assert any("9 images in batches of 4 leave one over" in text for text in assumed(seen))
    whole = observe(model, arrays, arrays, image=IMAGE, training=training, num_examples=8)
    assert (whole.num_images, whole.training.steps, whole.assumptions) == (8, 4, ())


def test_batch_norm_with_one_image() -> None:
    model = norm_on_vectors()
    arrays = to_arrays(model)
    with pytest.raises(
        UpdateError, match=r"cannot be trained on a batch of one .*`training\.batch"
    ):
        observe(model, arrays, arrays, image=IMAGE, training=ONE_STEP)
    unknown = ONE_STEP.replace(mode="unknown")
    seen = observe(model, arrays, arrays, image=IMAGE, training=unknown)
    assert not seen.model.training
    assert seen.training.mode == "eval"
    assert assumed(seen)[0].startswith("batch norm cannot be trained on one image, so the client")


def test_a_truth_with_one_more_image_is_replayed_without_it() -> None:
    model, truth = norm_on_vectors().train(), make_truth(5)
    after = copy.deepcopy(model)
    optimiser = torch.optim.SGD(after.parameters(), RATE)
    for at in (0, 2):
        optimiser.zero_grad()
        cross(
            after, IMAGE.normalise(truth.images[at : at + 2]), truth.labels[at : at + 2]
        ).backward()
        optimiser.step()
    training = ONE_STEP.model_copy(update={"steps": None, "epochs": 1, "batch_size": 2})
    seen = observe(
        model, to_arrays(model), to_arrays(after), image=IMAGE, training=training, num_examples=5
    )
    assert (seen.num_images, seen.training.steps) == (4, 2)
    assert check_replay(seen, truth, seed=0).fits
    assert attacked(seen, steps=2, restarts=1).steps == 2
