"""``fl-privacy-audit attack DIR``: attack what a run has left in its spool, here and now."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import click
import torch

from fl_privacy_audit.core.config import AuditConfig
from fl_privacy_audit.core.errors import AuditError
from fl_privacy_audit.core.named_object import find_model
from fl_privacy_audit.ledger.ledger import Ledger, now
from fl_privacy_audit.ledger.provenance import array_types, describe_model, versions
from fl_privacy_audit.ledger.records import AuditRecord, RunRecord

from .backlog import Backlog, make_workers, recorded, taken
from .capture_auditor import CaptureAuditor
from .handover import Handover
from .spool import Spool


@click.command("attack", short_help="Attack what an audit has left in its spool.")
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--model", required=True, help="The clients' model: MODULE:NAME, a class or an object."
)
@click.option(
    "--device", help="Where attacks run, cuda say; by default as in the audit's settings."
)
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, metavar="N")
@click.option("--ray", metavar="ADDRESS", help="Attack on this Ray cluster instead.")
@click.option(
    "--attacks",
    multiple=True,
    metavar="NAME",
    help="Attack all captures that were kept by this one, as a run of its own; may be repeated.",
)
def attack_command(
    directory: Path,
    model: str,
    device: str | None,
    workers: int,
    ray: str | None,
    attacks: tuple[str, ...],
) -> None:
    """Attack the captures beside the ledger in DIRECTORY, and write their records to it.

    DIRECTORY may have been brought from another machine. What is recorded already is not attacked
    again, however often this was stopped. MODULE is looked for in the working directory too.
    """
    net = find_model(model, Path.cwd())
    where = {"executor": "process"} if ray is None else {"executor": "ray", "ray_address": ray}
    changes = where if device is None else {**where, "device": device}
    left = 0
    for spool in taken(directory.absolute()):
        config = spool.config.replace(**changes)
        captures, run = spool.captures(), spool.run
        if attacks:
            config = config.replace(
                attacks=attacks, setting=f"{config.setting}, {', '.join(attacks)}"
            )
            captures, run = spool.kept(), _run_of(spool.run, attacks)
        if spool.own:
            names = ", ".join(f"`{name}`" for name in spool.own)
            spool.close()
            raise AuditError(
                f"run {spool.run} was given {names} of its own, which no spool holds: start its app "
                "again with the same `directory`, which goes on with it"
            )
        left += len(captures)
        if captures:
            _attack(spool, captures, run, config, net, workers)
        else:
            spool.close()
    if not left:
        click.echo(f"nothing is left to attack in {directory}")


def _run_of(run: str, attacks: Sequence[str]) -> str:
    """The id of the run of other attacks on the captures of a run: the same if it is done again."""
    return hashlib.sha256("\n".join([run, *attacks]).encode()).hexdigest()[:12]


def _attack(
    spool: Spool,
    captures: Sequence[Path],
    run: str,
    config: AuditConfig,
    net: torch.nn.Module,
    workers: int,
) -> None:
    state = {name: torch.from_numpy(array) for name, array in spool.weights().items()}
    net.load_state_dict(state, strict=False)
    ledger = Ledger(config.directory)
    if run != spool.run and not recorded(config.directory, run):
        ledger.append([_first_line(run, config, net)])
    handed = Handover(model=net)

    def write(records: Sequence[AuditRecord]) -> None:
        ledger.append(records)
        for record in records:
            statuses = ", ".join(f"{one.attack} {one.status}" for one in record.attacks)
            click.echo(f"round {record.round}, {record.client}, {record.view} view: {statuses}")

    work = CaptureAuditor(config, model=net, run=run)
    backlog = Backlog(
        make_workers(config, handed.packed(), count=workers, nice=0), handed, write, work
    )
    try:
        backlog.attack(spool, captures, run=run, config=config)
        backlog.wait()
    finally:
        backlog.close()


def _first_line(run: str, config: AuditConfig, net: torch.nn.Module) -> RunRecord:
    return RunRecord(
        time=now(),
        run=run,
        setting=config.setting,
        config=config.model_dump(mode="json"),
        model=describe_model(net),
        versions=versions(),
        arrays=array_types(net),
    )
