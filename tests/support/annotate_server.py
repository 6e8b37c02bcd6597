"""The command as a process that can be killed."""

import os
import re
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Server:
    process: subprocess.Popen[str]
    port: int
    said: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """As the power going off would: no handler runs."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path) as reply:
            text: str = reply.read().decode()
            return text

    def post(self, path: str, **data: object) -> tuple[str, str]:
        """``(address it led to, page)``."""
        form = urllib.parse.urlencode(data).encode()
        with urllib.request.urlopen(self.url + path, form) as reply:
            return urllib.parse.urlsplit(reply.url).path, reply.read().decode()


def start(corpus: Path, *options: str, port: int = 0) -> Server:
    command = [sys.executable, "-m", "fl_privacy_audit", "annotate", str(corpus)]
    process = subprocess.Popen(
        [*command, "--port", str(port), *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "400"},
    )
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if found := re.match(r"Open http://.*:(\d+)/ ", line):
            return Server(process=process, port=int(found[1]), said=said)
    process.wait()
    process.stderr.close()
    raise RuntimeError(said)
