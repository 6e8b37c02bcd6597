"""Batch norm is attacked in the mode the client trained in, by every attack."""

from typing import Any

import pytest
import torch
from torch import nn

from fl_privacy_audit.attacks import ATTACKS, make_attack
from fl_privacy_audit.core.errors import UnmetNeedError
from fl_privacy_audit.core.types import Observation
from tests.support.attack_cases import CASES
from tests.support.builders import assumed
from tests.support.cases import SmallConvNet, observation, photos, seeded


def modes_seen(name: str, seen: Observation) -> set[tuple[bool, bool]]:
    """(training, uses running statistics) of batch norm at every forward pass of an attack."""
    (norm,) = [m for m in seen.model.modules() if isinstance(m, nn.BatchNorm2d)]
    found: set[tuple[bool, bool]] = set()

    def look(module: nn.Module, arguments: Any) -> None:
        found.add((module.training, bool(module.track_running_stats)))

    handle = norm.register_forward_pre_hook(look)
    try:
        attack = make_attack(name, CASES[name].fast)
        attack.reconstruct(seen, rng=torch.Generator().manual_seed(0))
    except UnmetNeedError:
        pass
    finally:
        handle.remove()
    return found


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(("mode", "wanted"), [("train", (True, False)), ("eval", (False, True))])
def test_no_attack_changes_the_mode(name: str, mode: str, wanted: tuple[bool, bool]) -> None:
    seen = observation(seeded(SmallConvNet), photos(8)[:1], torch.tensor([3]), mode=mode)
    assert modes_seen(name, seen) <= {wanted}
    honest = ATTACKS[name].needs.server != "malicious"  # others refuse this network
    if honest and CASES[name].endless is not None:
        assert modes_seen(name, seen) == {wanted}


def test_statistics_that_moved_give_train_mode_away() -> None:
    """A client that is said to have trained in eval mode, but whose buffers moved."""
    from fl_privacy_audit import TrainingConfig
    from fl_privacy_audit.core.observe import observe
    from tests.support.cases import image_config, train_locally

    model = seeded(SmallConvNet).train()
    sent, returned = train_locally(model, photos(8)[:2], torch.arange(2))
    said = {"optimizer": "sgd", "learning_rate": 0.1, "steps": 1, "batch_size": 2}

    def assumptions(mode: str, back: dict[str, Any]) -> str:
        training = TrainingConfig.model_validate({**said, "mode": mode})
        seen = observe(model, sent, back, image=image_config(8), training=training)
        assert seen.model.training == (mode != "eval")
        return " ".join(assumed(seen))

    assert "running statistics moved" in assumptions("eval", returned)
    assert "running statistics moved" not in assumptions("train", returned)
    assert "running statistics moved" not in assumptions(
        "eval", sent | {name: array for name, array in returned.items() if "running" not in name}
    )
