"""Known updates through Flower's mods and wrappers, ours, and a stranger's."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, adaptiveclipping_mod, fixedclipping_mod
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
    FedAvg,
    Strategy,
)

from fl_privacy_audit.cli import A_CLAIM_FAILS, cli
from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.dp import gaussian_epsilon
from fl_privacy_audit.strategies import audit_mod, defend
from fl_privacy_audit.strategies.defend import Mod, Next
from fl_privacy_audit.strategies.probe import (
    chain_of,
    probe_client_app,
    probe_mods,
    probe_strategy,
)
from fl_privacy_audit.strategies.stated import Probe

DELTA = 1e-5


def local_dp(*, sensitivity: float = 1.0, epsilon: float) -> Mod:
    mod: Mod = LocalDpMod(1.0, sensitivity, epsilon, DELTA)
    return mod


def app_with(*mods: Mod, inside: int = 1) -> ClientApp:
    """The last `inside` mods are the train function's own."""
    app = ClientApp(mods=list(mods[: len(mods) - inside]))

    @app.train(mods=list(mods[len(mods) - inside :]))
    def train(message: Message, context: Context) -> Message:
        raise AssertionError("the train function is not to be called")

    return app


def strangers_mod(message: Message, context: Context, call_next: Next) -> Message:
    """Clamps each number and draws from a generator that nobody seeds."""
    sent = next(iter(message.content.array_records.values()))
    before = {name: array.numpy() for name, array in sent.items()}
    reply = call_next(message, context)
    ((key, record),) = reply.content.array_records.items()
    rng = np.random.default_rng()
    after = {}
    for name, array in record.items():
        change = np.clip(array.numpy() - before[name], -0.01, 0.01)
        after[name] = before[name] + change + rng.normal(0, 2.0, change.shape)
    reply.content[key] = ArrayRecord({n: Array(a.astype(np.float32)) for n, a in after.items()})
    return reply


def faults(probe: Probe) -> list[str]:
    return [fault.code for fault in probe.faults]


def remarks(probe: Probe) -> list[str]:
    return [remark.code for remark in probe.measured.remarks]


@pytest.mark.parametrize(("asked", "real"), [(10.0, 10.39), (1.0, 0.751)])
def test_flowers_local_dp_is_measured(asked: float, real: float) -> None:
    probe = probe_client_app(app_with(audit_mod, local_dp(epsilon=asked)))
    measured = probe.measured
    assert probe.mods == ("audit_mod", "LocalDpMod")
    assert probe.stated.epsilon == asked
    assert measured.sensitivity.value == pytest.approx(1, rel=0.01)
    assert measured.epsilon.value == pytest.approx(real, rel=0.02)
    assert measured.epsilon.low * 0.998 < real < measured.epsilon.high * 1.002
    beyond = ["epsilon of a round is above the one stated"] if asked > 1 else []
    assert faults(probe) == beyond


def test_noise_scaled_to_another_sensitivity_is_flagged() -> None:
    probe = probe_client_app(app_with(local_dp(sensitivity=1e-4, epsilon=10)))
    assert probe.measured.epsilon.low > 1e8
    assert faults(probe) == [
        "noise is scaled to less than the sensitivity",
        "epsilon of a round is above the one stated",
    ]


@pytest.mark.parametrize("mod", [fixedclipping_mod, adaptiveclipping_mod])
def test_clipping_alone_is_no_privacy(mod: Mod) -> None:
    probe = probe_client_app(app_with(mod), config={"clipping_norm": 0.25})
    assert probe.measured.sensitivity.value == pytest.approx(0.25, rel=0.01)
    assert probe.measured.epsilon.value == math.inf
    assert remarks(probe) == ["no noise"]


@pytest.mark.parametrize(
    ("mods", "epsilon"),
    [
        ([defend("gaussian", std=0.5, clip_norm=1.0)], 10.0),
        ([defend("gaussian", std=0.5), defend("clipping", norm=1.0)], 10.0),
        ([strangers_mod], None),
    ],
)
def test_other_mods_are_measured(mods: list[Mod], epsilon: float | None) -> None:
    probe = probe_mods(mods)
    clamped = 0.01 * math.sqrt(probe.measured.numbers) / 2.0
    exact = epsilon or gaussian_epsilon(mu=clamped, delta=DELTA)
    assert probe.measured.repeatable
    assert probe.measured.epsilon.value == pytest.approx(exact, rel=0.02)
    assert faults(probe) == []


def test_noise_before_clipping_and_noise_of_a_seed_are_flagged() -> None:
    wrong_order = probe_mods([defend("clipping", norm=1.0), defend("gaussian", std=0.5)])
    assert faults(wrong_order) == ["less noise than stated"]
    assert remarks(wrong_order) == ["noise depends on the update"]
    seeded = probe_mods([defend("gaussian", std=0.5, clip_norm=1.0, seed=1)])
    assert remarks(seeded) == ["no noise", "noise is the same each time"]
    assert seeded.measured.epsilon.value == math.inf


@pytest.mark.parametrize(
    ("strategy", "mods"),
    [
        (DifferentialPrivacyServerSideFixedClipping(FedAvg(fraction_train=0.5), 1.0, 0.5, 6), []),
        (DifferentialPrivacyClientSideFixedClipping(FedAvg(), 1.0, 0.5, 6), [fixedclipping_mod]),
    ],
)
def test_flowers_central_dp_is_measured(strategy: Strategy, mods: list[Mod]) -> None:
    probe = probe_strategy(strategy, mods)
    assert probe.view == "release"
    assert probe.measured.sensitivity.value == pytest.approx(0.5 / 6, rel=0.01)
    assert probe.stated.noise == pytest.approx(0.5 / 6)
    assert probe.measured.epsilon.value == pytest.approx(4.377, rel=0.02)
    assert faults(probe) == []


def test_a_client_that_does_not_clip_is_seen_in_the_release() -> None:
    strategy = DifferentialPrivacyClientSideFixedClipping(FedAvg(), 1.0, 0.5, 6)
    probe = probe_strategy(strategy)
    assert probe.measured.epsilon.value == math.inf
    assert "clips to more than stated" in faults(probe)


def test_an_optimizer_on_the_server_moves_more_than_the_clip() -> None:
    strategy = DifferentialPrivacyServerSideFixedClipping(FedAdam(), 1.0, 0.5, 6)
    assert faults(probe_strategy(strategy)) == ["clips to more than stated"]


def test_adaptive_clipping_has_noise_that_follows_the_clip() -> None:
    strategy = DifferentialPrivacyServerSideAdaptiveClipping(FedAvg(), 0.3, 6, 0.1)
    probe = probe_strategy(strategy)
    assert remarks(probe) == ["noise depends on the update"]
    assert probe.measured.sensitivity.value == pytest.approx(0.1 / 6, rel=0.05)
    assert strategy.clipping_norm == 0.1  # a copy was asked


def test_mods_are_found_without_calling_what_they_are_around() -> None:
    mods, train, kind = chain_of(app_with(audit_mod, fixedclipping_mod))
    assert mods == [audit_mod, fixedclipping_mod]
    assert train is not None and train.__name__ == "train"
    assert kind == "train.default"

    def client_fn(context: Context) -> Any:
        raise AssertionError("not to be called")

    assert chain_of(ClientApp(client_fn, mods=[audit_mod]))[0] == [audit_mod]
    with pytest.raises(ConfigError, match="no train function"):
        chain_of(ClientApp())


def test_mods_that_refuse_say_why() -> None:
    def needs_rate(message: Message, context: Context, call_next: Next) -> Message:
        _ = message.content.config_records["config"]["lr"]
        return call_next(message, context)

    with pytest.raises(ConfigError, match=r"raise KeyError: 'lr'|KeyError"):
        probe_mods([needs_rate])
    assert remarks(probe_mods([needs_rate], config={"lr": 0.1}))


def test_the_random_numbers_of_training_stay_as_they_were() -> None:
    np.random.seed(3)
    expected = np.random.random(2)
    np.random.seed(3)
    assert np.random.random() == expected[0]
    probe_mods([local_dp(epsilon=1.0)])
    assert np.random.random() == expected[1]


APP = """
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod

app = ClientApp()

@app.train(mods=[LocalDpMod(1.0, 1e-4, 10.0, 1e-5)])
def train(message, context):
    from opacus import PrivacyEngine
    PrivacyEngine().make_private()

mods = [LocalDpMod(1.0, 1.0, 1.0, 1e-5)]
number = 3
"""


def test_the_command_shows_claims_beside_measurements(tmp_path: Path) -> None:
    (tmp_path / "probed_app.py").write_text(APP, encoding="utf-8")
    run = CliRunner().invoke
    found = run(cli, ["probe", "probed_app:app", "--app", str(tmp_path)])
    assert found.exit_code == A_CLAIM_FAILS
    assert "LocalDpMod" in found.output
    assert "noise is scaled to a sensitivity of 0.0001" in found.output
    assert "names Opacus' engine" in found.output

    well = run(cli, ["probe", "probed_app:mods", "--app", str(tmp_path), "--json"])
    assert well.exit_code == 0
    (data,) = json.loads(well.stdout)
    assert data["measured"]["epsilon"]["value"] == pytest.approx(0.751, rel=0.02)
    assert data["stated"]["epsilon"] == 1.0
    assert data["train_function"] == "not run"

    wrong = run(cli, ["probe", "probed_app:number", "--app", str(tmp_path)])
    assert wrong.exit_code == 1
    assert "int cannot be probed" in wrong.output
