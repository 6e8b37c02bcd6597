"""A Flower mod that puts a defence on what leaves the client."""

import hashlib
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable

import torch
from flwr.app import ArrayRecord, Context, Error, Message

from fl_privacy_audit.core.config_text import read_options
from fl_privacy_audit.core.errors import AuditError, ConfigError
from fl_privacy_audit.core.types import Option
from fl_privacy_audit.defences import AppliedDefence, defend_weights, make_applied_defence

NAME_KEY, OPTIONS_KEY, OLD_OPTIONS_KEY = "defence", "defence-options", "defence-settings"
"""Keys of the run config that `defend` reads where it is given no name."""
FAILED_PRECONDITION = 6
"""Flower's code for a mod that could not do its work."""

Next = Callable[[Message, Context], Message]
Mod = Callable[[Message, Context, Next], Message]

log = logging.getLogger("fl_privacy_audit")


def defend(name: str = "", *, seed: int | None = None, **options: Option) -> Mod:
    """A mod that defends the update in each reply: returned minus sent weights.

    Training itself is not touched. Use it on training alone, after `audit_mod`, which then sees the
    defended reply::

        @app.train(mods=[audit_mod, defend("gaussian", std=1e-3)])
        def train(message, context): ...

    Without a name it reads the run config in every round: ``defence = "gaussian"`` and
    ``defence-options = "std=1e-3"``. The first mod in a list is the last to see the reply, so of
    two defences the later one in the list comes first: ``[defend("gaussian", std=1e-3),
    defend("clipping", norm=1.0)]`` clips, then adds noise.

    A defence that cannot be applied sends an error instead of an update without defence.

    Args:
        name: In the table of defences; empty to read the run config.
        seed: Makes the noise the same in every run, for comparisons. It voids every guarantee:
            whoever knows the seed can subtract the noise.
        **options: Of the defence; in units of the update, see `fl_privacy_audit.defences`.

    Raises:
        ConfigError: There is no such defence, or it is not a mod.
    """
    fixed = make_applied_defence(name, options) if name else None
    if fixed is None and options:
        raise ConfigError(
            "Argument `name` must name a defence where options are given, but got none"
        )

    def mod(message: Message, context: Context, call_next: Next) -> Message:
        if message.metadata.message_type.split(".")[0] != "train":
            return call_next(message, context)
        sent = [ArrayRecord(dict(record)) for record in message.content.array_records.values()]
        try:
            defence = fixed or _from_run_config(context)
        except AuditError as error:
            return _refusal(message, str(error))
        reply = call_next(message, context)
        if reply.has_error():
            return reply
        try:
            _defend(sent, reply, defence, _generator(seed, message, context))
        except (AuditError, RuntimeError) as error:
            return _refusal(message, f"the update could not be defended: {error}")
        return reply

    # What is stated can be read off the mod, and compared with what it does.
    mod.defence = fixed  # type: ignore[attr-defined]
    return mod


def _from_run_config(context: Context) -> AppliedDefence:
    name = context.run_config.get(NAME_KEY)
    if not isinstance(name, str):
        raise ConfigError(
            f"`defend()` without a name needs `{NAME_KEY}` in the run config; "
            "set it to 'none' for no defence"
        )
    config = context.run_config
    options = str(config.get(OPTIONS_KEY, config.get(OLD_OPTIONS_KEY, "")))
    return make_applied_defence(name, read_options(options))


def _defend(
    sent: list[ArrayRecord], reply: Message, defence: AppliedDefence, rng: torch.Generator
) -> None:
    """Replace the arrays of the reply that the defence changes."""
    returned = list(reply.content.array_records.items())
    if len(sent) != 1 or len(returned) != 1:
        raise ConfigError(
            f"a defence works on one array record each way, but {len(sent)} were sent and "
            f"{len(returned)} are returned"
        )
    key, record = returned[0]
    before, after = sent[0].to_torch_state_dict(), record.to_torch_state_dict()
    defended = defend_weights(before, after, defence, rng=rng)
    changed = OrderedDict(
        (name, tensor) for name, tensor in defended.items() if not torch.equal(tensor, after[name])
    )
    if changed:
        reply.content[key] = ArrayRecord({**record, **ArrayRecord(changed)})


def _generator(seed: int | None, message: Message, context: Context) -> torch.Generator:
    if seed is None:
        return torch.Generator().manual_seed(secrets.randbits(63))
    configs = message.content.config_records.values()
    rounds = [config["server-round"] for config in configs if "server-round" in config]
    client = context.node_config.get("partition-id", context.node_id)
    digest = hashlib.sha256(f"{seed}/{rounds}/{client}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _refusal(message: Message, reason: str) -> Message:
    log.error("privacy audit: %s", reason)
    return Message(Error(code=FAILED_PRECONDITION, reason=reason), reply_to=message)
