"""A federation as it is deployed: a SuperLink and SuperNodes as processes, with TLS and known keys.

Each machine is a folder of its own, which holds its home, its temporary files and Flower's; all of
them talk on loopback.
"""

import contextlib
import datetime
import ipaddress
import json
import os
import signal
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from .flwr_run import FLWR, ROOT, call, free_port, stated

PATIENCE = 900.0
"""Seconds for anything here to happen, on however slow a machine."""


def wait_until(what: str, happened: Callable[[], bool]) -> None:
    """Return once it has happened; fail if it never does."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.2)


@dataclass
class Deployment:
    """A SuperLink and its SuperNodes, running; see `deployed`.

    Attributes:
        folder: Holds the folder of each machine: ``server``, ``operator``, ``node0`` and so on.
        port: Of the SuperLink.
    """

    folder: Path
    port: str
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def server(self) -> Path:
        """The server's disk: whatever it may write to."""
        return self.folder / "server"

    def environment(self, machine: str) -> dict[str, str]:
        """Of a process on a machine, over that of this one."""
        home = self.folder / machine
        (home / "tmp").mkdir(parents=True, exist_ok=True)
        return {
            "PYTHONPATH": str(ROOT),
            "PATH": f"{FLWR.parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(home),
            "TMPDIR": str(home / "tmp"),
            "XDG_DATA_HOME": str(home / "data"),
            "FLWR_HOME": str(home / "flwr"),
            "FL_PRIVACY_AUDIT_TRUTH": str(home / "tmp" / "truth"),
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        }

    def start(self, machine: str, *command: str | Path) -> None:
        """Start a process that lives until the deployment ends; what it says goes to ``log``."""
        environment = self.environment(machine)
        with (self.folder / machine / "log").open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder / machine,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started.append(process)

    def operate(self, *command: str | Path, cwd: Path | None = None) -> str:
        """What a command says on the operator's machine; it must succeed."""
        environment = self.environment("operator")
        return call(*command, cwd=cwd or self.folder / "operator", environment=environment)

    def flwr_run(self, app: Path, **run_config: Any) -> str:
        """The log of ``flwr run`` of an app on this deployment, which must complete."""
        told = ["--run-config", stated(run_config)] if run_config else []
        log = self.operate(FLWR, "run", app, "deployed", "--stream", *told)
        runs = json.loads(self.operate(FLWR, "list", "deployed", "--format", "json"))["runs"]
        (run,) = [run for run in runs if run["run-id"] in log]
        assert run["status"] == "finished:completed", f"{log}\n{self.logs()}"
        return log

    def processes(self, words: str = "") -> list[int]:
        """Every process that was started on one of these machines, by whomever.

        Args:
            words: Of the command line; empty for whatever it is.
        """
        mark = f"HOME={self.folder}/".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                command = path.with_name("cmdline").read_bytes()
                if mark in path.read_bytes() and words.encode() in command:
                    found.append(int(path.parent.name))
        return found

    def logs(self) -> str:
        """What SuperLink and SuperNodes said."""
        paths = sorted(self.folder.glob("*/log"))
        return "\n".join(f"== {p.parent.name}\n{p.read_text(errors='replace')}" for p in paths)

    def end(self) -> None:
        """Ask SuperNodes and SuperLink to end, and wait for them and all they started."""
        for process in reversed(self.started):
            process.terminate()
        for process in reversed(self.started):
            process.wait(PATIENCE)
        wait_until("all processes end", lambda: not self.processes())


@contextlib.contextmanager
def deployed(folder: Path, nodes: Sequence[Mapping[str, Any]]) -> Iterator[Deployment]:
    """A SuperLink with TLS that knows these SuperNodes by their keys.

    Args:
        folder: Empty.
        nodes: The ``--node-config`` of each SuperNode.
    """
    if not FLWR.with_name("flower-superlink").exists():
        pytest.skip("needs Flower's commands")
    if not Path("/proc").is_dir():
        pytest.skip("finds processes by /proc")
    made = Deployment(folder, free_port())
    try:
        _start_superlink(made)
        for at, node_config in enumerate(nodes):
            _start_supernode(made, f"node{at}", node_config)
        yield made
    finally:
        for pid in made.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in made.started:
            process.wait()


def _start_superlink(made: Deployment) -> None:
    certificate, key = _write_certificate(made.folder)
    operator = Path(made.environment("operator")["FLWR_HOME"])
    operator.mkdir(parents=True)
    (operator / "config.toml").write_text(
        f'[superlink]\ndefault = "deployed"\n\n[superlink.deployed]\n'
        f'address = "127.0.0.1:{made.port}"\nroot-certificates = "{certificate}"\n',
        encoding="utf-8",
    )
    # fmt: off
    made.start(
        "server", FLWR.with_name("flower-superlink"),
        "--ssl-certfile", certificate, "--ssl-keyfile", key, "--ssl-ca-certfile", certificate,
        "--host", "127.0.0.1", "--port", made.port, "--enable-supernode-auth",
    )
    # fmt: on
    trusted = ssl.create_default_context(cafile=str(certificate))

    def answers() -> bool:
        assert made.started[0].poll() is None, made.logs()
        try:
            with urllib.request.urlopen(
                f"https://127.0.0.1:{made.port}/health", timeout=10, context=trusted
            ) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    wait_until("the SuperLink answers", answers)


def _start_supernode(made: Deployment, machine: str, node_config: Mapping[str, Any]) -> None:
    private = _write_node_key(made.folder, machine)
    made.operate(FLWR, "supernode", "register", private.with_suffix(".pub"), "deployed")
    # fmt: off
    made.start(
        machine, FLWR.with_name("flower-supernode"),
        "--root-certificates", made.folder / "server.pem",
        "--superlink", f"127.0.0.1:{made.port}", "--port", free_port(),
        "--auth-supernode-private-key", private, "--node-config", stated(node_config),
    )
    # fmt: on


def _write_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for loopback that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    public = key.public_key()
    certificate = (
        x509.CertificateBuilder(name, name, public, x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    path, secret = folder / "server.pem", folder / "server.key"
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path, secret


def _write_node_key(folder: Path, machine: str) -> Path:
    """The private key of a SuperNode, as ``ssh-keygen`` writes it; the public one beside it."""
    key = ec.generate_private_key(ec.SECP384R1())
    path = folder / f"{machine}.key"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    path.with_suffix(".pub").write_bytes(public)
    return path
