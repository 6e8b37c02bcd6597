"""The table of attacks: what it promises, what others may add, and needs checked beforehand."""

from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from fl_privacy_audit import attacks
from fl_privacy_audit.attacks import ATTACKS, THREAT_MODELS, AttackEntry, Needs, reconstruct_each
from fl_privacy_audit.cli import cli
from fl_privacy_audit.core.errors import ConfigError, UnmetNeedError
from fl_privacy_audit.core.types import Observation, Reconstruction
from tests.support.cases import LeNet, observation, photos, seeded


class SmallLeNet(LeNet):
    def __init__(self) -> None:
        super().__init__(size=8)


def seen(count: int = 1, **how: Any) -> Observation:
    return observation(seeded(SmallLeNet), photos(8)[:count], torch.arange(count), **how)


def test_every_row_is_complete() -> None:
    for name, entry in ATTACKS.items():
        assert entry.threat_model in THREAT_MODELS, name
        assert entry.paper
        assert entry.cost
        assert (entry.needs.server == "malicious") == (entry.threat_model >= "F")


def test_the_command_prints_every_row() -> None:
    printed = CliRunner().invoke(cli, ["attacks"], catch_exceptions=False).output
    assert all(name in printed for name in ATTACKS)
    assert all(meaning in printed for meaning in THREAT_MODELS.values())


@pytest.mark.parametrize(
    ("needs", "observed", "reason"),
    [
        (Needs(update="gradient"), seen(2, batches=[[0], [1]]), "the client took 2 local steps"),
        (Needs(most_images=1), seen(2), "at most 1, but there are 2 images"),
        (
            Needs(gradient_length=True),
            replace(seen(), gradient_scale_known=False),
            "give the local learning rate",
        ),
    ],
)
def test_an_unmet_need_keeps_the_attack_from_starting(
    needs: Needs, observed: Observation, reason: str
) -> None:
    class Never:
        name = "never"

        def reconstruct(self, *args: Any, **kwargs: Any) -> Reconstruction:
            raise AssertionError("it was started")

    (result,) = reconstruct_each(Never(), [observed], rngs=[torch.Generator()], needs=needs)
    assert isinstance(result, UnmetNeedError)
    assert reason in str(result)


def test_needs_are_met_by_one_plain_step() -> None:
    Needs(update="gradient", gradient_length=True, most_images=1).check(seen())


ROW = replace(ATTACKS["dlg"], paper="A stranger 2026")


def offer(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    point = EntryPoint(name=name, value=value, group=attacks.ENTRY_POINTS)
    monkeypatch.setattr(attacks, "entry_points", lambda group: EntryPoints([point]))


def test_another_package_adds_an_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, "theirs", "tests.attacks.test_table:ROW")
    assert attacks.all_attacks()["theirs"] is ROW
    assert isinstance(ROW, AttackEntry)
    assert attacks.make_attack("theirs", {"steps": 1}).name == "dlg"


def test_what_another_package_adds_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, "theirs", "tests.attacks.test_table:SmallLeNet")
    with pytest.raises(ConfigError, match=r"'theirs' of group .* must be an AttackEntry"):
        attacks.all_attacks()
    offer(monkeypatch, "dlg", "tests.attacks.test_table:ROW")
    with pytest.raises(ConfigError, match="two attacks are called 'dlg'"):
        attacks.all_attacks()


@pytest.mark.parametrize("settings", [{"restarts": 0}, {"steps": 0}, {"steps": 1.5}])
def test_numbers_that_make_no_sense_are_refused_before_training(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be a whole number from 1"):
        attacks.make_attack("swept_inversion", settings)
