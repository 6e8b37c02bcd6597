"""The federation in this process and through Ray, and what the demo promises."""

import io
import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from fl_privacy_audit import AttackConfig, AuditConfig, AuditError, Auditor, read_ledger
from fl_privacy_audit.simulate import demo
from fl_privacy_audit.simulate.federation.client_app import app
from fl_privacy_audit.simulate.federation.config import IMAGE, FederationConfig
from fl_privacy_audit.simulate.federation.model import make_net
from fl_privacy_audit.simulate.federation.server import federate
from fl_privacy_audit.verdicts.compare import compare
from tests.support.grid import InProcessGrid
from tests.support.in_process import do_here

ROOT = Path(__file__).parents[2]


def auditor(directory: Path, federation: FederationConfig, **changes: object) -> Auditor:
    config = {
        "directory": directory,
        "image": IMAGE,
        "executor": "inline",
        "attacks": [{"name": "inverting_gradients", "options": {"steps": 3}}],
        "training": federation.known_training,
        **changes,
    }
    return Auditor(AuditConfig.build(config), model=make_net(FederationConfig()))


@pytest.mark.parametrize("noise", [-1.0, 1.0])
def test_it_trains_audits_and_reports_epsilon(tmp_path: Path, noise: float) -> None:
    federation = FederationConfig(images_per_client=8, num_rounds=3, noise_multiplier=noise)
    federate(InProcessGrid(app, 3), federation, auditor(tmp_path, federation))
    contents = read_ledger(tmp_path)
    assert [e.round for e in contents.evaluations] == [0, 1, 2, 3]
    assert {r.partition for r in contents.audits} == {0, 1, 2}
    assert [o.status for r in contents.audits if r.reason is None for o in r.attacks] == [
        "scored"
    ] * 3
    epsilons = [r.reported.get("epsilon") for r in contents.audits if r.partition == 0]
    if noise < 0:
        assert epsilons == [None] * 3
    else:
        numbers = [e for e in epsilons if e is not None]
        assert len(numbers) == 3
        assert numbers == sorted(set(numbers))


def test_settings_are_comparable_because_they_see_the_same_images(tmp_path: Path) -> None:
    for noise in (-1.0, 1.0):
        federation = FederationConfig(images_per_client=8, num_rounds=2, noise_multiplier=noise)
        place = tmp_path / str(noise)
        federate(
            InProcessGrid(app, 3), federation, auditor(place, federation, setting=f"noise {noise}")
        )
    comparison = compare([tmp_path / "-1.0", tmp_path / "1.0"])
    assert [row.setting for row in comparison.rows] == ["noise -1.0", "noise 1.0"]
    assert [n for n in comparison.notes if n.code != "unavailable"] == []


def test_the_demo_leaves_what_it_promises(tmp_path: Path) -> None:
    """All of the demo but Ray and long attacks."""
    console = Console(file=io.StringIO(), width=200)
    attack = demo.ATTACK.model_copy(update={"options": {"steps": 2}})
    comparison = demo.run_demo(tmp_path, console=console, rounds=2, attack=attack, do=do_here)
    assert [row.setting for row in comparison.rows] == [
        defence["label"] for defence in demo.DEFENCES.values()
    ]
    assert json.loads((tmp_path / "comparison.json").read_text())["rows"][0]["attacked"] == 2
    assert "| no defence |" in (tmp_path / "comparison.md").read_text()
    picture, page = tmp_path / "reconstructions.png", tmp_path / "report.html"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (picture, page)] == [0o600] * 2
    with Image.open(picture) as image:
        assert image.width > 100
    text = page.read_text()
    assert text.index("no defence") < text.index("DP-SGD, noise 1")
    assert "data:image/png" in text
    assert str(page) in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_demo_fails_when_a_record_has_no_score(tmp_path: Path) -> None:
    needs_a_linear_layer = AttackConfig(name="first_linear")
    with pytest.raises(
        AuditError, match=r"no defence, round 1, partition \d: not tested: .*fully connected layer"
    ):
        demo.run_demo(
            tmp_path,
            console=Console(quiet=True),
            rounds=1,
            attack=needs_a_linear_layer,
            do=do_here,
        )


@pytest.mark.slow
def test_one_round_through_ray(tmp_path: Path) -> None:
    """In a process of its own: Ray's warnings are not ours to turn into errors."""
    script = f"""
from pathlib import Path
from tests.simulate.test_federation import auditor
from fl_privacy_audit.simulate.federation.config import FederationConfig
from fl_privacy_audit.simulate.federation.simulation import in_ray
federation = FederationConfig(images_per_client=8, num_rounds=1, noise_multiplier=1.0)
audit = auditor(Path({str(tmp_path)!r}), federation)
in_ray(federation, audit, num_clients=2, cores=None, on_round=print)
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, timeout=1800)
    records = read_ledger(tmp_path).audits
    assert sorted(r.partition or 0 for r in records) == [0, 1]
    assert sum(o.status == "scored" for r in records for o in r.attacks) == 1
