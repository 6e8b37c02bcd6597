"""The page of figures: sections of jobs, run one after the other, and Markdown."""

import datetime
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from fl_privacy_audit.core.devices import has_bfloat16

Row = Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A figure to reach.

    Attributes:
        what: The figure, in words.
        wanted: At least this, or with `at_most` at most this.
        found: What was measured; NaN counts as missed.
        unit: Written after both.
        not_asked: Why this machine is not asked for it; the figure is shown all the same.
    """

    what: str
    wanted: float
    found: float
    unit: str = ""
    at_most: bool = False
    not_asked: str = ""

    def met(self) -> bool:
        return self.found <= self.wanted if self.at_most else self.found >= self.wanted

    def row(self) -> Row:
        sign = "at most" if self.at_most else "at least"
        verdict = "met" if self.met() else "**missed**"
        if self.not_asked:
            verdict = f"not asked: {self.not_asked}"
        unit = f" {self.unit}" if self.unit else ""
        return (self.what, f"{sign} {self.wanted:g}{unit}", f"{self.found:.3g}{unit}", verdict)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a job found: rows of its section's table, and targets."""

    rows: Sequence[Row]
    targets: Sequence[Target] = ()


@dataclass(frozen=True, kw_only=True)
class Job:
    """One measurement."""

    name: str
    run: Callable[[], Outcome]


@dataclass(kw_only=True)
class Section:
    """One table of the page.

    Attributes:
        key: For ``--only``.
        title: Heading.
        text: What is measured and how.
        header: Columns.
        jobs: Fill the table.
    """

    key: str
    title: str
    text: str
    header: Row
    jobs: Sequence[Job]
    rows: list[Row] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)

    def run(self) -> Iterator[str]:
        """Run the jobs; yields the name of each before it starts."""
        for job in self.jobs:
            yield job.name
            try:
                outcome = job.run()
            except Exception as error:  # noqa: BLE001 - one failure must not cost the whole page
                reason = f"failed: {type(error).__name__}: {str(error).splitlines()[0][:120]}"
                outcome = Outcome(rows=[(job.name, reason)])
            width = len(self.header)
            self.rows += [[*row, *[""] * (width - len(row))] for row in outcome.rows]
            self.targets += outcome.targets


def markdown(sections: Sequence[Section], device: torch.device, command: str) -> str:
    """The page."""
    targets = [target.row() for section in sections for target in section.targets]
    made = f"Made by `{command}` on {datetime.date.today().isoformat()}; run it again to renew it."
    how = (
        "Times are seconds of this process's processor time, on one thread, unless a table says "
        "otherwise: other work on the machine then counts for less. PSNR is on pixels in [0, 1], "
        "mean over a batch after the best assignment. The truth reads the clock and the score; no "
        "attack sees it, and no iterate, restart or setting is chosen by it."
    )
    parts = ["# Benchmarks of the attacks", made, _table(("machine", ""), machine(device)), how]
    if targets:
        parts += ["## Targets", _table(("figure", "wanted", "found", ""), targets)]
    for section in sections:
        parts += [f"## {section.title}", section.text]
        if section.rows:
            parts.append(_table(section.header, section.rows))
    return "\n\n".join(parts) + "\n"


def machine(device: torch.device) -> list[Row]:
    """What the figures depend on; nothing that names the machine."""
    amx = torch.cpu.get_capabilities().get("amx_bf16")
    rows = [
        ("processor", _processor()),
        ("cores", str(os.cpu_count())),
        ("bfloat16 instructions", "yes" if has_bfloat16(torch.device("cpu")) else "no"),
        ("matrix unit for bfloat16 (AMX)", "yes" if amx else "no"),
        ("threads of torch", str(torch.get_num_threads())),
        ("torch", torch.__version__.split("+")[0]),
        ("Python", platform.python_version()),
        ("system", platform.system()),
    ]
    if device.type == "cuda":
        rows.append(("GPU", torch.cuda.get_device_name(device)))
    return list(rows)


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        lines = dict.fromkeys(information.read_text().splitlines())
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        isa = platform.machine()
        if names:
            return f"{names[0]} ({isa})"
    return platform.processor() or platform.machine()


def _table(header: Row, rows: Sequence[Row]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines
    )
