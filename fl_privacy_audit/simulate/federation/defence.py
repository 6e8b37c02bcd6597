"""The defence that a client uses: one that works on its reply, or Soteria, which needs the batch."""

from collections.abc import Callable
from typing import Any

import torch
from flwr.app import Context, Message
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
from torch import Tensor

from fl_privacy_audit.core.config import read_settings
from fl_privacy_audit.defences import DEFENCES, Soteria, defend_weights, make_defence
from fl_privacy_audit.strategies import defend

from .data import class_names
from .model import make_net
from .settings import Settings

Next = Callable[[Message, Context], Message]
Weights = dict[str, Tensor]


def defence_mod(message: Message, context: Context, call_next: Next) -> Message:
    """Flower mod: the one that the settings in the message name.

    An app with a single defence has no use for this: it lists `defend(...)` or Flower's own mod.
    """
    settings = Settings.model_validate(dict(message.content.config_records["config"]))
    mod = _mod(settings)
    return call_next(message, context) if mod is None else mod(message, context, call_next)


def _mod(settings: Settings) -> Callable[[Message, Context, Next], Message] | None:
    options: dict[str, Any] = read_settings(settings.defence_settings)
    if settings.defence == "client-clipping":
        return fixedclipping_mod
    if settings.defence == "local-dp":
        return LocalDpMod(**options)
    if DEFENCES[settings.defence].where != "mod":
        return None
    seed = settings.seed if settings.reproducible_noise else None
    return defend(settings.defence, seed=seed, **options)


def soteria(settings: Settings, received: Weights, trained: Weights, inputs: Tensor) -> Weights:
    """The trained weights under Soteria.

    Args:
        settings: Of the federation.
        received: The weights that the client started from.
        trained: Its weights after local training.
        inputs: Every image it trained on, normalised; may be none.
    """
    if not len(inputs):
        return trained
    model = make_net(len(class_names(settings.dataset)), settings.seed)
    model.load_state_dict(received)
    defence = make_defence("soteria", read_settings(settings.defence_settings))
    assert isinstance(defence, Soteria)
    return defend_weights(received, trained, defence.measure(model, inputs), rng=torch.Generator())
