"""What an audit lacks for a verdict is found before anything is trained."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor, nn

from fl_privacy_audit import AuditConfig, Auditor, Truth
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.report.doctor import (
    SOMETHING_LACKS,
    doctor_command,
    read_settings,
)
from fl_privacy_audit.report.sentences import advise, say
from fl_privacy_audit.report.words import EXAMINED
from fl_privacy_audit.strategies import canary
from fl_privacy_audit.strategies.app_source import AppSource, read_app
from fl_privacy_audit.strategies.doctor import Finding, Plan, examine
from tests.support.builders import IMAGE as IMAGE_SPEC
from tests.support.builders import tiny_net, trained
from tests.support.flwr_run import ROOT

EXAMPLE = ROOT / "examples/flower_cifar"
STEP = {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 1, "steps": 1}
IMAGE = {"shape": [1, 8, 8], "mean": [0], "std": [1]}


class AsItIs(torch.autograd.Function):
    @staticmethod
    def forward(context: object, inputs: Tensor) -> Tensor:
        return inputs.clone()


class Slope(AsItIs):
    """Without a derivative."""

    @staticmethod
    def backward(context: object, slope: Tensor) -> Tensor:
        raise NotImplementedError("derivative of the kernel's backward is not implemented")


class Fused(AsItIs):
    """With one derivative only."""

    @staticmethod
    def backward(context: object, slope: Tensor) -> Tensor:
        output: Tensor = Slope.apply(slope)
        return output


class Once(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny_net()

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = Fused.apply(self.inner(inputs))
        return scores


def examined(
    tmp_path: Path,
    plan: Plan,
    model: nn.Module | None = None,
    app: AppSource | None = None,
    **settings: Any,
) -> dict[str, Finding]:
    config = {"image": IMAGE, "directory": tmp_path / "audit", "training": STEP, **settings}
    auditor = Auditor(AuditConfig.build(config), model=model or tiny_net())
    found = {finding.about: finding for finding in examine(auditor, plan, app=app)}
    assert not (tmp_path / "audit").exists()
    return found


def test_what_is_well_needs_nothing(tmp_path: Path) -> None:
    found = examined(tmp_path, Plan(rounds=5, clients=2), seconds_per_round=1e6)
    assert {about: each.state for about, each in found.items()} == {
        "model": "well",
        "derivatives": "well",
        "attack": "well",
        "batches": "well",
        "truth": "unknown",
    }


@pytest.mark.parametrize(
    ("plan", "settings", "code", "remedy"),
    [
        (Plan(), {}, "run not known", "--rounds"),
        (Plan(rounds=4, clients=9), {}, "too few batches to come", "clients_per_round = 2"),
        (Plan(rounds=4, clients=1), {}, "too few rounds to come", "at least 5 rounds"),
        (Plan(rounds=9, clients=9), {"every": 2}, "enough batches", ""),
        (
            Plan(rounds=5, clients=9),
            {"training": {**STEP, "steps": None, "epochs": 1}},
            "too few clients attacked",
            "clients_per_round = 5",
        ),
        (
            Plan(rounds=9, clients=2, num_examples=1),
            {"clients_per_round": "all"},
            "too few clients",
            "num-supernodes=5",
        ),
        (
            Plan(rounds=1, clients=6, num_examples=1),
            {
                "clients_per_round": "all",
                "training": {**STEP, "noise_multiplier": 1.0, "max_grad_norm": 1.0},
            },
            "just enough batches",
            "10 clients or more would tell better",
        ),
        (
            Plan(rounds=1, clients=6, num_examples=1),
            {"clients_per_round": "all"},
            "enough batches",
            "",
        ),
    ],
)
def test_batches_that_repeat_count_once(
    tmp_path: Path, plan: Plan, settings: dict[str, Any], code: str, remedy: str
) -> None:
    finding = examined(tmp_path, plan, **settings)["batches"]
    assert finding.reason.code == code
    assert remedy in advise(finding.reason)


def test_an_attack_without_time_says_how_much_it_needs(tmp_path: Path) -> None:
    found = examined(tmp_path, Plan(), attacks=["inverting_gradients"], seconds_per_round=1e-3)
    assert found["attack"].state == "missing"
    assert found["attack"].reason.code == "attack lacks time"
    assert "seconds_per_round" in advise(found["attack"].reason)


def test_an_attack_that_refuses_says_why(tmp_path: Path) -> None:
    training = {**STEP, "batch_size": 4}
    found = examined(tmp_path, Plan(), attacks=["rgap"], training=training)
    assert found["attack"].reason.code == "attack refuses"
    assert "rgap" in say(found["attack"].reason)


def test_time_is_advised_for_the_clients_that_are_advised(tmp_path: Path) -> None:
    epochs = {**STEP, "steps": None, "epochs": 1}
    settings: dict[str, Any] = {
        "attacks": ["inverting_gradients"],
        "training": epochs,
        "seconds_per_round": 1e-3,
    }
    plan = Plan(rounds=9, clients=9, num_examples=2)
    few = examined(tmp_path, plan, clients_per_round=2, every=5, **settings)
    enough = examined(tmp_path, plan, clients_per_round=5, every=5, **settings)
    assert few["batches"].reason.code == "too few clients attacked"
    assert few["attack"].reason.figures["available"] == pytest.approx(1e-3 / 5)
    assert enough["attack"].reason.figures["available"] == pytest.approx(1e-3 / 5)
    all_of_them = examined(tmp_path, plan, clients_per_round="all", every=5, **settings)
    assert all_of_them["attack"].reason.figures["available"] == pytest.approx(1e-3 / 9)


def test_epochs_need_the_number_of_images(tmp_path: Path) -> None:
    epochs = {**STEP, "steps": None, "epochs": 1}
    attack = examined(tmp_path, Plan(), training=epochs)["attack"]
    assert (attack.state, attack.reason.code) == ("unknown", "examples not known")
    assert "--examples" in advise(attack.reason)


def test_of_many_images_few_are_tried_and_fewer_advised(tmp_path: Path) -> None:
    tried: list[int] = []

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny_net()

        def forward(self, inputs: Tensor) -> Tensor:
            tried.append(len(inputs))
            scores: Tensor = self.inner(inputs)
            return scores

    attack = examined(
        tmp_path,
        Plan(rounds=1, clients=5, num_examples=10_000_000),
        Counting(),
        training={**STEP, "steps": None, "epochs": 1, "batch_size": 4},
        seconds_per_round=5,
        clients_per_round=5,
    )["attack"]
    assert attack.reason.code == "attack lacks time for so many images", say(attack.reason)
    assert attack.reason.figures["images"] == 10_000_000
    assert max(tried) <= 33 * 4
    fewer = attack.reason.figures["fewer"]
    assert f"keep {fewer} of its training images or fewer" in advise(attack.reason)


def test_long_times_are_said_as_people_say_them() -> None:
    lacks = Reason.of("attack lacks time", attack="dlg", needed=7260.0, available=12.0)
    assert "takes about 2 h 1 min for each client" in say(lacks)


def test_a_model_with_one_derivative_is_found(tmp_path: Path) -> None:
    found = examined(tmp_path, Plan(), model=Once(), attacks=["first_linear"])
    assert found["derivatives"].state == "missing"


def test_a_model_that_takes_other_images_is_found(tmp_path: Path) -> None:
    found = examined(tmp_path, Plan(), image={**IMAGE, "shape": [1, 5, 5]})
    assert found["model"].state == "missing"
    assert set(found) == {"model", "batches", "truth"}


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("# audit_mod, publish_batch\n", "nothing is published"),
        ("publish_batch(images, labels)\n", "mod missing"),
        ("@app.train(mods=[audit_mod])\ndef train(): ...\n", "publish call missing"),
        ("app.train(mods=[fl.audit_mod])\nfl.publish_batch(images, labels)\n", "clients publish"),
        ("this is no Python\n", "nothing is published"),
    ],
)
def test_clients_that_publish_nothing_are_found(tmp_path: Path, source: str, code: str) -> None:
    truth = examined(tmp_path, Plan(), app=app_of(tmp_path, source))["truth"]
    assert truth.reason.code == code
    assert truth.state == "well" or "mods=[audit_mod]" in advise(truth.reason) + source


def app_of(tmp_path: Path, source: str, **run_config: Any) -> AppSource:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "client_app.py").write_text(source)
    return read_app(folder, run_config)


@pytest.mark.parametrize(
    ("source", "wrapper"),
    [
        ("from flwr.serverapp.strategy import FedAvg\n", "AuditedStrategy"),
        ("from flwr.server.strategy import FedAvg\n", "AuditedLegacyStrategy"),
    ],
)
def test_an_app_that_audits_nothing_is_found(tmp_path: Path, source: str, wrapper: str) -> None:
    found = examined(tmp_path, Plan(), app=app_of(tmp_path, source))["wrapper"]
    assert found.state == "missing"
    assert f"`{wrapper}(strategy, auditor=auditor)`" in advise(found.reason)


@pytest.mark.parametrize(
    ("source", "run_config", "words"),
    [
        (
            "",
            {"learning-rate": 0.5},
            "`training.learning_rate`: the app says 0.5, the audit is told 0.1",
        ),
        ("", {"local-epochs": 2}, "the app says 2, the audit is told nothing"),
        ("Normalize((0.5,), (1,))", {}, "`image.mean`: the app says 0.5, the audit is told 0.0"),
        ("make_private(m)", {"max-grad-norm": 1.0}, "is told of no noise"),
    ],
)
def test_a_description_unlike_the_apps_source_is_found(
    tmp_path: Path, source: str, run_config: dict[str, Any], words: str
) -> None:
    found = examined(tmp_path, Plan(), app=app_of(tmp_path, source, **run_config))["description"]
    assert found.state == "unknown"
    assert words in say(found.reason)
    assert advise(found.reason)


def test_a_description_like_the_apps_source_is_not_mentioned(tmp_path: Path) -> None:
    source = "Normalize((0.0,), (1.0,))\nSGD(p, lr=0.1, momentum=0)\n"
    app = app_of(tmp_path, source, **{"batch-size": 1, "local-steps": 1})
    assert "description" not in examined(tmp_path, Plan(), app=app)


def test_the_example_is_well() -> None:
    config, run_config = read_settings(EXAMPLE)
    assert run_config["num-server-rounds"] == 3
    assert config.training.learning_rate == 0.03
    words = [str(EXAMPLE), "--model", "flower_cifar.task:Net", "--clients", "10"]
    try:
        result = CliRunner().invoke(doctor_command, words, env={"COLUMNS": "1000"})
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "flower_cifar"]:
            del sys.modules[name]
    assert "✓ enough batches" in result.output, result.output
    lacking = [line for line in result.output.splitlines() if "✗" in line]
    assert [line for line in lacking if "seconds-per-round" not in line] == []  # a slow machine's


def test_command_says_what_to_do_and_ends_with_a_code(tmp_path: Path) -> None:
    (tmp_path / "audit.toml").write_text(
        "seconds_per_round = 1e6\n[image]\nshape = [1, 8, 8]\nmean = [0]\nstd = [1]\n"
        '[training]\noptimizer = "sgd"\nlearning_rate = 0.1\nsteps = 1\n'
    )
    arguments = [str(tmp_path / "audit.toml"), "--model", "tests.support.builders:tiny_net"]
    short = CliRunner().invoke(doctor_command, [*arguments, "--rounds", "2", "--clients", "3"])
    assert short.exit_code == SOMETHING_LACKS, short.output
    assert "✗ enough batches" in short.output
    enough = CliRunner().invoke(doctor_command, [*arguments, "--rounds", "5", "--clients", "3"])
    assert enough.exit_code == 0, enough.output
    wrong = CliRunner().invoke(doctor_command, [*arguments[:2], "no.such:thing"])
    assert "MODULE:NAME" in str(wrong.exception)


def test_everything_that_is_looked_at_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", raising=False)
    app = replace(app_of(tmp_path, "", **{"learning-rate": 0.5}), dependencies=())
    found = examined(tmp_path, Plan(), app=app, views=["server", "canary"])
    assert {*found, "spool", "strength"} == set(EXAMINED)
    assert "spool" not in found


def test_what_an_earlier_run_left_is_said(tmp_path: Path) -> None:
    spool = tmp_path / "audit" / "spool"
    for folder in (spool.parent, spool, spool / "run", spool / "run" / "1"):
        folder.mkdir(mode=0o700)
    for name in (".lock", "1/capture.json"):
        (spool / "run" / name).touch()
    config = AuditConfig.build({"image": IMAGE, "directory": spool.parent, "training": STEP})
    found = {one.about: one for one in examine(Auditor(config, model=tiny_net()), Plan())}
    assert found["spool"].state == "unknown"
    assert "1 capture in the spool" in say(found["spool"].reason)


def canary_app(*, asks: bool = True, needs: str = "server-round") -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        held = (canary(context) if asks else None) or (
            torch.zeros(1, 1, 8, 8),
            torch.zeros(1).long(),
        )
        assert message.content.config_records["config"][needs]
        model = tiny_net()
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        after = trained(model, Truth(images=IMAGE_SPEC.denormalise(held[0]), labels=held[1]))
        metrics = MetricRecord({"num-examples": len(held[1])})
        content = RecordDict({"arrays": ArrayRecord(after.state_dict()), "metrics": metrics})
        return Message(content=content, reply_to=message)

    return app


@pytest.mark.parametrize(
    ("app", "settings", "code"),
    [
        (None, {"views": ["canary"]}, "no client app"),
        (canary_app(), {}, "replayed"),
        (canary_app(asks=False), {}, "canaries not taken"),
        (canary_app(needs="lr"), {}, "replay failed"),
        (canary_app(), {"canary": {"folder": "/nowhere"}}, "no canaries"),
        (canary_app(), {"seconds_per_round": 1e-9}, "no time to replay"),
    ],
)
def test_one_replay_is_rehearsed(
    tmp_path: Path, app: ClientApp | None, settings: dict[str, Any], code: str
) -> None:
    config = {"image": IMAGE, "directory": tmp_path / "audit", "training": STEP, **settings}
    auditor = Auditor(AuditConfig.build(config), model=tiny_net(), client_app=app)
    findings = examine(auditor, Plan(rounds=5, clients=2), replay=True)
    (found,) = [finding for finding in findings if finding.about == "canaries"]
    assert found.reason.code == code, say(found.reason)
    state = {"replayed": "well", "replay failed": "unknown"}.get(code, "missing")
    assert found.state == state
    assert (code == "replayed") == (advise(found.reason) == "")
    assert not (tmp_path / "audit").exists()


def test_before_the_first_round_nothing_is_trained(tmp_path: Path) -> None:
    config = AuditConfig.build({"image": IMAGE, "directory": tmp_path, "training": STEP})
    auditor = Auditor(config, model=tiny_net(), client_app=canary_app())
    (found,) = [f for f in examine(auditor, Plan()) if f.about == "canaries"]
    assert (found.state, found.reason.code) == ("unknown", "not replayed yet")
