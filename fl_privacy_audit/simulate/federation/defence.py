"""The defence of the run: which mod its clients use, and what is wrapped around the strategy."""

from collections.abc import Callable
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideFixedClipping,
    Strategy,
)

from fl_privacy_audit.core.config import DefenceConfig, read_settings
from fl_privacy_audit.defences import DEFENCES, make_defence
from fl_privacy_audit.strategies import defend

from .settings import Settings

Next = Callable[[Message, Context], Message]
WRAPPERS = {
    "client-clipping": DifferentialPrivacyClientSideFixedClipping,
    "server-clipping": DifferentialPrivacyServerSideFixedClipping,
}


def known_defence(settings: Settings) -> DefenceConfig:
    """What the audit is told.

    Raises:
        ConfigError: There is no such defence, or it takes no such setting.
    """
    name, given = settings.defence, read_settings(settings.defence_settings)
    if settings.private and name == "none":
        name = "dp-sgd"
        given = {
            "noise_multiplier": settings.noise_multiplier,
            "max_grad_norm": settings.max_grad_norm,
        }
    make_defence(name, given)
    return DefenceConfig(name=name, settings=given)


def wrapped(strategy: Strategy, settings: Settings) -> Strategy:
    """The strategy inside Flower's wrapper, if the defence is one."""
    wrapper = WRAPPERS.get(settings.defence)
    if wrapper is None:
        return strategy
    given: dict[str, Any] = read_settings(settings.defence_settings)
    return wrapper(strategy, **given)


def defence_mod(message: Message, context: Context, call_next: Next) -> Message:
    """Flower mod: the one that the settings in the message name.

    An app with a single defence has no use for this: it lists `defend(...)` or Flower's own mod.
    """
    settings = Settings.read(message.content.config_records["config"])
    mod = _chosen(settings)
    return call_next(message, context) if mod is None else mod(message, context, call_next)


def _chosen(settings: Settings) -> Callable[[Message, Context, Next], Message] | None:
    given: dict[str, Any] = read_settings(settings.defence_settings)
    if settings.defence == "client-clipping":
        return fixedclipping_mod
    if settings.defence == "local-dp":
        return LocalDpMod(**given)
    if DEFENCES[settings.defence].where != "mod":
        return None
    return defend(
        settings.defence, seed=settings.seed if settings.reproducible_noise else None, **given
    )
