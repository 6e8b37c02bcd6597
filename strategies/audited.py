"""A strategy wrapper that audits what every client returns, and changes nothing.

It goes outermost, around Flower's own wrappers: what it sees is what the server receives, and what
it gets back from them is what the server releases.
"""

import contextlib
import functools
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fl_privacy_audit.audit import Auditor, ClientReply
from fl_privacy_audit.core.files import remove_drafts
from fl_privacy_audit.core.private_folders import remove_leftovers
from fl_privacy_audit.core.process_state import process_state_kept
from fl_privacy_audit.ledger.ledger import last_run, read_ledger
from fl_privacy_audit.verdicts.rules import judge_run

from . import side_channel
from .capture import (
    MOST_NUMBERS,
    Reading,
    Sent,
    as_numbers,
    capture,
    copy_record,
    layers,
    release,
    snapshot,
)
from .doctor import Plan, examine
from .flower_log import through_flower

log = logging.getLogger("fl_privacy_audit")

HOOKS = ("configure_train", "aggregate_train", "aggregate_evaluate")
"""What the audit listens to while a strategy's own `start` runs."""
OWN = frozenset(
    {"strategy", "auditor", "_sent", "_before", "_folders", "_holders", "_originals", "_audited"}
)
"""Attributes of the wrapper itself; all others are the wrapped strategy's."""
MOST_JUDGED = 50_000_000
"""Bytes of a ledger above which the end of a run does not wait for its verdict."""


class AuditedStrategy(Strategy):
    """Wraps any Message-API strategy and hands each round to an auditor.

    Aggregation is delegated untouched, and runs before any attack. An audit that goes wrong is
    logged and recorded; it never reaches training unless ``fail_fast`` is set. The wrapped
    strategy runs by its own `start`; its attributes and methods are read and set through the
    wrapper.

    Example::

        strategy = AuditedStrategy(FedAvg(), auditor=auditor)
        strategy.start(grid=grid, initial_arrays=arrays, num_rounds=3)

    Args:
        strategy: The strategy to wrap, Flower's own wrappers included.
        auditor: Attacks, scores and records.

    Raises:
        TypeError: `strategy` is not a Message-API strategy.
    """

    strategy: Strategy
    auditor: Auditor

    def __init__(self, strategy: Strategy, *, auditor: Auditor) -> None:
        super().__init__()
        if not isinstance(strategy, Strategy):
            raise TypeError(
                "Argument `strategy` must be a flwr.serverapp.strategy.Strategy, but got "
                f"{type(strategy).__module__}.{type(strategy).__name__}; strategies of "
                "flwr.server.strategy belong to Flower's legacy API"
            )
        self.strategy = strategy
        self.auditor = auditor
        self._sent: dict[int, list[Sent]] = {}
        self._before: dict[int, ArrayRecord] = {}
        self._folders: dict[int, Path] = {}
        self._holders: dict[int, int | None] = {}
        self._originals: dict[str, Callable[..., Any]] = {}
        self._audited = 0

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

    def summary(self) -> None:
        """Log what is audited, then the wrapped strategy's own summary."""
        self._log_settings()
        self.strategy.summary()

    def start(self, *args: Any, **kwargs: Any) -> Result:
        """The wrapped strategy's own `start`, with its own arguments.

        What `evaluate_fn` finds is also written to the ledger.

        Raises:
            LedgerError: The audit's directory cannot be written; before anything is trained.
        """
        self.auditor.begin()
        remove_leftovers()
        remove_drafts(self.auditor.ledger.directory, self.auditor.ledger.directory / "pictures")
        with through_flower(), self._listening():
            self._log_settings()
            with self._guard("what the audit lacks could not be found out"):
                self._log_what_lacks(args, kwargs)
            args, kwargs = self._recording_evaluation(args, kwargs)
            try:
                return self.strategy.start(*args, **kwargs)
            finally:
                self._close_rounds()
                with self._guard("the end of the run could not be logged"):
                    self._log_end()

    def configure_train(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
        *args: Any,
        **kwargs: Any,
    ) -> Iterable[Message]:
        """Delegate, and remember what each client is sent."""
        configure = self._original("configure_train")
        messages: Iterable[Message] = _repeatable(
            configure(server_round, arrays, config, grid, *args, **kwargs)
        )
        with self._guard(f"what round {server_round} sends could not be captured"):
            self._sent[server_round] = snapshot(messages)
            if "release" in self.auditor.config.views:
                self._before[server_round] = copy_record(arrays)
            self._ask_for_batches(server_round)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message], *args: Any, **kwargs: Any
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Capture, delegate, then audit.

        Where the wrapped strategy raises, what was received is audited before the error goes on.
        """
        replies = _repeatable(replies)
        captured: list[ClientReply] = []
        with self._guard(f"round {server_round} could not be captured"):
            captured = capture(
                self._sent.pop(server_round, []), replies, self._reading(server_round)
            )
        aggregate = self._original("aggregate_train")
        try:
            try:
                aggregated = aggregate(server_round, replies, *args, **kwargs)
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
        return cast(tuple[ArrayRecord | None, MetricRecord | None], aggregated)

    def configure_evaluate(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
        *args: Any,
        **kwargs: Any,
    ) -> Iterable[Message]:
        """Delegate."""
        return self.strategy.configure_evaluate(server_round, arrays, config, grid, *args, **kwargs)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message], *args: Any, **kwargs: Any
    ) -> MetricRecord | None:
        """Delegate, and write what clients measured to the ledger."""
        aggregate = self._original("aggregate_evaluate")
        metrics = aggregate(server_round, replies, *args, **kwargs)
        self._record_evaluation(server_round, "clients", metrics)
        return cast(MetricRecord | None, metrics)

    def _audit(self, server_round: int, captured: list[ClientReply], aggregated: Any) -> None:
        with self._guard(f"round {server_round} could not be audited"):
            before = self._before.pop(server_round, None)
            after = None if aggregated is None else aggregated[0]
            released = None
            with self._guard(f"what round {server_round} released could not be captured"):
                released = release(self.strategy, before, after)
            self.auditor.audit_round(server_round, captured, released)
            self._audited += 1

    def _reading(self, server_round: int) -> Reading:
        keys = (getattr(layer, "arrayrecord_key", None) for layer in layers(self.strategy))
        return Reading(
            image=self.auditor.config.image,
            names=self.auditor.weight_names,
            key=next((key for key in keys if isinstance(key, str)), None),
            folder=self._folders.get(server_round),
            holders=self._holders,
        )

    def _ask_for_batches(self, server_round: int) -> None:
        """Open the folder for clients on this machine, if the round's truth will come from them."""
        self._close_rounds()
        sent = [each.message.metadata for each in self._sent[server_round]]
        if sent and self.auditor.is_due(server_round) and self.auditor.takes_published:
            nodes = [metadata.dst_node_id for metadata in sent]
            self._folders[server_round] = side_channel.open_round(nodes, sent[0].run_id)

    def _close_rounds(self) -> None:
        while self._folders:
            side_channel.close_round(self._folders.popitem()[1])

    def _original(self, hook: str) -> Callable[..., Any]:
        """The wrapped strategy's own hook, also while `start` finds the audit in its place."""
        own: Callable[..., Any] = self._originals.get(hook) or getattr(self.strategy, hook)
        return own

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Let the wrapped strategy find the audit where it calls its own hooks.

        They are set on the object, not on its class: `super()`, private names and `isinstance` in
        its own `start` work as ever.
        """
        attributes = vars(self.strategy)
        before = {hook: attributes[hook] for hook in HOOKS if hook in attributes}
        self._originals = {hook: getattr(self.strategy, hook) for hook in HOOKS}
        attributes.update({hook: getattr(self, hook) for hook in HOOKS})
        try:
            yield
        finally:
            for hook in HOOKS:
                attributes.pop(hook, None)
            attributes.update(before)
            self._originals = {}

    def _recording_evaluation(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of `start`, with what `evaluate_fn` finds also going to the ledger."""
        if callable(kwargs.get("evaluate_fn")):
            return args, {**kwargs, "evaluate_fn": self._recorded(kwargs["evaluate_fn"])}
        names = list(inspect.signature(self.strategy.start).parameters)[: len(args)]
        return tuple(
            self._recorded(value) if name == "evaluate_fn" and callable(value) else value
            for name, value in zip(names, args, strict=False)
        ) + args[len(names) :], kwargs

    def _recorded(self, evaluate_fn: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(evaluate_fn)
        def evaluate(*args: Any, **kwargs: Any) -> Any:
            metrics = evaluate_fn(*args, **kwargs)
            server_round = args[0] if args else kwargs.get("server_round")
            if isinstance(server_round, int):
                self._record_evaluation(server_round, "server", metrics)
            return metrics

        return evaluate

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
        log.info("\t├──> Privacy audit:")
        log.info("\t│\t├── attacks: %s", ", ".join(a.name for a in config.attacks))
        log.info("\t│\t├── every %d rounds, %s clients", config.every, clients)
        log.info("\t│\t├── at most %g seconds a round", config.seconds_per_round)
        log.info("\t│\t└── ledger: %s", self.auditor.ledger.path)

    def _log_what_lacks(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """What would keep this run from a verdict, as far as it is known before the first round."""
        told = inspect.signature(self.strategy.start).bind_partial(*args, **kwargs).arguments
        arrays, rounds = told.get("initial_arrays"), told.get("num_rounds")
        sent = None
        if isinstance(arrays, ArrayRecord):
            sent = {name: array.numpy() for name, array in arrays.items()}
        for finding in examine(self.auditor, Plan(rounds=rounds), sent=sent):
            if finding.state == "missing":
                log.warning(
                    "privacy audit: before the first round: %s (%s); "
                    "`fl-privacy-audit doctor` says what to do",
                    finding.reason.code,
                    ", ".join(f"{k} {v}" for k, v in finding.reason.figures.items()),
                )

    def _log_end(self) -> None:
        """The verdict, and how to see the rest."""
        path = self.auditor.ledger.path
        if not self._audited:
            log.warning(
                "privacy audit: no round was audited. The audit listens to `%s` of %s, which "
                "its `start` has to call on `self`",
                "` and `".join(HOOKS[:2]),
                type(self.strategy).__name__,
            )
        elif path.stat().st_size <= MOST_JUDGED:
            for verdict in judge_run(last_run(read_ledger(path.parent))):
                log.info("privacy audit: %s (%s view)", verdict.word, verdict.view)
        log.info("privacy audit: ledger %s", path)
        log.info("privacy audit: to see it: fl-privacy-audit show %s", path.parent.absolute())

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


def _repeatable(messages: Any) -> Any:
    """As it was, but what can be read only once becomes a list: the audit reads it too."""
    return list(messages) if isinstance(messages, Iterator) else messages
