"""A defence on what leaves a client: weights, of which the update is the difference."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fl_privacy_audit.core.errors import ConfigError, UpdateError

from .defence import AppliedDefence

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""Last names of the batch-norm buffers in a state dict, which holds no sign of what is trained."""


def defend_weights(
    sent: Mapping[str, Tensor],
    returned: Mapping[str, Tensor],
    defence: AppliedDefence,
    *,
    rng: torch.Generator,
) -> dict[str, Tensor]:
    """What a client returns under a defence: sent plus the defended difference, as state dicts.

    Integer tensors and batch-norm buffers are not touched: noise would break them, and clipping
    would be ruled by them. They are returned as they are, so what batch norm says about the batch
    still leaves the client. Numbers that the defence left alone keep every bit. `rng` is on the
    CPU.

    Raises:
        ConfigError: The defence needs more than an update, or other code applies it.
        UpdateError: Names or shapes differ, or a value is not finite.
    """
    if not isinstance(defence, AppliedDefence):
        raise ConfigError(
            f"{type(defence).__name__} cannot be applied to an update alone; see docs/defences.md"
        )
    if sent.keys() != returned.keys():
        odd = sorted(sent.keys() ^ returned.keys())
        raise UpdateError(
            f"the client returns other weights than it was sent: `{odd[0]}` is on one side alone; "
            "a client under Opacus should return `model._module.state_dict()`"
        )
    update = {}
    for name, after in returned.items():
        before = sent[name]
        if before.shape != after.shape:
            raise UpdateError(
                f"`{name}` was sent with shape {tuple(before.shape)} and is returned with "
                f"{tuple(after.shape)}"
            )
        if after.is_floating_point() and name.rpartition(".")[2] not in BUFFERS:
            update[name] = after.double() - before.double()
    defended = defence.apply(update, rng)
    changed = {
        name: torch.where(
            defended[name] == difference,
            returned[name],
            (sent[name].double() + defended[name]).to(returned[name].dtype),
        )
        for name, difference in update.items()
    }
    return {**returned, **changed}
