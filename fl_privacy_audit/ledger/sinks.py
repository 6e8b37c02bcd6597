"""Records as scalars in TensorBoard or MLflow, while the audit runs.

Give them to the auditor: ``Auditor(config, model=Net(), sinks=[TensorBoardSink("runs/audit")])``.
Scalars are ``leakage/VIEW/ATTACK/METRIC`` (the mean over a record's images, at the server round),
``.../null`` (the null control that scores best), ``quality/SOURCE/NAME``, ``epsilon_reported/CLIENT``
and ``epsilon_measured``.
Neither package comes with this one: install the extra ``tensorboard`` or ``mlflow``.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.metrics import METRICS

from .records import (
    NULLS,
    AttackOutcome,
    AuditRecord,
    EvaluationRecord,
    MeasurementRecord,
    Record,
    RunRecord,
)

NOT_A_NAME: Final = re.compile(r"[^\w\-./ ]")
"""What MLflow takes in no name."""


def scalars(record: Record) -> Iterator[tuple[str, float, int]]:
    """``(name, value, server round)`` for each number worth a curve."""
    if isinstance(record, EvaluationRecord):
        for name, value in record.metrics.items():
            yield f"quality/{record.source}/{name}", value, record.round
    if isinstance(record, MeasurementRecord):
        yield "epsilon_measured", record.over_rounds.highest, record.round
    if isinstance(record, AuditRecord):
        if "epsilon" in record.reported:
            yield f"epsilon_reported/{record.client}", record.reported["epsilon"], record.round
        for outcome in record.attacks:
            for name, value in _leakage(outcome):
                place = f"leakage/{record.view}/{outcome.attack}/{name}"
                yield place, value, record.round


def _leakage(outcome: AttackOutcome) -> Iterator[tuple[str, float]]:
    for name, found in outcome.scores.items():
        yield name, found.mean
        nulls = [
            control.scores[name].mean
            for kind in NULLS
            if (control := outcome.control(kind)) is not None and name in control.scores
        ]
        if nulls and name in METRICS:
            yield f"{name}/null", METRICS[name].worst(nulls)


class TensorBoardSink:
    """Writes scalars as TensorBoard event files in a directory.

    Raises:
        ConfigError: TensorBoard is not installed.
    """

    def __init__(self, directory: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "TensorBoard is not installed; pip install fl-privacy-audit[tensorboard]"
            ) from error
        self._writer: Any = SummaryWriter(str(directory))

    def write(self, record: Record) -> None:
        """See `fl_privacy_audit.core.protocols.Sink`."""
        if isinstance(record, RunRecord):
            self._writer.add_text("setting", record.setting)
        for name, value, server_round in scalars(record):
            self._writer.add_scalar(name, value, server_round)
        self._writer.flush()


class MlflowSink:
    """Logs scalars to an MLflow run, which begins with the audit and carries its setting as name.

    The experiment is made if it is not there; without `tracking_uri` MLflow's own default holds.

    Raises:
        ConfigError: MLflow is not installed.
    """

    def __init__(self, experiment: str, *, tracking_uri: str | None = None) -> None:
        try:
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise ConfigError(
                "MLflow is not installed; pip install fl-privacy-audit[mlflow]"
            ) from error
        self._client: Any = MlflowClient(tracking_uri=tracking_uri)
        found = self._client.get_experiment_by_name(experiment)
        self._experiment: str = (
            self._client.create_experiment(experiment) if found is None else found.experiment_id
        )
        self._run: str | None = None

    def write(self, record: Record) -> None:
        """See `fl_privacy_audit.core.protocols.Sink`."""
        if isinstance(record, RunRecord):
            run = self._client.create_run(self._experiment, run_name=record.setting)
            self._run = run.info.run_id
            self._client.log_param(self._run, "audit_run", record.run)
            self._client.log_param(self._run, "setting", record.setting)
        if self._run is None:
            return
        for name, value, server_round in scalars(record):
            plain = NOT_A_NAME.sub("_", name)
            self._client.log_metric(self._run, plain, value, step=server_round)
