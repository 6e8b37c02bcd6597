"""Building a corpus: train what must be trained, attack chunk by chunk, record as it goes."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from itertools import islice, starmap
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from fl_privacy_audit.core.devices import cpu_threads, pick_device
from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.lab.progress import Stages

from .plan import Chunk, Plan, Refusal, lay_out, summed
from .recipes import RECIPES
from .sources import open_source
from .store import Store
from .work import Place, attack_chunk, pair_key, trained_network


@dataclass(frozen=True, kw_only=True)
class Built:
    """What a build did."""

    rows: int  # in the corpus now
    fresh: int  # of these, made by this build
    refusals: list[Refusal]  # what was asked for and is not there, with the reason


def build_corpus(
    directory: Path,
    plan: Plan,
    *,
    root: str = "data",
    download: bool = False,
    checkpoints: Path | None = None,
    workers: int = 1,
    device: str = "auto",
    report: Stages = lambda what, done, total: None,
) -> Built:
    """Build a corpus, or go on with one.

    Args:
        directory: Of the corpus.
        plan: What it is to hold; more than a build before it is fine, another seed is not.
        root: Where torchvision's data sets lie.
        download: Let torchvision fetch them.
        checkpoints: Folder of trained networks; by default in the corpus.
        workers: Processes, each with one thread; 1 for none but this one.
        device: ``"auto"`` takes the GPU if there is one.
        report: Called with the pictures done and in all.

    Raises:
        CorpusError: Something that is asked for is not known, or cannot be read or written.
    """
    specs = sorted({spec for part in plan.parts for spec in part.sources})
    sources = {spec: open_source(spec, root, download=download) for spec in specs}
    spec_of = {source.name: spec for spec, source in sources.items()}
    if len(spec_of) < len(sources):
        names = sorted(source.name for source in sources.values())
        raise CorpusError(f"two sources have the same name: {names}")
    chunks, refusals = lay_out(plan, sources)
    place = Place(
        root=str(root),
        checkpoints=(checkpoints or directory / "victims").absolute(),
        device=str(pick_device(device)),
    )
    fixed = {
        "format": 1,
        "seed": plan.seed,
        "size": plan.size,
        "training": str(plan.training),
        "side_by_side": plan.side_by_side,
    }
    with Store(directory, fixed) as store:
        store.write_classes({source.name: source.classes for source in sources.values()})

        def missing(chunk: Chunk) -> int:
            names = sources[spec_of[chunk.setting.source]].attacked.names
            keys = (pair_key(chunk.setting, names[index]) for index in chunk.images)
            return sum(key not in store.done for key in keys)

        total = sum(len(chunk.images) for chunk in chunks)
        jobs = [(c, spec_of[c.setting.source]) for c in chunks if missing(c)]
        before = len(store.done)
        count = total - sum(missing(chunk) for chunk, _ in jobs)
        # Networks first, so that no two workers train the same one.
        networks = dict.fromkeys(
            (chunk.setting.architecture, chunk.setting.recipe, spec)
            for chunk, spec in jobs
            if RECIPES[chunk.setting.recipe].trained
        )
        with cpu_threads(1), _pool(min(workers, max(len(jobs), 1))) as pool:
            training = _run(pool, workers, trained_network, [(plan, *n, place) for n in networks])
            for done, _ in enumerate(training):
                report("training networks", done + 1, len(networks))
            report("attacking", count, total)
            attacks = _run(pool, workers, attack_chunk, [(plan, *job, place) for job in jobs])
            for rows, refused in attacks:
                count += len(rows) + sum(refusal.images for refusal in refused)
                store.add(rows)
                refusals += refused
                report("attacking", min(count, total), total)
        refusals = summed(refusals)
        store.write_refusals([asdict(refusal) for refusal in refusals])
        return Built(rows=len(store.done), fresh=len(store.done) - before, refusals=refusals)


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor | None]:
    """Processes with one thread each; none for a single worker."""
    if workers == 1:
        yield None
        return
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    pool = ProcessPoolExecutor(workers, context, _begin, (ours,))
    try:
        yield pool
    except BaseException:
        theirs.close()  # after an error, or Ctrl-C, nobody waits for what is at work
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        theirs.close()


def _begin(parent: Connection) -> None:
    """One thread for a process, which ends when the other end of its pipe is closed, as by a kill."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent decides
    torch.set_num_threads(1)

    def end_with_parent() -> None:
        with contextlib.suppress(EOFError, OSError):
            parent.recv_bytes()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _run(
    pool: ProcessPoolExecutor | None,
    workers: int,
    function: Callable[..., Any],
    jobs: Sequence[tuple[Any, ...]],
) -> Iterator[Any]:
    """Run jobs, in this process without a pool; results come as they are done."""
    if pool is None:
        yield from starmap(function, jobs)
        return
    queue = iter(jobs)
    running: set[Future[Any]] = set()
    while True:
        running |= {pool.submit(function, *job) for job in islice(queue, workers - len(running))}
        if not running:
            return
        done, running = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()
