"""What all benchmarks share: one thread, an option for tiny settings, and facts of the machine."""

import os
import platform
from typing import Any

import pytest
import torch

from fl_privacy_audit.core.devices import has_bfloat16

from .clients import CPU


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="tiny settings: the figures mean nothing")


@pytest.fixture(scope="session")
def quick(pytestconfig: pytest.Config) -> bool:
    """Whether to show only that everything runs."""
    return bool(pytestconfig.getoption("quick"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """Add what the figures depend on, and drop the name of the machine."""
    del machine_info["node"]
    amx = torch.cpu.get_capabilities().get("amx_bf16")
    processor = machine_info["cpu"].get("brand_raw") or machine_info["processor"]
    machine_info["quick"] = config.getoption("quick")
    machine_info["facts"] = {
        "processor": f"{processor} ({platform.machine()})",
        "cores": str(os.cpu_count()),
        "bfloat16 instructions": "yes" if has_bfloat16(CPU) else "no",
        "matrix unit for bfloat16 (AMX)": "yes" if amx else "no",
        "threads of torch": str(torch.get_num_threads()),
        "torch": torch.__version__.split("+")[0],
        "Python": platform.python_version(),
        "system": platform.system(),
    }
    if torch.cuda.is_available():
        machine_info["facts"]["GPU"] = torch.cuda.get_device_name()
