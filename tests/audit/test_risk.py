"""Whom to attack: which updates look as if they tell most."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fl_privacy_audit import Auditor, ClientReply
from fl_privacy_audit.audit.risk import risk_of
from fl_privacy_audit.audit.schedule import schedule
from fl_privacy_audit.cli import cli
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import Truth
from fl_privacy_audit.ledger.ledger import read_ledger
from fl_privacy_audit.report.formats import sample_text
from fl_privacy_audit.report.html import render_html
from fl_privacy_audit.report.markdown import render_markdown
from fl_privacy_audit.report.summary import summarise
from fl_privacy_audit.verdicts.facts import gather_ledger
from fl_privacy_audit.verdicts.rules import judge_run
from tests.support.builders import (
    ONE_STEP,
    QUICK,
    Arrays,
    audit_config,
    made,
    make_reply,
    make_truth,
    to_arrays,
    trained,
    write_ledger,
)
from tests.support.report_builders import SWEEP, write_setting


def wide_net() -> nn.Sequential:
    return made(nn.Flatten(), nn.Linear(64, 40), nn.Tanh(), nn.Linear(40, 3))


def reply_of(images: int, number: int = 0, **changes: Any) -> ClientReply:
    """A client of so many images, one step, that does not say how many."""
    model, truth = wide_net(), make_truth(images, seed=number)
    fields: dict[str, Any] = {
        "num_examples": None,
        "sent": lambda: to_arrays(model),
        "returned": lambda: to_arrays(trained(model, truth)),
    }
    return make_reply(number, **{**fields, **changes})


def chosen(replies: list[ClientReply], directory: Path, **settings: Any) -> list[int | None]:
    config = audit_config(directory, choose="risk", **settings)
    (plan,) = schedule(config, 1, replies, None)
    return [slot.replies[0].client.partition for slot in plan.slots if slot.reason is None]


def auditor_of(directory: Path, **settings: Any) -> Auditor:
    settings = {"choose": "risk", "clients_per_round": 1, "attacks": "first_linear", **settings}
    return Auditor(audit_config(directory, **settings), model=wide_net())


@pytest.mark.parametrize("images", [1, 2, 5, 16])
def test_the_rank_of_the_first_layer_is_the_number_of_images(images: int) -> None:
    model = made(nn.Flatten(), nn.Linear(64, 40))
    truth = Truth(images=make_truth(images).images, labels=torch.arange(images))
    after = trained(model, truth)
    risk = risk_of(lambda: to_arrays(model), lambda: to_arrays(after), ONE_STEP, None)
    assert risk is not None
    # An oracle with another method: singular values of the whole update.
    weight = "1.weight"
    values = torch.linalg.svdvals(after.get_parameter(weight) - model.get_parameter(weight))
    assert round(risk.terms) == int((values > 1e-4 * values[0]).sum()) == images


def test_fewer_images_come_first_whatever_the_order(tmp_path: Path) -> None:
    replies = [reply_of(n, number) for number, n in enumerate([8, 2, 16, 1, 4])]
    for count, expected in [(1, {3}), (2, {1, 3}), (3, {1, 3, 4})]:
        for ordered in (replies, replies[::-1]):
            assert {*chosen(ordered, tmp_path, clients_per_round=count)} == expected


def test_everybody_is_attacked_where_there_is_room(tmp_path: Path) -> None:
    replies = [reply_of(1, number) for number in range(2)]
    for count in (2, None):
        (plan,) = schedule(
            audit_config(tmp_path, choose="risk", clients_per_round=count), 1, replies, None
        )
        assert [(slot.reason, slot.chosen) for slot in plan.slots] == [(None, None)] * 2


def test_the_clients_word_tells_equals_apart_and_nothing_else(tmp_path: Path) -> None:
    def noisy(images: int, number: int) -> ClientReply:
        """Noise that fills every update."""
        rng = np.random.default_rng(number)
        arrays = {
            n: np.float32(a) + rng.normal(size=a.shape) for n, a in to_arrays(wide_net()).items()
        }
        return reply_of(1, number, returned=lambda: arrays, num_examples=images)

    assert chosen([noisy(8, 0), noisy(3, 1), noisy(9, 2)], tmp_path) == [1]
    liar = reply_of(1, 1, num_examples=2**53)
    assert chosen([reply_of(8, 0, num_examples=1), liar], tmp_path) == [1]


def test_records_say_who_was_chosen_and_why(tmp_path: Path) -> None:
    auditor = auditor_of(tmp_path)
    replies = [reply_of(n, number) for number, n in enumerate([8, 1, 4])]
    left, attacked, other = auditor.audit_round(1, replies)
    assert left.reason == other.reason == Reason.of("less at risk", chosen=1, clients=3)
    assert left.chosen is other.chosen is None
    assert attacked.reason is None and attacked.chosen is not None
    assert attacked.chosen.code == "chosen by risk"
    assert attacked.chosen.figures["terms"] == pytest.approx(1)
    (verdict,) = judge_run(gather_ledger(tmp_path))
    assert verdict.by_risk


def test_no_truth_is_asked_for(tmp_path: Path) -> None:
    def truth() -> Truth:
        pytest.fail("the truth was read")

    assert chosen([reply_of(n, n, truth=truth) for n in (4, 1)], tmp_path) == [1]


@QUICK
@given(
    value=st.sampled_from([np.nan, np.inf, -np.inf, 3e38, 1e-45, 0.0]),
    spoilt=st.sampled_from(["one", "all", "shape", "names", "text", "none", "empty", "raises"]),
)
def test_hostile_replies_neither_raise_nor_hide_the_others(
    tmp_path_factory: pytest.TempPathFactory, value: float, spoilt: str
) -> None:
    def returned() -> Arrays:
        arrays = to_arrays(wide_net())
        if spoilt == "raises":
            raise MemoryError
        if spoilt == "one":
            arrays["1.weight"][0, 0] = value
        for name, array in arrays.items():
            replaced = {
                "all": np.full_like(array, value),
                "shape": array[:0],
                "text": np.array(["a"] * array.size).reshape(array.shape),
                "empty": np.zeros((0, 0)),
            }
            arrays[name] = replaced.get(spoilt, array)
        return {"none": {}, "names": dict(enumerate(arrays.values()))}.get(spoilt, arrays)  # type: ignore[return-value]

    hostile = reply_of(1, 0, returned=returned, num_examples=-(2**60))
    directory = tmp_path_factory.mktemp("audit")
    replies = [hostile, reply_of(4, 1)]
    first = chosen(replies, directory)
    assert len(first) == 1 and chosen(replies[::-1], directory) == first
    if spoilt not in ("one", "all") or not np.isfinite(value):
        assert first == [1]


def test_a_capture_keeps_why(tmp_path: Path) -> None:
    with_worker = auditor_of(tmp_path, executor="process", at_end="leave")
    replies = [reply_of(n, number) for number, n in enumerate([4, 1])]
    with_worker.audit_round(1, replies)
    with_worker.finish(wait=False)
    (stated,) = tmp_path.rglob("capture.json")
    (target,) = json.loads(stated.read_text())["views"][0]["targets"]
    assert target["chosen"]["code"] == "chosen by risk"


def test_the_report_says_that_it_is_no_random_sample(tmp_path: Path) -> None:
    contents = read_ledger(write_setting(tmp_path / "drawn", SWEEP[0]))
    why = Reason.of("chosen by risk", place=1, clients=9, terms=1.0, spread=1.0)
    told = [record.model_copy(update={"chosen": why}) for record in contents.audits]
    by_risk = write_ledger(tmp_path / "by risk", [*contents.runs, *told, *contents.evaluations])
    for directory, said in [(tmp_path / "drawn", False), (by_risk, True)]:
        shown = CliRunner().invoke(cli, ["show", str(directory)]).output
        summary = summarise([directory])
        texts = [shown, render_markdown(summary), render_html(summary, pictures=False)]
        assert [sample_text(True) in " ".join(text.split()) for text in texts] == [said] * 3
