"""The capture alone decides among which pictures a true image is to be picked out."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fl_privacy_audit import Auditor, Client, ClientReply, Truth
from fl_privacy_audit.audit.canary import Canaries
from fl_privacy_audit.audit.candidates import CANDIDATES, among, of_round
from fl_privacy_audit.audit.capture import captured
from fl_privacy_audit.audit.capture_auditor import CaptureAuditor
from fl_privacy_audit.audit.capture_files import read_capture
from fl_privacy_audit.audit.schedule import Slot, schedule
from fl_privacy_audit.audit.spool import Spool
from fl_privacy_audit.audit.steps import Steps
from fl_privacy_audit.core.guard import Guard
from fl_privacy_audit.ledger.ledger import read_ledger
from fl_privacy_audit.ledger.records import AuditRecord
from tests.support.builders import audit_config, make_reply, make_truth, tiny_net


def slots(replies: list[ClientReply]) -> list[Slot]:
    return [Slot(round=1, view="server", replies=(reply,)) for reply in replies]


def drawn(directory: Path, replies: list[ClientReply]) -> torch.Tensor | None:
    return of_round(slots(replies), audit_config(directory), None, Guard())


def images(*partitions: int) -> torch.Tensor:
    return torch.cat([make_truth(seed=number).images for number in partitions])


def as_set(pictures: torch.Tensor | None) -> set[bytes]:
    assert pictures is not None
    found = {picture.numpy().tobytes() for picture in pictures}
    assert len(found) == len(pictures)
    return found


def test_true_images_of_all_clients_of_a_round_whatever_their_order(tmp_path: Path) -> None:
    replies = [make_reply(number) for number in range(6)]
    one = drawn(tmp_path, replies)
    random.Random(3).shuffle(replies)
    other = drawn(tmp_path, replies)
    assert one is not None and other is not None
    assert torch.equal(one, other)
    assert as_set(one) == as_set(images(*range(6)))


def test_what_cannot_be_a_candidate_is_left_out(tmp_path: Path) -> None:
    odd = [
        make_reply(1, publish=False),
        make_reply(2, status="failed"),
        make_reply(3, truth=lambda: Truth(images=2 * make_truth().images, labels=torch.zeros(1).long())),
        make_reply(4, truth=lambda: Truth(images=torch.full((1, 1, 8, 8), torch.nan), labels=torch.zeros(1).long())),
        make_reply(5, truth=lambda: 1 / 0),
    ]  # fmt: skip
    assert as_set(drawn(tmp_path, [make_reply(0), *odd])) == as_set(images(0))
    assert drawn(tmp_path, odd) is None


def test_no_client_fills_the_candidates_and_there_are_no_more_than_are_said(tmp_path: Path) -> None:
    large = [make_reply(n, truth=lambda n=n: make_truth(150, seed=n)) for n in range(2)]
    found = as_set(drawn(tmp_path, large))
    assert len(found) == CANDIDATES
    for number in range(2):
        assert len(found & as_set(make_truth(150, seed=number).images)) == CANDIDATES // 2
    many = [make_reply(number) for number in range(150)]
    assert len(as_set(drawn(tmp_path, many))) == CANDIDATES


def test_a_target_has_its_own_images_first_and_once() -> None:
    own, others = make_truth(3, seed=1), images(7, 8)
    pool = among(own, torch.cat([own.images[1:2], others]))
    assert pool is not None and torch.equal(pool, torch.cat([own.images, others]))
    assert among(None, others) is None
    alone = among(own, None)
    assert alone is not None and torch.equal(alone, own.images)


def test_of_canaries_they_are_public_pictures_and_the_same_everywhere(tmp_path: Path) -> None:
    config = audit_config(tmp_path)
    one, other = (Canaries(config=config, guard=Guard(), classes=lambda: 3) for _ in range(2))
    assert torch.equal(one.candidates(), other.candidates())
    assert one.candidates().shape == (CANDIDATES, 1, 8, 8)
    assert 0 <= float(one.candidates().min()) < float(one.candidates().max()) <= 1


def test_they_are_written_beside_a_capture_and_gone_with_it(tmp_path: Path) -> None:
    config = audit_config(tmp_path, clients_per_round=1)
    replies = [make_reply(number) for number in range(4)]
    what = captured("run", 1, schedule(config, 1, replies, None))
    spool = Spool.make(tmp_path, "run", config)
    folder, _ = spool.put(what, None, Guard(), Counter())
    assert folder is not None
    (view,) = read_capture(folder).views
    assert view.candidates is not None
    assert as_set(view.candidates()) == as_set(images(*range(4)))
    spool.done(folder)
    spool.close()
    assert not [*tmp_path.iterdir()]


SETTINGS: dict[str, Any] = {
    "controls": True,
    "clients_per_round": 1,
    "views": ["server", "release"],
    "attacks": ["first_linear"],
    "metrics": ["mse"],
    "seconds_per_round": 6000,
}


def told(record: AuditRecord) -> tuple[Any, ...]:
    (outcome,) = record.attacks
    ranks = [(control.kind, control.ranks) for control in outcome.controls]
    return record.view, record.client, outcome.ranks, outcome.candidates, ranks


def test_ranks_are_the_same_in_whatever_order_captures_are_attacked(tmp_path: Path) -> None:
    """Each capture by an auditor of its own, or all by one, from the last to the first."""
    auditor = Auditor(audit_config(tmp_path / "inline", **SETTINGS), model=tiny_net())
    config = audit_config(tmp_path / "left", **SETTINGS)
    spool = Spool.make(tmp_path / "left", "run", config)
    for number in range(1, 4):
        clients = [make_reply(10 * number + n) for n in range(3)]
        replies = [replace(r, client=Client(1000 + n, n)) for n, r in enumerate(clients)]
        auditor.audit_round(number, replies)
        what = captured("run", number, schedule(config, number, replies, None))
        spool.put(what, None, Guard(), Counter())
    expected = {
        record.round: told(record)
        for record in read_ledger(tmp_path / "inline").audits
        if record.reason is None
    }
    assert {row[3] for row in expected.values()} == {3}
    assert all(len(row[2]) == 1 for row in expected.values())
    found = spool.captures()[::-1]
    assert len(found) == 3

    def attacked(work: CaptureAuditor, path: Path) -> tuple[int, tuple[Any, ...]]:
        (record,) = work.records(read_capture(path), Steps())
        return record.round, told(record)

    one = CaptureAuditor(config, model=tiny_net(), run="run")
    assert dict(attacked(one, path) for path in found) == expected
    for path in found:
        own = CaptureAuditor(config, model=tiny_net(), run="run")
        assert attacked(own, path) in expected.items()
    spool.close()


@pytest.mark.parametrize("clients", [1, 2])
def test_without_anything_to_choose_from_there_are_no_ranks(tmp_path: Path, clients: int) -> None:
    auditor = Auditor(
        audit_config(tmp_path, attacks=["first_linear"], metrics=["mse"]), model=tiny_net()
    )
    for number in (1, 2):
        auditor.audit_round(number, [make_reply(n) for n in range(clients)])
    for record in read_ledger(tmp_path).audits:
        if record.reason is None:
            assert len(record.attacks[0].ranks) == clients - 1
