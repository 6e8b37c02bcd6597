"""Jobs on a cluster outlive the child that talks to it, and whoever has them outlives the cluster."""

import sys
from pathlib import Path
from typing import Any

import pytest

from fl_privacy_audit.core import ray_jobs
from fl_privacy_audit.core.errors import AuditError
from fl_privacy_audit.core.jobs import each_done
from fl_privacy_audit.core.ray_jobs import RETRIES, RayJobs

STAND_IN = """
import os, pickle, sys
from pathlib import Path
from typing import Any
from fl_privacy_audit.core.errors import AuditError
from fl_privacy_audit.core.jobs import answered, asked

messages = asked(sys.stdin.buffer)
place, deaths = pickle.loads(messages.get())["shared"]
(place / str(os.getpid())).touch()
answered(1, None, None)
for count in range(10**6):
    number, packed = pickle.loads(messages.get())
    if count == 2 and len(list(place.iterdir())) <= deaths:
        os._exit(9)
    is_error = packed == "bad"
    answered(1, (number, is_error, AuditError("no") if is_error else 2 * packed), None)
"""
"""Answers two tasks and dies with the third, as often as it is told."""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that talks to no cluster."""
    monkeypatch.setattr(ray_jobs, "COMMAND", (sys.executable, "-c", STAND_IN))


def twice(shared: object, number: int) -> int:
    """What is done on the cluster."""
    return 2 * number


@pytest.mark.usefixtures("stand_in")
def test_a_child_that_dies_costs_no_task(tmp_path: Path) -> None:
    jobs: RayJobs[object, int] = RayJobs(twice, shared=(tmp_path, RETRIES), address=None)
    done = list(each_done(jobs, [*range(9), "bad"]))
    assert sorted(one.result for one in done if one.result is not None) == [*range(0, 18, 2)]
    assert [(one.task, str(one.error)) for one in done if one.error] == [("bad", "no")]
    assert jobs.gone is None
    assert len(list(tmp_path.iterdir())) == RETRIES + 1


@pytest.mark.usefixtures("stand_in")
def test_where_it_dies_for_ever_each_task_says_so(tmp_path: Path) -> None:
    jobs: RayJobs[int, int] = RayJobs(twice, shared=(tmp_path, 100), address=None)
    for number in range(20):
        jobs.submit(number)
    done = []
    while jobs.pending:
        if (one := jobs.done(1.0)) is not None:
            done.append(one)
    assert sorted(one.task for one in done) == [*range(20)]
    lost = {str(one.error) for one in done if one.error is not None}
    assert lost == {"the Ray cluster was lost (exit code 9)"}
    assert isinstance(jobs.gone, AuditError)
    jobs.submit(20)
    last = jobs.done(1.0)
    assert last is not None and last.error is jobs.gone
    jobs.stop()


def test_a_cluster_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    refuses = (
        "import pickle, sys\n"
        "from fl_privacy_audit.core.jobs import answered, asked\n"
        "asked(sys.stdin.buffer).get()\n"
        "answered(1, ConnectionError('nobody listens'), None)\n"
    )
    monkeypatch.setattr(ray_jobs, "COMMAND", (sys.executable, "-c", refuses))
    with pytest.raises(ConnectionError, match="nobody listens"):
        RayJobs(twice, address="127.0.0.1:1")


@pytest.mark.exhaustive  # Ray itself waits for a minute
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of Ray's own files
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_this_process_outlives_its_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.cluster_utils import Cluster

    # Else a simulation that starts meanwhile joins this cluster, and dies with it.
    monkeypatch.setattr("ray._private.utils.write_ray_address", lambda *_: None)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    jobs: RayJobs[int, int] = RayJobs(twice, address=cluster.address)
    try:
        jobs.submit(4)
        while (done := jobs.done(1.0)) is None:
            pass
        assert done.result == 8
        head: Any = cluster.head_node
        head.kill_gcs_server()
        while jobs.gone is None:
            jobs.done(1.0)
        assert jobs.pending == 0
    finally:
        jobs.stop()
        cluster.shutdown()  # type: ignore[no-untyped-call]
