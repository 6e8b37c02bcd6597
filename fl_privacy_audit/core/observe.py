"""Sent and returned weights -> what an attacker holds.

A Flower client returns weights, not gradients. One plain SGD step with learning rate ``lr`` gives
the batch gradient exactly, ``g = (sent - returned) / lr``; several steps give only their sum, which
an attack has to replay. Whatever is not known is noted in `Observation.assumptions`.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from .errors import ConfigError, UpdateError
from .exchange import (
    Arrays,
    as_tensor,
    named_as,
    note_what_is_missing,
    rounding_of,
    some,
)
from .losses import Loss, name_of, own_loss
from .models import (
    Forward,
    attacked_mode,
    classifier,
    copy_model,
    refuses_one_image,
)
from .reasons import Reason
from .types import ImageSpec, LocalTraining, Observation, Update

CLIPPED = 1e-3
"""How far below the norm a clipped gradient may lie: weights are float32."""
MOST_REBUILT = 2**28
"""Numbers in the images behind an update, above which a machine has no room for them."""
ROUNDED = 0.02
"""Share of an update that may be rounding of the weights before the update counts as inexact."""


def observe(
    model: nn.Module,
    sent: Arrays,
    returned: Arrays,
    *,
    image: ImageSpec,
    training: LocalTraining,
    num_examples: int | None = None,
    device: torch.device | str = "cpu",
    forward: Forward | None = None,
    loss: Loss | None = None,
) -> Observation:
    """Turn the two sets of weights into an observation.

    Args:
        model: The clients' architecture; copied, never changed.
        sent: State dict the server sent, as arrays; may be part of it.
        returned: State dict the client returned, likewise.
        image: Shape and normalisation of the training images.
        training: What is known of the local training.
        num_examples: What the client reported as ``num-examples``.
        device: Where attacks will run.
        forward: How class scores are made with the model, if not by calling it.
        loss: What clients minimise, if `training` cannot say it.

    Raises:
        UpdateError: Names or shapes do not fit the model, a value is not finite, or the model
            cannot be attacked.
        ConfigError: The loss, or the class weights, do not fit the model.
    """
    assumptions: list[Reason] = []
    model = copy_model(model)
    if any(p.dtype in (torch.float16, torch.bfloat16) for p in model.parameters()):
        model = model.float()
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        raise UpdateError(
            "the audited model has nothing to train: every parameter is frozen. Give the Auditor "
            "the model as clients train it"
        )
    sent = named_as(model, sent, "sent to the client", assumptions)
    returned = named_as(model, returned, "returned by the client", assumptions)
    compared = [name for name in trainable if name in sent and name in returned]
    if not compared:
        raise UpdateError(
            f"none of the weights that the model trains ({some(list(trainable))}) was both sent and "
            f"returned ({some([n for n in returned if n in sent])}): there is no update to attack. "
            "Let the Auditor's model train what the clients exchange (`requires_grad`)"
        )
    note_what_is_missing(model, sent, returned, assumptions)
    attacked_mode(model, training.mode, assumptions)
    model, num_classes, one_score = classifier(model, image, forward)
    if one_score:
        if loss is not None:
            raise UpdateError(
                "the model returns one score an image, which a `loss` of your own cannot be "
                "attacked with. For binary cross-entropy leave `loss` out; else give the Auditor "
                "`forward=` that returns a score for each class"
            )
        assumptions.append(Reason.of("one score"))
    if loss is not None:
        assumptions.append(Reason.of("loss given", loss=name_of(loss)))
    training, num_images = _what_trains(model, image, training, num_examples, assumptions)
    if num_images * math.prod(image.shape) > MOST_REBUILT:
        raise UpdateError(
            f"the update is said to be of {num_images} images, which is more than can be rebuilt: "
            "see what the client reports as `num-examples`"
        )
    _check_loss(training, loss, num_classes)
    model = model.to(device)

    def pick(arrays: Arrays, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # What is not sent is public, as the model given to the Auditor has it.
        return {
            name: as_tensor(arrays[name], tensor) if name in arrays else tensor.detach().clone()
            for name, tensor in wanted.items()
        }

    trained = {name: tensor for name, tensor in model.named_parameters() if name in compared}
    fixed = {name: tensor for name, tensor in model.named_parameters() if name not in compared}
    buffers = dict(model.named_buffers())
    state = model.state_dict()
    came_back = {n: t for n, t in buffers.items() if n in returned or n not in state}
    parameters, after = pick(sent, trained), pick(returned, trained)
    update = {name: after[name] - parameters[name] for name in parameters}
    if training.mode == "eval" and _statistics_moved(sent, returned):
        assumptions.append(Reason.of("statistics moved"))
    gradient, scale_known = as_gradient(update, parameters, training, assumptions)
    if gradient is not None and _clipped(gradient, training, num_images):
        scale_known = False
    rounding, length = rounding_of(returned, compared), update_norm(update)
    if length and rounding > ROUNDED * length:
        scale_known = False
        share = min(rounding / length, 1.0)
        dtype = str(returned[compared[0]].dtype)
        assumptions.append(Reason.of("weights rounded", dtype=dtype, share=share))
    if num_images < count_images(training, None):
        assumptions.append(Reason.of("fewer examples", images=num_images))
    return Observation(
        model=model,
        parameters=parameters,
        buffers=pick(sent, buffers) | pick(sent, fixed),
        returned_buffers=pick(returned, came_back),
        update=update,
        gradient=gradient,
        gradient_scale_known=scale_known,
        num_images=num_images,
        num_classes=num_classes,
        image=image,
        training=training,
        loss=None if loss is None else own_loss(loss, num_classes, device),
        rounding=rounding,
        assumptions=tuple(assumptions),
    )


def _what_trains(
    model: nn.Module,
    image: ImageSpec,
    told: LocalTraining,
    num_examples: int | None,
    assumptions: list[Reason],
) -> tuple[LocalTraining, int]:
    """Training and number of images, without a batch that batch norm cannot be trained on.

    Raises:
        UpdateError: There is one image, and the model cannot be trained on one.
    """
    training = told.for_client(num_examples)
    count = count_images(training, num_examples)
    several = (training.steps or 1) > 1
    last = (count % training.batch_size or training.batch_size) if several else count
    if last != 1 or not refuses_one_image(model, image):
        return training, count
    if several and 1 < training.batch_size < count:
        left_out = Reason.of("last image left out", images=count, batch_size=training.batch_size)
        assumptions.append(left_out)
        training = told.model_copy(update={"drop_last": True}).for_client(num_examples)
        return training, count_images(training, num_examples)
    if told.mode == "unknown":
        model.eval()
        assumptions[:] = [
            Reason.of("one image in eval mode") if note.code == "mode unknown" else note
            for note in assumptions
            if note.code != "dropout unknown"
        ]
        return training.model_copy(update={"mode": "eval"}), count
    raise UpdateError(
        "batch norm cannot be trained on a batch of one image in train mode: torch refuses it, for "
        "the client too. Set `training.batch_size` or `training.images` to what a step really had, "
        'or `training.mode` to "eval"'
    )


def _check_loss(training: LocalTraining, loss: Loss | None, classes: int) -> None:
    weights = training.class_weights
    if weights is not None and len(weights) != classes:
        raise ConfigError(
            f"`training.class_weights` needs a weight for each of the model's {classes} classes, "
            f"but has {len(weights)}"
        )
    if loss is not None and (weights or training.label_smoothing or training.reduction != "mean"):
        raise ConfigError(
            "give the Auditor `loss`, or `label_smoothing`, `class_weights` and `reduction` in "
            "`training`, not both"
        )


def update_norm(update: Update) -> float:
    """Euclidean norm over all tensors of an update."""
    squares = [float(t.double().square().sum()) for t in update.values()]
    return math.sqrt(sum(squares))


def _statistics_moved(sent: Arrays, returned: Arrays) -> bool:
    return any(
        not np.array_equal(array, returned[name])
        for name, array in sent.items()
        if name in returned and name.endswith(("running_mean", "running_var"))
    )


def count_images(training: LocalTraining, num_examples: int | None) -> int:
    """Images behind an update: as many as the training says, but never more than reported."""
    count = training.images or training.batch_size * (training.steps or 1)
    if num_examples is not None and 0 < num_examples < count:
        count = num_examples
    whole = count - count % training.batch_size
    return whole if training.drop_last and whole else count


def as_gradient(
    update: Update, parameters: Update, training: LocalTraining, assumptions: list[Reason]
) -> tuple[dict[str, Tensor] | None, bool]:
    """The gradient behind an update, if it is one step, and whether its length is known."""
    known, rate, steps = training.optimizer != "unknown", training.learning_rate, training.steps
    if known and steps is not None and steps > 1 and (rate is not None or training.adaptive):
        return None, False
    if not known:
        assumptions.append(Reason.of("optimiser unknown"))
    if steps is None:
        assumptions.append(Reason.of("steps unknown"))
    elif steps > 1:
        assumptions.append(Reason.of("steps taken as one", steps=steps))
    if rate is None:
        assumptions.append(Reason.of("learning rate unknown"))
        return {name: -delta for name, delta in update.items()}, False
    if training.adaptive:
        # The first step is the sign of the gradient (Kingma and Ba 2015, Sec. 2.1).
        decay = training.weight_decay if training.optimizer == "adamw" else 0.0
        return {n: -delta / rate - decay * parameters[n] for n, delta in update.items()}, False
    # Nesterov's first step is 1 + momentum times as long.
    stretch = 1 + training.momentum if training.nesterov else 1.0
    gradient = {
        name: -delta / (rate * stretch) - training.weight_decay * parameters[name]
        for name, delta in update.items()
    }
    return gradient, known


def _clipped(gradient: Update, training: LocalTraining, images: int) -> bool:
    """Whether clipping inside the step may have taken length away; of one image it shows."""
    norm = training.max_grad_norm
    if norm is None:
        return False
    return images > 1 or update_norm(gradient) > norm * (1 - CLIPPED)


def private_copy(seen: Observation) -> Observation:
    """The same in tensors and a model of its own, for code that may change what it is given.

    A model that refuses to be copied stays the same object.
    """

    def copied(tensors: Update) -> Update:
        return {name: tensor.clone() for name, tensor in tensors.items()}

    try:
        model = copy_model(seen.model)
    except Exception:  # noqa: BLE001 - whatever it holds that cannot be copied
        model = seen.model
    return replace(
        seen,
        model=model,
        parameters=copied(seen.parameters),
        buffers=copied(seen.buffers),
        returned_buffers=copied(seen.returned_buffers),
        update=copied(seen.update),
        gradient=None if seen.gradient is None else copied(seen.gradient),
    )
