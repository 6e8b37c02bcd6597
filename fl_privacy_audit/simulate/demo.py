"""The demo: one federation under three settings, attacked, compared, drawn."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from fl_privacy_audit import AttackConfig, AuditError
from fl_privacy_audit.attacks import DEFAULT_ATTACK
from fl_privacy_audit.core.files import write_whole
from fl_privacy_audit.ledger.ledger import LastRun, read_ledger
from fl_privacy_audit.report.html.page import render_html
from fl_privacy_audit.report.reconstructions import draw_reconstructions, reconstruction_rows
from fl_privacy_audit.report.sentences import say
from fl_privacy_audit.report.summary import summarise
from fl_privacy_audit.verdicts.compare import Comparison, last_run

from .comparison import print_comparison
from .federation.data import load_test
from .sweep.command import Bars
from .sweep.plan import Run, plan_runs
from .sweep.run import run_sweep

# The size of the demo.
CLIENTS = 6
IMAGES_PER_CLIENT = 42
ROUNDS = 60
ATTACK = AttackConfig(name=DEFAULT_ATTACK)
ATTACK_EVERY_ROUNDS = 20  # rounds 1, 21 and 41
ATTACKED_CLIENTS = 2  # in each of those rounds
ATTACK_SECONDS_PER_ROUND = 120.0  # time budget, shared by the attacked clients
PAGE = "report.html"
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
    do: Callable[..., Mapping[Path, Comparison]] = run_sweep,
) -> Comparison:
    """Run the three federations one after the other, and compare them.

    Leaves in `out` a ledger for each setting, ``comparison.json``, ``comparison.md``,
    ``report.html`` and ``reconstructions.png``. `dataset` and `data_root` are those of
    `FederationConfig`; `seed` is for data, weights, batches, noise and attacks. Progress and the
    comparison go to the console. After an interruption federations that are finished are not run
    again. The runs are done by `do`, called as `run_sweep` is.

    Raises:
        AuditError: A federation did not finish, or an attacked record has no score.
    """
    root = str(Path(data_root).absolute()) if data_root else ""
    runs = _runs(dataset, root, seed, rounds, attack)
    load_test(runs[0].federation)  # better to fail here than after everything has been started
    bars = Bars(console, runs)
    with bars.progress:
        (comparison,) = do(runs, out, workers=1, on_event=bars.show).values()
    _write(out, [out / run.folder for run in runs], attack)
    print_comparison(console, comparison)
    console.print(f"Report: {out / PAGE}", markup=False, soft_wrap=True)
    console.print(f"Table, picture and ledgers: {out}", markup=False, soft_wrap=True)
    return comparison


def _runs(dataset: str, data_root: str, seed: int, rounds: int, attack: AttackConfig) -> list[Run]:
    plan = {
        "federation": {
            "dataset": dataset,
            "data_root": data_root,
            "clients": CLIENTS,
            "images_per_client": IMAGES_PER_CLIENT,
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


def _write(out: Path, folders: list[Path], attack: AttackConfig) -> None:
    runs = [last_run(read_ledger(folder)) for folder in folders]
    for run in runs:
        _check_scored(run)
    picture = out / "reconstructions.png"
    draw_reconstructions(reconstruction_rows(runs, attack=attack.name), picture)
    picture.chmod(0o600)
    write_whole(out / PAGE, render_html(summarise(folders), pictures=True))


def _check_scored(run: LastRun) -> None:
    for record in run.audits:
        for outcome in record.attacks:
            attacked = record.reason is None
            if record.client_status != "returned" or (attacked and outcome.status != "scored"):
                raise AuditError(
                    f"{run.run.setting}, round {record.round}, {record.client}: "
                    f"{outcome.status}: {outcome.reason and say(outcome.reason)}; see {run.path}"
                )
