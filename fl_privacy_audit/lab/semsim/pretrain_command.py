"""``fl-privacy-audit semsim pretrain``."""

import os
from pathlib import Path

import click
import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.lab.corpus import open_source
from fl_privacy_audit.metrics.semsim import SIDE, load_semsim, to_tensors

from .options import bfloat16_option
from .pretraining import PretrainSettings, pretrain
from .progress import progress

_DEFAULTS = PretrainSettings()


@click.command("pretrain")
@click.option(
    "--source",
    "sources",
    multiple=True,
    required=True,
    help="As in `corpus build`: the pictures that victims are trained on. Repeat for more.",
)
@click.option("--images", type=click.IntRange(1), default=20_000, show_default=True)
@click.option(
    "--data-root", "root", default="data", show_default=True, help="As in `corpus build`."
)
@click.option("--width", type=int, default=_DEFAULTS.width, show_default=True)
@click.option("--steps", type=int, default=_DEFAULTS.steps, show_default=True)
@click.option("--batch", type=int, default=_DEFAULTS.batch, show_default=True)
@click.option("--rate", type=float, default=_DEFAULTS.rate, show_default=True)
@click.option("--temperature", type=float, default=_DEFAULTS.temperature, show_default=True)
@click.option(
    "--joint/--apart",
    default=_DEFAULTS.joint,
    show_default=True,
    help="Crop and mirror a copy as its original, or by itself.",
)
@bfloat16_option
@click.option(
    "--start",
    type=click.Path(path_type=Path),
    help="Weights to go on from, of the same --width; random ones unless told.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="File for the weights; `semsim train --start` takes it.",
)
def pretrain_command(
    sources: tuple[str, ...],
    images: int,
    root: str,
    out: Path,
    start: Path | None,
    **settings: float,
) -> None:
    """Teach a network to tell which original a damaged picture is of; no labels are needed."""
    chosen = PretrainSettings(**settings)  # type: ignore[arg-type]
    if out.exists():
        raise ConfigError(f"{out} exists already; choose another file")
    begun = None if start is None else load_semsim(start)
    pictures = [
        training_pictures(source, images, root=root, seed=chosen.seed) for source in sources
    ]
    with progress() as bar:
        task = bar.add_task("steps", total=chosen.steps)

        def on_step(done: int, loss: float, found: float) -> None:
            text = f"steps, loss {loss:.2f}, originals found {found:.0%}"
            bar.update(task, completed=done, description=text)

        net = pretrain(pictures, chosen, start=begun, on_step=on_step)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".part")
    part.write_bytes(to_safetensors(to_tensors(net), metadata={"format": "pt"}))
    os.replace(part, out)
    click.echo(
        f"{out}: pretrained on {sum(map(len, pictures)):,} pictures of {len(sources)} sources"
    )


def training_pictures(source: str, most: int, *, root: str, seed: int) -> Tensor:
    """At most so many pictures of a source's training half, in a seeded choice.

    Returns:
        ``(N, 3, 32, 32)`` uint8.
    """
    half = open_source(source, root).train
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(half), generator=rng)[:most].tolist()
    return half.bytes(rows, SIDE)
