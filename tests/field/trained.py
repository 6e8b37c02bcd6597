"""Rows: training and defences, as told or otherwise."""

from .clients import (
    GAUSSIAN,
    MISFIT,
    QUICK,
    SURROGATE,
    SWEPT,
    UNSURE,
    Client,
    Federation,
    adam,
    adamw,
    clipped,
    dp_sgd,
    noise,
    sgd,
)

TRAINED: dict[str, Federation] = {
    # Training.
    "Adam, as told": Federation(
        client=Client(optimizer=adam()),
        told={"optimizer": "adam", "learning_rate": 0.01},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "AdamW, as told": Federation(
        client=Client(optimizer=adamw(weight_decay=0.1)),
        told={"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "Adam over three steps, as told": Federation(
        client=Client(optimizer=adam(), steps=3),
        told={"optimizer": "adam", "learning_rate": 0.01, "steps": 3},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "AdamW, told Adam": Federation(
        client=Client(optimizer=adamw(weight_decay=1.0), steps=3),
        told={"optimizer": "adam", "learning_rate": 0.01, "steps": 3, "weight_decay": 1.0},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=False,
    ),
    "SGD, told Adam": Federation(
        told={"optimizer": "adam", "learning_rate": 0.01},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=False,
    ),
    "Nesterov over three steps, as told": Federation(
        client=Client(optimizer=sgd(momentum=0.9, nesterov=True), steps=3),
        told={"momentum": 0.9, "nesterov": True, "steps": 3},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "Nesterov, told momentum alone": Federation(
        client=Client(optimizer=sgd(momentum=0.9, nesterov=True)),
        told={"momentum": 0.9},
        fits=False,
    ),
    "FedProx over three steps, as told": Federation(
        client=Client(proximal=1.0, steps=3),
        told={"proximal_mu": 1.0, "steps": 3},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "a learning rate that the server sends": Federation(
        told={"learning_rate": 3.0}, sent={"lr": 0.1}, fits=True
    ),
    "FedProx that the server sends": Federation(
        client=Client(proximal=1.0, steps=3),
        told={"steps": 3},
        sent={"proximal-mu": 1.0},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "two epochs of two batches": Federation(
        client=Client(images=(4, 4), size=2, steps=4),
        told={"steps": None, "epochs": 2, "batch_size": 2},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "steps not told, three of them": Federation(
        client=Client(steps=3), told={"steps": None}, words=UNSURE
    ),
    "125 steps, as told": Federation(
        client=Client(images=(125, 125), size=1, steps=125, optimizer=sgd(0.01)),
        told={"steps": None, "epochs": 1, "learning_rate": 0.01},
        audit={"attacks": [SWEPT]},
        words=("not tested",),
        slow=True,
    ),
    "125 steps and an attack that takes them": Federation(
        client=Client(images=(125, 125), size=1, steps=125, optimizer=sgd(0.01)),
        told={"steps": None, "epochs": 1, "learning_rate": 0.01},
        audit={"attacks": [SURROGATE]},
        words=UNSURE,
        fits=True,
        slow=True,
    ),
    # Defences: declared, not declared, declared wrongly.
    "ten times the noise told": Federation(
        client=Client(defend=noise(10.0)),
        audit={"defence": GAUSSIAN},
        words=("inconclusive",),
        code=MISFIT,
        fits=False,
    ),
    "a tenth of the noise told": Federation(
        client=Client(defend=noise(0.1)), audit={"defence": GAUSSIAN}, words=UNSURE, fits=False
    ),
    "a little noise, as told": Federation(
        client=Client(defend=noise(1e-4)),
        audit={"defence": {"name": "gaussian", "options": {"std": 1e-4}}},
        fits=True,
    ),
    "clipping, as told": Federation(
        client=Client(clip=0.5),
        told={"max_grad_norm": 0.5, "noise_multiplier": 0.0},
        audit={"defence": dp_sgd(0.5, 0.0)},
        fits=True,
    ),
    "clipping, told another norm": Federation(
        client=Client(clip=0.5),
        told={"max_grad_norm": 0.05, "noise_multiplier": 0.0},
        audit={"defence": dp_sgd(0.05, 0.0)},
        words=UNSURE,
        fits=False,
    ),
    "clipping of several images inside the step, as told": Federation(
        client=Client(images=(4, 4), clip=0.5),
        told={"batch_size": 4, "max_grad_norm": 0.5, "noise_multiplier": 0.0},
        audit={"defence": dp_sgd(0.5, 0.0), "attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "clipping tensor by tensor, not told": Federation(
        client=Client(defend=clipped(0.01)), words=UNSURE, fits=False
    ),
    "DP-SGD, as told": Federation(
        client=Client(clip=0.5, sigma=1.0),
        told={"max_grad_norm": 0.5, "noise_multiplier": 1.0},
        audit={"defence": dp_sgd(0.5, 1.0)},
        words=("withstood these attacks",),
        fits=True,
    ),
    "DP-SGD, not told": Federation(
        client=Client(clip=0.5, sigma=1.0), words=("inconclusive",), code=MISFIT
    ),
    "DP-SGD, told ten times the noise": Federation(
        client=Client(clip=0.5, sigma=0.1),
        told={"max_grad_norm": 0.5, "noise_multiplier": 1.0},
        audit={"defence": dp_sgd(0.5, 1.0)},
        words=UNSURE,
        fits=False,
    ),
    "DP-SGD, told a tenth of the noise": Federation(
        client=Client(clip=0.5, sigma=1.0),
        told={"max_grad_norm": 0.5, "noise_multiplier": 0.1},
        audit={"defence": dp_sgd(0.5, 0.1)},
        words=UNSURE,
        fits=False,
    ),
    "sign compression, told": Federation(
        client=Client(defend=lambda delta, rng: delta.sign()),
        audit={"defence": {"name": "sign", "options": {"scale": 1.0}}, "attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "pruning told, and nothing is pruned": Federation(
        audit={"defence": {"name": "pruning", "options": {"share": 0.99, "scope": "tensor"}}},
        words=UNSURE,
        fits=False,
    ),
}
