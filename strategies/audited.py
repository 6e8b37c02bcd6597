"""A strategy wrapper that audits what every client returns, and changes nothing.

It goes outermost, around Flower's own wrappers: what it sees is what the server receives, and what
it gets back from them is what the server releases.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fl_privacy_audit.audit import Auditor

from . import side_channel
from .capture import Captured, Sent, capture, copy_record, release, snapshot

log = logging.getLogger("fl_privacy_audit")
Evaluate = Callable[[int, ArrayRecord], MetricRecord | None]


class AuditedStrategy(Strategy):
    """Wraps any Message-API strategy and hands each round to an auditor.

    Aggregation is delegated untouched, and runs before any attack. An audit that goes wrong is
    logged and recorded; it never reaches training unless ``fail_fast`` is set.

    Example::

        strategy = AuditedStrategy(FedAvg(), auditor=auditor)
        strategy.start(grid=grid, initial_arrays=arrays, num_rounds=3)

    Args:
        strategy: The strategy to wrap, Flower's own wrappers included.
        auditor: Attacks, scores and records.

    Raises:
        TypeError: `strategy` is not a Message-API strategy.
    """

    def __init__(self, strategy: Strategy, *, auditor: Auditor) -> None:
        super().__init__()
        if not isinstance(strategy, Strategy):
            raise TypeError(
                "Argument `strategy` must be a flwr.serverapp.strategy.Strategy, but got "
                f"{type(strategy).__module__}.{type(strategy).__name__}; strategies of "
                "flwr.server.strategy belong to Flower's legacy API"
            )
        if type(strategy).start is not Strategy.start:
            log.warning(
                "%s has its own `start`, which the audit replaces by Flower's", type(strategy)
            )
        self.strategy = strategy
        self.auditor = auditor
        self._sent: dict[int, list[Sent]] = {}
        self._before: dict[int, ArrayRecord] = {}

    def __repr__(self) -> str:
        """Name of the wrapper and of what it wraps."""
        return f"Privacy Audit Strategy Wrapper ({self.strategy!r})"

    def summary(self) -> None:
        """Log what is audited, then the wrapped strategy's own summary."""
        config = self.auditor.config
        log.info("\t├──> Privacy audit:")
        log.info("\t│\t├── attacks: %s", ", ".join(a.name for a in config.attacks))
        log.info("\t│\t├── every %d rounds, %s clients", config.every, config.clients_per_round)
        log.info("\t│\t└── ledger: %s", self.auditor.ledger.path)
        self.strategy.summary()

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Evaluate | None = None,
    ) -> Result:
        """Flower's own loop; what `evaluate_fn` finds is also written to the ledger.

        Raises:
            LedgerError: The audit's directory cannot be written; before anything is trained.
        """
        self.auditor.begin()

        def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
            assert evaluate_fn is not None
            metrics = evaluate_fn(server_round, arrays)
            self._record_evaluation(server_round, "server", metrics)
            return metrics

        return super().start(
            grid,
            initial_arrays,
            num_rounds,
            timeout,
            train_config,
            evaluate_config,
            None if evaluate_fn is None else evaluate,
        )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Delegate, and remember what each client is sent."""
        messages = list(self.strategy.configure_train(server_round, arrays, config, grid))
        with self._guard(f"what round {server_round} sends could not be captured"):
            self._sent[server_round] = snapshot(messages)
            if "release" in self.auditor.config.views:
                self._before[server_round] = copy_record(arrays)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Capture, delegate, then audit."""
        replies = list(replies)
        captured = Captured()
        with self._guard(f"round {server_round} could not be captured"):
            sent = self._sent.pop(server_round, [])
            captured = capture(sent, replies, self.auditor.config.image)
        try:
            aggregated = self.strategy.aggregate_train(server_round, replies)
            with self._guard(f"round {server_round} could not be audited"):
                released = release(self._before.pop(server_round, None), aggregated[0])
                self.auditor.audit_round(server_round, captured.replies, released)
        finally:
            side_channel.discard(captured.batches)
        return aggregated

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Delegate."""
        return self.strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Delegate, and write what clients measured to the ledger."""
        metrics = self.strategy.aggregate_evaluate(server_round, replies)
        self._record_evaluation(server_round, "clients", metrics)
        return metrics

    def _record_evaluation(
        self,
        server_round: int,
        source: Literal["server", "clients"],
        metrics: MetricRecord | None,
    ) -> None:
        if metrics is None:
            return
        numbers = {k: float(v) for k, v in metrics.items() if isinstance(v, (int, float))}
        with self._guard(f"the evaluation of round {server_round} could not be recorded"):
            self.auditor.record_evaluation(server_round, source, numbers)

    @contextlib.contextmanager
    def _guard(self, what: str) -> Iterator[None]:
        """Training goes on whatever happens to the audit, unless the user wants to fail fast."""
        try:
            yield
        except Exception:
            if self.auditor.config.fail_fast:
                raise
            log.exception("privacy audit: %s; training goes on", what)
