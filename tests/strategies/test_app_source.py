"""What an app says of its training is read without running it."""

from pathlib import Path
from typing import Any

import pytest

from fl_privacy_audit.strategies.app_source import read_app


def read(tmp_path: Path, source: str, **run_config: Any) -> dict[str, Any]:
    (tmp_path / "task.py").write_text(source)
    return dict(read_app(tmp_path, run_config).told)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("Normalize((0.5,), (0.25,))", {"image.mean": (0.5,), "image.std": (0.25,)}),
        ("T.Normalize(mean=[0.5], std=0.25)", {"image.mean": (0.5,), "image.std": (0.25,)}),
        ("S = ((0.1,), (0.3,))\nNormalize(*S)", {"image.mean": (0.1,), "image.std": (0.3,)}),
        ("Normalize(mean, std)", {}),
        (
            "torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)",
            {"training.optimizer": "sgd", "training.momentum": 0.9},
        ),
        (
            "AdamW(p, weight_decay=0.1)",
            {"training.optimizer": "adamw", "training.weight_decay": 0.1},
        ),
        ("SGD(p)\nAdam(p)", {}),  # two: nobody knows which
        ("ConfigRecord({'lr': 0.1, **more})", {"training.learning_rate": 0.1}),
        ("DataLoader(a, batch_size=32, shuffle=True)", {"training.batch_size": 32}),
        ("DataLoader(a, batch_size=32)", {}),  # to evaluate
        ("SGD(p, momentum=True)\nSGD(p, lr='fast')", {"training.optimizer": "sgd"}),
        ("this is no Python", {}),
    ],
)
def test_literals_and_constants_are_read(tmp_path: Path, source: str, told: Any) -> None:
    assert read(tmp_path, source) == told


def test_the_run_config_goes_before_the_modules(tmp_path: Path) -> None:
    source = "DataLoader(a, batch_size=32, shuffle=True)\nSGD(p, lr=0.5)"
    told = read(tmp_path, source, **{"batch-size": 8, "local-epochs": 2})
    assert told["training.batch_size"] == 8
    assert told["training.epochs"] == 2
    assert told["training.learning_rate"] == 0.5


def test_names_and_imports_are_known(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("from flwr.server.strategy import FedAvg\nfl.audit_mod")
    assert {"flwr.server.strategy", "fl", "audit_mod"} <= read_app(tmp_path, {}).names
