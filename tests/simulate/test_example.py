"""The example: a plain Flower app on the public face, in this process and by ``flwr run``."""

import ast
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict

from fl_privacy_audit import AuditConfig, read_ledger
from tests.support.grid import InProcessGrid

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "flower_cifar"
SOURCES = sorted((EXAMPLE / "flower_cifar").glob("*.py"))
FLWR = Path(sys.executable).with_name("flwr")


def run_config() -> dict[str, Any]:
    """The defaults of the app, flattened as Flower does it."""
    flat: dict[str, Any] = {}

    def flatten(prefix: str, values: dict[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                flatten(f"{prefix}{key}.", value)
            else:
                flat[prefix + key] = value

    text = (EXAMPLE / "pyproject.toml").read_text(encoding="utf-8")
    flatten("", tomllib.loads(text)["tool"]["flwr"]["app"]["config"])
    return flat


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of the example's package, which can be imported while the test runs."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield "flower_cifar"
    for name in [name for name in sys.modules if name.split(".")[0] == "flower_cifar"]:
        del sys.modules[name]


def test_it_imports_the_public_face_alone() -> None:
    found: set[str] = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(str(node.module))
    ours = {name for name in found if name.split(".")[0] == "fl_privacy_audit"}
    assert ours == {"fl_privacy_audit", "fl_privacy_audit.strategies"}


def test_it_is_short() -> None:
    files = [*SOURCES, EXAMPLE / "pyproject.toml"]
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) < 220


def test_the_attacker_knows_how_clients_train(example: str) -> None:
    task = importlib.import_module(f"{example}.task")
    values = run_config()
    config = AuditConfig.from_run_config(values)
    assert config.image.mean == (task.MEAN,) * 3
    assert config.image.std == (task.STD,) * 3
    assert task.load_data(0, "")[0].shape[1:] == config.image.shape
    assert config.training.learning_rate == values["learning-rate"]
    assert config.training.batch_size == values["batch-size"]
    assert config.training.steps == values["local-steps"]


def test_it_trains_and_is_audited_in_this_process(
    example: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = importlib.import_module(f"{example}.client_app")
    server = importlib.import_module(f"{example}.server_app")
    values = run_config() | {
        "num-server-rounds": 1,
        "batch-size": 2,
        "audit.training.batch-size": 2,
        "audit.directory": str(tmp_path),
        "audit.seconds-per-round": 0.5,
        "audit.controls": False,
        "audit.metrics": "psnr",
    }
    grid = InProcessGrid(client.app, 2)
    for context in grid.contexts.values():
        context.run_config = values
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=values)
    server.app(grid, context)
    contents = read_ledger(tmp_path)
    assert {record.partition for record in contents.audits} == {0, 1}
    assert [o.status for record in contents.audits for o in record.attacks] == ["scored"] * 2
    assert [record.num_examples for record in contents.audits] == [2, 2]
    assert [0 <= record.metrics["accuracy"] <= 1 for record in contents.evaluations] == [True]
    assert f"fl-privacy-audit show {tmp_path}" in capsys.readouterr().out


def free_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])


def end_superlink(home: Path) -> None:
    """The local SuperLink outlives ``flwr run``; it names its home on its command line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue
        if b"flower-superlink" in command and str(home).encode() in command:
            os.kill(int(path.parent.name), signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.skipif(not FLWR.exists(), reason="needs Flower's command `flwr`")
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="ends Flower's SuperLink by /proc")
def test_flwr_run_ends_in_a_verdict(tmp_path: Path) -> None:
    home, app, ledger = tmp_path / "home", tmp_path / "app", tmp_path / "audit"
    shutil.copytree(EXAMPLE, app, ignore=shutil.ignore_patterns("__pycache__", "audit"))
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PATH": f"{FLWR.parent}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": free_port(),
        "FLWR_LOCAL_CONTROL_API_PORT": free_port(),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    }

    def call(*command: str | Path) -> str:
        done = subprocess.run(
            command,
            check=False,
            cwd=app,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
        )
        said = done.stdout + done.stderr
        if "Failed to start local SuperLink" in said or "Unable to launch" in said:
            pytest.skip(f"Flower's simulation cannot start here: {said.strip()[-300:]}")
        assert done.returncode == 0, said
        return done.stdout

    try:
        log = call(FLWR, "run", ".", "--stream", "--run-config", f"audit.directory='{ledger}'")
        (run,) = json.loads(call(FLWR, "list", "--format", "json"))["runs"]
        assert run["status"] == "finished:completed", log
    finally:
        end_superlink(home)
    assert f"The ledger is {ledger / 'ledger.jsonl'}" in log
    shown = call(sys.executable, "-m", "fl_privacy_audit", "show", ledger)
    assert "no defence, server view: leaked" in shown
