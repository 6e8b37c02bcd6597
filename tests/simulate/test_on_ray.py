"""A sweep and a corpus on a Ray cluster of two nodes are those of one process."""

import sys
from pathlib import Path
from typing import Any

import pytest

from fl_privacy_audit.core.errors import AuditError
from fl_privacy_audit.lab.corpus import build_corpus
from fl_privacy_audit.simulate.sweep import run
from fl_privacy_audit.simulate.sweep.files import FINISHED, LOG
from fl_privacy_audit.simulate.sweep.run import Event, run_sweep
from tests.lab.test_corpus_build import MIXED, build, contents
from tests.simulate.test_sweep_run import three

FAKE = """
import json, os, sys
folder = sys.argv[1]
spec = json.load(open(os.path.join(folder, "run.json")))
name = spec["audit"]["setting"]
print("told", name, file=sys.stderr)
if name == "sign" and not os.path.exists(sys.argv[0] + ".again"):
    sys.exit("it broke")
os.mkdir(os.path.join(folder, "pictures"))
open(os.path.join(folder, "pictures", name), "w").write(folder)
with open(os.path.join(folder, "finished.json"), "w") as file:
    json.dump({"digest": spec["digest"]}, file)
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of Ray's own files
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_cluster_does_what_this_machine_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    # Else a simulation that starts meanwhile joins this cluster, and dies with it.
    monkeypatch.setattr("ray._private.utils.write_ray_address", lambda *_: None)
    monkeypatch.setattr(run, "_compare", lambda runs, out: {})
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    worker, told, out = (sys.executable, "-S", str(script)), list[Event](), tmp_path / "out"
    build(tmp_path / "here", MIXED)
    small: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args=small)
    try:
        cluster.add_node(**small)
        address = cluster.address
        build_corpus(tmp_path / "there", MIXED, ray=address, device="cpu")
        with pytest.raises(AuditError, match="1 of 3 runs failed"):
            run_sweep(three(), out, workers=2, ray=address, worker=worker, on_event=told.append)
        assert "it broke" in (out / "sign" / LOG).read_text()
        assert (out / "none" / "pictures" / "none").read_text() != str(out / "none")
        Path(f"{script}.again").touch()
        run_sweep(three(), out, workers=2, ray=address, worker=worker, on_event=told.append)
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]
    assert all((out / one.folder / FINISHED).exists() for one in three())
    kinds = [event.kind for event in told if event.run.label == "sign"]
    assert kinds == ["started", "failed", "started", "finished"]
    assert sorted(e.kind for e in told if e.run.label == "none") == [
        "finished",
        "skipped",
        "started",
    ]
    here, there = contents(tmp_path / "here"), contents(tmp_path / "there")
    rows = [sorted(each.pop("manifest.csv").splitlines()) for each in (here, there)]
    assert rows[0] == rows[1]
    assert here == there
