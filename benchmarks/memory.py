"""Peak memory of attacking many clients, each count in a process of its own."""

import json
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import click

from .page import Job, Outcome, Section, Target

MEGABYTE = 1 << 20
CHUNK = 32 * MEGABYTE
"""Bytes for guesses side by side, so that the larger counts come in several chunks."""
COUNTS = (4, 16, 64)
STEPS = 12
SLACK = 1.25
"""How much more 64 clients may take than 16; their updates alone are held all the time."""


def section(*, quick: bool) -> Section:
    """The table."""
    found: dict[int, float] = {}
    counts = (4,) if quick else COUNTS
    jobs = [Job(name=f"memory, {c} clients", run=partial(_child, c, CHUNK, found)) for c in counts]
    if not quick:
        jobs.append(Job(name="memory, one chunk", run=partial(_child, COUNTS[-1], 1 << 40, {})))
    return Section(
        key="memory",
        title="Memory",
        text="Flower's quick-start net through `reconstruct_each` by `vmap`, "
        f"{CHUNK // MEGABYTE} MB for guesses side by side instead of "
        "`many.MEMORY`, so that larger counts come in chunks. The rise of the peak is over what "
        "the process held before the attack, all updates included.",
        header=("clients", "chunks of", "updates held [MB]", "rise of the peak [MB]", "peak [MB]"),
        jobs=jobs,
    )


def _child(count: int, chunk: int, found: dict[int, float]) -> Outcome:
    command = [sys.executable, "-m", "benchmarks.memory", str(count), str(chunk)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode:
        raise RuntimeError(child.stderr.strip().splitlines()[-1])
    figures = json.loads(child.stdout)
    found[count] = figures["rise"]
    row = (
        str(count),
        str(figures["together"]),
        f"{figures['updates'] / MEGABYTE:.1f}",
        f"{figures['rise'] / MEGABYTE:.0f}",
        f"{figures['peak'] / MEGABYTE:.0f}",
    )
    targets = []
    if {16, 64} <= found.keys():
        targets.append(
            Target(
                what="memory: rise for 64 clients over that for 16",
                wanted=SLACK,
                found=found[64] / found[16],
                at_most=True,
            )
        )
    return Outcome(rows=[row], targets=targets)


def peak() -> int:
    """Bytes this process held at its peak."""
    status = Path("/proc/self/status")
    if status.is_file():
        # getrusage would count what the parent held when it started this process.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


@click.command()
@click.argument("count", type=int)
@click.argument("chunk", type=int)
def main(count: int, chunk: int) -> None:
    """Attack so many clients and print the figures."""
    from dataclasses import replace

    import torch

    from fl_privacy_audit.attacks import inverting_gradients, reconstruct_each
    from fl_privacy_audit.attacks.engine import many

    from . import victims
    from .clock import generator

    torch.set_num_threads(1)
    many.MEMORY = chunk
    model = victims.seeded(victims.QuickStartNet)
    seen = victims.clients(model, victims.crops(count))
    recipe = replace(inverting_gradients(steps=STEPS), backend="vmap")
    # What the first backward pass ever brings along is no part of the attack.
    reconstruct_each(recipe, seen[:1], rngs=[generator()])
    together: list[int] = []
    attack_many = type(recipe).reconstruct_many

    def counted(self: object, observations: list[object], **arguments: object) -> object:
        together.append(len(observations))
        return attack_many(self, observations, **arguments)  # type: ignore[arg-type]

    type(recipe).reconstruct_many = counted  # type: ignore[assignment, method-assign]
    before = peak()
    results = reconstruct_each(recipe, seen, rngs=[generator() for _ in seen])
    after = peak()
    failed = [result for result in results if isinstance(result, Exception)]
    if failed:
        raise failed[0]
    size = sum(
        tensor.nbytes
        for one in seen
        for part in (one.update, one.gradient or {}, one.parameters)
        for tensor in part.values()
    )
    figures = {
        "peak": after,
        "rise": after - before,
        "updates": size,
        "together": max(together),
    }
    click.echo(json.dumps(figures))


if __name__ == "__main__":
    main()
