"""The defence that a client uses: one that works on its reply, or Soteria, which needs the batch."""

from collections.abc import Callable
from typing import Any

import torch
from flwr.app import Context, Message
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
from torch import Tensor

from fl_privacy_audit.core.config import read_options
from fl_privacy_audit.defences import DEFENCES, Soteria, defend_weights, make_defence
from fl_privacy_audit.strategies import defend

from .config import FederationConfig
from .model import make_net

Next = Callable[[Message, Context], Message]
Weights = dict[str, Tensor]


def defence_mod(message: Message, context: Context, call_next: Next) -> Message:
    """Flower mod: the one that the config in the message names.

    An app with a single defence has no use for this: it lists `defend(...)` or Flower's own mod.
    """
    federation = FederationConfig.model_validate(dict(message.content.config_records["config"]))
    name = federation.defence
    options: dict[str, Any] = read_options(federation.defence_options)
    if name == "client-clipping":
        return fixedclipping_mod(message, context, call_next)
    if name == "local-dp":
        return LocalDpMod(**options)(message, context, call_next)
    if DEFENCES[name].where != "mod":
        return call_next(message, context)
    seed = federation.seed if federation.reproducible_noise else None
    return defend(name, seed=seed, **options)(message, context, call_next)


def soteria(
    federation: FederationConfig, received: Weights, trained: Weights, inputs: Tensor
) -> Weights:
    """The trained weights under Soteria; `inputs`: every image trained on, normalised; may be none."""
    if not len(inputs):
        return trained
    model = make_net(federation)
    model.load_state_dict(received)
    defence = make_defence("soteria", read_options(federation.defence_options))
    assert isinstance(defence, Soteria)
    return defend_weights(received, trained, defence.measure(model, inputs), rng=torch.Generator())
