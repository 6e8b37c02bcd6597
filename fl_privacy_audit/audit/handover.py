"""What the server hands over to its workers: the user's own objects, through a pipe between the two.

Objects go by pickle, which needs no care here: the worker is a child of the process that made them, and
nothing of it ever lies on a disk. Classes and functions of a script, or made within functions, go by
value with cloudpickle, which comes with Flower's simulation.
"""

import contextlib
import importlib
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import torch
from torch import nn

from fl_privacy_audit.core.losses import Loss
from fl_privacy_audit.core.models import Forward
from fl_privacy_audit.core.process_state import read_settings, write_settings
from fl_privacy_audit.core.protocols import Attack

from .epsilon import Meter
from .schedule import Elsewhere

CLOUDPICKLE: Final = ("cloudpickle", "ray.cloudpickle")


@dataclass(frozen=True, kw_only=True)
class Handover:
    """What is not in a capture.

    Attributes:
        model: The clients' architecture.
        forward: How class scores are made with it; None to call it.
        loss: What clients minimise; None for what the settings say.
        attacks: Attacks that were given as objects; None for those that settings name.
        elsewhere: Makes replays of the clients' app; None where they are made in the round.
        meter: Measures epsilon by such replays; None where that is not wanted.
    """

    model: nn.Module
    forward: Forward | None = None
    loss: Loss | None = None
    attacks: Sequence[Attack] | None = None
    elsewhere: Elsewhere | None = None
    meter: Meter | None = None

    @property
    def own(self) -> list[str]:
        """What was given beside the model."""
        given = {"forward": self.forward, "loss": self.loss, "attacks": self.attacks}
        return [name for name, value in given.items() if value is not None]

    @property
    def weights(self) -> dict[str, Any]:
        """The model's state, as arrays that any file can hold."""
        state = self.model.state_dict().items()
        return {
            name: (tensor.float() if tensor.dtype == torch.bfloat16 else tensor)
            .detach()
            .cpu()
            .numpy()
            for name, tensor in state
            if isinstance(tensor, torch.Tensor)
        }

    def packed(self) -> bytes:
        """For a pipe to a child.

        Raises:
            Exception: Something of it cannot be handed over.
        """
        return _dumps((self, read_settings()))

    @classmethod
    def unpacked(cls, packed: bytes) -> Self:
        """The same in the child, whose settings become those of its parent."""
        handed, settings = pickle.loads(packed)
        write_settings(settings)
        assert isinstance(handed, cls)
        return handed


def _dumps(value: Any) -> bytes:
    with contextlib.suppress(Exception):  # whatever the user's objects raise
        plain = pickle.dumps(value)
        if b"__main__" not in plain:
            return plain
    for name in CLOUDPICKLE:
        try:
            by_value = importlib.import_module(name)
        except ImportError:
            continue
        packed: bytes = by_value.dumps(value)
        return packed
    return pickle.dumps(value)
