"""From a client's update to a verdict, on networks small enough to know the answer."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.ledger.ledger import last_run, read_ledger
from fl_privacy_audit.verdicts.rules import judge_run
from fl_privacy_audit.verdicts.verdict import SettingVerdict
from tests.support.builders import (
    make_reply,
    make_truth,
    real_auditor,
    tiny_net,
    to_arrays,
    trained,
)
from tests.support.judged_cases import audited, gaussian, replaced_by_noise
from tests.support.spies import Build

OPTIMISED: dict[str, Any] = {"net": tiny_net, "seconds_per_round": 1e6}


def by_steps(steps: int) -> list[dict[str, object]]:
    return [{"name": "inverting_gradients", "options": {"steps": steps, "restarts": 1}}]


def words(verdict: SettingVerdict) -> tuple[str, set[str]]:
    (attack,) = verdict.attacks
    return verdict.word, set(attack.agreement.values())


def test_an_open_network_without_defence_leaks(tmp_path: Path) -> None:
    verdict = audited(tmp_path)
    assert words(verdict) == ("leaked", {"leaked"})
    (attack,) = verdict.attacks
    assert attack.net is not None and attack.undefended is not None
    assert attack.net.mean == pytest.approx(attack.undefended.mean, abs=1e-3)
    assert (attack.records, attack.batches, attack.reached) == (6, 6, 6)


def test_noise_in_place_of_the_update_is_never_leaked(tmp_path: Path) -> None:
    """Twenty trials by the closed-form attack, judged by every metric."""
    found = Counter(
        word
        for seed in range(20)
        for word in words(audited(tmp_path / str(seed), tamper=replaced_by_noise, seed=seed))[1]
    )
    assert found["leaked"] == 0
    assert found["withstood these attacks"] > 0


@pytest.mark.slow
def test_noise_in_place_of_the_update_is_never_leaked_to_an_optimisation_attack(
    tmp_path: Path,
) -> None:
    found = Counter(
        audited(
            tmp_path / str(seed),
            tamper=replaced_by_noise,
            seed=seed,
            attacks=by_steps(60),
            **OPTIMISED,
        ).word
        for seed in range(20)
    )
    # Nobody told the audit of the noise, so it must not say that a defence held either.
    assert found == {"inconclusive": 20}


def test_two_steps_are_too_weak_to_say_anything(tmp_path: Path) -> None:
    undefended = audited(tmp_path / "a", attacks=by_steps(2), **OPTIMISED)
    noisy = audited(
        tmp_path / "b",
        attacks=by_steps(2),
        tamper=gaussian(0.1),
        defence={"name": "gaussian", "options": {"std": 0.1}},
        **OPTIMISED,
    )
    for verdict in (undefended, noisy):
        assert verdict.word == "inconclusive"
        assert verdict.reason.code == "attack too weak"


def test_little_noise_leaks_and_much_does_not(tmp_path: Path) -> None:
    def noisy(name: str, std: float, *, told: bool = True) -> SettingVerdict:
        defence = {"name": "gaussian", "options": {"std": std}} if told else "none"
        return audited(tmp_path / name, tamper=gaussian(std), rounds=6, defence=defence)

    little, much = noisy("little", 1e-3), noisy("much", 1.0)
    untold = noisy("untold", 1.0, told=False)
    assert (untold.word, untold.reason.code) == ("inconclusive", "description does not fit")
    assert little.word == "leaked"
    assert much.word == "withstood these attacks"
    nets = [v.attacks[0].net for v in (little, much)]
    assert nets[0] is not None and nets[1] is not None
    assert nets[0].mean > nets[1].mean + 0.5


# ---- the controls in the record


def test_every_control_is_recorded_and_scored(tmp_path: Path) -> None:
    auditor = real_auditor(tmp_path, controls=True, clients_per_round=None)
    records = auditor.audit_round(1, [make_reply(0), make_reply(1)])
    assert list(read_ledger(tmp_path).audits) == records
    for record in records:
        (outcome,) = record.attacks
        kinds = ["noise", "other client", "grey", "undefended"]
        assert [c.kind for c in outcome.controls] == kinds
        for control in outcome.controls:
            assert (control.status, control.reason) == ("scored", None)
            assert set(control.scores) == set(outcome.scores)
            assert len(control.scores["psnr"].each) == len(outcome.scores["psnr"].each)
        noise, other, grey, copy = outcome.controls
        assert (noise.steps, other.steps, grey.steps, copy.steps) == (5, 5, 0, 5)
        assert noise.seed is not None and grey.objective is None
        # Nothing was done to this update, so the positive control is the same attack again.
        ours, theirs = outcome.scores["psnr"].mean, copy.scores["psnr"].mean
        assert ours == pytest.approx(theirs, abs=0.2)
        assert other.seconds == 0  # it was attacked anyway
    pair = [r.attacks[0] for r in records]
    assert pair[0].control("other client").objective == pair[1].objective  # type: ignore[union-attr]


def test_controls_leave_the_attack_as_it_was(tmp_path: Path) -> None:
    plain = real_auditor(tmp_path / "a").audit_round(1, [make_reply(0), make_reply(1)])
    with_controls = real_auditor(tmp_path / "b", controls=True)
    beside = with_controls.audit_round(1, [make_reply(0), make_reply(1)])
    for one, other in zip(plain, beside, strict=True):
        (a,), (b,) = one.attacks, other.attacks
        assert (a.status, a.seed, a.steps) == (b.status, b.seed, b.steps)
        for name in a.scores:
            assert a.scores[name].mean == pytest.approx(b.scores[name].mean, rel=1e-3)


def test_controls_are_chosen(tmp_path: Path) -> None:
    auditor = real_auditor(tmp_path, controls=["undefended", "noise"])
    (record,) = auditor.audit_round(1, [make_reply()])
    assert [c.kind for c in record.attacks[0].controls] == ["undefended", "noise"]


def test_without_truth_noise_alone_is_attacked_for_its_objective(tmp_path: Path) -> None:
    auditor = real_auditor(tmp_path, controls=True, attacks=["first_linear"])
    (record,) = auditor.audit_round(1, [make_reply(publish=False)])
    (outcome,) = record.attacks
    (noise,) = outcome.controls
    assert (noise.kind, noise.status, noise.scores) == ("noise", "not scored", {})
    assert noise.reason == outcome.reason == Reason.of("no truth")
    assert outcome.objective is not None and noise.objective is not None
    assert outcome.objective < 0.01 < noise.objective
    (verdict,) = judge_run(last_run(read_ledger(tmp_path)))
    assert (verdict.word, verdict.reason.code) == ("inconclusive", "nothing to compare with")
    assert (verdict.reason.figures["explained"], verdict.reason.figures["pairs"]) == (1, 1)


def test_without_truth_and_noise_among_the_controls_nothing_more_is_run(spied: Build) -> None:
    auditor, (spy,) = spied(controls=["undefended", "grey"])
    (record,) = auditor.audit_round(1, [make_reply(publish=False)])
    assert record.attacks[0].controls == []
    assert len(spy.calls) == 1


def test_the_attack_sees_no_truth_in_a_control(spied: Build) -> None:
    auditor, (spy,) = spied(controls=True, clients_per_round=None)
    auditor.audit_round(1, [make_reply(0), make_reply(1)])
    assert len(spy.calls) == 6  # two clients, the noise and the undefended copy of each
    for seen, given in spy.calls:
        assert set(given) == {"rng", "seconds", "progress"}
        assert type(seen).__name__ == "Observation"


def test_one_more_client_is_attacked_where_only_one_is_chosen(spied: Build) -> None:
    auditor, (spy,) = spied(controls=["other client"], clients_per_round=1)
    records = auditor.audit_round(1, [make_reply(0), make_reply(1)])
    (record,) = [r for r in records if r.reason is None]
    (control,) = record.attacks[0].controls
    assert (control.kind, control.status) == ("other client", "scored")
    assert len(spy.calls) == 2


def test_a_client_with_the_same_images_is_no_null(tmp_path: Path) -> None:
    auditor = real_auditor(tmp_path, controls=["other client"], clients_per_round=None)
    twin = make_reply(
        1,
        truth=lambda: make_truth(seed=0),
        returned=lambda: to_arrays(trained(tiny_net(), make_truth(seed=0))),
    )
    for record in auditor.audit_round(1, [make_reply(0), twin]):
        (control,) = record.attacks[0].controls
        assert control.status == "not tested"
        assert control.reason == Reason.of("no other client")


def test_a_control_that_fails_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("it broke")

    monkeypatch.setattr("fl_privacy_audit.audit.attack_round.undefended", broken)
    (record,) = real_auditor(tmp_path, controls=["undefended"]).audit_round(1, [make_reply()])
    (control,) = record.attacks[0].controls
    assert control.status == "not tested"
    assert control.reason == Reason.of("unexpected error", type="RuntimeError", message="it broke")
    assert record.attacks[0].status == "scored"
    with pytest.raises(RuntimeError, match="it broke"):
        real_auditor(tmp_path, controls=["undefended"], fail_fast=True).audit_round(
            1, [make_reply()]
        )
