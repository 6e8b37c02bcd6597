"""Building a corpus: train what must be trained, attack chunk by chunk, record as it goes."""

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from itertools import starmap
from pathlib import Path
from typing import Any, TypeVar, cast

from fl_privacy_audit.core.calls import calls
from fl_privacy_audit.core.devices import cpu_threads, pick_device
from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.core.jobs import Jobs, each_done
from fl_privacy_audit.lab.progress import Stages

from .plan import Chunk, Plan, Refusal, lay_out, summed
from .recipes import RECIPES
from .sources import open_source
from .store import Store
from .work import Place, Task, attack_chunk, do_task, pair_key, trained_network

R = TypeVar("R")


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
    ray: str | None = None,
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
        ray: Address of a Ray cluster that does the work instead; `root` and `checkpoints` lie at the same
            place on each of its machines.
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
        with cpu_threads(1), contextlib.ExitStack() as running:

            def run(
                function: Callable[..., R], of: Sequence[tuple[Any, ...]]
            ) -> Generator[R, None, None]:
                given = [(plan, *one, place) for one in of]
                results = _run(function, given, workers, ray)
                return running.enter_context(contextlib.closing(results))

            for done, _ in enumerate(run(trained_network, [*networks])):
                report("training networks", done + 1, len(networks))
            report("attacking", count, total)
            for rows, refused in run(attack_chunk, jobs):
                count += len(rows) + sum(refusal.images for refusal in refused)
                store.add(rows)
                refusals += refused
                report("attacking", min(count, total), total)
        refusals = summed(refusals)
        store.write_refusals([asdict(refusal) for refusal in refusals])
        return Built(rows=len(store.done), fresh=len(store.done) - before, refusals=refusals)


def _run(
    function: Callable[..., R], jobs: Sequence[tuple[Any, ...]], workers: int, ray: str | None
) -> Generator[R, None, None]:
    """Run jobs, in this process where one worker is enough; results come as they are done."""
    if workers == 1 and ray is None:
        yield from starmap(function, jobs)
    elif jobs:
        pool: Jobs[Task, R] = calls(do_task, workers=min(workers, len(jobs)), ray=ray)
        with contextlib.closing(each_done(pool, [(function, job) for job in jobs])) as all_done:
            for done in all_done:
                if done.error is not None:
                    raise done.error
                yield cast(R, done.result)
