"""Building a corpus: train what must be trained, attack chunk by chunk, record as it goes."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self

import torch

from fl_privacy_audit.core.devices import cpu_threads, pick_device
from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.lab.progress import Stages

from .plan import Chunk, Plan, Refusal, lay_out
from .recipes import RECIPES
from .sources import open_source
from .store import Store
from .work import Place, attack_chunk, pair_key, trained_network


@dataclass(frozen=True, kw_only=True)
class Built:
    """What a build did.

    Attributes:
        rows: In the corpus now.
        fresh: Of these, made by this build.
        refusals: What was asked for and is not there, with the reason.
    """

    rows: int
    fresh: int
    refusals: list[Refusal]


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
    chosen = pick_device(device)
    specs = {spec for part in plan.parts for spec in part.sources}
    sources = {spec: open_source(spec, root, download=download) for spec in sorted(specs)}
    names = [source.name for source in sources.values()]
    if len(set(names)) < len(names):
        raise CorpusError(f"two sources have the same name: {sorted(names)}")
    chunks, refusals = lay_out(plan, sources)
    spec_of = {source.name: spec for spec, source in sources.items()}
    place = Place(
        root=str(root),
        download=False,
        checkpoints=(checkpoints or directory / "victims").absolute(),
        device=str(chosen),
    )
    with Store(directory, _fixed(plan)) as store:
        store.write_classes({source.name: source.classes for source in sources.values()})
        held = {spec: source.attacked.names for spec, source in sources.items()}

        def missing(chunk: Chunk) -> int:
            known = held[spec_of[chunk.setting.source]]
            keys = (pair_key(chunk.setting, known[index]) for index in chunk.images)
            return sum(key not in store.done for key in keys)

        total = sum(len(chunk.images) for chunk in chunks)
        todo = [chunk for chunk in chunks if missing(chunk)]
        before = len(store.done)
        count = total - sum(missing(chunk) for chunk in todo)
        with cpu_threads(1), _Pool(workers) as pool:
            _train(pool, plan, todo, spec_of, place, report)
            jobs = [(plan, chunk, spec_of[chunk.setting.source], place) for chunk in todo]
            report("attacking", count, total)
            for made in pool.run(attack_chunk, jobs):
                count += len(made.pairs) + sum(refusal.images for refusal in made.refusals)
                store.add(made.pairs)
                refusals += made.refusals
                report("attacking", min(count, total), total)
        refusals = _summed(refusals)
        store.write_refusals([asdict(refusal) for refusal in refusals])
        return Built(rows=len(store.done), fresh=len(store.done) - before, refusals=refusals)


def _fixed(plan: Plan) -> dict[str, Any]:
    """What may not change when a build goes on."""
    return {
        "format": 1,
        "seed": plan.seed,
        "size": plan.size,
        "training": str(plan.training),
        "side_by_side": plan.side_by_side,
    }


def _train(
    pool: "_Pool",
    plan: Plan,
    chunks: Iterable[Chunk],
    spec_of: dict[str, str],
    place: Place,
    report: Stages,
) -> None:
    """Networks first, so that no two workers train the same one."""
    wanted = dict.fromkeys(
        (chunk.setting.architecture, chunk.setting.recipe, spec_of[chunk.setting.source])
        for chunk in chunks
        if RECIPES[chunk.setting.recipe].trained
    )
    for done, _ in enumerate(pool.run(trained_network, [(plan, *one, place) for one in wanted])):
        report("training networks", done + 1, len(wanted))


def _summed(refusals: Iterable[Refusal]) -> list[Refusal]:
    totals: dict[tuple[str, str], int] = {}
    for one in refusals:
        key = (one.setting, one.reason)
        totals[key] = totals.get(key, 0) + one.images
    return [Refusal(setting=s, reason=r, images=n) for (s, r), n in totals.items()]


class _Pool:
    """Runs jobs here, or in processes with one thread each; results come as they are done."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self._workers > 1:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._workers, context, torch.set_num_threads, (1,))
        return self

    def __exit__(self, *args: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def run(self, function: Callable[..., Any], jobs: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        if self._pool is None:
            for job in jobs:
                yield function(*job)
            return
        queue = iter(jobs)
        running: set[Future[Any]] = {
            self._pool.submit(function, *job) for job in islice(queue, self._workers)
        }
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                for job in islice(queue, 1):
                    running.add(self._pool.submit(function, *job))
                yield future.result()
