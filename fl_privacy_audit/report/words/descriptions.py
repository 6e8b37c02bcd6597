"""What an audit is told of clients: what does not fit, and what had to be assumed."""

from collections.abc import Mapping
from typing import Final

_FIRST_ROUND = (
    "if clients put in parameters of their own, audit the first round alone, in which they train "
    "what they were sent: `every` as large as there are rounds, and `clients_per_round = 5` at least"
)
STEPS: Final[Mapping[str, str]] = {
    # What does not fit the description.
    "tensors differ": _FIRST_ROUND,
    "chance hides the fit": (
        "publish every batch as it goes into the model, so that its order is known, and check `training` "
        f"and `defence`; {_FIRST_ROUND}"
    ),
}
"""Code -> what to do."""

REASONS: Final[Mapping[str, str]] = {
    # What would explain that the true batch, trained as described, gives another update.
    "scale differs": (
        "the update points the same way and is {ratio} times as long, as a learning rate of {rate} "
        "would make it"
    ),
    "fits with": "it would fit with {option} {value}",
    "inputs not normalised": "it would fit if the client did not normalise its images",
    "pixels published as normalised": (
        "it would fit if the published images were normalised already"
    ),
    "chance hides the fit": (
        "what clients draw by chance, the order of their batches say, moves their updates so far that "
        "another training would fit as well"
    ),
    "no time to explain": (
        "there was no time left to look for what would explain it (cosine {cosine})"
    ),
    "tensors differ": (
        "parameters that differ: {count}, {tensors} among them, as if clients put in their own"
    ),
    "sign-like update": "the update holds values of one size, as signs do: is a defence declared?",
    "another batch or training": (
        "another batch, or training that is not as described: publish every batch as it goes into "
        "the model, and check `training` and `defence`"
    ),
    # What had to be assumed of an update and its training.
    "as recorded": "{text}",
    "optimiser unknown": "local optimiser not known; the update is taken as one gradient step",
    "steps unknown": "number of local steps not known; taken as one",
    "steps taken as one": (
        "{steps} local steps with an unknown optimiser or learning rate; the update is taken as one "
        "gradient step"
    ),
    "learning rate unknown": (
        "local learning rate not known; only the gradient's direction is used"
    ),
    "mode unknown": "local training mode not known; taken as train mode",
    "dropout unknown": "the client's dropout masks are not known; replayed without dropout",
    "one image in eval mode": (
        "batch norm cannot be trained on one image, so the client is taken to train in eval mode"
    ),
    "last image left out": (
        "{images} images in batches of {batch_size} leave one over, on which batch norm cannot be "
        "trained; taken as left out (`drop_last`)"
    ),
    "fewer examples": "the client reports {images} examples, so as many are rebuilt",
    "statistics moved": (
        "batch-norm running statistics moved, which eval mode does not do; attacked in eval mode as "
        '`mode` says: if clients train in train mode, set it to "train"'
    ),
    "weights rounded": (
        "rounding of the weights to {dtype} makes up about {percent} of the update; the rest is what "
        "clients learned"
    ),
    "one score": (
        "the model returns one score an image; taken as that of class 1 against class 0, as binary "
        "cross-entropy does"
    ),
    "loss given": "clients minimise `{loss}`, which the Auditor was given",
    "buffer shape differs": (
        "the buffer `{name}` {which} has shape {shape} where the model has {wanted}; left out"
    ),
    "buffer not finite": "the buffer `{name}` {which} is not finite; left out",
    "prefix of Opacus": (
        "weights carry Opacus's `_module.` prefix, which was removed here; the client should return "
        "`model._module.state_dict()`"
    ),
    "weights without names": "the weights have no names; taken in the order of {order}",
    "weights not sent": "not sent, so those of the model given to the Auditor are used: {names}",
    "weights not returned": "not returned, so taken as they were sent and not compared: {names}",
    "frozen for the Auditor alone": (
        "frozen in the model given to the Auditor, so not compared, but trained by the client: {names}"
    ),
    "returned but never sent": "returned but never sent, so their updates are not known: {names}",
    "taken as frozen": (
        "did not move at all, so taken as frozen by the client and not compared: {names}"
    ),
    "release taken as mean": (
        "the release is taken as the mean of {clients} clients' updates; a server optimiser, or "
        "weights that are not by the number of images, would change it"
    ),
    "sent but not replayed": "the server sends {setting} {value}, which is not replayed",
    "reported by clients": "{setting} {value} was reported by the client{instead}",
    "read from the message": "{setting} {value} was read from the message to the client{instead}",
}
"""Code -> its words."""
