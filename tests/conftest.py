"""What every test can use."""

import gc
import itertools
import os
import sys
from pathlib import Path

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import logging

import pytest
import torch

from tests.support.spies import made_up_networks, no_weights, spied, two_threads

__all__ = ["made_up_networks", "no_weights", "spied", "two_threads"]

SHARED_DATA = Path(__file__).parents[1] / "../shared/data"


_modules = 0
_numbers = itertools.count()


def pytest_runtest_logfinish() -> None:
    """Flower collects garbage in every round; modules are none, and to look at them takes long."""
    global _modules
    if len(sys.modules) > _modules + 50:
        _modules = len(sys.modules)
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _own_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two test runs beside each other share neither keys nor published batches nor calibrations."""
    os.environ["XDG_DATA_HOME"] = str(tmp_path_factory.mktemp("data"))
    os.environ.setdefault("TORCH_HOME", torch.hub._get_torch_home())
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["FL_PRIVACY_AUDIT_TRUTH"] = str(tmp_path_factory.mktemp("truth"))
    return tmp_path_factory.mktemp("truths")


@pytest.fixture(autouse=True)
def _own_truth_folder(_own_folders: Path) -> None:
    """Two tests share no published batches: in Flower 1.29 the run id of either is 0."""
    os.environ["FL_PRIVACY_AUDIT_TRUTH"] = str(_own_folders / str(next(_numbers)))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _quiet_flower() -> None:
    logging.getLogger("flwr").setLevel(logging.ERROR)


@pytest.fixture
def shared_data() -> Path:
    """Real images for tests; skips where the folder is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the private test data in {SHARED_DATA}, which is not here")
    return SHARED_DATA.resolve()
