"""The demo: one federation under three settings, attacked, compared, drawn."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from fl_privacy_audit import AttackConfig, AuditError
from fl_privacy_audit import Progress as AttackProgress
from fl_privacy_audit.attacks import DEFAULT_ATTACK
from fl_privacy_audit.core.files import write_whole
from fl_privacy_audit.ledger.ledger import LastRun, read_ledger
from fl_privacy_audit.report.html.page import render_html
from fl_privacy_audit.report.sentences import say
from fl_privacy_audit.report.summary import summarise
from fl_privacy_audit.report.terminal import draw_reconstructions, reconstruction_rows
from fl_privacy_audit.verdicts.compare import Comparison, last_run

from . import QUIET
from .comparison import print_comparison, write_comparison
from .sweep.plan import Run, plan_runs

if TYPE_CHECKING:
    from .federation.simulation import Simulate

# The size of the demo.
CLIENTS = 6
ROUNDS = 60
ATTACK = AttackConfig(name=DEFAULT_ATTACK)
ATTACK_EVERY_ROUNDS = 20  # rounds 1, 21 and 41
ATTACKED_CLIENTS = 2  # in each of those rounds
ATTACK_SECONDS_PER_ROUND = 120.0  # time budget, shared by the attacked clients
DEFENCES: dict[str, dict[str, Any]] = {
    "none": {"label": "no defence", "name": "none"},
    **{
        f"dp-{noise:g}": {
            "label": f"DP-SGD, noise {noise:g}",
            "name": "dp-sgd",
            "options": {"noise_multiplier": noise, "max_grad_norm": 1.0},
        }
        for noise in (0.01, 1.0)
    },
}
"""One federation for each, by the folder that its ledger goes to; as in the plan of a sweep."""


def run_demo(
    out: Path,
    *,
    dataset: str = "photos",
    data_root: str = "",
    seed: int = 0,
    console: Console,
    rounds: int = ROUNDS,
    attack: AttackConfig = ATTACK,
    simulate: "Simulate | None" = None,
) -> Comparison:
    """Run the three federations one after the other, and compare them.

    Leaves in `out` a ledger for each setting, ``comparison.json``, ``comparison.md``,
    ``report.html`` and ``reconstructions.png``. `dataset` and `data_root` are those of
    `FederationConfig`; `seed` is for data, weights, batches, noise and attacks. Progress and the
    comparison go to the console. Clients run by `simulate`, Flower's simulation by default.

    Raises:
        AuditError: A federation did not finish, or an attacked record has no score.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    # Flower reads its telemetry switch when it is imported.
    from .federation.simulation import in_ray, run_federation

    root = str(Path(data_root).absolute()) if data_root else ""
    runs = _runs(dataset, root, seed, rounds, attack)
    columns = (TextColumn("{task.description:<42}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        for run in runs:
            rounds_bar = bars.add_task(f"{run.label}: rounds", total=rounds)
            steps_bar = bars.add_task("  attack steps", total=1)

            def on_round(done: int, bar: TaskID = rounds_bar) -> None:
                bars.update(bar, completed=done)

            def on_progress(at: AttackProgress, bar: TaskID = steps_bar) -> None:
                what = f"  round {at.round}, {at.client}: attack steps"
                bars.update(bar, description=what, completed=at.step, total=at.steps)

            run_federation(
                run.federation,
                run.audit.model_copy(update={"directory": out / run.folder}),
                clients=run.clients,
                on_round=on_round,
                on_progress=on_progress,
                simulate=simulate or in_ray,
            )
            bars.remove_task(steps_bar)
    return _write(out, [out / run.folder for run in runs], attack, console)


def _runs(dataset: str, data_root: str, seed: int, rounds: int, attack: AttackConfig) -> list[Run]:
    plan = {
        "federation": {
            "dataset": dataset,
            "data_root": data_root,
            "clients": CLIENTS,
            "rounds": rounds,
        },
        "audit": {
            "attacks": [attack],
            "every": ATTACK_EVERY_ROUNDS,
            "clients_per_round": ATTACKED_CLIENTS,
            "seconds_per_round": ATTACK_SECONDS_PER_ROUND,
            "keep_pictures": True,
        },
        "seeds": [seed],
        "defence": list(DEFENCES.values()),
    }
    runs = zip(DEFENCES, plan_runs(plan), strict=True)
    return [replace(run, folder=Path(folder)) for folder, run in runs]


def _write(out: Path, folders: list[Path], attack: AttackConfig, console: Console) -> Comparison:
    runs = [last_run(read_ledger(folder)) for folder in folders]
    for run in runs:
        _check_scored(run)
    comparison = write_comparison(folders, out)
    picture, page = out / "reconstructions.png", out / "report.html"
    draw_reconstructions(reconstruction_rows(runs, attack=attack.name), picture)
    picture.chmod(0o600)
    write_whole(page, render_html(summarise(folders), pictures=True))
    print_comparison(console, comparison)
    console.print(f"Report: {page}", markup=False, soft_wrap=True)
    console.print(f"Table, picture and ledgers: {out}", markup=False, soft_wrap=True)
    return comparison


def _check_scored(run: LastRun) -> None:
    for record in run.audits:
        for outcome in record.attacks:
            attacked = record.reason is None
            if record.client_status != "returned" or (attacked and outcome.status != "scored"):
                raise AuditError(
                    f"{run.run.setting}, round {record.round}, {record.client}: "
                    f"{outcome.status}: {outcome.reason and say(outcome.reason)}; see {run.path}"
                )
