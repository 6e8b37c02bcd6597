"""A wrapper for strategies of Flower's legacy API, `flwr.server.strategy`.

Their clients exchange lists of arrays in the order of the model's state. Under secure aggregation
(`flwr.server.workflow.SecAggPlusWorkflow`) a server never has the update of a single client: the
workflow hands the strategy one aggregate in the place of each of them.
"""

import atexit
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common import (
    Code,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    Parameters,
    Scalar,
)
from flwr.server import ClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import Bulyan, FedMedian, FedTrimmedAvg, Krum, Strategy

from fl_privacy_audit.audit import Auditor, ClientReply, Release
from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import Client

from .capture import (
    MOST_NUMBERS,
    NUM_EXAMPLES,
    Instructions,
    Reading,
    as_numbers,
    decoder,
    read_content,
    release,
    told_apart,
)
from .flower_log import through_flower
from .mods import KEY
from .wrapper import Wrapper

log = logging.getLogger("fl_privacy_audit")

NOT_MEANS = (Bulyan, FedMedian, FedTrimmedAvg, Krum)
"""Strategies of the legacy API that select among updates."""
NUMPY = "numpy.ndarray"
Results = list[tuple[ClientProxy, FitRes]]
Failures = Sequence[tuple[ClientProxy, FitRes] | BaseException]


@dataclass(frozen=True)
class Asked:
    """A client that was asked to train, and what it was sent."""

    node: int
    told: Instructions


class AuditedLegacyStrategy(Wrapper, Strategy):
    """Wraps any strategy of `flwr.server.strategy` and hands each round to an auditor.

    As `AuditedStrategy`: aggregation is delegated untouched and runs before any attack, and an audit
    that goes wrong never reaches training unless ``fail_fast`` is set. The wrapped strategy's
    attributes and methods are read and set through the wrapper.

    Under secure aggregation clients are *not tested* in the server view, and the release is audited
    as ever. It is known by the workflow's handing over one and the same object for all clients,
    which no client can bring about.

    Example::

        strategy = AuditedLegacyStrategy(FedAvg(), auditor=auditor)
        DefaultWorkflow()(grid, LegacyContext(context, strategy=strategy))

    Args:
        strategy: The strategy to wrap, Flower's own wrappers included.
        auditor: Attacks, scores and records.

    Raises:
        TypeError: `strategy` is not of the legacy API.
        ConfigError: The settings ask for canary clients.
    """

    strategy: Strategy

    def __init__(self, strategy: Strategy, *, auditor: Auditor) -> None:
        if not isinstance(strategy, Strategy):
            raise TypeError(
                "Argument `strategy` must be a flwr.server.strategy.Strategy, but got "
                f"{type(strategy).__module__}.{type(strategy).__name__}; strategies of "
                "flwr.serverapp.strategy go into AuditedStrategy"
            )
        if auditor.config.canary.clients is not None:
            raise ConfigError(
                "`canary.clients` needs a strategy of Flower's Message API, flwr.serverapp.strategy; "
                "leave it out"
            )
        super().__init__(strategy, auditor)

    def initialize_parameters(self, client_manager: ClientManager) -> Parameters | None:
        """Open the ledger, log what is audited, and delegate.

        Raises:
            LedgerError: The audit's directory cannot be written; before anything is trained.
        """
        self._begin()
        atexit.register(self.auditor.finish)  # nobody says when the last round is over
        parameters = self.strategy.initialize_parameters(client_manager)
        with through_flower(), self._guard("what the audit lacks could not be found out"):
            self._log_settings()
            sent = None if parameters is None else decoder(_as_record(parameters))()
            self._log_what_lacks(None, sent)
        return parameters

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """Delegate, and remember what each client is sent."""
        self._end_rounds()
        asked = self.strategy.configure_fit(server_round, parameters, client_manager)
        with self._guard(f"what round {server_round} sends could not be captured"):
            self._sent[server_round] = {proxy.cid: _asked(proxy, ins) for proxy, ins in asked}
            if "release" in self.auditor.config.views:
                self._before[server_round] = _as_record(parameters)
            nodes = [each.node for each in self._sent[server_round].values()]
            runs = {getattr(proxy, "run_id", 0) for proxy, _ in asked}
            self._ask_for_batches(server_round, nodes, runs.pop() if len(runs) == 1 else 0)
        return asked

    def aggregate_fit(
        self, server_round: int, results: Results, failures: Any
    ) -> tuple[Parameters | None, dict[str, Scalar]]:
        """Capture, delegate, then audit."""
        captured: list[ClientReply] = []
        with through_flower(), self._guard(f"round {server_round} could not be captured"):
            asked = self._sent.pop(server_round, {})
            captured = capture(asked, results, failures, self._reading(server_round))
        with through_flower():
            aggregated = self._aggregated(
                server_round,
                captured,
                lambda: self.strategy.aggregate_fit(server_round, results, failures),
            )
        return cast(tuple[Parameters | None, dict[str, Scalar]], aggregated)

    def configure_evaluate(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, EvaluateIns]]:
        """Delegate."""
        return self.strategy.configure_evaluate(server_round, parameters, client_manager)

    def aggregate_evaluate(
        self, server_round: int, results: list[tuple[ClientProxy, EvaluateRes]], failures: Any
    ) -> tuple[float | None, dict[str, Scalar]]:
        """Delegate, and write what clients measured to the ledger."""
        found = self.strategy.aggregate_evaluate(server_round, results, failures)
        self._record_loss(server_round, "clients", found)
        return found

    def evaluate(
        self, server_round: int, parameters: Parameters
    ) -> tuple[float, dict[str, Scalar]] | None:
        """Delegate, and write what the server measured to the ledger."""
        self._end_rounds()
        found = self.strategy.evaluate(server_round, parameters)
        self._record_loss(server_round, "server", found)
        return found

    def _record_loss(self, server_round: int, source: Any, found: Any) -> None:
        with self._guard(f"the evaluation of round {server_round} could not be recorded"):
            if found is not None and found[0] is not None:
                self._record_evaluation(server_round, source, {"loss": found[0], **found[1]})

    def _end_rounds(self) -> None:
        """Record rounds that were never aggregated: secure aggregation halts with too few clients."""
        with through_flower(), self._guard("a round without result could not be audited"):
            for server_round in list(self._sent):
                captured = capture(
                    self._sent.pop(server_round), [], [], self._reading(server_round)
                )
                self._audit(server_round, captured, None)
        self._close_rounds()

    def _audit(self, server_round: int, captured: list[ClientReply], aggregated: Any) -> None:
        """Audit, and wait for the attacks: nobody says which round is the last.

        Flower ends the process of a simulation without `atexit`.
        """
        super()._audit(server_round, captured, aggregated)
        with self._guard("what was captured could not be attacked"):
            self.auditor.catch_up()

    def _released(self, before: ArrayRecord | None, after: Any) -> Release | None:
        weights = None if after is None else _as_record(after)
        return release(self.strategy, before, weights, kind=Strategy, not_means=NOT_MEANS)


def capture(
    asked: Mapping[str, Asked], results: Results, failures: Failures, reading: Reading
) -> list[ClientReply]:
    """Pair results with what was sent, and take out what `audit_mod` added.

    Must run before the wrapped strategy sees the results: several strategies change them.

    Returns:
        One for each result, and for each client that was asked and gave none.
    """
    masked = _is_masked([fitres for _, fitres in results])
    captured = [_reply(asked, proxy, fitres, reading) for proxy, fitres in results]
    if masked:
        captured = [replace(reply, returned=dict, masked=True) for reply in captured]
    named = [failure for failure in failures if isinstance(failure, tuple)]
    captured += [_failed(proxy, fitres) for proxy, fitres in named]
    answered = {proxy.cid for proxy, _ in (*results, *named)}
    reason = Reason.of("no result", errors=len(failures) - len(named))
    captured += [
        ClientReply(client=Client(each.node), status="failed", reason=reason)
        for cid, each in asked.items()
        if cid not in answered
    ]
    return told_apart(captured, reading.holders)


def _is_masked(results: Sequence[FitRes]) -> bool:
    """Whether all results hold one aggregate in place of what each client returned."""
    return len(results) > 1 and all(r.parameters is results[0].parameters for r in results)


def _reply(
    asked: Mapping[str, Asked], proxy: ClientProxy, fitres: FitRes, reading: Reading
) -> ClientReply:
    node = _node(proxy)
    try:
        sent = asked.get(proxy.cid)
        content = _content(fitres)
        return read_content(node, None if sent is None else sent.told, content, reading)
    except Exception as error:  # noqa: BLE001  # one odd result must not hide the others
        return ClientReply(client=Client(node), reason=Reason.of_error(error))


def _failed(proxy: ClientProxy, fitres: FitRes) -> ClientReply:
    status = fitres.status
    number = status.code.value if isinstance(status.code, Code) else 0
    reason = Reason.of("client error", number=number, message=str(status.message))
    return ClientReply(client=Client(_node(proxy)), status="failed", reason=reason)


def _asked(proxy: ClientProxy, ins: FitIns) -> Asked:
    content = RecordDict(
        {"weights": _as_record(ins.parameters), "config": ConfigRecord({**as_numbers(ins.config)})}
    )
    return Asked(_node(proxy), Instructions.of(content))


def _content(fitres: FitRes) -> RecordDict:
    """A result as a client of the Message API would have sent it."""
    side = fitres.metrics.pop(KEY) if isinstance(fitres.metrics.get(KEY), str) else None
    content = RecordDict(
        {
            "weights": _as_record(fitres.parameters),
            "reported": MetricRecord({**as_numbers(fitres.metrics, MOST_NUMBERS)}),
            "metrics": MetricRecord({NUM_EXAMPLES: fitres.num_examples}),
        }
    )
    if side is not None:
        content[KEY] = ConfigRecord(json.loads(cast(str, side)))
    return content


def _as_record(parameters: Parameters) -> ArrayRecord:
    """The arrays under their places as names; their bytes are immutable, and not copied."""
    kind = parameters.tensor_type
    dtype = "" if kind == NUMPY else "bytes"  # only the bytes of NumPy's arrays tell their type
    return ArrayRecord(
        {
            str(place): Array(dtype=dtype, shape=(), stype=kind, data=tensor)
            for place, tensor in enumerate(parameters.tensors)
        }
    )


def _node(proxy: ClientProxy) -> int:
    """Flower's id of the client; before Flower had such ids, a number made of its name."""
    node = getattr(proxy, "node_id", None)
    if isinstance(node, int):
        return node
    return int.from_bytes(hashlib.sha256(proxy.cid.encode()).digest()[:8], "big")
