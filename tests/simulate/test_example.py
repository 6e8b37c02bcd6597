"""The example: a plain Flower app on the public face, in this process and by ``flwr run``."""

import ast
import importlib
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from fl_privacy_audit import AuditConfig, Truth, read_ledger
from fl_privacy_audit.audit.schedule import Canary
from fl_privacy_audit.core.seeds import seed_everything
from fl_privacy_audit.report.doctor import flattened
from fl_privacy_audit.strategies.canary_replay import Replay
from fl_privacy_audit.strategies.capture import Reading
from fl_privacy_audit.strategies.messages import copy_message
from tests.support.flwr_run import ROOT, call, flwr_run
from tests.support.grid import InProcessGrid

EXAMPLE = ROOT / "examples" / "flower_cifar"
SOURCES = sorted((EXAMPLE / "flower_cifar").glob("*.py"))


def run_config() -> dict[str, Any]:
    """The defaults of the app."""
    text = (EXAMPLE / "pyproject.toml").read_text(encoding="utf-8")
    return flattened(tomllib.loads(text)["tool"]["flwr"]["app"]["config"])


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
        "audit.seconds-per-round": 600,
        "audit.attacks.inverting_gradients.options": "steps=2",
        "audit.controls": False,
        "audit.metrics": "psnr",
    }
    del values["audit.attacks"]
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


def test_a_replay_is_the_client_s_own_reply(example: str) -> None:
    """With the same images, seeds and threads, to the last bit."""
    task = importlib.import_module(f"{example}.task")
    app = importlib.import_module(f"{example}.client_app").app
    values = run_config() | {"batch-size": 3}
    grid = InProcessGrid(app, 1)
    (context,) = grid.contexts.values()
    context.run_config = values
    content = RecordDict({"arrays": ArrayRecord(task.Net().state_dict()), "config": ConfigRecord()})
    message = Message(content, context.node_id, "train")
    spec = AuditConfig.from_run_config(values).image
    inputs, labels = task.load_data(0, "")
    replay = Replay(
        app=app,
        run_config=values,
        sent=[copy_message(message)],
        clients=1,
        reading=Reading(image=spec),
    )
    held = Truth(images=spec.denormalise(inputs), labels=labels)
    threads = torch.get_num_threads()
    made = replay(Canary(number=1, seed=3, images=held, spec=spec))
    seed_everything(3)
    (reply,) = grid.send_and_receive([message])
    assert torch.get_num_threads() == threads
    arrays = reply.content.array_records["arrays"]
    replayed = made.returned()
    for name, array in arrays.items():
        # Images went to pixels and back: rounding in their last digit.
        assert np.allclose(array.numpy(), replayed[name], rtol=0, atol=1e-6), name
    published = made.truth()
    assert published is not None and published.images.shape == (3, 3, 32, 32)


@pytest.mark.slow
def test_flwr_run_ends_in_a_verdict(tmp_path: Path) -> None:
    app, ledger = tmp_path / "app", tmp_path / "audit"
    shutil.copytree(EXAMPLE, app, ignore=shutil.ignore_patterns("__pycache__", "audit"))
    seconds = 600  # for any machine: a round ends when its attacks do
    log = flwr_run(
        app,
        tmp_path / "home",
        started_in=app,
        audit__directory=str(ledger),
        audit__seconds_per_round=seconds,
    )
    assert f"The ledger is {ledger / 'ledger.jsonl'}" in log
    shown = call(sys.executable, "-m", "fl_privacy_audit", "show", ledger, cwd=app, environment={})
    assert "no defence, server view: leaked" in shown
