"""Plans: what they become, and what is wrong with them, a line each."""

from pathlib import Path
from typing import Any

import pytest

from fl_privacy_audit.core.config_text import read_options
from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.simulate.sweep.command import DEFAULT_PLAN
from fl_privacy_audit.simulate.sweep.plan import plan_runs, read_plan
from fl_privacy_audit.verdicts.compare import FREE_KEYS

NONE: dict[str, Any] = {"label": "no defence", "name": "none"}


def plan(*defences: dict[str, Any], **parts: Any) -> dict[str, Any]:
    return {"defence": [NONE, *defences], **parts}


def test_the_bundled_plan_is_the_one_that_was_promised() -> None:
    runs = read_plan(DEFAULT_PLAN)
    told = [(run.audit.defence.name, run.audit.defence.options) for run in runs]
    assert [name for name, _ in told] == [
        "none",
        *["gaussian"] * 3,
        *["pruning"] * 2,
        "quantisation",
        "sign",
        *["dp-sgd"] * 3,
        "server-clipping",
        "client-clipping",
    ]
    rate = runs[0].federation.learning_rate
    assert [s["std"] for n, s in told if n == "gaussian"] == pytest.approx(
        [1e-3 * rate, 1e-2 * rate, 1e-1 * rate]
    )
    assert [s["share"] for n, s in told if n == "pruning"] == [0.7, 0.99]
    assert {run.federation.dataset for run in runs} == {"photos"}


def test_runs_differ_in_nothing_but_the_defence() -> None:
    first, *others = (run.audit.model_dump(mode="json") for run in read_plan(DEFAULT_PLAN))
    for other in others:
        differing = {key for key in first if first[key] != other[key]}
        assert differing <= {"setting", "defence", "training", "claim"}
        unlike = {k for k in first["training"] if first["training"][k] != other["training"][k]}
        assert {f"training.{key}" for key in unlike} <= FREE_KEYS


def test_the_federation_uses_the_defence_that_the_audit_knows() -> None:
    for run in read_plan(DEFAULT_PLAN):
        known = run.audit.defence
        if known.name == "dp-sgd":
            assert known.options == {
                "noise_multiplier": run.federation.noise_multiplier,
                "max_grad_norm": run.federation.max_grad_norm,
            }
            assert run.audit.training.noise_multiplier == run.federation.noise_multiplier
        else:
            assert known.name == run.federation.defence
            assert known.options == read_options(run.federation.defence_options)
            assert not run.federation.private
            assert run.audit.training.noise_multiplier is None
        assert run.federation.reproducible_noise
        assert run.federation.seed == run.audit.seed


def test_every_seed_has_its_own_set_of_runs() -> None:
    runs = plan_runs(plan({"label": "Sign!", "name": "sign"}, seeds=[3, 4]))
    assert [(str(r.folder), r.federation.seed, r.audit.seed) for r in runs] == [
        ("seed-3/no-defence", 3, 3),
        ("seed-3/sign", 3, 3),
        ("seed-4/no-defence", 4, 4),
        ("seed-4/sign", 4, 4),
    ]
    assert len({run.digest for run in runs}) == 4


def test_the_digest_is_that_of_what_decides() -> None:
    (run,), (again,) = plan_runs(plan()), plan_runs(plan())
    assert run.digest == again.digest
    (other,) = plan_runs(plan(federation={"rounds": 7}))
    assert other.digest != run.digest
    (other,) = plan_runs(plan(audit={"every": 7}))
    assert other.digest != run.digest


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"defence": []}, "`defence`: Tuple should have at least 1 item after validation, not 0"),
        ({}, "`defence` is missing"),
        (
            plan(attack="dlg"),
            "`attack` is not a part of a plan; there are federation, audit, seeds",
        ),
        (plan({"label": "x"}), "`defence.1.name` is missing"),
        (
            plan({"label": "x", "name": "sign", "batch_size": 8}),
            "`defence.1.batch_size` is no part of a defence: its options go into `options`, and the ",
        ),
        (plan({"label": "x", "name": "sgin"}), "'x': there is no defence 'sgin'; there are none, "),
        (
            plan({"label": "x", "name": "gaussian"}),
            "'x': defence 'gaussian' needs the option 'std'",
        ),
        (
            plan({"label": "x", "name": "pruning", "options": {"share": 2}}),
            "'x': defence 'pruning' cannot be made with {'share': 2}: Argument `share` must be in [0, 1)",
        ),
        (plan({**NONE}), "two defences go to the folder 'no-defence'; set their labels apart"),
        (
            plan(federation={"bach_size": 1}),
            "`federation.bach_size` is not a key of the federation",
        ),
        (
            plan(federation={"seed": 1}),
            "`federation.seed` is set by the plan: see `seeds`, `rounds`",
        ),
        (
            plan(federation={"rounds": 0}),
            "'no defence': `federation.rounds` must be a whole number",
        ),
        (
            plan(federation={"batch_size": "x"}),
            "'no defence': `batch_size`: Input should be a valid integer, got 'x'",
        ),
        (
            plan(federation={"sampling": "poisson"}),
            "`federation.sampling` must be 'fixed': Poisson sampling draws other images under DP-",
        ),
        (
            plan(federation={"server_optimizer": "sgd"}),
            "'no defence': `server_optimizer`: Input should be 'adam' or 'average', got 'sgd'",
        ),
        (plan(audit={"seed": 1}), "`audit.seed` is filled in by the sweep"),
        (
            plan(audit={"evry": 1}),
            "'no defence': the audit settings are wrong: `evry` is not a sett",
        ),
        (plan(audit={"attacks": "dgl"}), "'no defence': there is no attack 'dgl'; there are "),
        (plan(seeds=[1, 1]), "`seeds` must be different numbers, but got [1, 1]"),
        (plan(seeds=[]), "`seeds` must be different numbers, but got []"),
        (
            plan(
                {"label": "x", "name": "sign", "unit": "gradient"},
                federation={"local_steps": 2},
            ),
            "'x': `unit` gradient is that of one local step; give lengths in units of the update",
        ),
    ],
)
def test_a_wrong_plan_is_refused_in_one_line_each(wrong: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_runs(wrong)
    first, *lines = str(caught.value).split("\n  ")
    assert first == "the plan is wrong:"
    assert any(told.startswith(line) for told in lines), lines
    assert not any("\n" in told for told in lines)


def test_all_that_is_wrong_is_told_at_once() -> None:
    wrong = plan({"label": "x", "name": "sgin"}, federation={"seed": 1}, audit={"seed": 1})
    with pytest.raises(ConfigError) as caught:
        plan_runs(wrong)
    assert len(str(caught.value).splitlines()) == 4


@pytest.mark.parametrize("content", [b"\xff", b"x = ", None])
def test_a_plan_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "plan.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"the plan .*plan\.toml cannot be read: "):
        read_plan(path)


def test_what_claims_privacy_is_checked() -> None:
    """The claims are complete: the checker of theory takes them."""
    from fl_privacy_audit.dp import DpClaim

    claims = {run.audit.defence.name: run.audit.claim for run in read_plan(DEFAULT_PLAN)}
    local = {"clipping_norm": 1.0, "sensitivity": 1.0, "epsilon": 1.0, "delta": 1e-5}
    (run,) = plan_runs({"defence": [{"label": "l", "name": "local-dp", "options": local}]})
    claims["local-dp"] = run.audit.claim
    assert {name for name, claim in claims.items() if claim is not None} == {
        "dp-sgd",
        "local-dp",
        "client-clipping",
        "server-clipping",
    }
    for name, claim in claims.items():
        if claim is None:
            continue
        told = claim.model_dump(exclude_none=True)
        if name == "dp-sgd":
            told |= {"clipping_norm": 1.0, "noise_multiplier": 1.0}
        assert DpClaim(**told, rounds=60).sampling == "fixed"
    server = claims["server-clipping"]
    assert server is not None
    assert (server.clipped_by, server.sampled_clients) == ("server", 4)
