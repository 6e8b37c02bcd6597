"""Rows: networks, what goes between server and clients, and what is published."""

import torch.nn.functional as F
from torch import Tensor, nn

from .clients import (
    FIVE,
    IMAGE,
    QUICK,
    SWEPT,
    UNSURE,
    Client,
    Exchange,
    Federation,
    WithVariates,
    binary,
    broken_statistics,
    frozen_body,
    in_five_channels,
    of_two_classes,
    one_logit,
    own_batch_norm,
    pictures,
    sgd,
    with_a_duplicate,
)
from .networks import (
    CLASSES,
    Adapted,
    Attention,
    Output,
    Shaped,
    batch_norm,
    convolutions,
    perceptron,
    perceptron_with_batch_norm,
)

EXCHANGED: dict[str, Federation] = {
    # Networks.
    "convolutions": Federation(
        client=Client(images=(2, 2)),
        model=convolutions,
        told={"batch_size": 2},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "convolutions and the default attack": Federation(
        model=convolutions, audit={"attacks": [SWEPT]}, words=UNSURE, fits=True
    ),
    "batch norm in train mode": Federation(
        client=Client(images=(4, 4)),
        model=batch_norm,
        told={"batch_size": 4},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "batch norm in eval mode": Federation(
        client=Client(mode=False),
        model=batch_norm,
        told={"mode": "eval"},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "batch norm in train mode, told eval": Federation(
        client=Client(images=(4, 4)),
        model=batch_norm,
        told={"batch_size": 4, "mode": "eval"},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=False,
    ),
    "batch norm in a mode that is not told": Federation(
        client=Client(images=(4, 4)),
        model=batch_norm,
        told={"batch_size": 4, "mode": "unknown"},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "batch norm with a last batch of one": Federation(
        client=Client(images=(5, 5), size=2, steps=3),
        model=batch_norm,
        told={"steps": None, "epochs": 1, "batch_size": 2},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "batch norm and one image": Federation(
        client=Client(mode=False),
        model=perceptron_with_batch_norm,
        words=("not tested",),
        code="update does not fit",
    ),
    "group norm": Federation(
        model=lambda: convolutions(nn.GroupNorm(2, 6)),
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "attention": Federation(
        model=Attention, audit={"attacks": [QUICK]}, words=UNSURE, fits=True, slow=True
    ),
    "scores in a dict": Federation(
        model=lambda: Shaped(lambda found: {"logits": found, "hidden": found[None]}), fits=True
    ),
    "scores in a tuple": Federation(
        model=lambda: Shaped(lambda found: (found[:, None], found)), fits=True
    ),
    "scores in an object": Federation(model=lambda: Shaped(Output), fits=True),
    "one logit": Federation(
        client=Client(loss=one_logit, batch=of_two_classes),
        model=lambda: perceptron(1),
        fits=True,
    ),
    "a loss of the users'": Federation(
        client=Client(loss=lambda o, y: F.multi_margin_loss(o, y)),
        auditor={"loss": F.multi_margin_loss},
        fits=True,
    ),
    "several labels an image": Federation(
        client=Client(
            loss=binary,
            publish=lambda publish, t: publish(
                t.images, F.one_hot(t.labels, CLASSES).float(), normalised=False
            ),
        ),
        words=("inconclusive",),
        code="nothing to compare with",
    ),
    # What goes between server and clients.
    "batch norm that stays at home": Federation(
        client=Client(images=(4, 4)),
        model=batch_norm,
        exchange=Exchange(keep=lambda name: not name.startswith("1.")),
        told={"batch_size": 4},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "batch norm that stays at home and differs there": Federation(
        client=Client(images=(4, 4), prepare=own_batch_norm),
        model=batch_norm,
        exchange=Exchange(keep=lambda name: not name.startswith("1.")),
        told={"batch_size": 4},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=False,
    ),
    "the head alone": Federation(
        model=perceptron,
        client=Client(prepare=frozen_body),
        exchange=Exchange(keep=lambda name: name.startswith("3.")),
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "adapters alone": Federation(
        model=Adapted,
        exchange=Exchange(
            keep=lambda name: "lora" in name,
            name=lambda number, name: name.replace(".default", ""),
        ),
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "several array records": Federation(strategy=WithVariates, fits=True),
    "names of torch.compile": Federation(
        exchange=Exchange(name=lambda number, name: f"_orig_mod.{name}"), fits=True
    ),
    "names of DataParallel": Federation(
        exchange=Exchange(name=lambda number, name: f"module.{name}"), fits=True
    ),
    "names of Opacus": Federation(
        exchange=Exchange(name=lambda number, name: f"_module.{name}"), fits=True
    ),
    "a list of arrays": Federation(
        exchange=Exchange(name=lambda number, name: str(number)), fits=True
    ),
    "another architecture": Federation(
        auditor={"model": lambda: perceptron(7)}, words=("not tested",), code="update does not fit"
    ),
    "half precision": Federation(
        exchange=Exchange(array=Tensor.half),
        client=Client(optimizer=sgd(1.0)),
        told={"learning_rate": 1.0},
        words=UNSURE,
    ),
    "half precision and a small rate": Federation(
        exchange=Exchange(array=Tensor.half),
        client=Client(optimizer=sgd(1e-4)),
        told={"learning_rate": 1e-4},
        words=UNSURE,
    ),
    "a counter of shape (1,)": Federation(
        client=Client(images=(4, 4)),
        model=batch_norm,
        exchange=Exchange(array=lambda tensor: tensor.reshape(tensor.shape or (1,))),
        told={"batch_size": 4},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "buffers that are not finite": Federation(
        client=Client(images=(4, 4), prepare=broken_statistics),
        model=batch_norm,
        told={"batch_size": 4},
        audit={"attacks": ["see_through_gradients"], "seconds_per_round": 2},
        words=("inconclusive", "not tested", "leaked"),
    ),
    "the release of two clients": Federation(
        client=Client(images=(2, 2)),
        told={"batch_size": 2},
        audit={"attacks": [QUICK], "views": ["release"]},
        words=UNSURE,
        fits=True,
    ),
    # What is published.
    "augmented, and published as trained on": Federation(
        client=Client(
            publish=lambda publish, t: publish(
                IMAGE.normalise(t.images.flip(3)), t.labels, normalised=True
            ),
            inputs=lambda images: IMAGE.normalise(images.flip(3)),
        ),
        fits=True,
    ),
    "one image of four published": Federation(
        client=Client(
            images=(4, 4),
            publish=lambda publish, t: publish(t.images[:1], t.labels[:1], normalised=False),
        ),
        told={"batch_size": 4},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=False,
    ),
    "bytes published": Federation(
        client=Client(
            publish=lambda publish, t: publish((t.images * 255).byte(), t.labels, normalised=False)
        ),
        words=("inconclusive",),
        code="nothing to compare with",
    ),
    "labels that are no classes": Federation(
        client=Client(
            publish=lambda publish, t: publish(t.images, t.labels + 100, normalised=False)
        ),
        words=("inconclusive",),
        code="nothing to compare with",
    ),
    "five channels, and pictures kept": Federation(
        client=Client(batch=in_five_channels, inputs=FIVE.normalise),
        model=lambda: perceptron(channels=5),
        audit={"image": FIVE, "keep_pictures": True},
        fits=True,
    ),
    "several images, one of them twice": Federation(
        client=Client(images=(4, 4), batch=with_a_duplicate),
        told={"batch_size": 4},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "the same images every round": Federation(
        client=Client(batch=lambda number, count: pictures(number % 2, count)),
        words=("inconclusive",),
    ),
    "clients of one and of four images": Federation(
        client=Client(images=(1, 4)),
        told={"batch_size": 4},
        audit={"attacks": [QUICK], "clients_per_round": 2},
        words=UNSURE,
        fits=True,
    ),
}
