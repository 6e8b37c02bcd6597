"""Each command that reads a ledger, on one of 100,000 records: processor time and peak memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tests.support.big_ledger import write_big_ledger

from .measuring import target

RECORDS = 100_000
SECONDS, MEGABYTES = 10.0, 500.0
"""Wanted of each command, its start and what Python imports included."""
COMMANDS = {
    "show": ("show", "DIR"),
    "show --last": ("show", "DIR", "--last", "20"),
    "compare": ("compare", "DIR"),
    "report html": ("report", "DIR", "--format", "html", "--out", "OUT"),
    "report md": ("report", "DIR", "--format", "md", "--out", "OUT"),
    "report json": ("report", "DIR", "--format", "json", "--out", "OUT"),
    "export csv": ("export", "DIR", "--to", "OUT.csv"),
    "export parquet": ("export", "DIR", "--to", "OUT.parquet"),
}
MEASURED = r"""
import json, re, sys, time
from pathlib import Path
from fl_privacy_audit.cli import cli

def peak():  # not ru_maxrss, which begins with that of the process that started this one
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10

before = peak()
cli(sys.argv[1:], standalone_mode=False)
print(json.dumps({"seconds": time.process_time(), "peak": peak(), "before": before}))
"""


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory, quick: bool) -> Path:
    return write_big_ledger(tmp_path_factory.mktemp("long"), 1000 if quick else RECORDS)


@pytest.mark.benchmark(group="Long ledgers")
@pytest.mark.parametrize("command", COMMANDS)
def test_command(benchmark: BenchmarkFixture, ledger: Path, tmp_path: Path, command: str) -> None:
    paths = {"DIR": str(ledger), "OUT": str(tmp_path / "out")}
    words = [
        word.replace("OUT", paths["OUT"]).replace("DIR", paths["DIR"]) for word in COMMANDS[command]
    ]
    found = benchmark.pedantic(run, [words], rounds=1)
    seconds, peak, before = (found[name] for name in ("seconds", "peak", "before"))
    megabyte = 1 << 20
    benchmark.extra_info.update(
        rows=[
            {
                "command": command,
                "processor time [s]": f"{seconds:.1f}",
                "peak [MB]": f"{peak / megabyte:.0f}",
                "rise over what is imported [MB]": f"{(peak - before) / megabyte:.0f}",
            }
        ],
        targets=[
            target(f"`{command}`, {RECORDS} records", seconds, SECONDS, at_most=True, unit="s"),
            target(f"`{command}`, peak", peak / megabyte, MEGABYTES, at_most=True, unit="MB"),
        ],
    )


def run(words: list[str]) -> dict[str, float]:
    """A command in a process of its own, and what it took."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *words],
        cwd=Path(__file__).parents[1],
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
