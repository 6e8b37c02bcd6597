"""Options of commands, derived from the fields of their settings."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import click
import torch

from fl_privacy_audit.core.devices import has_bfloat16

BFLOAT16 = click.option(
    "--bfloat16/--float32",
    default=lambda: has_bfloat16(torch.device("cpu")),
    show_default="bfloat16 where the processor has it",
    help="How convolutions are computed.",
)


def settings_options(
    settings: type[Any], *, off: Mapping[str, str], about: Mapping[str, str]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """One option per field of a dataclass of settings, with its default.

    Args:
        settings: Its fields are numbers and flags.
        off: Flag -> the name of its opposite, without dashes.
        about: Field -> its help.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        command = BFLOAT16(command)
        for field in reversed(fields(settings)):
            if field.name == "bfloat16":
                continue
            name = "--" + field.name.replace("_", "-")
            if field.name in off:
                name = f"{name}/--{off[field.name]}"
            option = click.option(name, default=field.default, help=about.get(field.name))
            command = option(command)
        return command

    return decorate
