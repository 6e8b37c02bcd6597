"""The settings of the process are as they were, whatever was done to them."""

import copy
import threading
from typing import Any

import pytest
import torch

from fl_privacy_audit.core.process_state import SETTINGS, SLOW, _same, process_state_kept
from tests.reliability.fault_kinds import LEFT, RELEASE


def differing(before: dict[str, Any]) -> set[str]:
    return {name for name, (read, _) in SETTINGS.items() if not _same(before[name], read())}


def settings() -> dict[str, Any]:
    return {name: copy.copy(read()) for name, (read, _) in SETTINGS.items()}


@pytest.mark.parametrize("name", LEFT.keys() - {"running thread"})
def test_what_was_changed_is_put_back_and_told(name: str) -> None:
    before = settings()
    with process_state_kept() as changed:
        LEFT[name]()
        differ = differing(before)
        assert differ
    assert not differing(before)
    assert changed
    assert set(changed) <= differ, "but for what an import changes"
    with pytest.raises(KeyError), process_state_kept():
        LEFT[name]()
        raise KeyError
    assert not differing(before)


def test_each_setting_is_changed_by_some_fault() -> None:
    tried: set[str] = set()
    for name in LEFT:
        with process_state_kept() as changed:
            LEFT[name]()
        tried |= set(changed)
    RELEASE.set()
    assert tried >= SETTINGS.keys() - {"random numbers of GPUs"}


def test_what_cannot_be_put_back_keeps_nothing_else() -> None:
    before = settings()
    with process_state_kept():
        for name in LEFT.keys() - {"running thread"}:
            LEFT[name]()
    assert not differing(before)


def test_what_runs_often_reads_less() -> None:
    with process_state_kept(often=True) as changed:
        torch.manual_seed(1)
    assert changed == ["random numbers of torch"]
    assert SETTINGS.keys() >= SLOW


def test_threads_that_go_on_are_told() -> None:
    done = threading.Event()
    with process_state_kept() as changed:
        threading.Thread(target=done.wait, daemon=True).start()
    done.set()
    assert changed == ["running threads"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_random_state_of_a_gpu_is_put_back() -> None:
    def draw() -> list[float]:
        return torch.rand(3, device="cuda").tolist()

    torch.random.manual_seed(3)
    expected = draw()
    torch.random.manual_seed(3)
    with process_state_kept():
        draw()
    assert draw() == expected
