"""Rows: one thing differs from a plain step, and the audit was told of it, or not."""

import torch
import torch.nn.functional as F

from .clients import (
    GAUSSIAN,
    IMAGE,
    MISFIT,
    QUICK,
    SURROGATE,
    UNSURE,
    Client,
    Federation,
    as_it_is,
    binary,
    frozen_head,
    largest,
    noise,
    own_head,
    picture,
    sgd,
    weighted,
)
from .networks import with_dropout

DESCRIBED: dict[str, Federation] = {
    "one plain step, as told": Federation(fits=True),
    "four images, as told": Federation(
        client=Client(images=(4, 4)),
        told={"batch_size": 4},
        audit={"attacks": [QUICK]},
        words=UNSURE,
    ),
    "momentum, as told": Federation(
        client=Client(optimizer=sgd(momentum=0.9)), told={"momentum": 0.9}
    ),
    "Nesterov, as told": Federation(
        client=Client(optimizer=sgd(momentum=0.9, nesterov=True)),
        told={"momentum": 0.9, "nesterov": True},
    ),
    "weight decay, as told": Federation(
        client=Client(optimizer=sgd(weight_decay=0.1)), told={"weight_decay": 0.1}
    ),
    "FedProx, as told": Federation(client=Client(proximal=1.0), told={"proximal_mu": 1.0}),
    "an epoch in place of steps": Federation(
        told={"steps": None, "epochs": 1, "batch_size": 1}, client=Client()
    ),
    "learning rate not told": Federation(told={"learning_rate": None}),
    "optimiser not told": Federation(told={"optimizer": "unknown"}),
    "a head of its own": Federation(client=Client(prepare=own_head), words=UNSURE),
    "Adam, told SGD": Federation(
        client=Client(optimizer=lambda w: torch.optim.Adam(w, 0.1)), words=UNSURE
    ),
    "AdamW, told SGD": Federation(
        client=Client(optimizer=lambda w: torch.optim.AdamW(w, 0.01)), words=UNSURE
    ),
    "RMSprop, told SGD": Federation(
        client=Client(optimizer=lambda w: torch.optim.RMSprop(w, 0.01)), words=UNSURE
    ),
    "binary cross-entropy": Federation(client=Client(loss=binary), words=UNSURE),
    "label smoothing, not told": Federation(
        client=Client(loss=lambda o, y: F.cross_entropy(o, y, label_smoothing=0.1)), words=UNSURE
    ),
    "class weights, not told": Federation(client=Client(loss=weighted), words=UNSURE),
    "label smoothing, as told": Federation(
        client=Client(loss=lambda o, y: F.cross_entropy(o, y, label_smoothing=0.1)),
        told={"label_smoothing": 0.1},
    ),
    "a loss that sums, as told": Federation(
        client=Client(images=(4, 4), loss=lambda o, y: F.cross_entropy(o, y, reduction="sum")),
        told={"batch_size": 4, "reduction": "sum"},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "class weights, as told": Federation(
        client=Client(loss=weighted), told={"class_weights": [5.0, 1.0, 0.2, 3.0, 0.5]}, fits=True
    ),
    "a loss that sums, not told": Federation(
        client=Client(images=(4, 4), loss=lambda o, y: F.cross_entropy(o, y, reduction="sum")),
        told={"batch_size": 4},
        audit={"attacks": [QUICK]},
        words=UNSURE,
    ),
    "five steps, told one": Federation(client=Client(steps=5), words=UNSURE),
    "a tenth of the rate told": Federation(client=Client(optimizer=sgd(0.01)), words=UNSURE),
    "ten times the rate told": Federation(client=Client(optimizer=sgd(1.0)), words=UNSURE),
    "momentum over three steps, not told": Federation(
        client=Client(optimizer=sgd(momentum=0.9), steps=3),
        told={"steps": 3},
        audit={"attacks": [SURROGATE]},
        words=UNSURE,
    ),
    "weight decay, not told": Federation(
        client=Client(optimizer=sgd(weight_decay=1.0)), words=UNSURE
    ),
    "FedProx over five steps, not told": Federation(
        client=Client(proximal=10.0, steps=5, optimizer=sgd(0.05)), words=UNSURE
    ),
    "another batch published": Federation(
        client=Client(publish=lambda publish, batch: as_it_is(publish, picture(23))),
        words=("inconclusive",),
        code=MISFIT,
    ),
    "pixels published as normalised": Federation(
        client=Client(publish=lambda publish, t: publish(t.images, t.labels, normalised=True)),
        words=UNSURE,
    ),
    "augmented after publishing": Federation(
        client=Client(inputs=lambda images: IMAGE.normalise(images.flip(3))), words=UNSURE
    ),
    "no normalisation, told one": Federation(
        client=Client(inputs=lambda images: images), words=UNSURE
    ),
    "labels published wrong": Federation(
        client=Client(
            publish=lambda publish, t: publish(t.images, (t.labels + 1) % 5, normalised=False)
        ),
        words=UNSURE,
    ),
    "nothing published": Federation(
        client=Client(publish=lambda publish, batch: None),
        words=("inconclusive",),
        code="nothing to compare with",
    ),
    "head frozen by the client alone": Federation(client=Client(prepare=frozen_head), fits=True),
    "dropout": Federation(model=with_dropout, words=UNSURE),
    "heavy noise, told": Federation(
        client=Client(defend=noise(1.0)),
        audit={"defence": GAUSSIAN},
        words=("withstood these attacks",),
    ),
    "heavy noise, not told": Federation(
        client=Client(defend=noise(1.0)), words=("inconclusive",), code=MISFIT
    ),
    "noise told, but not there": Federation(audit={"defence": GAUSSIAN}, words=UNSURE),
    "more noise told than there is": Federation(
        client=Client(defend=noise(1e-4)), audit={"defence": GAUSSIAN}, words=UNSURE
    ),
    "pruned, told": Federation(
        client=Client(defend=largest(0.3)),
        audit={"defence": {"name": "pruning", "options": {"share": 0.7, "scope": "tensor"}}},
        words=UNSURE,
    ),
    "pruned, not told": Federation(client=Client(defend=largest(0.3)), words=UNSURE),
    "signs, not told": Federation(
        client=Client(defend=lambda delta, rng: 1e-3 * delta.sign()), words=UNSURE
    ),
    "half the update, not told": Federation(
        client=Client(defend=lambda delta, rng: delta / 2), words=UNSURE
    ),
    "shuffled tensors": Federation(
        client=Client(
            defend=lambda delta, rng: delta.flatten()[
                torch.randperm(delta.numel(), generator=rng)
            ].view(delta.shape)
        ),
        words=("inconclusive",),
        code=MISFIT,
    ),
    "the update of someone else": Federation(
        client=Client(inputs=lambda images: IMAGE.normalise(picture(23).images)),
        words=("inconclusive",),
        code=MISFIT,
    ),
    "weights sent back as they came": Federation(
        client=Client(defend=lambda delta, rng: 0 * delta),
        words=("not tested",),
        code="weights unchanged",
    ),
    "an update that is not finite": Federation(
        client=Client(defend=lambda delta, rng: delta / 0.0),
        words=("not tested",),
        code="update does not fit",
    ),
    "eval mode, told train": Federation(client=Client(mode=False), words=("leaked",)),
    "noise and rounding, not told": Federation(
        client=Client(defend=lambda d, rng: noise(0.05)(d, rng).round(decimals=2)), words=UNSURE
    ),
}
