"""The audit's lines are found where Flower's are, once."""

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAvg, Strategy

from fl_privacy_audit import Auditor
from fl_privacy_audit.strategies import AuditedStrategy, audit_mod
from tests.support.builders import audit_config, tiny_net
from tests.support.grid import InProcessGrid
from tests.support.publishing import client, publish
from tests.support.spies import Spy

FLOWER, AUDIT = logging.getLogger("flwr"), logging.getLogger("fl_privacy_audit")


@pytest.fixture
def terminal() -> Iterator[io.StringIO]:
    """What Flower's handler shows, at the level that it has under ``flwr run``."""
    level, shown = FLOWER.level, io.StringIO()
    handler = logging.StreamHandler(shown)
    handler.setLevel(logging.INFO)
    FLOWER.setLevel(logging.DEBUG)
    FLOWER.addHandler(handler)
    yield shown
    FLOWER.removeHandler(handler)
    FLOWER.setLevel(level)


def run(directory: Path, strategy: Strategy | None = None, **settings: object) -> None:
    config = audit_config(directory, metrics=["mse", "psnr"], **settings)
    auditor = Auditor(config, model=tiny_net(), attacks=[Spy()])
    inner = strategy or FedAvg(fraction_evaluate=0.0, min_evaluate_nodes=0)
    AuditedStrategy(inner, auditor=auditor).start(
        grid=InProcessGrid(client(publish, audit_mod), 3),
        initial_arrays=ArrayRecord(tiny_net().state_dict()),
        num_rounds=2,
    )


def test_settings_rounds_verdict_and_ledger_are_shown_once(
    tmp_path: Path, terminal: io.StringIO
) -> None:
    run(tmp_path, every=2, clients_per_round=2)
    lines = terminal.getvalue().splitlines()

    def only(text: str) -> str:
        (line,) = [line for line in lines if text in line]
        return line

    assert only("attacks: ").endswith("spy")
    assert only("every 2 rounds, 2 clients")
    first = only("audit round 1")
    assert "(2 of 3); worst partition" in first
    assert "psnr" in first
    assert first.endswith(" s")
    assert "not due" in only("audit round 2")
    assert "(server view)" in only("privacy audit: inconclusive")
    assert only(f"ledger {tmp_path / 'ledger.jsonl'}")
    assert lines[-1].endswith(f"fl-privacy-audit show {tmp_path.absolute()}")


def test_a_handler_of_the_users_own_gets_them_alone(tmp_path: Path, terminal: io.StringIO) -> None:
    mine = io.StringIO()
    handler, level = logging.StreamHandler(mine), AUDIT.level
    AUDIT.addHandler(handler)
    AUDIT.setLevel(logging.INFO)
    try:
        run(tmp_path)
    finally:
        AUDIT.removeHandler(handler)
        AUDIT.setLevel(level)
    assert mine.getvalue().count("audit round 1") == 1
    assert "audit round" not in terminal.getvalue()


def test_afterwards_the_logger_is_as_it_was(tmp_path: Path, terminal: io.StringIO) -> None:
    before = (AUDIT.level, AUDIT.propagate, list(AUDIT.handlers))
    run(tmp_path)
    assert (AUDIT.level, AUDIT.propagate, list(AUDIT.handlers)) == before


def test_silenced_flower_shows_warnings_of_the_audit_alone(
    tmp_path: Path, terminal: io.StringIO
) -> None:
    class Deaf(FedAvg):
        def start(self, *args: object, **kwargs: object) -> None:  # type: ignore[override]
            """Calls none of its hooks."""

    FLOWER.setLevel(logging.ERROR)
    run(tmp_path, Deaf(fraction_evaluate=0.0, min_evaluate_nodes=0))
    (line,) = terminal.getvalue().splitlines()
    assert "no round was audited" in line
    assert "Deaf" in line
