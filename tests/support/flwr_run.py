"""Apps by Flower's own command, each with a SuperLink of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FLWR = Path(sys.executable).with_name("flwr")


def call(*command: str | Path, cwd: Path, environment: Mapping[str, str]) -> str:
    """What a command prints; it must succeed within half an hour."""
    done = subprocess.run(
        command,
        check=False,
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    said = done.stdout + done.stderr
    if "Failed to start local SuperLink" in said or "Unable to launch" in said:
        pytest.skip(f"Flower's simulation cannot start here: {said.strip()[-300:]}")
    assert done.returncode == 0, said
    return done.stdout


def flwr_run(app: Path, home: Path, *, started_in: Path, nodes: int = 2, **run_config: Any) -> str:
    """The log of ``flwr run`` of an app, which must complete.

    Args:
        app: Its folder.
        home: Flower's home for this run; made.
        started_in: Where the SuperLink is started, which is the working directory of the app.
        nodes: Clients, one processor each.
        run_config: Over the app's own; see `stated`.
    """
    if not FLWR.exists():
        pytest.skip("needs Flower's command `flwr`")
    if not Path("/proc").is_dir():
        pytest.skip("ends Flower's SuperLink by /proc")
    environment = {
        "PYTHONPATH": str(ROOT),
        "PATH": f"{FLWR.parent}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": free_port(),
        "FLWR_LOCAL_CONTROL_API_PORT": free_port(),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    }
    federation = f"num-supernodes={nodes} client-resources-num-cpus=1"
    options = ["--stream", "--federation-config", federation]
    options += ["--run-config", stated(run_config)] if run_config else []
    try:
        log = call(FLWR, "run", app, *options, cwd=started_in, environment=environment)
        listed = call(FLWR, "list", "--format", "json", cwd=started_in, environment=environment)
        (run,) = json.loads(listed)["runs"]
        assert run["status"] == "finished:completed", log
    finally:
        _end_superlink(home)
    return log


def stated(values: Mapping[str, Any]) -> str:
    """Keys and values as Flower's commands read them; ``__`` stands for a dot, ``_`` for a hyphen."""
    return " ".join(
        f"{name.replace('__', '.').replace('_', '-')}={json.dumps(value)}"
        for name, value in values.items()
    )


def free_port() -> str:
    """A port of loopback on which nobody listens now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])


def _end_superlink(home: Path) -> None:
    """The local SuperLink outlives ``flwr run``; it names its home on its command line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue
        if b"flower-superlink" in command and str(home).encode() in command:
            os.kill(int(path.parent.name), signal.SIGTERM)
