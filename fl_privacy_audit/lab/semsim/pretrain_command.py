"""``fl-privacy-audit semsim pretrain``."""

from pathlib import Path

import click
import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.core.files import write_whole
from fl_privacy_audit.lab.corpus import open_source
from fl_privacy_audit.lab.progress import bars
from fl_privacy_audit.metrics.semsim import SIDE, load_semsim, to_tensors

from .options import settings_options
from .pretraining import PretrainSettings, pretrain


@click.command("pretrain", context_settings={"show_default": True})
@click.option(
    "--source",
    "sources",
    multiple=True,
    required=True,
    help="As in `corpus build`: the pictures that networks are trained on. Repeat for more.",
)
@click.option("--images", type=click.IntRange(1), default=20_000)
@click.option("--data-root", "root", default="data", help="As in `corpus build`.")
@settings_options(
    PretrainSettings,
    off={"joint": "apart"},
    about={
        "joint": "Crop and mirror a copy as its original, or by itself.",
        "seed": "Seed for all random draws.",
    },
)
@click.option(
    "--start",
    type=click.Path(path_type=Path),
    help="Weights to start from, of the same --width; random if unset.",
)
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
    with bars() as show:

        def on_step(done: int, loss: float, right: float) -> None:
            show("steps", done, chosen.steps, f", loss {loss:.2f}, originals found {right:.0%}")

        net = pretrain(pictures, chosen, start=begun, on_step=on_step)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, to_safetensors(to_tensors(net), metadata={"format": "pt"}))
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
