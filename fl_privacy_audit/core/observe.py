"""Sent and returned weights -> what an attacker holds.

A Flower client returns weights, not gradients. One plain SGD step with learning rate ``lr`` gives
the batch gradient exactly, ``g = (sent - returned) / lr``; several steps give only their sum, which
an attack has to replay. Whatever is not known is written into `Observation.assumptions`.
"""

import copy
import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.dropout import _DropoutNd

from .errors import UpdateError
from .types import ImageSpec, LocalTraining, Mode, Observation, Update

Arrays = Mapping[str, NDArray[np.generic]]
OPACUS_PREFIX = "_module."


def observe(
    model: nn.Module,
    sent: Arrays,
    returned: Arrays,
    *,
    image: ImageSpec,
    training: LocalTraining,
    num_examples: int | None = None,
    device: torch.device | str = "cpu",
) -> Observation:
    """Turn the two sets of weights into an observation.

    Args:
        model: The clients' architecture; copied, never changed.
        sent: State dict the server sent, as arrays.
        returned: State dict the client returned.
        image: Shape and normalisation of the training images.
        training: What is known of the local training.
        num_examples: What the client reported as ``num-examples``.
        device: Where attacks will run.

    Raises:
        UpdateError: Names or shapes do not fit the model, or a value is not finite.
    """
    assumptions: list[str] = []
    training = training.for_client(num_examples)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UpdateError(
            "the audited model has nothing to train: every parameter is frozen. Give the Auditor "
            "the model as clients train it"
        )
    sent, returned = _plain_names(sent, assumptions), _plain_names(returned, assumptions)
    _check(model, sent, "sent to the client")
    _check(model, returned, "returned by the client")
    num_classes = count_classes(model, image)
    model = attacked_copy(model, training.mode, assumptions).to(device)

    def pick(arrays: Arrays, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # A buffer that is not in the state dict is never sent: it is part of the architecture.
        return {
            name: torch.tensor(arrays[name], dtype=tensor.dtype, device=device)
            if name in arrays
            else tensor.detach().clone()
            for name, tensor in wanted.items()
        }

    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    fixed = {n: p for n, p in model.named_parameters() if not p.requires_grad}
    buffers = dict(model.named_buffers())
    parameters = pick(sent, trainable)
    after = pick(returned, trainable)
    update = {name: after[name] - parameters[name] for name in parameters}
    if training.mode == "eval" and _statistics_moved(sent, returned):
        assumptions.append(
            "batch-norm running statistics moved, which eval mode does not do; attacked in eval "
            'mode as `mode` says: if clients train in train mode, set it to "train"'
        )
    gradient, scale_known = _as_gradient(update, parameters, training, assumptions)
    num_images = count_images(training, num_examples)
    if num_images < count_images(training, None):
        assumptions.append(f"the client reports {num_images} examples, so as many are rebuilt")
    return Observation(
        model=model,
        parameters=parameters,
        buffers=pick(sent, buffers) | pick(sent, fixed),
        returned_buffers=pick(returned, buffers),
        update=update,
        gradient=gradient,
        gradient_scale_known=scale_known,
        num_images=num_images,
        num_classes=num_classes,
        image=image,
        training=training,
        assumptions=tuple(assumptions),
    )


def update_norm(update: Update) -> float:
    """Euclidean norm over all tensors of an update."""
    squares = [float(t.double().square().sum()) for t in update.values()]
    return math.sqrt(sum(squares))


def count_classes(model: nn.Module, image: ImageSpec) -> int:
    """Outputs of the model for one image of this shape.

    Raises:
        UpdateError: The model does not take such an image, or does not return ``(N, K)``.
    """
    probe = copy.deepcopy(model).cpu().eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            dtype = next((p.dtype for p in probe.parameters()), torch.float32)
            output = probe(torch.zeros(1, *image.shape, dtype=dtype))
    except (RuntimeError, ValueError) as error:
        raise UpdateError(
            f"the model does not take an image of shape {image.shape}: {error}. "
            "Set `image.shape` to what the clients train on."
        ) from error
    if not isinstance(output, Tensor) or output.ndim != 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UpdateError(
            f"the model must return class scores of shape (N, K), but returned {shape}"
        )
    return int(output.shape[1])


def attacked_copy(model: nn.Module, mode: Mode, assumptions: list[str]) -> nn.Module:
    """A private copy of the model in the mode the client trained in, free of side effects.

    Batch-norm in train mode uses the statistics of the batch without updating the running ones.
    Dropout is left out: its mask never leaves the client.
    """
    model = copy.deepcopy(model)
    batch_norms = [m for m in model.modules() if isinstance(m, _NormBase)]
    dropouts = [m for m in model.modules() if isinstance(m, _DropoutNd) and m.p > 0]
    if mode == "unknown" and (batch_norms or dropouts):
        assumptions.append("local training mode not known; taken as train mode")
    model.train(mode != "eval")
    if mode != "eval":
        for norm in batch_norms:
            norm.track_running_stats = False
            if not isinstance(norm, _BatchNorm):
                norm.momentum = 0.0
        for dropout in dropouts:
            dropout.eval()
        if dropouts:
            assumptions.append("the client's dropout masks are not known; replayed without dropout")
    return model


def _statistics_moved(sent: Arrays, returned: Arrays) -> bool:
    return any(
        not np.array_equal(array, returned[name])
        for name, array in sent.items()
        if name.endswith(("running_mean", "running_var"))
    )


def _plain_names(arrays: Arrays, assumptions: list[str]) -> Arrays:
    if arrays and all(name.startswith(OPACUS_PREFIX) for name in arrays):
        note = (
            "weights carry Opacus's `_module.` prefix, which was removed here; the client should "
            "return `model._module.state_dict()`"
        )
        if note not in assumptions:
            assumptions.append(note)
        return {name.removeprefix(OPACUS_PREFIX): array for name, array in arrays.items()}
    return arrays


def _check(model: nn.Module, arrays: Arrays, which: str) -> None:
    expected, parameters = model.state_dict(), dict(model.named_parameters())
    missing = [name for name in expected if name not in arrays]
    extra = [name for name in arrays if name not in expected]
    if missing or extra:
        raise UpdateError(
            f"the weights {which} do not fit the audited model: missing {_some(missing)}, "
            f"unknown {_some(extra)}. Give the Auditor the model that the clients train."
        )
    for name, tensor in expected.items():
        if tuple(arrays[name].shape) != tuple(tensor.shape):
            raise UpdateError(
                f"`{name}` {which} has shape {tuple(arrays[name].shape)}, but the audited model "
                f"has {tuple(tensor.shape)}. Give the Auditor the model that the clients train."
            )
        trained = name in parameters and tensor.is_floating_point()
        if trained and not np.isfinite(arrays[name]).all():
            raise UpdateError(
                f"`{name}` {which} holds values that are not finite; "
                "lower the local learning rate or clip the gradient"
            )


def _some(names: list[str], most: int = 3) -> str:
    if not names:
        return "nothing"
    shown = ", ".join(f"`{name}`" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def count_images(training: LocalTraining, num_examples: int | None) -> int:
    """Images behind an update: as many as the training says, but never more than reported."""
    count = training.images or training.batch_size * (training.steps or 1)
    return num_examples if num_examples is not None and 0 < num_examples < count else count


def _as_gradient(
    update: Update, parameters: Update, training: LocalTraining, assumptions: list[str]
) -> tuple[dict[str, Tensor] | None, bool]:
    """The gradient behind an update, if it is one step, and whether its length is known."""
    known, rate, steps = training.optimizer != "unknown", training.learning_rate, training.steps
    adaptive = training.optimizer in ("adam", "adamw")
    if known and steps is not None and steps > 1 and (rate is not None or adaptive):
        return None, False
    if not known:
        assumptions.append("local optimiser not known; the update is taken as one gradient step")
    if steps is None:
        assumptions.append("number of local steps not known; taken as one")
    elif steps > 1:
        assumptions.append(
            f"{steps} local steps with an unknown optimiser or learning rate; the update "
            "is taken as one gradient step"
        )
    if rate is None:
        assumptions.append("local learning rate not known; only the gradient's direction is used")
        return {name: -delta for name, delta in update.items()}, False
    if adaptive:
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
