"""What `doctor` says to do is done by code, to the letter, until nothing is missing and a run has a verdict."""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from flwr.app import Context, RecordDict
from torch import nn

from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.ledger import read_ledger
from fl_privacy_audit.ledger.ledger import last_run
from fl_privacy_audit.report.doctor import (
    doctor_command,
    in_run_config,
    read_settings,
    run_config_of,
    suggest,
)
from fl_privacy_audit.report.sentences import advise
from fl_privacy_audit.strategies.app_source import read_app
from fl_privacy_audit.strategies.doctor import NO_INSTALLATION, Plan
from fl_privacy_audit.verdicts.rules import judge_run
from tests.support.grid import InProcessGrid

from .test_doctor import examined

NODES = 6
PYPROJECT = """
[project]
dependencies = ["flwr", "torch"]
[tool.flwr.app.components]
serverapp = "followed.server_app:app"
clientapp = "followed.client_app:app"
[tool.flwr.app.config]
num-server-rounds = 2
local-epochs = 1
learning-rate = 0.1
batch-size = 1
"""
TASK = """
import torch
from torch import nn


def Normalize(mean, std):
    return lambda images: (images - mean[0]) / std[0]


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(784, 8), nn.Sigmoid(), nn.Linear(8, 3))


def load_data(partition):
    rng = torch.Generator().manual_seed(partition)
    images = Normalize((0.5,), (0.25,))(torch.rand(1, 1, 28, 28, generator=rng))
    return images, torch.tensor([partition % 3])


def train(net, data, lr):
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    net.train()
    images, labels = data
    optimizer.zero_grad()
    nn.functional.cross_entropy(net(images), labels).backward()
    optimizer.step()
"""
CLIENT = """
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from .task import Net, load_data
from .task import train as train_fn

app = ClientApp()


@app.train()
def train(msg, context):
    model = Net()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    train_fn(model, load_data(context.node_config["partition-id"]), 0.1)
    metrics = MetricRecord({"num-examples": 1})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=msg)
"""
SERVER = """
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

from .task import Net

app = ServerApp()


@app.main()
def main(grid, context):
    strategy = FedAvg(fraction_evaluate=0.0)
    strategy.start(
        grid=grid, initial_arrays=ArrayRecord(Net().state_dict()), num_rounds=context.run_config["num-server-rounds"]
    )
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An app like Flower's quick start that knows of no audit."""
    (tmp_path / "app" / "followed").mkdir(parents=True)
    (tmp_path / "app" / "pyproject.toml").write_text(PYPROJECT)
    sources = {"__init__": "", "task": TASK, "client_app": CLIENT, "server_app": SERVER}
    for name, source in sources.items():
        (tmp_path / "app" / "followed" / f"{name}.py").write_text(source)
    monkeypatch.setenv(NO_INSTALLATION, "1")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(tmp_path / "app")
    yield tmp_path / "app"
    forget()


def forget() -> None:
    """The app's modules, which were changed."""
    for name in [name for name in sys.modules if name.split(".")[0] == "followed"]:
        del sys.modules[name]


def call_doctor(app: Path) -> list[str]:
    """Lines of the table that say what is missing."""
    forget()
    words = [str(app), "--model", "followed.task:Net", "--clients", f"{NODES}", "--examples", "1"]
    result = CliRunner().invoke(doctor_command, words, env={"COLUMNS": "1000"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return [line for line in result.output.splitlines() if "✗" in line]


def follow(app: Path, step: str) -> None:
    """Do what a line says, by its words alone."""
    for key, value in re.findall(r"`(audit\.[\w.-]+) = ([^`]+)`", step):
        path = app / "pyproject.toml"
        kept = [line for line in path.read_text().splitlines() if not line.startswith(f"{key} =")]
        path.write_text("\n".join([*kept, f"{key} = {value}", ""]))
    written = re.search(
        r"in line (\d+) of (\S+) write `(.+?)` in place of `(.+?)`; above it `(.+?)`", step
    )
    if written is not None:
        line, file, new, old, above = written.groups()
        edit(app / file, int(line), old, new, above)
        imports(app / file, step)
    published = re.search(
        r"in `(\w+)` above line (\d+) of (\S+), with `context` as its first argument, here and where it is called: "
        r"`(.+?)`",
        step,
    )
    if published is not None:
        function, line, file, publish = published.groups()
        edit(app / file, int(line), "", "", publish)
        source = (app / file).read_text()
        (app / file).write_text(source.replace(f"def {function}(", f"def {function}(context, "))
        imports(app / file, step)
        client = app / "followed" / "client_app.py"
        source = client.read_text().replace("train_fn(", "train_fn(context, ")
        client.write_text(source.replace("@app.train()", "@app.train(mods=[audit_mod])"))
        imports(client, step)


def edit(path: Path, line: int, old: str, new: str, above: str) -> None:
    lines = path.read_text().splitlines()
    text = lines[line - 1]
    indent = text[: len(text) - len(text.lstrip())]
    lines[line - 1 : line] = [indent + above, text.replace(old, new, 1)]
    path.write_text("\n".join([*lines, ""]))


def imports(path: Path, step: str) -> None:
    wanted = re.findall(r"`(from fl_privacy_audit[^`]*)`", step)
    path.write_text("\n".join([*wanted, path.read_text()]))


def test_a_newcomer_who_does_what_it_says_gets_a_verdict(app: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        call_doctor(app)
    _, _, block = str(refused.value).partition("\n\n")
    with (app / "pyproject.toml").open("a") as file:
        file.write(f"{block}\n")
    follow(app, f'`audit.directory = "{tmp_path}/audit"`')
    for_speed = ("executor", "inline"), ("metrics", "psnr, ssim"), ("attacks", "first_linear")
    for name, value in for_speed:
        follow(app, f'`audit.{name} = "{value}"`')
    for _ in range(5):
        if not (missing := call_doctor(app)):
            break
        for line in missing:
            follow(app, line)
    assert missing == []
    forget()
    run_config = run_config_of(app)
    assert run_config["audit.clients-per-round"] == 5
    server, client = (
        importlib.import_module(f"followed.{name}_app") for name in ("server", "client")
    )
    context = Context(
        run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=run_config
    )
    server.app(InProcessGrid(client.app, NODES), context)
    (verdict,) = judge_run(last_run(read_ledger(tmp_path / "audit")))
    assert verdict.word == "leaked", verdict


def test_settings_are_named_as_a_run_config_has_them() -> None:
    sentence = 'set `every = 1`, `views = ["server", "canary"]` and `training.batch_size`'
    assert in_run_config(sentence) == (
        'set `audit.every = 1`, `audit.views = "server, canary"` and `audit.training.batch-size`'
    )
    code = "`canary(context) or load_data(...)`, `client_app=`, `publish_batch(context)`, `auto`"
    assert in_run_config(code) == code


def test_an_app_without_settings_gets_them_to_paste(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        "[tool.flwr.app.config]\nlearning-rate = 0.5\nlocal-epochs = 2\n"
    )
    (tmp_path / "task.py").write_text("Normalize((0.5,), (0.25,))\nSGD(p, momentum=0.9)\n")
    arguments = [str(tmp_path), "--model", "tests.strategies.test_doctor_followed:Thumbnails"]
    refused = CliRunner().invoke(doctor_command, arguments)
    head, _, block = str(refused.exception).partition("\n\n")
    assert "[tool.flwr.app.config]" in head
    with (tmp_path / "pyproject.toml").open("a") as file:
        file.write(block)
    config, _ = read_settings(tmp_path)
    assert config.image.model_dump() == {"shape": (1, 28, 28), "mean": (0.5,), "std": (0.25,)}
    training = config.training
    assert (training.learning_rate, training.momentum, training.epochs) == (0.5, 0.9, 2)


def test_a_normalisation_that_nobody_said_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.flwr.app.config]\nlearning-rate = 0.5\n")
    block = suggest(tmp_path, Thumbnails())
    with (tmp_path / "pyproject.toml").open("a") as file:
        file.write(block)
    with pytest.raises(ConfigError, match=r"image\.mean"):
        read_settings(tmp_path)


class Thumbnails(nn.Sequential):
    """Takes images of 1x28x28 alone."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(28 * 28, 10))


def found(tmp_path: Path, source: str, plan: Plan, **settings: Any) -> dict[str, Any]:
    (tmp_path / "client_app.py").write_text(source)
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    return examined(tmp_path, plan, app=read_app(tmp_path, {}), **settings)


def test_an_environment_without_the_audit_is_foreseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(NO_INSTALLATION, raising=False)
    finding = found(tmp_path, "", Plan())["environment"]
    assert finding.state == "unknown"
    assert f"`export {NO_INSTALLATION}=1`" in advise(finding.reason)
    monkeypatch.setenv(NO_INSTALLATION, "1")
    assert "environment" not in found(tmp_path, "", Plan())


def test_what_clients_keep_is_foreseen(tmp_path: Path) -> None:
    source = "def save(state, net):\n    state['head'] = ArrayRecord(net.head.state_dict())\n"
    finding = found(tmp_path, source, Plan(rounds=10, clients=9))["description"]
    assert finding.reason.code == "clients keep arrays"
    assert "`every = 10`, and `clients_per_round = 5`" in advise(finding.reason)
    assert "description" not in found(tmp_path, source, Plan(rounds=10, clients=9), every=10)
    sends = "reply['arrays'] = ArrayRecord(net.state_dict())\n"
    assert "description" not in found(tmp_path, sends, Plan(rounds=10, clients=9))


def test_noise_that_an_app_does_not_say_is_asked_for(app: Path) -> None:
    (app / "followed" / "private.py").write_text(
        "engine.make_private(module=net, noise_multiplier=noise, max_grad_norm=1.5)\n"
    )
    block = suggest(app, importlib.import_module("followed.task").Net())
    assert 'audit.training.noise-multiplier = "?"' in block
    assert "audit.training.max-grad-norm = 1.5" in block
    with (app / "pyproject.toml").open("a") as file:
        file.write(block)
    with pytest.raises(ConfigError, match=r"training\.noise_multiplier"):
        call_doctor(app)
