"""What every defence of the table keeps."""

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fl_privacy_audit.core.errors import ConfigError, UpdateError
from fl_privacy_audit.defences import (
    DEFENCES,
    AppliedDefence,
    make_applied_defence,
    make_defence,
)
from fl_privacy_audit.ledger.records import ThreatModel
from tests.support.builders import QUICK
from tests.support.defence_cases import CASES

APPLIED = [name for name, entry in DEFENCES.items() if entry.where in ("mod", "nowhere")]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def update(seed: int = 0) -> dict[str, Tensor]:
    drawn = rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"a": (3, 5), "b": (11,), "c": (2, 2, 2)}
    floating = {
        name: torch.randn(shape, generator=drawn, dtype=torch.float64)
        for name, shape in shapes.items()
    }
    return {**floating, "count": torch.tensor(7)}


def test_every_row_is_whole_and_has_a_case() -> None:
    assert set(CASES) == set(DEFENCES)
    assert all(entry.title and entry.attacker for entry in DEFENCES.values())
    assert all(entry.paper and entry.usual for name, entry in DEFENCES.items() if name != "none")


def test_the_guide_has_the_row_of_every_defence() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "defences.md").read_text("utf-8")
    rows = re.findall(
        r"^\| `([a-z-]+)` \| ([^|]+) \| ([^|]+) \| ([^|]*?) *\|$", guide, re.MULTILINE
    )
    assert rows == [
        (name, entry.title, entry.where, ", ".join(f"`{option}`" for option in entry.options))
        for name, entry in DEFENCES.items()
    ]


@pytest.mark.parametrize("name", DEFENCES)
def test_what_an_attacker_knows_is_named_complete_and_stored_in_the_ledger(name: str) -> None:
    defence = make_defence(name, CASES[name])
    for known in (defence.known(update()), defence.known_of_release(update(), 3)):
        assert known.name == name
        assert set(known.options) == set(DEFENCES[name].options)
        assert CASES[name].items() <= known.options.items()
        stored = ThreatModel(
            view="server",
            update_form="exact gradient",
            local_training={},
            image={},
            num_images=1,
            defence=known,
            assumptions=[],
        ).model_dump_json()
        assert ThreatModel.model_validate_json(stored).defence == known


@pytest.mark.parametrize("name", DEFENCES)
def test_what_other_code_applies_is_known_only(name: str) -> None:
    defence = make_defence(name, CASES[name])
    assert isinstance(defence, AppliedDefence) == (name in APPLIED)
    if name not in APPLIED:
        wanted = f"is not a mod of this package: it belongs to {DEFENCES[name].where}"
        with pytest.raises(ConfigError, match=wanted):
            make_applied_defence(name, CASES[name])


@pytest.mark.parametrize("name", APPLIED)
@given(seed=st.integers(0, 1000))
@QUICK
def test_names_shapes_integers_and_the_input_are_kept(name: str, seed: int) -> None:
    before = update(seed)
    copy = {n: t.clone() for n, t in before.items()}
    defence = make_applied_defence(name, CASES[name])
    after, again = (defence.apply(before, rng(seed)) for _ in range(2))
    assert list(after) == list(before)
    for key, tensor in after.items():
        assert tensor.shape == before[key].shape
        assert tensor.dtype == before[key].dtype
        assert torch.equal(tensor, again[key])
        assert torch.equal(before[key], copy[key])
    assert after["count"].item() == 7


@pytest.mark.parametrize("name", [name for name in APPLIED if name != "none"])
def test_an_update_that_diverged_is_not_hidden(name: str) -> None:
    defence = make_applied_defence(name, CASES[name])
    with pytest.raises(UpdateError, match="`a` holds values that are not finite"):
        defence.apply({"a": torch.tensor([1.0, torch.nan])}, rng())
