"""The seconds of a round: what they cover, and what is said where they do not do."""

import itertools
import logging
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fl_privacy_audit import Auditor, Truth
from fl_privacy_audit.audit import attack_round, described, measuring, scoring
from fl_privacy_audit.audit import reserve as reserve_module
from fl_privacy_audit.audit.attack_round import Attempts
from fl_privacy_audit.audit.controls import replay_truth
from fl_privacy_audit.audit.replay_check import check_replay
from fl_privacy_audit.audit.reserve import Reserve
from fl_privacy_audit.core import local_training
from fl_privacy_audit.core.errors import TimeUpError, UnmetNeedError
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import Observation
from fl_privacy_audit.metrics.matching import match
from fl_privacy_audit.report.sentences import say
from tests.support.attempt_cases import attempts, made_of
from tests.support.builders import (
    audit_config,
    made,
    make_reply,
    make_truth,
    only,
    real_auditor,
    seen_by,
    tiny_net,
    to_arrays,
    trained,
)
from tests.support.spies import Build

PAUSE = 0.1
ALL = ["noise", "other client", "grey", "undefended"]


class Slow(nn.Module):
    """Waits in every forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.net = tiny_net()

    def forward(self, inputs: Tensor) -> Tensor:
        time.sleep(PAUSE)
        scores: Tensor = self.net(inputs)
        return scores


@pytest.mark.parametrize("attacks", [["swept_inversion"], ["modern_inversion", "dlg", "rgap"]])
@pytest.mark.parametrize("seconds", [0.1, 1.0])
def test_a_round_keeps_its_seconds(tmp_path: Path, attacks: list[str], seconds: float) -> None:
    """Attacks, controls, scores and the replay check of three clients."""
    model = Slow()
    calls: list[float] = []

    def reply(number: int) -> Any:
        truth = make_truth(seed=number)
        after = trained(model.net, truth)
        names = {f"net.{name}": array for name, array in to_arrays(model.net).items()}
        back = {f"net.{name}": array for name, array in to_arrays(after).items()}
        return make_reply(number, sent=lambda: names, returned=lambda: back, truth=lambda: truth)

    config = audit_config(
        tmp_path,
        attacks=attacks,
        controls=True,
        clients_per_round=None,
        seconds_per_round=seconds,
        metrics=["psnr"],
    )
    auditor = Auditor(config, model=model)
    replies = [reply(number) for number in range(3)]

    def note(module: nn.Module, *_: object) -> None:
        if isinstance(module, Slow):
            calls.append(time.monotonic())

    handle = nn.modules.module.register_module_forward_pre_hook(note)
    started = time.monotonic()
    auditor.audit_round(1, replies)
    handle.remove()
    assert calls
    late = [at for at in calls if at > started + 1.1 * seconds + PAUSE]
    # The step that was running: no more guesses side by side than there was time to draw.
    assert len(late) <= 6


def refused(spied: Build, tmp_path: Path) -> dict[str, Callable[[], Auditor]]:
    """Auditors whose attack does not run on the targets of `two_images`, each for another reason."""

    def real(attack: str, **training: Any) -> Auditor:
        told = {"optimizer": "sgd", "learning_rate": 0.1, "steps": 1, "batch_size": 2, **training}
        return real_auditor(tmp_path, attacks=[attack], controls=ALL, training=told)

    return {
        "a need in the table": lambda: real("idlg"),
        "a need of the replay": lambda: real("swept_inversion", steps=64),
        "it raises an unmet need": lambda: spied({"error": UnmetNeedError("no")}, controls=ALL)[0],
        "it fails": lambda: spied({"error": RuntimeError("broken")}, controls=ALL)[0],
    }


@pytest.mark.parametrize(
    "case",
    ["a need in the table", "a need of the replay", "it raises an unmet need", "it fails"],
)
def test_an_attack_that_does_not_run_has_no_controls(
    case: str, spied: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings: list[object] = []
    monkeypatch.setattr(attack_round, "undefended", lambda *_, **__: trainings.append(1))
    truth = make_truth(2)
    reply = make_reply(
        returned=lambda: to_arrays(trained(tiny_net(), truth)), truth=lambda: truth, num_examples=2
    )
    auditor = refused(spied, tmp_path)[case]()
    outcomes = only(auditor.audit_round(1, [reply])).attacks
    assert [(o.status in ("not tested", "failed"), o.controls) for o in outcomes] == [(True, [])]
    assert not trainings


def test_a_target_that_fails_takes_only_its_own_controls_along(tmp_path: Path) -> None:
    huge = {name: torch.full_like(t, 1e38).numpy() for name, t in tiny_net().state_dict().items()}
    replies = [make_reply(0, sent=lambda: huge), make_reply(1)]
    auditor = real_auditor(tmp_path, controls=ALL, clients_per_round=None)
    failed, fine = (record.attacks[0] for record in auditor.audit_round(1, replies))
    assert (failed.status, failed.controls) == ("failed", [])
    assert [c.kind for c in fine.controls] == ALL
    assert fine.status == "scored"


def test_a_control_that_there_is_no_time_to_make_says_so(
    spied: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count(step=1000)
    monkeypatch.setattr(attack_round, "clock", SimpleNamespace(now=lambda: next(ticks)))
    auditor, _ = spied(controls=ALL)
    (outcome,) = only(auditor.audit_round(1, [make_reply()])).attacks
    assert outcome.status == "scored"
    why = outcome.control("undefended")
    assert why is not None
    assert why.status == "not tested"
    assert why.reason is not None
    assert say(why.reason) == "there was no time left to make this control"


def test_what_a_search_needs_is_in_the_record(tmp_path: Path) -> None:
    attack = {"name": "swept_inversion", "options": {"steps": 40, "restarts": 2}}
    auditor = real_auditor(tmp_path, attacks=[attack], seconds_per_round=1000)
    (outcome,) = only(auditor.audit_round(1, [make_reply()])).attacks
    assert outcome.stopped == "finished"
    assert outcome.needed_seconds is not None
    assert outcome.needed_seconds <= outcome.seconds * 40 / 39 + 1e-3  # the first step is left out


def many(count: int) -> Attempts:
    truth = make_truth(count)
    noise = torch.rand(count, 1, 1, 1, generator=torch.Generator().manual_seed(1)) / 2
    return attempts(made_of((truth.images + noise).clamp(0, 1)), truth, controls=1)


def test_with_little_time_some_originals_are_scored_the_same_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "PIXELS_AT_ONCE", 20 * 64)
    of_target = many(30)
    config = audit_config(tmp_path, metrics=["psnr", "mse"])
    whole, cut = (
        scoring.score_round([of_target], config=config, pictures=[None], deadline=deadline)[0]
        for deadline in (float("inf"), time.monotonic())
    )
    (control,) = cut.controls
    assert "originals scored" not in whole.details
    assert (cut.details["originals scored"], cut.details["originals"]) == (10, 30)
    for name in ("psnr", "mse"):
        kept = cut.scores[name].each
        assert len(kept) == 10
        assert control.scores[name].each == kept
        rest = iter(whole.scores[name].each)
        assert all(value in rest for value in kept), "in the order of the truth"
    assert cut.status == "scored"
    again = scoring.score_round([of_target], config=config, pictures=[None], deadline=0.0)[0]
    assert again.scores == cut.scores


def test_in_lots_the_scores_are_those_of_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_target = many(30)
    config = audit_config(tmp_path, metrics=["psnr", "ssim"])
    (whole,) = scoring.score_round([of_target], config=config, pictures=[None])
    monkeypatch.setattr(measuring, "PIXELS_AT_ONCE", 7 * 64)
    (lots,) = scoring.score_round([of_target], config=config, pictures=[None])
    assert lots == whole


def test_matching_is_cut_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "MATCHED_AT_ONCE", 5)
    matched: list[int] = []

    def counted(images: Tensor, originals: Tensor) -> Tensor:
        matched.append(len(originals))
        return match(images, originals)

    monkeypatch.setattr(scoring, "match", counted)
    of_target = many(30)
    config = audit_config(tmp_path, metrics=["psnr"])
    for deadline, most in ((0.0, 5), (time.monotonic() + 1000, 30)):
        matched.clear()
        (outcome,) = scoring.score_round(
            [of_target], config=config, pictures=[None], deadline=deadline
        )
        assert matched == [5, most, most]
        assert len(outcome.scores["psnr"].each) == most


class Ticking:
    """A clock that moves on with every local training that is begun."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        fake = SimpleNamespace(now=lambda: self.now)
        monkeypatch.setattr(local_training, "clock", fake)

        def counted(*args: Any, **kwargs: Any) -> Any:
            result = replay_truth(*args, **kwargs)
            self.now += 1
            return result

        monkeypatch.setattr(described, "replay_truth", counted)


def dropping() -> tuple[Observation, Truth]:
    """A client with dropout, whose update no replay gives exactly."""
    model = made(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3)).train()
    truth = make_truth(4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        returned = to_arrays(trained(model, truth))
    return seen_by(model, returned, num_examples=4), truth


@pytest.mark.parametrize("deadline", [0.5, 5.5])
def test_a_replay_check_without_time_is_none(
    deadline: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, truth = dropping()
    clock = Ticking(monkeypatch)
    with pytest.raises(TimeUpError, match="no time left to train as the client did"):
        check_replay(seen, truth, seed=0, deadline=deadline)
    assert clock.now <= deadline + 1


def test_with_less_time_a_replay_check_has_wider_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, truth = dropping()
    whole = check_replay(seen, truth, seed=0)
    clock = Ticking(monkeypatch)
    short = check_replay(seen, truth, seed=0, deadline=8.5)
    assert clock.now <= 9.5
    assert whole.fits is None, "four images without half of their pixels tell nothing"
    assert short.fits is None
    (few, many), (low, high) = short.length_range or (0, 0), whole.length_range or (0, 0)
    assert few < low and many > high


def test_a_difference_that_there_is_no_time_to_explain(monkeypatch: pytest.MonkeyPatch) -> None:
    model, truth, other = tiny_net(), make_truth(4), make_truth(4, seed=9)
    seen = seen_by(model, to_arrays(trained(model, other)), num_examples=4)
    clock = Ticking(monkeypatch)
    found = check_replay(seen, truth, seed=0, deadline=3.5)
    assert clock.now <= 4.5
    assert not found.fits
    assert found.hint == Reason.of("no time to explain", cosine=found.cosine)
    assert "no time" in say(found.hint)


def test_a_record_says_why_its_training_was_not_replayed(
    spied: Build, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def late(*_: object, **__: object) -> None:
        raise TimeUpError("too late")

    monkeypatch.setattr("fl_privacy_audit.audit.capture_auditor.check_replay", late)
    auditor, _ = spied()
    with caplog.at_level(logging.WARNING):
        record = only(auditor.audit_round(1, [make_reply()]))
    assert record.replay is None
    assert record.no_replay == Reason.of("time up", message="too late")
    assert "could not be replayed: too late" in caplog.text


def test_an_attack_that_gave_nothing_tells_nothing_of_what_scoring_takes(spied: Build) -> None:
    auditor, _ = spied({"error": UnmetNeedError("not this one")})
    (outcome,) = only(auditor.audit_round(1, [make_reply()])).attacks
    assert outcome.status == "not tested"
    assert auditor._work.reserve.seconds("scoring", 10, 60.0) == pytest.approx(6.0)


def test_what_is_kept_back_is_what_the_work_took(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([5.0, 5.04])
    monkeypatch.setattr(reserve_module, "clock", SimpleNamespace(now=lambda: next(ticks)))
    reserve = Reserve()
    assert reserve.seconds("scoring", 10, 60.0) == pytest.approx(6.0)
    assert reserve.seconds("scoring", 0, 60.0) == 0
    assert reserve.seconds("scoring", 10, -1.0) == 0
    with reserve.measured("scoring", 4):
        pass
    assert reserve.seconds("scoring", 100, 60.0) == pytest.approx(1.2)
    assert reserve.seconds("scoring", 10**9, 60.0) == pytest.approx(30.0)
    assert reserve.seconds("replay", 1, 60.0) == pytest.approx(6.0)
