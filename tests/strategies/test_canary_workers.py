"""Replays are made where attacks run: by a worker, which costs no more than their own records."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from flwr.clientapp import ClientApp

from fl_privacy_audit import read_ledger
from fl_privacy_audit.audit import workers
from fl_privacy_audit.audit.canary import IN_THE_ROUND
from fl_privacy_audit.cli import cli
from fl_privacy_audit.core.seeds import seed_everything
from fl_privacy_audit.ledger.records import AuditRecord
from tests.audit.test_workers import as_fast_as_others, by_target, plain
from tests.support import named_apps
from tests.support.canary_apps import canaries_or_own, plain_app, run

__all__ = ["as_fast_as_others"]
LONG = {"seconds_per_round": 6000}


def audited(directory: Path, app: ClientApp, **settings: Any) -> list[AuditRecord]:
    seed_everything(1)
    return [*run(directory, app, **{"executor": "process", "rounds": 1, **LONG, **settings})]


def test_a_worker_replays_what_the_round_would_have_and_holds_no_round_up(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"rounds": 2, "views": ["server", "canary"], "metrics": ["mse"]}
    settings["claim"] = {"delta": 1e-5, "noise_multiplier": 1.0}
    one = audited(tmp_path / "one", named_apps.counted, executor="inline", **settings)
    assert named_apps.CALLS.count(True) == 4 + 2, "and one a round to measure epsilon"
    named_apps.CALLS.clear()
    left = tmp_path / "left"
    audited(left, named_apps.counted, at_end="leave", **settings)
    assert named_apps.CALLS == [False] * 4, "clients trained in this process, and nothing else did"
    command = ["attack", str(left), "--model", "tests.support.judged_cases:open_net"]
    refused = CliRunner().invoke(cli, command)
    assert refused.exit_code == 1
    assert "name that app too, `--client-app MODULE:NAME`" in refused.output
    app = ["--client-app", "tests.support.named_apps:counted"]
    result = CliRunner().invoke(cli, [*command, *app])
    assert result.exit_code == 0, result.output
    other = [*read_ledger(left).audits]
    assert by_target(one) == by_target(other)
    replayed = [record for record in other if record.view == "canary"]
    assert [record.attacks[0].status for record in replayed] == ["scored"] * 4
    assert all(record.replay is not None and record.replay.fits for record in replayed)
    there, here = (read_ledger(tmp_path / name).measurements for name in ("one", "left"))
    assert [record.over_rounds.rounds for record in here] == [1, 2]
    assert [plain(r.model_dump()) for r in here] == [plain(r.model_dump()) for r in there]
    assert not (left / "spool").exists()


@pytest.mark.parametrize(
    ("app", "how"),
    [
        ("dies", "worker died: exit code 7"),
        pytest.param("hangs", "worker hung", marks=pytest.mark.slow),
    ],
)
def test_a_replay_that_ends_its_worker_costs_its_own_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, app: str, how: str
) -> None:
    monkeypatch.setattr(workers, "MARGIN_SECONDS", 5.0)
    seconds = 1.0 if app == "hangs" else 6000.0
    given = getattr(named_apps, app)
    views = ["server", "canary"]
    records = audited(
        tmp_path, given, views=views, canary={"replays": 1}, seconds_per_round=seconds
    )
    (dead,) = [record for record in records if record.view == "canary"]
    assert dead.reason is not None and dead.client_status == "failed"
    assert dead.reason.code == "replay ended its worker"
    assert str(dead.reason.figures["how"]).startswith(
        how
    )  # after how many seconds is the machine's
    attacked = [r for r in records if r.view == "server" and r.reason is None]
    assert len(attacked) == 1
    assert not (tmp_path / "spool").exists()


def test_an_app_that_has_no_name_is_replayed_in_the_round(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = audited(tmp_path, plain_app(canaries_or_own), rounds=2)
    assert [m for m in caplog.messages if "replayed in the round" in m] == [IN_THE_ROUND]
    replayed = [record for record in records if record.view == "canary"]
    assert [record.attacks[0].status for record in replayed] == ["scored"] * 4
