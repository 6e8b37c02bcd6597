"""``fl-privacy-audit attack DIR``: attack what a run has left in its spool, here and now."""

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import torch

from fl_privacy_audit.audit.backlog import Backlog, make_workers, recorded, taken
from fl_privacy_audit.audit.capture_auditor import CaptureAuditor
from fl_privacy_audit.audit.capture_files import read_capture
from fl_privacy_audit.audit.handover import Handover
from fl_privacy_audit.audit.spool import Spool
from fl_privacy_audit.core.config import AuditConfig
from fl_privacy_audit.core.errors import AuditError
from fl_privacy_audit.core.named_object import find_model, find_named
from fl_privacy_audit.ledger.ledger import Ledger, now
from fl_privacy_audit.ledger.provenance import array_types, describe_model, versions
from fl_privacy_audit.ledger.records import AuditRecord, Record, RunRecord

from .measure import EpsilonMeter, is_claimed
from .named_app import NamedApp


@click.command("attack", short_help="Attack what an audit has left in its spool.")
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--model", required=True, help="The clients' model: MODULE:NAME, a class or an object."
)
@click.option(
    "--client-app",
    help="The clients' app, MODULE:NAME, where captures hold replays on canaries.",
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
    client_app: str | None,
    device: str | None,
    workers: int,
    ray: str | None,
    attacks: tuple[str, ...],
) -> None:
    """Attack the captures beside the ledger in DIRECTORY, and write their records to it.

    DIRECTORY may have been brought from another machine. What is recorded already is not attacked
    again, however often this was stopped. MODULE is looked for in the working directory too.
    """
    sys.path.insert(0, str(Path.cwd()))  # workers look there too
    net = find_model(model, Path.cwd())
    if client_app is not None:
        find_named(client_app, Path.cwd(), "`--client-app`")
    left = 0
    for spool in taken(directory.absolute()):
        config = spool.config.attacked_by(ray)
        if device is not None:
            config = config.replace(device=device)
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
        if client_app is None and any(map(_is_replayed, captures)):
            spool.close()
            raise AuditError(
                f"run {spool.run} replays its clients' app on canaries: name that app too, "
                "`--client-app MODULE:NAME`"
            )
        left += len(captures)
        if captures:
            _attack(spool, captures, run, config, net, client_app, workers)
        else:
            spool.close()
    if not left:
        click.echo(f"nothing is left to attack in {directory}")


def _run_of(run: str, attacks: Sequence[str]) -> str:
    """The id of the run of other attacks on the captures of a run: the same if it is done again."""
    return hashlib.sha256("\n".join([run, *attacks]).encode()).hexdigest()[:12]


def _is_replayed(capture: Path) -> bool:
    """Whether a capture holds replays that are still to be made."""
    try:
        read = read_capture(capture)
    except (OSError, ValueError):
        return False  # it is lost, and its loss is logged where it is attacked
    return read.measured is not None or any(slot.reason is not None for slot in read.targets)


def _attack(
    spool: Spool,
    captures: Sequence[Path],
    run: str,
    config: AuditConfig,
    net: torch.nn.Module,
    client_app: str | None,
    workers: int,
) -> None:
    state = {name: torch.from_numpy(array) for name, array in spool.weights().items()}
    net.load_state_dict(state, strict=False)
    ledger = Ledger(config.directory)
    if run != spool.run and not recorded(config.directory, run):
        ledger.append([_first_line(run, config, net)])
    named = None
    if client_app is not None:
        weights = frozenset(net.state_dict())
        named = NamedApp(name=client_app, image=config.image, weights=weights)
    meter = EpsilonMeter() if named is not None and is_claimed(config) else None
    handed = Handover(model=net, elsewhere=named, meter=meter)

    def write(records: Sequence[Record]) -> None:
        ledger.append(records)
        for record in records:
            if not isinstance(record, AuditRecord):
                continue
            statuses = ", ".join(f"{one.attack} {one.status}" for one in record.attacks)
            click.echo(f"round {record.round}, {record.client}, {record.view} view: {statuses}")

    work = CaptureAuditor(config, model=net, run=run)
    backlog = Backlog(
        make_workers(config, handed.packed(), count=workers, stand_back=False), handed, write, work
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
