"""A strategy wrapper that audits what every client returns, and changes nothing.

It goes outermost, around Flower's own wrappers: what it sees is what the server receives, and what
it gets back from them is what the server releases.
"""

import contextlib
import functools
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fl_privacy_audit.audit import Auditor, ClientReply, Release
from fl_privacy_audit.audit.epsilon import MeasuredHere
from fl_privacy_audit.core.texts import clean
from fl_privacy_audit.dp.run_check import SPENT
from fl_privacy_audit.verdicts.facts import gather_ledger
from fl_privacy_audit.verdicts.rules import judge_run

from .canary_clients import CanaryClients
from .canary_replay import Replay
from .capture import Sent, capture, copy_record, decoder, release, snapshot
from .claims_read import probe_federation, read_claim, spent_by
from .flower_log import through_flower
from .measure import EpsilonMeter, is_claimed
from .messages import copy_message
from .named_app import NamedApp
from .wrapper import Wrapper, repeatable

log = logging.getLogger("fl_privacy_audit")

HOOKS = ("configure_train", "aggregate_train", "aggregate_evaluate")
"""What the audit listens to while a strategy's own `start` runs."""
MOST_JUDGED = 50_000_000
"""Bytes of a ledger above which the end of a run does not wait for its verdict."""


class AuditedStrategy(Wrapper, Strategy):
    """Wraps any Message-API strategy and hands each round to an auditor.

    Aggregation is delegated untouched, unless the settings ask for canary clients, and runs before
    any attack. An audit that goes wrong is logged and recorded; it never reaches training unless
    ``fail_fast`` is set. The wrapped strategy runs by its own `start`; its attributes and methods
    are read and set through the wrapper.

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

    def __init__(self, strategy: Strategy, *, auditor: Auditor) -> None:
        if not isinstance(strategy, Strategy):
            raise TypeError(
                "Argument `strategy` must be a flwr.serverapp.strategy.Strategy, but got "
                f"{type(strategy).__module__}.{type(strategy).__name__}; strategies of "
                "flwr.server.strategy, Flower's legacy API, go into AuditedLegacyStrategy"
            )
        super().__init__(strategy, auditor)
        auditor.elsewhere = NamedApp.of(auditor)
        # A run has canaries of one kind: of a client's records, or clients.
        by_replay = is_claimed(auditor.config) and auditor.config.canary.clients is None
        auditor.meter = MeasuredHere(EpsilonMeter()) if by_replay else None

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
        with self._guard("what the strategy says of its privacy could not be read"):
            self.auditor.claim_read = read_claim(self.strategy, self.auditor.client_app)
        with self._guard("what clips and adds noise could not be probed"):
            self.auditor.probed = probe_federation(
                self.strategy,
                self.auditor.client_app,
                claimed=self.auditor.config.claim is not None,
            )
        self._begin(*self._flower_run(args, kwargs))
        with through_flower(), self._listening():
            self._log_settings()
            with self._guard("what the audit lacks could not be found out"):
                self._log_what_start_lacks(args, kwargs)
            args, kwargs = self._recording_evaluation(args, kwargs)
            wait = False
            try:
                result = self.strategy.start(*args, **kwargs)
                wait = True
                return result
            finally:
                self._close_rounds()
                with self._guard("what was captured could not be attacked"):
                    self.auditor.finish(wait=wait)
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
        messages: Iterable[Message] = repeatable(
            configure(server_round, arrays, config, grid, *args, **kwargs)
        )
        with self._guard(f"what round {server_round} sends could not be captured"):
            self._sent[server_round] = snapshot(messages)
            if "release" in self.auditor.config.views:
                self._before[server_round] = copy_record(arrays)
            sent = [each.message.metadata for each in self._sent[server_round]]
            nodes = [metadata.dst_node_id for metadata in sent]
            self._ask_for_batches(server_round, nodes, sent[0].run_id if sent else 0)
        with self._guard(f"what round {server_round} sends could not be kept for a replay"):
            self._remember_to_replay(server_round, messages)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message], *args: Any, **kwargs: Any
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Capture, delegate, then audit.

        Where the wrapped strategy raises, what was received is audited before the error goes on.
        """
        replies = repeatable(replies)
        captured: list[ClientReply] = []
        sent = self._sent.pop(server_round, [])
        with self._guard(f"round {server_round} could not be captured"):
            captured = capture(sent, replies, self._reading(server_round))
        if self.auditor.config.canary.clients is not None:
            replies = list(replies)
            with self._guard(f"round {server_round} has no canary clients"):
                self._put_canary_clients(server_round, sent, replies)
        aggregate = partial(
            self._original("aggregate_train"), server_round, replies, *args, **kwargs
        )
        aggregated = self._aggregated(server_round, captured, aggregate)
        if self._canary_clients is not None:
            with self._guard(f"canary clients of round {server_round} could not be measured"):
                if measured := self._canary_clients.measure(server_round, aggregated[0]):
                    self.auditor.record(measured)
        with self._guard(f"what round {server_round} spent could not be read"):
            if (spent := spent_by(self.strategy)) is not None:
                self._record_evaluation(server_round, "server", {SPENT: spent})
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

    def _put_canary_clients(
        self, server_round: int, sent: Sequence[Sent], replies: Sequence[Message]
    ) -> None:
        """In the place of some replies, before anything is made of those."""
        clients = self.auditor.config.canary.clients
        if self._canary_clients is None and clients is not None:
            self._canary_clients = CanaryClients(self.auditor, clients)
        assert self._canary_clients is not None
        reading = self._reading(server_round)
        why = self._canary_clients.replace(server_round, self.strategy, sent, replies, reading)
        if why is not None:
            log.warning(
                "privacy audit: round %d has no canary clients: %s %s",
                *(server_round, why.code, why.figures),
            )

    def _remember_to_replay(self, server_round: int, messages: Iterable[Message]) -> None:
        """Keep copies of what some clients are sent: strategies change their messages later."""
        self._to_replay.clear()
        sent, app = list(messages), self.auditor.client_app
        if sent and app is not None and self.auditor.is_due(server_round):
            self._to_replay[server_round] = Replay(
                app=app,
                run_config=self.auditor.run_config,
                sent=[copy_message(m) for m in sent[: self.auditor.config.canary.replays]],
                clients=len(sent),
                reading=self._reading(server_round),
            )

    def _released(self, before: ArrayRecord | None, after: ArrayRecord | None) -> Release | None:
        return release(self.strategy, before, after)

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

    def _flower_run(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[int | None, str | None]:
        """Flower's id of the run and hash of the app, which strategies learn from the grid alone."""
        run_id = fab_hash = None
        with contextlib.suppress(Exception):
            bound = inspect.signature(self.strategy.start).bind_partial(*args, **kwargs)
            run = bound.arguments["grid"].run
            run_id, fab_hash = run.run_id, getattr(run, "fab_hash", None)
        return (
            run_id if isinstance(run_id, int) and run_id > 0 else None,
            clean(fab_hash, 100) if isinstance(fab_hash, str) and fab_hash else None,
        )

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

    def _log_what_start_lacks(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        told = inspect.signature(self.strategy.start).bind_partial(*args, **kwargs).arguments
        arrays = told.get("initial_arrays")
        sent = decoder(arrays)() if isinstance(arrays, ArrayRecord) else None
        self._log_what_lacks(told.get("num_rounds"), sent)

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
            for verdict in judge_run(gather_ledger(path.parent, run=self.auditor.run)):
                log.info("privacy audit: %s (%s view)", verdict.word, verdict.view)
        log.info("privacy audit: ledger %s", path)
        log.info("privacy audit: to see it: fl-privacy-audit show %s", path.parent.absolute())
