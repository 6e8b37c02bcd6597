"""The command that makes the page of benchmarks, on settings whose figures mean nothing."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import speed
from benchmarks.page import Target
from fl_privacy_audit.attacks import ATTACKS

ROOT = Path(__file__).parents[1]
SECTIONS = (
    "Known answers",
    "Speed",
    "Time to quality",
    "Memory",
    "Beside breaching",
    "Speed on a GPU",
)


@pytest.mark.slow
def test_the_command_writes_every_section_and_a_row_for_every_attack(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "benchmarks.md"
    command = [sys.executable, "-m", "benchmarks.attacks", "--quick", "--device", "cpu"]
    subprocess.run([*command, "--out", str(page)], cwd=ROOT, check=True, capture_output=True)
    text = page.read_text()
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == list(SECTIONS)
    for name in ATTACKS:
        assert f"| `{name}` |" in text
    assert "failed:" not in text
    assert "waits for a GPU" in text


@pytest.mark.slow
def test_what_a_gpu_will_run_runs_on_the_cpu() -> None:
    (job,) = speed.jobs(speed.ON_GPU[:1], torch.device("cpu"), quick=True)
    rows = job.run().rows
    assert [row[1] for row in rows] == ["sequential", "by_hand", "bfloat16", "vmap"]
    assert all(len(row) == len(speed.HEADER) for row in rows)


def test_speed_in_bfloat16_is_not_asked_where_there_are_no_such_instructions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu = torch.device("cpu")
    found = {}
    for has in (True, False):
        monkeypatch.setattr(speed, "has_bfloat16", lambda device, has=has: has)
        found[has] = {case.name: speed.not_asked(case, cpu) for case in speed.ON_CPU}
    assert set(found[True].values()) == {""}
    reason = "no bfloat16 instructions"
    assert [name for name, why in found[False].items() if why == reason] == [
        "ConvNet64, batch 1",
        "ResNet18, batch 4",
    ]
    rows = {why: Target(what="", wanted=1.5, found=1, not_asked=why).row() for why in ("", reason)}
    assert rows[""][2:] == ("1", "**missed**")
    assert rows[reason][2:] == ("1", f"not asked: {reason}")
