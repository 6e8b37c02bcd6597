import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from fl_privacy_audit import Auditor
from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.core.types import MeasuredEpsilon
from fl_privacy_audit.ledger.ledger import read_ledger
from fl_privacy_audit.ledger.records import ControlOutcome, MeasurementRecord, Record, Scores
from fl_privacy_audit.ledger.sinks import MlflowSink, TensorBoardSink, scalars
from tests.support.builders import (
    audit_config,
    audit_line,
    evaluation_line,
    make_reply,
    outcome,
    run_line,
    tiny_net,
)


def leak() -> Record:
    def null(kind: Any, value: float) -> ControlOutcome:
        scores = {"mse": Scores(each=[value], mean=value, worst=value)}
        return ControlOutcome(kind=kind, status="scored", scores=scores)

    controls = [null("noise", 0.3), null("grey", 0.1), null("undefended", 0.0)]
    line = outcome({"mse": 0.02}, controls=controls)
    return audit_line(line, round=4, reported={"epsilon": 2.5})


def test_numbers_worth_a_curve() -> None:
    assert list(scalars(leak())) == [
        ("epsilon_reported/partition 0", 2.5, 4),
        ("leakage/server/inverting_gradients/mse", 0.02, 4),
        ("leakage/server/inverting_gradients/mse/null", 0.1, 4),
    ]
    assert list(scalars(evaluation_line(round=2, accuracy=0.5))) == [
        ("quality/server/accuracy", 0.5, 2)
    ]
    assert list(scalars(run_line())) == []
    bounds = MeasuredEpsilon(
        gauss=9.0, steinke=1.0, ceiling=2.0, canaries=64, rounds=3, delta=1e-5, confidence=0.95
    )
    measured = MeasurementRecord(
        time="", run="r", round=3, records=32, of_a_round=bounds, over_rounds=bounds
    )
    assert list(scalars(measured)) == [("epsilon_measured", 9.0, 3)]


class Collector:
    def __init__(self, error: Exception | None = None) -> None:
        self.taken: list[Record] = []
        self.error = error

    def write(self, record: Record) -> None:
        self.taken.append(record)
        if self.error:
            raise self.error


def test_sinks_get_what_the_ledger_gets_and_may_fail(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = Collector(), Collector(RuntimeError("no network"))
    config = audit_config(tmp_path, fail_fast=True)
    auditor = Auditor(config, model=tiny_net(), sinks=[bad, good])
    with caplog.at_level(logging.ERROR, "fl_privacy_audit"):
        (record,) = auditor.audit_round(1, [make_reply()])
        auditor.record_evaluation(1, "server", {"accuracy": 0.5})
    contents = read_ledger(tmp_path)
    assert good.taken == [*contents.runs, record, *contents.evaluations]
    assert len(bad.taken) == 3
    assert "Collector could not take a record" in caplog.text


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_holds_the_curves(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra `tensorboard`")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = TensorBoardSink(tmp_path)
    for record in (run_line("z"), leak(), evaluation_line(round=4, accuracy=0.5)):
        sink.write(record)
    events = EventAccumulator(str(tmp_path)).Reload()
    (point,) = events.Scalars("leakage/server/inverting_gradients/mse")
    assert (point.step, round(point.value, 4)) == (4, 0.02)
    assert events.Scalars("quality/server/accuracy")[0].value == 0.5


class FakeClient:
    """What is used of MLflow's client."""

    def __init__(self, tracking_uri: str | None = None) -> None:
        self.uri = tracking_uri
        self.metrics: list[tuple[str, str, float, int]] = []
        self.params: dict[str, str] = {}
        self.runs: list[tuple[str, str]] = []
        made.append(self)

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id="7") if name == "known" else None

    def create_experiment(self, name: str) -> str:
        return f"new {name}"

    def create_run(self, experiment: str, run_name: str) -> Any:
        self.runs.append((experiment, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id="r1"))

    def log_param(self, run: str, name: str, value: str) -> None:
        self.params[name] = value

    def log_metric(self, run: str, name: str, value: float, step: int) -> None:
        self.metrics.append((run, name, value, step))


made: list[FakeClient] = []


@pytest.mark.parametrize(("name", "experiment"), [("known", "7"), ("first", "new first")])
def test_mlflow_is_told_run_and_curves(
    monkeypatch: pytest.MonkeyPatch, name: str, experiment: str
) -> None:
    tracking = ModuleType("mlflow.tracking")
    tracking.MlflowClient = FakeClient  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", ModuleType("mlflow"))
    monkeypatch.setitem(sys.modules, "mlflow.tracking", tracking)
    sink = MlflowSink(name, tracking_uri="file:somewhere")
    client = made[-1]
    sink.write(leak())
    assert client.metrics == [], "there is no run yet"
    sink.write(run_line("z = 1", run="abc"))
    sink.write(leak())
    assert (client.uri, client.runs) == ("file:somewhere", [(experiment, "z = 1")])
    assert client.params == {"audit_run": "abc", "setting": "z = 1"}
    assert ("r1", "leakage/server/inverting_gradients/mse", 0.02, 4) in client.metrics


@pytest.mark.parametrize(
    ("module", "make", "message"),
    [
        ("torch.utils.tensorboard", lambda: TensorBoardSink("x"), "TensorBoard is not installed"),
        ("mlflow.tracking", lambda: MlflowSink("x"), "MLflow is not installed; pip install fl-pri"),
    ],
)
def test_what_is_not_installed_is_said(
    monkeypatch: pytest.MonkeyPatch, module: str, make: Any, message: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=message):
        make()
