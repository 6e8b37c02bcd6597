"""The example as it is deployed: processes on loopback, with TLS and keys of the SuperNodes."""

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fl_privacy_audit.ledger import read_ledger
from fl_privacy_audit.ledger.ledger import last_run
from fl_privacy_audit.verdicts.rules import judge_run
from tests.support.deployment import Deployment, deployed
from tests.support.flwr_run import ROOT, call

EXAMPLE = ROOT / "examples" / "flower_cifar"
NODES = 2
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    nodes = [{"partition_id": at, "num_partitions": NODES} for at in range(NODES)]
    with deployed(tmp_path_factory.mktemp("federation"), nodes) as federation:
        yield federation


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """The example, as an operator keeps it."""
    copy = tmp_path / "app"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def pieces_of(partition: int) -> list[bytes]:
    """A piece of each image of a client of the example, in every form in which it may be written."""
    spec = importlib.util.spec_from_file_location("example_task", EXAMPLE / "flower_cifar/task.py")
    assert spec is not None and spec.loader is not None
    task = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(task)
    inputs, _ = task.load_data(partition, "")
    pixels = inputs * task.STD + task.MEAN
    forms = [(inputs, "<f4"), (pixels, "<f4"), (pixels, "<f8"), ((pixels * 255).round(), "u1")]
    rows = [images[:, 1, 16].numpy().astype(kind) for images, kind in forms]
    return [row.tobytes() for form in rows for row in form if len(set(row)) > 8]


def files_with(pieces: list[bytes], folder: Path) -> list[Path]:
    """The files below a folder that hold one of these pieces."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    assert paths, f"nothing at all was written to {folder}"
    return [path for path in paths if any(piece in path.read_bytes() for piece in pieces)]


def test_without_truth_every_update_is_attacked_and_nothing_compared(
    federation: Deployment, app: Path, tmp_path: Path
) -> None:
    audit = federation.server / "audit"
    log = federation.flwr_run(
        app,
        num_server_rounds=2,
        audit__directory=str(audit),
        audit__attacks="swept_inversion",
        audit__seconds_per_round=600,
    )
    assert f"The ledger is {audit / 'ledger.jsonl'}" in log
    assert "privacy audit: inconclusive (server view)" in log
    run = last_run(read_ledger(audit))
    assert [record.round for record in run.audits] == [1, 1, 2, 2]
    (verdict,) = judge_run(run)
    assert verdict.reason.code == "nothing to compare with"

    page = tmp_path / "report.html"
    call(
        sys.executable,
        "-m",
        "fl_privacy_audit",
        "report",
        audit,
        "--out",
        page,
        cwd=tmp_path,
        environment=federation.environment("server"),
    )
    assert "inconclusive" in page.read_text(encoding="utf-8")

    pieces = [piece for at in range(NODES) for piece in pieces_of(at)]
    assert files_with(pieces, federation.server) == []
    planted = tmp_path / "planted"
    planted.write_bytes(b"before" + pieces[-1] + b"after")
    assert files_with(pieces, tmp_path) == [planted]


def test_afterwards_no_process_is_left(federation: Deployment) -> None:
    assert federation.processes()
    federation.end()
    assert federation.processes() == []
