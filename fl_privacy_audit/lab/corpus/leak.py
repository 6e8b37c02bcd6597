"""What a server sees of one client: a step of SGD, its defence, and the two sets of weights.

Defences work on the gradient, so their settings are in its units, as papers give them; the client
then steps along what the defence left of it.
"""

import copy

import torch
from torch import Tensor, nn

from fl_privacy_audit.core.local_training import Chance, train_locally
from fl_privacy_audit.core.observe import observe
from fl_privacy_audit.core.types import ImageSpec, LocalTraining, Mode, Observation
from fl_privacy_audit.defences import AppliedDefence

LEARNING_RATE = 0.1


def leak(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    image: ImageSpec,
    mode: Mode,
    defence: AppliedDefence,
    rng: torch.Generator,
    device: torch.device,
) -> Observation:
    """One client's update, as the server holds it.

    Args:
        model: With the weights that were sent; it is not changed.
        images: ``(N, 3, H, W)`` in [0, 1]: the client's one batch.
        labels: ``(N,)``.
        image: Shape and normalisation.
        mode: Of batch norm in the client's step; attacks replay it in the same.
        defence: On the gradient.
        rng: The defence's randomness.
        device: Where the attack shall run.
    """
    client = copy.deepcopy(model).train(mode == "train")
    sent = {name: tensor.detach() for name, tensor in client.state_dict().items()}
    training = LocalTraining(
        optimizer="sgd", learning_rate=LEARNING_RATE, steps=1, batch_size=len(images), mode=mode
    )
    trained = train_locally(
        client,
        dict(client.named_parameters()),
        dict(client.named_buffers()),
        image.normalise(images),
        labels,
        training,
        chance=Chance(dropout=True),
    )
    defended = defence.apply(trained.gradient, rng)
    stepped = {name: sent[name] - LEARNING_RATE * slope for name, slope in defended.items()}
    returned = {**sent, **trained.buffers, **stepped}
    return observe(
        model,
        {name: tensor.numpy() for name, tensor in sent.items()},
        {name: tensor.numpy() for name, tensor in returned.items()},
        image=image,
        training=training,
        device=device,
    )
