"""The example as it is deployed: processes on loopback, with TLS and keys of the SuperNodes."""

import importlib.util
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fl_privacy_audit.ledger import read_ledger
from fl_privacy_audit.ledger.ledger import last_run
from fl_privacy_audit.report.sentences import say
from fl_privacy_audit.verdicts.rules import judge_run
from fl_privacy_audit.verdicts.verdict import SettingVerdict
from tests.support.deployment import Deployment, deployed, wait_until
from tests.support.flwr_run import ROOT, call

EXAMPLE = ROOT / "examples" / "flower_cifar"
NODES, ROUNDS, REPLAYS = 2, 3, 2
WORKER = "fl_privacy_audit.audit.worker"
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    nodes = [{"partition_id": at, "num_partitions": NODES} for at in range(NODES)]
    with deployed(tmp_path_factory.mktemp("federation"), nodes) as federation:
        yield federation


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """The example, as an operator keeps it, whose server also replays its clients' app on canaries."""
    copy = tmp_path / "app"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    change(
        copy / "flower_cifar" / "server_app.py",
        (
            "from .task import Net\n",
            "from .client_app import app as client_app\nfrom .task import Net\n",
        ),
        ("model=model)", "model=model, client_app=client_app, run_config=context.run_config)"),
    )
    steps = 'audit.attacks.swept-inversion.options = "steps=150"'
    change(copy / "pyproject.toml", ('audit.attacks = "auto"', steps))
    with (copy / "pyproject.toml").open("a") as settings:
        settings.write('audit.views = "server"\naudit.canary.replays = 2\n')
    return copy


def change(path: Path, *changes: tuple[str, str]) -> None:
    """Change text that is there once."""
    source = path.read_text(encoding="utf-8")
    for before, after in changes:
        assert source.count(before) == 1, before
        source = source.replace(before, after)
    path.write_text(source, encoding="utf-8")


def private(app: Path) -> None:
    """Let the clients train by DP-SGD: of one image, with noise 1 for a clipping norm of 1."""
    step = """        norm = sum(p.grad.square().sum() for p in model.parameters()).sqrt()
        for p in model.parameters():
            p.grad = p.grad / norm.clamp(min=1.0) + torch.randn_like(p.grad)
        optimizer.step()
"""
    change(app / "flower_cifar" / "task.py", ("        optimizer.step()\n", step))
    with (app / "pyproject.toml").open("a") as settings:
        settings.write(
            "audit.training.max-grad-norm = 1.0\naudit.training.noise-multiplier = 1.0\n"
        )


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


SETTINGS = {"audit__seconds_per_round": 900}


def verdicts_in(audit: Path) -> dict[str, SettingVerdict]:
    return {verdict.view: verdict for verdict in judge_run(last_run(read_ledger(audit)))}


@slow
def test_canaries_leak_and_real_clients_have_nothing_to_compare_with(
    federation: Deployment, app: Path, tmp_path: Path
) -> None:
    audit = federation.server / "audit"
    log = federation.flwr_run(app, audit__directory=str(audit), **SETTINGS)
    assert f"The ledger is {audit / 'ledger.jsonl'}" in log
    assert "privacy audit: inconclusive (server view)" in log
    assert "privacy audit: leaked (canary view)" in log
    verdicts = verdicts_in(audit)
    assert verdicts["server"].reason.code == "nothing to compare with"
    assert verdicts["canary"].word == "leaked"
    assert each_target_once(audit) == ROUNDS * (NODES + REPLAYS)

    page = tmp_path / "report.html"
    fl_privacy_audit = (sys.executable, "-m", "fl_privacy_audit")
    environment = federation.environment("server")
    call(*fl_privacy_audit, "report", audit, "--out", page, cwd=tmp_path, environment=environment)
    assert "leaked" in page.read_text(encoding="utf-8")

    pieces = [piece for at in range(NODES) for piece in pieces_of(at)]
    assert files_with(pieces, federation.server) == []
    planted = tmp_path / "planted"
    planted.write_bytes(b"before" + pieces[-1] + b"after")
    assert files_with(pieces, tmp_path) == [planted]
    assert [path.name for path in sorted(audit.iterdir())] == ["ledger.head", "ledger.jsonl"]


@pytest.mark.exhaustive  # in one process: tests/simulate/test_canaries.py
def test_with_dp_sgd_canaries_do_not_leak(federation: Deployment, app: Path) -> None:
    private(app)
    audit = federation.server / "private"
    more = {"audit__views": "canary", "audit__canary__replays": 4}
    federation.flwr_run(app, audit__directory=str(audit), **more, **SETTINGS)
    verdict = verdicts_in(audit)["canary"]
    assert verdict.word in ("withstood these attacks", "inconclusive"), say(verdict.reason)


@slow
def test_a_worker_that_is_killed_costs_no_record(federation: Deployment, app: Path) -> None:
    audit = federation.server / "killed"
    one_round = SETTINGS | {"num_server_rounds": 1, "audit__seconds_per_round": 60}
    with ThreadPoolExecutor(1) as runs:
        run = runs.submit(federation.flwr_run, app, audit__directory=str(audit), **one_round)

        def attacks() -> bool:
            assert not run.done(), run.result()
            return any(audit.glob("spool/*/*")) and bool(federation.processes(WORKER))

        wait_until("a worker attacks", attacks)
        for pid in federation.processes(WORKER):
            os.kill(pid, signal.SIGKILL)
        run.result()
    assert each_target_once(audit) == NODES + REPLAYS
    assert not list(audit.glob("spool/*/*"))


def each_target_once(audit: Path) -> int:
    """How many targets have a record, of which none may have two."""
    records = last_run(read_ledger(audit)).audits
    targets = Counter((record.round, record.view, record.client) for record in records)
    assert set(targets.values()) == {1}
    return len(targets)


@slow
def test_afterwards_no_process_is_left(federation: Deployment) -> None:
    assert federation.processes()
    federation.end()
    assert federation.processes() == []
