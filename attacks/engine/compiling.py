"""A step compiled: at once, or beside the attack that runs, for those of the rounds that follow.

Compiling takes half a minute. A process beside is told the operations of a step, none of its numbers, and
what it makes of them torch keeps on the disk, where every process of this machine finds it in seconds. A
note beside that says what a step then takes. ``python -m fl_privacy_audit.attacks.engine.compiling`` is such
a process; it ends with its parent.
"""

import contextlib
import os
import pickle
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from fl_privacy_audit.core.files import LOCK, is_held, lock, write_whole
from fl_privacy_audit.core.jobs import Child, answered, asked, framed
from fl_privacy_audit.core.process_state import read_settings, write_settings

COMMAND: Final = (sys.executable, "-m", "fl_privacy_audit.attacks.engine.compiling")
CACHE: Final = "TORCHINDUCTOR_CACHE_DIR"
NOTES: Final = "fl-privacy-audit"
NOTE: Final = "seconds"
CALLS: Final = 3
"""Of a compiled step, of which the fastest counts."""
POLL_SECONDS: Final = 0.1


class Traced(NamedTuple):
    """The operations of a computation.

    Attributes:
        graph: They, on flat lists of tensors.
        given: What it was traced with.
        form: Of what it gives.
    """

    graph: GraphModule
    given: list[Tensor]
    form: Any


def trace(computation: Callable[..., Any], *arguments: object) -> Traced:
    """What a computation comes to for such arguments: the compiler does not know the tape."""
    given, layout = pytree.tree_flatten(arguments)
    forms = []

    def flat(*tensors: Tensor) -> list[Tensor]:
        found, form = pytree.tree_flatten(computation(*pytree.tree_unflatten(tensors, layout)))
        forms.append(form)
        return found

    # Packed and unpacked: what another process compiles is found only for the very same names.
    graph = _unpacked(_packed(make_fx(flat)(*given)))
    return Traced(graph, given, forms[0])


def fuse(traced: Traced) -> Callable[..., Any]:
    """The same computation, compiled when it is first called; without a tape."""
    fused = torch.compile(traced.graph, fullgraph=True)

    def compiled(*arguments: object) -> Any:
        with torch.no_grad():
            return pytree.tree_unflatten(fused(*pytree.tree_leaves(arguments)), traced.form)

    return compiled


class Beside:
    """A process that compiles one computation for all that come later.

    Args:
        name: Of the computation on this machine, with these versions.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._folder = _notes() / name
        self._child: Child | None = None
        self._tried = False

    @property
    def seconds(self) -> float | None:
        """Of a compiled step, by the processor's clock; None where there is none yet."""
        try:
            return float((self._folder / NOTE).read_text())
        except (OSError, ValueError):
            return None

    def begin(self, make: Callable[[], Traced]) -> None:
        """Start, unless it is made, somebody is at it, or it has failed here before.

        Args:
            make: Traces it; what it raises means that it cannot be compiled.
        """
        if self._tried or self.seconds is not None:
            return
        self._tried = True
        with contextlib.suppress(Exception):  # of a model that nobody here wrote, or of a full disk
            held = lock(self._folder)
            if held is None:
                return
            try:
                self._child = self._started(make(), held)
            finally:
                os.close(held)  # the process has it too

    def _started(self, traced: Traced, held: int) -> Child:
        forms = [(tuple(t.shape), t.stride(), t.dtype, str(t.device)) for t in traced.given]
        task = (str(self._folder), read_settings(), _packed(traced.graph), forms)
        with open(os.devnull, "w") as nobody:
            child = Child(COMMAND, {}, nobody, [held])
        child.write(framed(pickle.dumps(task)))
        return child

    def wait(self, patience: float) -> float | None:
        """`seconds`, once whoever is at it has ended, or after so many seconds."""
        deadline = time.monotonic() + patience
        if self._child is not None:
            self._child.frame(deadline)
            self._child.end()
            self._child = None
        while self.seconds is None and is_held(self._folder / LOCK):
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_SECONDS)
        return self.seconds


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """What a call takes: of the processor's time, which other work does not touch, or on a GPU of the wall's."""
    cuda = device.type == "cuda"
    timer = time.perf_counter if cuda else time.process_time
    if cuda:
        torch.cuda.synchronize(device)
    started = timer()
    call()
    if cuda:
        torch.cuda.synchronize(device)
    return timer() - started


def _notes() -> Path:
    """In the folder where torch keeps what it has compiled: what is deleted there takes them along."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    named = CACHE in os.environ
    try:
        return Path(cache_dir()) / NOTES
    finally:
        if not named:  # it has named it
            os.environ.pop(CACHE, None)


def _packed(graph: GraphModule) -> bytes:
    return zlib.compress(pickle.dumps(graph))


def _unpacked(packed: bytes) -> GraphModule:
    import torch._inductor.compile_fx  # noqa: F401 - what a graph is unpacked with looks for it

    graph: GraphModule = pickle.loads(zlib.decompress(packed))
    return graph


def main() -> None:
    """Compile what the parent sends, note what a step takes, and say so."""
    output = os.dup(1)
    os.dup2(2, 1)  # what others print is no answer
    folder, settings, packed, forms = pickle.loads(asked(sys.stdin.buffer).get())
    write_settings(settings)
    given = [
        torch.empty_strided(shape, strides, dtype=dtype, device=device).uniform_()
        if dtype.is_floating_point
        else torch.empty_strided(shape, strides, dtype=dtype, device=device).zero_()
        for shape, strides, dtype, device in forms
    ]
    fused = torch.compile(_unpacked(packed), fullgraph=True)
    with torch.no_grad():
        fused(*given)
        best = min(seconds_of(lambda: fused(*given), given[0].device) for _ in range(CALLS))
    write_whole(Path(folder) / NOTE, str(best))
    answered(output, True, True)


if __name__ == "__main__":
    main()
