"""Profiles: what they fix, that changes are said, and that a smoke run gets no verdict."""

from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner

from fl_privacy_audit import AuditConfig
from fl_privacy_audit.attacks import ATTACKS
from fl_privacy_audit.cli import cli
from fl_privacy_audit.core.config import ALL_CONTROLS, AUTO
from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.core.profiles import PROFILES, Profile
from fl_privacy_audit.ledger.ledger import last_run, read_ledger
from fl_privacy_audit.report.html import render_html
from fl_privacy_audit.report.markdown import render_markdown
from fl_privacy_audit.report.opening import headline
from fl_privacy_audit.report.summary import summarise
from fl_privacy_audit.verdicts.rules import judge_run
from tests.support.builders import IMAGE, make_reply, real_auditor, write_ledger
from tests.support.report_builders import SWEEP, write_setting


def config(**settings: Any) -> AuditConfig:
    return AuditConfig.build({"image": IMAGE, **settings})


def test_every_profile_fixes_the_same_settings() -> None:
    assert PROFILES.keys() == set(get_args(Profile))
    assert len({frozenset(fixed) for fixed in PROFILES.values()}) == 1
    for name in PROFILES:
        made = config(profile=name)
        assert made.profile_changes == []
        assert {attack.name for attack in made.attacks} <= {*ATTACKS, AUTO}
    assert config(profile="standard").controls == ALL_CONTROLS
    assert config(profile="smoke").controls == ()


def test_what_is_set_besides_counts_and_is_said() -> None:
    made = config(profile="standard", seed=7, every=1, attacks="dlg")
    assert made.profile_changes == ["attacks", "seed"]
    assert made.replace(seed=0).profile_changes == ["attacks"]
    assert config(seed=7).profile_changes == []
    run_config = {"audit.profile": "thorough", "audit.every": 3}
    run_config |= {f"audit.image.{k}": v for k, v in IMAGE_TEXT.items()}
    made = AuditConfig.from_run_config(run_config)
    assert (made.profile, made.profile_changes) == ("thorough", ["every"])


IMAGE_TEXT = {"shape": "1, 8, 8", "mean": "0.5", "std": "0.25"}


@pytest.mark.parametrize("wrong", ["quick", 3, ["smoke"]])
def test_another_profile_is_refused(wrong: object) -> None:
    with pytest.raises(ConfigError, match="`profile`"):
        config(profile=wrong)


def test_the_start_of_a_run_says_its_profile(tmp_path: Path) -> None:
    auditor = real_auditor(tmp_path, profile="standard", seconds_per_round=60)
    auditor.audit_round(1, [make_reply()])
    run = last_run(read_ledger(tmp_path))
    assert run.run.stated.profile == "standard"
    assert run.run.profile_changes == ["attacks", "controls", "seconds_per_round"]
    (verdict,) = judge_run(run)
    assert (verdict.profile, verdict.profile_changes) == ("standard", run.run.profile_changes)


def of_profile(directory: Path, name: str, changes: list[str]) -> Path:
    """A run that leaks, made with a profile."""
    contents = read_ledger(write_setting(directory / "plain", SWEEP[0]))
    (run,) = contents.runs
    told = run.model_copy(
        update={"config": {**run.config, "profile": name}, "profile_changes": changes}
    )
    return write_ledger(directory / name, [told, *contents.audits, *contents.evaluations])


def test_a_smoke_run_gets_no_verdict(tmp_path: Path) -> None:
    smoke = of_profile(tmp_path, "smoke", ["controls"])
    for verdict in judge_run(last_run(read_ledger(smoke))):
        assert (verdict.word, verdict.reason.code) == ("inconclusive", "smoke run")
        assert {one.word for one in verdict.attacks} == {"inconclusive"}
    summary = summarise([smoke])
    assert headline(summary, "server") == "1 smoke run without a verdict."
    for text in (render_markdown(summary), render_html(summary, pictures=False)):
        assert "1 smoke run without a verdict." in text
        assert "smoke, changed: controls" in text


def test_the_profile_stands_beside_the_verdict(tmp_path: Path) -> None:
    made = of_profile(tmp_path, "standard", ["every"])
    for command in ("show", "compare"):
        result = CliRunner().invoke(cli, [command, str(made)])
        assert "  profile standard, changed: every\n" in result.output
    summary = summarise([made])
    assert headline(summary, "server").startswith("1 setting: 1 leaked.")
    for text in (render_markdown(summary), render_html(summary, pictures=False)):
        assert "standard, changed: every" in text
