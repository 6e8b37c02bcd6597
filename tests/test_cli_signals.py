"""Ctrl-C and SIGTERM end a command that was started with SIGINT ignored, and no child stays.

On an idle machine each ends within 5 seconds; what is asserted leaves room for a slow one.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fl_privacy_audit.core.private_folders import DIRECTORY_VARIABLE
from fl_privacy_audit.lab.corpus import Part, Plan, Spec, build_corpus
from fl_privacy_audit.lab.manifest import Response, read_corpus, write_answers

ROOT = Path(__file__).parents[1]
MOST_SECONDS = 30.0
BEGIN_SECONDS = 240.0
MARK = "FL_PRIVACY_AUDIT_TEST_MARK"
EACH_TIME = ("demo SIGINT", "corpus SIGTERM", "annotate SIGINT")
CASES = [
    pytest.param(
        name,
        number,
        id=f"{name} {number.name}",
        marks=pytest.mark.slow if f"{name} {number.name}" in EACH_TIME else pytest.mark.exhaustive,
    )
    for name in ("demo", "sweep", "corpus", "semsim", "annotate")
    for number in (signal.SIGINT, signal.SIGTERM)
]


def marked(mark: str) -> dict[int, str]:
    """Processes that were started, directly or not, with this in their environment."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if f"{MARK}={mark}".encode() in environment.split(b"\0") and state != "Z":
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return found


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    part = Part(sources=("photos",), architectures=("perceptron",), attacks=(Spec("first_linear"),))
    build_corpus(tmp_path / "judged", Plan(parts=(part,), size=32), device="cpu")
    pairs = read_corpus(tmp_path / "judged").pairs
    answers = [
        Response(key=p.key, annotator="a", answer=p.label if i % 2 else -1)
        for i, p in enumerate(pairs)
    ]
    write_answers(tmp_path / "answers.csv", answers)
    return tmp_path / "judged"


def files_of(folder: Path, pattern: str) -> Callable[[], Iterator[Path]]:
    return lambda: any(folder.glob(pattern))  # type: ignore[return-value]


def commands(tmp_path: Path, corpus: Path) -> dict[str, tuple[list[str], Callable[[], object]]]:
    """For each command its words, and what there is as soon as it is at work."""
    out = tmp_path / "out"
    judged = [str(corpus), "--answers", str(tmp_path / "answers.csv"), "--out", str(out)]
    return {
        "demo": (["demo", "--out", str(out)], files_of(tmp_path, "truth/*/*.npz")),
        "sweep": (["sweep", "--default", "--out", str(out)], files_of(tmp_path, "truth/*/*.npz")),
        "corpus": (
            [
                "corpus",
                "build",
                str(out),
                "--images",
                "200",
                "--workers",
                "2",
                "--attack",
                "inverting_gradients:steps=300",
                "--side-by-side",
                "1",
            ],
            files_of(out, "reconstructions/*/*.png"),
        ),
        "semsim": (
            [
                "semsim",
                "train",
                "--paper",
                *judged,
                "--labelled-by",
                "machines",
                "--epochs",
                "100000",
                "--held-back",
                "0.3",
            ],
            files_of(out, "*"),
        ),
        "annotate": (["annotate", str(corpus), "--port", "0"], files_of(corpus, "*.sqlite")),
    }


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds children by /proc")
@pytest.mark.parametrize(("name", "number"), CASES)
def test_a_signal_ends_it_soon_and_leaves_nothing(
    name: str, number: signal.Signals, tmp_path: Path, corpus: Path
) -> None:
    words, at_work = commands(tmp_path, corpus)[name]
    words = ["-m", "fl_privacy_audit", *words]
    mark = tmp_path.name
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(
            ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", sys.executable, *words],
            cwd=ROOT,
            env={**os.environ, MARK: mark, DIRECTORY_VARIABLE: str(tmp_path / "truth")},
            stdout=said,
            stderr=said,
        )
    try:
        wait_for(lambda: process.poll() is not None or at_work(), BEGIN_SECONDS, "it began nothing")
        assert process.poll() is None, (tmp_path / "said").read_text()
        begun = time.monotonic()
        process.send_signal(number)
        process.wait(MOST_SECONDS)
        print(f"{name} {number.name}: {time.monotonic() - begun:.1f} s")
        wait_for(lambda: not marked(mark), 5.0, "a child is left")
    finally:
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)
        process.wait()
    text = (tmp_path / "said").read_text()
    assert "Traceback" not in text
    expected = {0} if name == "annotate" else set()
    assert process.returncode in {128 + number, *expected}, text
    assert not [p for p in tmp_path.rglob("*") if p.suffix in (".npz", ".part", ".closed")]
