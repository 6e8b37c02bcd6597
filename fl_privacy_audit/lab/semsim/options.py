"""Options that two commands share."""

import click
import torch

from fl_privacy_audit.core.devices import has_bfloat16

bfloat16_option = click.option(
    "--bfloat16/--float32",
    default=lambda: has_bfloat16(torch.device("cpu")),
    help="How convolutions are computed; bfloat16 where the processor has it, unless told.",
)
