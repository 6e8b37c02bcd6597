"""What an attack returned is taken in as plain numbers, clean text and tensors, or refused."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fl_privacy_audit.audit.results import MOST_DETAILS, plain_result
from fl_privacy_audit.core.errors import AttackError
from fl_privacy_audit.core.guard import Guard
from fl_privacy_audit.core.types import Reconstruction
from tests.reliability.fault_kinds import COERCED, FROM_ATTACK, SURROGATE
from tests.support.attempt_cases import made_of
from tests.support.builders import outcome


def result() -> Reconstruction:
    return made_of(torch.full((1, 1, 8, 8), 0.5))


def plain(given: object) -> Any:
    return plain_result(given, Guard())


NOT_LOOKED_AT = {name for name in FROM_ATTACK if name.startswith(("images", "no images"))} - {
    "images None",
    "images a list",
    "images of numpy",
    "images complex",
    "images on meta",
}


@pytest.mark.parametrize("name", FROM_ATTACK.keys() - NOT_LOOKED_AT)
def test_what_is_no_result_is_an_error(name: str) -> None:
    assert isinstance(plain(FROM_ATTACK[name](result)), Exception)


def test_a_refusal_says_what_was_wrong() -> None:
    def refused(name: str) -> str:
        error = plain(FROM_ATTACK[name](result))
        assert isinstance(error, AttackError)
        return str(error)

    assert refused("None").startswith("the attack must return a Reconstruction, but returned None")
    assert refused("steps below zero") == (
        "`steps` of a reconstruction must be a whole number from 0, but the attack gave -4"
    )
    assert refused("labels a matrix") == (
        "`labels` of a reconstruction must be None or (N,) class indices, but the attack gave "
        "shape (2, 3)"
    )


@pytest.mark.parametrize("name", COERCED)
def test_what_is_meant_is_taken(name: str) -> None:
    taken = plain(COERCED[name](result))
    assert isinstance(taken, Reconstruction)
    assert type(taken.images) is torch.Tensor
    assert not taken.images.requires_grad
    assert (type(taken.objective), type(taken.steps), type(taken.exact)) == (float, int, bool)
    assert len(taken.details) <= MOST_DETAILS
    record = outcome(details=dict(taken.details), objective=taken.objective, stopped=taken.stopped)
    again = type(record).model_validate_json(record.model_dump_json())
    assert repr(again) == repr(record)
    assert len(record.model_dump_json()) < 5000


def test_numbers_of_numpy_are_numbers() -> None:
    details: dict[str, Any] = {
        "a": np.float32(1.5),
        "b": np.int64(2),
        "c": torch.ones(()),
        SURROGATE: [1],
        "n": None,
    }
    taken = plain(replace(result(), details=details))
    assert taken.details == {
        "a": 1.5,
        "b": 2.0,
        "c": 1.0,
        SURROGATE.replace("\ud800", "\ufffd"): "[1]",
        "n": "None",
    }
    taken = plain(COERCED["details not finite"](result))
    assert math.isnan(taken.details["a"])
    assert taken.details["b"] == -math.inf


def test_the_attack_cannot_reach_in_again() -> None:
    given = result()
    taken = plain(given)
    given.images.zero_()
    assert float(taken.images.min()) == 0.5
