"""``fl-privacy-audit probe --canaries``: epsilon as canaries measure it, beside what is claimed."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from fl_privacy_audit.audit import Auditor
from fl_privacy_audit.core.config import AuditConfig, ClaimConfig
from fl_privacy_audit.core.console import standard_output
from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.core.named_object import find_model, find_named
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.dp import ClaimCheck
from fl_privacy_audit.dp.run_check import check_run
from fl_privacy_audit.ledger.ledger import LastRun, now
from fl_privacy_audit.ledger.records import MeasurementRecord, RunRecord
from fl_privacy_audit.strategies.measure import measure_app

from .doctor import read_settings
from .formats import json_text, measured_texts
from .sentences import advise, say

NOTHING_PROVED = "A lower bound: that little was measured confirms no claim."


def measure(
    target: str,
    model: str,
    folder: Path,
    *,
    canaries: int,
    rounds: int,
    config: Mapping[str, Any],
    delta: float | None = None,
    as_json: bool = False,
) -> bool:
    """Replay an app on canaries and print what it shows.

    Args:
        target: The ClientApp, ``MODULE:NAME``.
        model: The clients' model, likewise.
        folder: Of the app, with the audit's settings: image, training and claim.
        canaries: How many.
        rounds: How many.
        config: What the server sends along.
        delta: In place of the claim's.
        as_json: Whether to print JSON.

    Returns:
        Whether no claim was refuted.

    Raises:
        ConfigError: There are no settings, or the app cannot be replayed.
    """
    settings, run_config = read_settings(folder)
    if delta is not None:
        claim = settings.claim or ClaimConfig(delta=delta)
        settings = settings.replace(claim=claim.replace(delta=delta))
    auditor = Auditor(
        settings,
        model=find_model(model, folder),
        client_app=find_named(target, folder, "MODULE:NAME"),
        run_config=run_config,
    )
    measured = measure_app(auditor, canaries=canaries, rounds=rounds, config=config)
    if isinstance(measured, Reason):
        raise ConfigError(f"nothing was measured: {say(measured)}. {advise(measured)}".strip())
    check = _checked(settings, measured)
    if as_json:
        click.echo(json_text(_as_data(measured, check)), nl=False)
    else:
        _print(check)
    return not check.refuted


def _checked(settings: AuditConfig, measured: MeasurementRecord) -> ClaimCheck:
    record = RunRecord(
        time=now(),
        run="",
        setting=settings.setting,
        config=settings.model_dump(mode="json"),
        model={},
        versions={},
    )
    run = LastRun(
        path=Path(),
        run=record,
        evaluations=[],
        measured=measured,
        notes=[],
        ended=measured.time,
        audits=[],
    )
    check = check_run(run)
    assert check is not None
    return check


def _print(check: ClaimCheck) -> None:
    console = standard_output()
    if check.claimed is not None:
        console.print(
            f"Epsilon claimed: {check.claimed:g} for a {check.covers}, {check.neighbours}, delta "
            f"{check.delta:g}"
        )
    for text in measured_texts(check):
        console.print(f"Epsilon measured: {text}", markup=False)
    for flag in check.flags:
        console.print(f"{'✗' if flag.severity == 'error' else '!'} {flag.message}", markup=False)
    for text in check.unchecked:
        console.print(text, markup=False)
    console.print(NOTHING_PROVED)


def _as_data(measured: MeasurementRecord, check: ClaimCheck) -> dict[str, Any]:
    return {
        **json.loads(measured.model_dump_json(exclude={"kind", "run", "time", "schema_version"})),
        "claimed": check.claimed,
        "covers": check.covers,
        "refuted": check.refuted,
        "flags": [asdict(flag) for flag in check.flags],
        "unchecked": list(check.unchecked),
    }
