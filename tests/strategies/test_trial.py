"""Whether attacks are strong enough is tried before anything is trained."""

from pathlib import Path
from typing import Any

import pytest

from fl_privacy_audit import AuditConfig
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.report.sentences import advise, say
from fl_privacy_audit.strategies import trial
from fl_privacy_audit.strategies.trial import strength, trials
from tests.support.builders import tiny_net

STEP = {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 1, "steps": 1}
EPOCH = {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 4, "epochs": 1}


def config(tmp_path: Path, training: dict[str, Any], **settings: Any) -> AuditConfig:
    image = {"shape": [1, 8, 8], "mean": [0.5], "std": [0.25]}
    told = {"image": image, "training": training, "metrics": ["psnr", "ssim"], **settings}
    return AuditConfig.build({"directory": tmp_path / "audit", **told})


def test_one_image_and_a_linear_layer_leak(tmp_path: Path) -> None:
    noisy = {**STEP, "max_grad_norm": 1.0, "noise_multiplier": 9.0}
    (found,) = strength(config(tmp_path, noisy), tiny_net(), None, 10.0)
    assert (found.state, found.reason.code) == ("well", "trial leaks"), say(found.reason)
    assert found.reason.figures["images"] == 1
    assert not (tmp_path / "audit").exists()


def test_an_attack_that_cannot_run_shows_nothing(tmp_path: Path) -> None:
    settings = config(tmp_path, {**STEP, "batch_size": 2}, attacks=["rgap"])
    (found,) = strength(settings, tiny_net(), None, 5.0)
    assert (found.state, found.reason.code) == ("missing", "trial failed")
    assert advise(found.reason)


def test_nothing_is_tried_unasked_or_where_the_images_are_not_known(tmp_path: Path) -> None:
    (found,) = strength(config(tmp_path, STEP), tiny_net(), None, None)
    assert (found.state, found.reason.code) == ("unknown", "not tried yet")
    assert "`--try 60`" in advise(found.reason)
    assert list(strength(config(tmp_path, EPOCH), tiny_net(), None, 1.0)) == []


@pytest.mark.parametrize(
    ("training", "images", "counts"),
    [
        (EPOCH, 40, [40, 32, 8, 4, 1]),
        (EPOCH, 3, [3, 1]),
        (EPOCH, 4000, [32, 8, 4, 1]),  # more than any attack rebuilds
        (STEP, 40, [40]),  # as many steps, however few images
    ],
)
def test_smaller_clients_are_tried_until_one_leaks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    training: dict[str, Any],
    images: int,
    counts: list[int],
) -> None:
    monkeypatch.setattr(trial, "_tried", lambda *given: Reason.of("attack too weak"))
    found = trials(config(tmp_path, training), tiny_net(), images, seconds=1.0)
    assert [one.images for one in found] == counts
