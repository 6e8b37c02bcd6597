"""Canary clients in a federation: what Flower's central noise gives is measured, and said everywhere."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
    Strategy,
)
from torch import nn

from fl_privacy_audit import Auditor
from fl_privacy_audit.cli import cli
from fl_privacy_audit.dp import gaussian_epsilon
from fl_privacy_audit.dp.run_check import check_run
from fl_privacy_audit.ledger import last_run, read_ledger
from fl_privacy_audit.ledger.export import records_table
from fl_privacy_audit.ledger.runs import LastRun
from fl_privacy_audit.report.formats import epsilon
from fl_privacy_audit.report.html import render_html
from fl_privacy_audit.report.markdown import render_markdown
from fl_privacy_audit.report.summary import summarise
from fl_privacy_audit.strategies import AuditedStrategy
from tests.support.builders import audit_config, made
from tests.support.grid import InProcessGrid

NODES, CANARIES, ROUNDS = 36, 32, 4
DELTA, NOISE, CLIP = 1e-5, 1.0, 0.5
TRUE = gaussian_epsilon(mu=ROUNDS**0.5 / NOISE, delta=DELTA)


def net() -> nn.Module:
    return made(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 3))


class HalfTheNoise(DifferentialPrivacyServerSideFixedClipping):
    """Says one noise and adds another."""

    def _add_noise_to_aggregated_arrays(self, aggregated_arrays: ArrayRecord) -> ArrayRecord:
        self.noise_multiplier /= 2
        noisy = super()._add_noise_to_aggregated_arrays(aggregated_arrays)
        self.noise_multiplier *= 2
        return noisy


def federate(directory: Path, strategy: Strategy) -> ArrayRecord:
    """Clients that send what they were sent, all but one number."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = dict(message.content.array_records["arrays"].to_torch_state_dict())
        arrays["3.bias"] = arrays["3.bias"] + 0.1
        metrics = MetricRecord({"num-examples": 4})
        content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})
        return Message(content, reply_to=message)

    config = audit_config(directory, canary={"clients": CANARIES}, every=100)
    auditor = Auditor(config, model=net())
    np.random.seed(7)
    result = AuditedStrategy(strategy, auditor=auditor).start(
        grid=InProcessGrid(app, NODES),
        initial_arrays=ArrayRecord(net().state_dict()),
        num_rounds=ROUNDS,
        train_config=ConfigRecord({}),
    )
    return result.arrays


def private(kind: type[Strategy] = DifferentialPrivacyServerSideFixedClipping) -> Strategy:
    return kind(FedAvg(fraction_evaluate=0.0), NOISE, CLIP, NODES)  # type: ignore[call-arg]


def run_of(directory: Path) -> LastRun:
    return last_run(read_ledger(directory))


@pytest.mark.parametrize(
    "kind",
    [DifferentialPrivacyServerSideFixedClipping, DifferentialPrivacyClientSideFixedClipping],
)
def test_a_strategy_that_adds_its_noise_is_not_accused(
    tmp_path: Path, kind: type[Strategy], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="fl_privacy_audit"):
        federate(tmp_path, private(kind))
    assert caplog.text.count("CANARY CLIENTS CHANGE TRAINING") == 2
    assert caplog.text.count("training is changed") == ROUNDS
    run = run_of(tmp_path)
    assert run.run.config["canary"]["clients"] == CANARIES
    assert run.measured is not None
    bound = run.measured.over_rounds
    assert (bound.unit, bound.canaries, bound.rounds) == ("client", CANARIES, ROUNDS)
    assert bound.estimate == pytest.approx(TRUE, rel=0.4)
    assert 0.3 * TRUE < bound.gauss <= TRUE
    check = check_run(run)
    assert check is not None and check.mechanism == "central-gaussian"
    assert check.measured[-1] == bound and not check.refuted


def test_half_of_the_noise_is_found_and_said_everywhere(tmp_path: Path) -> None:
    federate(tmp_path, private(HalfTheNoise))
    run = run_of(tmp_path)
    check = check_run(run)
    assert check is not None and check.refuted and run.measured is not None
    message = next(f.message for f in check.flags if f.code == "measured-above-claim")
    assert f"{CANARIES} canary clients" in message and "what the noise stated gives" in message
    # The probe at the start of the run has found it too.
    assert [fault.code for fault in run.run.probed[0].faults] == ["less noise than stated"]
    assert "probe-contradicts" in [flag.code for flag in check.flags]
    figure = epsilon(run.measured.over_rounds.highest)
    shown = " ".join(CliRunner().invoke(cli, ["show", str(tmp_path)]).output.split())
    assert f"at least {figure} over {ROUNDS} rounds" in shown
    assert "training was changed" in shown
    for page in (
        render_html(summarise([tmp_path]), pictures=False),
        render_markdown(summarise([tmp_path])),
    ):
        assert f"at least {figure}" in page and "training was changed" in page
        assert "one update changes what leaves the strategy by" in page
    rows = {
        row["metric"]: row
        for row in records_table(tmp_path)
        if row["status"] == "measured" and row["round"] == ROUNDS
    }
    assert rows["epsilon_gauss"]["view"] == "release"
    assert rows["epsilon_estimate"]["mean"] == run.measured.over_rounds.estimate


def test_without_a_central_clip_nothing_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="fl_privacy_audit"):
        arrays = federate(tmp_path, FedAvg(fraction_evaluate=0.0)).to_torch_state_dict()
    assert "no central clip" in caplog.text
    assert run_of(tmp_path).measured is None
    torch.testing.assert_close(arrays["1.weight"], net().state_dict()["1.weight"])
