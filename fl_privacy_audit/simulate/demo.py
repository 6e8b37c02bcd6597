"""The main job: one federation under three settings, attacked, compared, drawn."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from fl_privacy_audit.audit import auditor as audit
from fl_privacy_audit.audit.auditor import Auditor
from fl_privacy_audit.core.config import (
    AttackConfig,
    AuditConfig,
    ClaimConfig,
)
from fl_privacy_audit.core.errors import AuditError
from fl_privacy_audit.core.types import ImageSpec, LocalTraining
from fl_privacy_audit.ledger.ledger import read_ledger
from fl_privacy_audit.report.terminal import (
    comparison_json,
    comparison_markdown,
    comparison_table,
    draw_reconstructions,
    reconstruction_rows,
)
from fl_privacy_audit.report.words import say
from fl_privacy_audit.verdicts.compare import Comparison, compare, last_run

from .federation.settings import Settings

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
CLIENTS = 6
ROUNDS = 60
AUDITED_CLIENTS = 2
EVERY = 20
ATTACK = AttackConfig(name="swept_inversion")
SECONDS_PER_ROUND = 120.0


@dataclass(frozen=True)
class DemoSetting:
    """One of the federations that the demo runs."""

    name: str
    folder: str
    noise_multiplier: float


SETTINGS = (
    DemoSetting("no defence", "none", -1.0),
    DemoSetting("DP-SGD, noise 0.01", "dp-0.01", 0.01),
    DemoSetting("DP-SGD, noise 1", "dp-1", 1.0),
)


def run_demo(
    out: Path, *, dataset: str = "photos", data_root: str = "", seed: int = 0, console: Console
) -> Comparison:
    """Run the three federations one after the other and write what came of them to `out`.

    Leaves a ledger for each setting, ``comparison.json``, ``comparison.md`` and
    ``reconstructions.png``.

    Raises:
        AuditError: A federation did not finish, or an audited record has no score.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    # Flower reads its telemetry switch when it is imported.
    from .federation.data import MEAN, SIZE, STD, class_names, load_test
    from .federation.model import make_net
    from .federation.simulation import simulate

    logging.getLogger("flwr").setLevel(logging.ERROR)
    base = Settings(
        dataset=dataset,
        data_root=str(Path(data_root).absolute()) if data_root else "",
        num_rounds=ROUNDS,
        seed=seed,
        reproducible_noise=True,
    )
    load_test(base)  # what cannot be read is better known before anything is started
    columns = (TextColumn("{task.description:<42}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        for setting in SETTINGS:
            settings = replace(base, noise_multiplier=setting.noise_multiplier)
            rounds = bars.add_task(f"{setting.name}: rounds", total=settings.num_rounds)
            steps = bars.add_task("  attack steps", total=1)
            auditor = Auditor(
                AuditConfig(
                    directory=out / setting.folder,
                    setting=setting.name,
                    image=ImageSpec(shape=(3, SIZE, SIZE), mean=MEAN, std=STD),
                    attacks=(ATTACK,),
                    every=EVERY,
                    clients_per_round=AUDITED_CLIENTS,
                    seed=seed,
                    seconds_per_round=SECONDS_PER_ROUND,
                    training=LocalTraining(
                        optimizer="sgd",
                        learning_rate=settings.learning_rate,
                        steps=settings.local_steps,
                        batch_size=settings.batch_size,
                        max_grad_norm=settings.max_grad_norm if settings.private else None,
                        noise_multiplier=setting.noise_multiplier if settings.private else None,
                        mode="train",
                    ),
                    claim=ClaimConfig(
                        delta=settings.delta, sampling="fixed", accountant="persistent"
                    )
                    if settings.private
                    else None,
                    keep_pictures=True,
                ),
                model=make_net(len(class_names(dataset)), seed),
                on_progress=_step_bar(bars, steps),
            )
            simulate(
                settings,
                auditor,
                num_clients=CLIENTS,
                on_round=_round_bar(bars, rounds),
            )
            bars.remove_task(steps)
    return _write(out, console)


def _round_bar(bars: Progress, bar: TaskID) -> Callable[[int], None]:
    return lambda done: bars.update(bar, completed=done)


def _step_bar(bars: Progress, bar: TaskID) -> Callable[[audit.Progress], None]:
    def show(at: audit.Progress) -> None:
        bars.update(
            bar,
            description=f"  round {at.round}, {at.client}: attack steps",
            completed=at.step,
            total=at.steps,
        )

    return show


def _write(out: Path, console: Console) -> Comparison:
    folders = [out / setting.folder for setting in SETTINGS]
    comparison = compare(folders)
    runs = [last_run(read_ledger(folder)) for folder in folders]
    for run in runs:
        for record in run.audits:
            for outcome in record.attacks:
                attacked = record.reason is None
                if record.client_status != "returned" or (attacked and outcome.status != "scored"):
                    raise AuditError(
                        f"{run.run.setting}, round {record.round}, {record.client}: "
                        f"{outcome.status}: {outcome.reason and say(outcome.reason)}; see {run.path}"
                    )
    (out / "comparison.json").write_text(comparison_json(comparison), encoding="utf-8")
    (out / "comparison.md").write_text(comparison_markdown(comparison), encoding="utf-8")
    picture = out / "reconstructions.png"
    draw_reconstructions(reconstruction_rows(runs, attack=ATTACK.name), picture)
    picture.chmod(0o600)
    console.print(comparison_table(comparison, width=console.width))
    for note in map(say, comparison.notes):
        console.print(f"Note: {note}", markup=False)
    console.print(f"Table, picture and ledgers: {out}", markup=False)
    return comparison
