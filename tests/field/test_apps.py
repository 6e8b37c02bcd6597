"""Whole apps in the patterns of Flower's own examples, at their own settings, by ``flwr run``."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_privacy_audit.ledger import read_ledger
from fl_privacy_audit.ledger.ledger import last_run
from fl_privacy_audit.ledger.records import AuditRecord
from fl_privacy_audit.report.sentences import advise, say
from fl_privacy_audit.verdicts.rules import judge_run
from fl_privacy_audit.verdicts.verdict import SettingVerdict
from tests.support.cases import small_images
from tests.support.flwr_run import flwr_run

APPS = Path(__file__).with_name("apps")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10,000 images with labels, as the apps read them."""
    path = tmp_path_factory.mktemp("data") / "images.npz"
    images, labels = small_images(10_000)
    np.savez(path, images=images, labels=labels)
    return path


def verdict_in(directory: Path) -> SettingVerdict:
    (verdict,) = judge_run(last_run(read_ledger(directory)))
    return verdict


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param("swept_inversion", marks=pytest.mark.exhaustive),
        pytest.param("auto", marks=pytest.mark.slow),
    ],
)
def test_a_quick_start_of_125_steps_gets_an_answer_or_is_told_how(
    data: Path, tmp_path: Path, attack: str
) -> None:
    log = flwr_run(
        APPS / "quickstart",
        tmp_path / "home",
        started_in=tmp_path,  # not the app's folder: its `audit.toml` lies with its modules
        data=str(data),
        audit_directory=str(tmp_path / "audit"),
        audit_attack=attack,
        num_server_rounds=2,
    )
    verdict = verdict_in(tmp_path / "audit")
    assert f"privacy audit: {verdict.word}" in log
    if verdict.replay is not None:  # there was time for it
        assert verdict.replay.fitting == verdict.replay.records
    if attack == "swept_inversion":
        assert verdict.word == "not tested"
        assert "surrogate_model_extension" in say(verdict.reason)
    else:
        assert verdict.word == "inconclusive"  # two clients, each with one batch for ever
        assert advise(verdict.reason)


def advanced(
    data: Path, folder: Path, **run_config: Any
) -> tuple[list[AuditRecord], SettingVerdict]:
    """Records and verdict of the app whose clients put their own heads in after their first round."""
    flwr_run(
        APPS / "advanced",
        folder / "home",
        started_in=folder,
        data=str(data),
        results=str(folder),
        audit__directory=str(folder / "audit"),
        **run_config,
    )
    assert (folder / "results.json").exists()
    assert list(folder.glob("model_state_acc_*_round_*.pth"))
    records = [r for r in last_run(read_ledger(folder / "audit")).audits if r.reason is None]
    return records, verdict_in(folder / "audit")


@pytest.mark.exhaustive
def test_heads_of_the_clients_own_are_found_out(data: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.npz"
    stored = np.load(data)
    np.savez(few, images=stored["images"][:2500], labels=stored["labels"][:2500])
    records, verdict = advanced(few, tmp_path)
    assert len(records) == 6
    assert all(r.replay is None or r.replay.fits for r in records if r.round == 1)
    assert not any(r.replay and r.replay.fits for r in records if r.round > 1)
    assert verdict.word in ("leaked", "inconclusive")
    assert verdict.word == "leaked" or advise(verdict.reason)


@pytest.mark.exhaustive
def test_the_first_round_of_such_clients_can_be_judged(data: Path, tmp_path: Path) -> None:
    """What the replay check advises, followed: 6 of 24 clients train in round 1."""
    records, verdict = advanced(
        data, tmp_path, nodes=24, audit__every=3, audit__clients_per_round=6
    )
    assert [r.round for r in records] == [1] * 6
    assert all(r.replay is None or r.replay.fits for r in records)
    assert verdict.reason.code not in ("description does not fit", "too few batches")
