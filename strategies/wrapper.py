"""What the wrappers for Flower's two server APIs share: whatever is not about how messages look."""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from flwr.app import ArrayRecord

from fl_privacy_audit.audit import Auditor, ClientReply, Release
from fl_privacy_audit.audit.schedule import Replayer
from fl_privacy_audit.core.exchange import Arrays
from fl_privacy_audit.core.files import remove_drafts
from fl_privacy_audit.core.private_folders import remove_leftovers
from fl_privacy_audit.core.process_state import process_state_kept

from . import side_channel
from .canary_clients import CanaryClients
from .capture import MOST_NUMBERS, Reading, as_numbers, layers
from .doctor import Plan, examine

log = logging.getLogger("fl_privacy_audit")

OWN = frozenset(
    {
        *("strategy", "auditor", "_sent", "_before", "_folders", "_holders", "_originals"),
        *("_audited", "_to_replay", "_canary_clients"),
    }
)
"""Attributes of the wrapper itself; all others are the wrapped strategy's."""


class Wrapper:
    """Stands around a strategy, whose attributes and methods are read and set through it.

    Args:
        strategy: The strategy to wrap.
        auditor: Attacks, scores and records.
    """

    strategy: Any
    auditor: Auditor

    def __init__(self, strategy: Any, auditor: Auditor) -> None:
        super().__init__()
        self.strategy = strategy
        self.auditor = auditor
        self._sent: dict[int, Any] = {}
        self._before: dict[int, ArrayRecord] = {}
        self._folders: dict[int, Path] = {}
        self._holders: dict[int, int | None] = {}
        self._originals: dict[str, Callable[..., Any]] = {}
        self._audited = 0
        self._to_replay: dict[int, Replayer] = {}
        self._canary_clients: CanaryClients | None = None

    def _begin(self, flower_run: int | None = None, fab_hash: str | None = None) -> None:
        """Open the ledger, and remove what an audit that was killed left behind.

        Args:
            flower_run: Flower's id of the run, where it is known.
            fab_hash: Flower's hash of the app, where there is one.

        Raises:
            LedgerError: The audit's directory cannot be written.
        """
        self.auditor.begin(flower_run, fab_hash)
        remove_leftovers()
        remove_drafts(self.auditor.ledger.directory, self.auditor.ledger.directory / "pictures")

    def __repr__(self) -> str:
        """Name of the wrapper and of what it wraps."""
        return f"Privacy Audit Strategy Wrapper ({self.strategy!r})"

    def __getattr__(self, name: str) -> Any:
        """What the wrapper has not, the wrapped strategy may have."""
        if name in OWN:  # not set yet, while a copy is made
            raise AttributeError(name)
        return getattr(self.strategy, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Settings of the wrapped strategy are set there."""
        if name in OWN:
            super().__setattr__(name, value)
        else:
            setattr(self.strategy, name, value)

    def _aggregated(
        self, server_round: int, captured: list[ClientReply], aggregate: Callable[[], Any]
    ) -> Any:
        """Aggregate, then audit.

        Where the wrapped strategy raises, what was received is audited before the error goes on.
        """
        try:
            try:
                aggregated = aggregate()
            except Exception as error:
                log.warning(
                    "privacy audit: %s raised %r in round %d; what it received is audited, then "
                    "the error goes on",
                    type(self.strategy).__name__,
                    error,
                    server_round,
                )
                with contextlib.suppress(Exception, SystemExit):
                    self._audit(server_round, captured, None)
                raise
            self._audit(server_round, captured, aggregated)
        finally:
            self._close_rounds()
        return aggregated

    def _audit(self, server_round: int, captured: list[ClientReply], aggregated: Any) -> None:
        with self._guard(f"round {server_round} could not be audited"):
            before = self._before.pop(server_round, None)
            after = None if aggregated is None else aggregated[0]
            released = None
            with self._guard(f"what round {server_round} released could not be captured"):
                released = self._released(before, after)
            replay = self._to_replay.pop(server_round, None)
            self.auditor.audit_round(server_round, captured, released, replay)
            self._audited += 1
            if replay is not None and self.auditor.meter is not None:
                with self._guard(f"epsilon could not be measured in round {server_round}"):
                    most = max((reply.num_examples or 0 for reply in captured), default=0)
                    self.auditor.measure(server_round, replay, most)

    def _released(self, before: ArrayRecord | None, after: Any) -> Release | None:
        raise NotImplementedError

    def _reading(self, server_round: int) -> Reading:
        keys = (getattr(layer, "arrayrecord_key", None) for layer in layers(self.strategy))
        return Reading(
            image=self.auditor.config.image,
            names=self.auditor.weight_names,
            key=next((key for key in keys if isinstance(key, str)), None),
            folder=self._folders.get(server_round),
            holders=self._holders,
        )

    def _ask_for_batches(self, server_round: int, nodes: Iterable[int], run_id: int) -> None:
        """Open the folder for clients on this machine, if the round's truth will come from them."""
        self._close_rounds()
        nodes = list(nodes)
        wanted = self.auditor.takes_published and self.auditor.is_due(server_round)
        if nodes and wanted and {*self.auditor.config.views} - {"canary"}:
            self._folders[server_round] = side_channel.open_round(nodes, run_id)

    def _close_rounds(self) -> None:
        while self._folders:
            side_channel.close_round(self._folders.popitem()[1])

    def _record_evaluation(
        self, server_round: int, source: Literal["server", "clients"], metrics: Any
    ) -> None:
        if metrics is None:
            return
        with self._guard(f"the evaluation of round {server_round} could not be recorded"):
            most = MOST_NUMBERS if source == "clients" else None
            self.auditor.record_evaluation(server_round, source, as_numbers(metrics, most))

    def _log_settings(self) -> None:
        config = self.auditor.config
        clients = "all" if config.clients_per_round is None else config.clients_per_round
        chosen = " by risk" if config.choose == "risk" else ""
        log.info("\t├──> Privacy audit:")
        log.info("\t│\t├── attacks: %s", ", ".join(a.name for a in config.attacks))
        log.info("\t│\t├── every %d rounds, %s clients%s", config.every, clients, chosen)
        log.info("\t│\t├── at most %g seconds a round", config.seconds_per_round)
        if config.canary.clients is not None:
            log.warning(
                "\t│\t├── CANARY CLIENTS CHANGE TRAINING: %d a round", config.canary.clients
            )
        log.info("\t│\t└── ledger: %s", self.auditor.ledger.path)

    def _log_what_lacks(self, rounds: int | None, sent: Arrays | None) -> None:
        """What would keep this run from a verdict, as far as it is known before the first round."""
        for finding in examine(self.auditor, Plan(rounds=rounds), sent=sent):
            if finding.state == "missing":
                log.warning(
                    "privacy audit: before the first round: %s (%s); "
                    "`fl-privacy-audit doctor` says what to do",
                    finding.reason.code,
                    ", ".join(f"{k} {v}" for k, v in finding.reason.figures.items()),
                )

    @contextlib.contextmanager
    def _guard(self, what: str) -> Iterator[None]:
        """Training goes on as if nothing had been, unless the user wants to fail fast."""
        try:
            with process_state_kept():
                yield
        except KeyboardInterrupt:
            raise
        except BaseException:
            if self.auditor.config.fail_fast:
                raise
            log.exception("privacy audit: %s; training goes on", what)


def repeatable(messages: Any) -> Any:
    """As it was, but what can be read only once becomes a list: the audit reads it too."""
    return list(messages) if isinstance(messages, Iterator) else messages
