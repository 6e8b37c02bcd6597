"""Epsilon measured in a federation: who cheats is found by replays alone, and the ledger says so."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from torch import Tensor, nn

from fl_privacy_audit.audit.backlog import EPSILON, recorded
from fl_privacy_audit.audit.capture_auditor import CaptureAuditor
from fl_privacy_audit.audit.capture_files import read_capture
from fl_privacy_audit.audit.epsilon import as_record
from fl_privacy_audit.audit.journal import Journal, note_death
from fl_privacy_audit.audit.schedule import Slot
from fl_privacy_audit.audit.spool import Spool
from fl_privacy_audit.cli import cli
from fl_privacy_audit.core.local_training import Chance, train_locally
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.seeds import seed_everything
from fl_privacy_audit.core.types import LocalTraining, Update
from fl_privacy_audit.dp import ClaimCheck, gaussian_epsilon
from fl_privacy_audit.dp.run_check import check_run
from fl_privacy_audit.ledger.export import records_table
from fl_privacy_audit.ledger.ledger import last_run, read_ledger
from fl_privacy_audit.ledger.reading import LedgerContents
from fl_privacy_audit.ledger.records import GapRecord, MeasurementRecord, Record
from fl_privacy_audit.report.annex import annex
from fl_privacy_audit.report.formats import epsilon
from fl_privacy_audit.report.html import render_html
from fl_privacy_audit.report.markdown import render_markdown
from fl_privacy_audit.report.sentences import say
from fl_privacy_audit.report.summary import summarise
from fl_privacy_audit.strategies import canary
from fl_privacy_audit.strategies.measure import EpsilonMeter
from fl_privacy_audit.strategies.named_app import NamedApp
from tests.support.builders import IMAGE, made, run_line, write_ledger
from tests.support.canary_apps import reply_to, run
from tests.support.judged_cases import picture

DELTA = 1e-5
ROUNDS = 6
NOISE = 1.0
RATE = 0.05
OF_ONE = gaussian_epsilon(mu=1 / NOISE, delta=DELTA)
OVER_ALL = gaussian_epsilon(mu=ROUNDS**0.5 / NOISE, delta=DELTA)
Step = Callable[[Update, Tensor, Tensor, torch.Generator], Update]


def wide_net() -> nn.Sequential:
    """Wide enough that gradients of canaries differ."""
    return made(nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 3))


def dp_sgd(noise: float) -> Step:
    """One step on all images: each gradient clipped to 1, then noise."""

    def step(weights: Update, images: Tensor, labels: Tensor, rng: torch.Generator) -> Update:
        training = LocalTraining(
            optimizer="sgd",
            learning_rate=RATE,
            batch_size=len(images),
            steps=1,
            max_grad_norm=1.0,
            noise_multiplier=noise,
        )
        chance = Chance(noise=True, rng=rng)
        return train_locally(
            wide_net(), weights, {}, images, labels, training, chance=chance
        ).update

    return step


def clips_last(weights: Update, images: Tensor, labels: Tensor, rng: torch.Generator) -> Update:
    """Noise for a clip of 1 on a sum that nobody clipped; the noisy sum is clipped instead."""
    plain = LocalTraining(optimizer="sgd", learning_rate=1.0, batch_size=len(images), steps=1)
    mean = train_locally(wide_net(), weights, {}, images, labels, plain).update
    noisy = {
        name: len(images) * change + NOISE * torch.randn(change.shape, generator=rng)
        for name, change in mean.items()
    }
    length = float(sum(float(t.square().sum()) for t in noisy.values())) ** 0.5
    return {name: RATE * t / max(1.0, length) for name, t in noisy.items()}


def many(partition: int) -> tuple[Tensor, Tensor]:
    """Images of a real client: fewer of them, and noise would soon be all that its model is."""
    held = [picture(32 * partition + number, seed=9) for number in range(32)]
    images, labels = (torch.cat([getattr(p, what) for p in held]) for what in ("images", "labels"))
    return IMAGE.normalise(images), labels


def app_of(step: Step) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        images, labels = canary(context) or many(int(context.node_config["partition-id"]))
        model = wide_net()
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        rng = torch.Generator().manual_seed(int(torch.randint(2**31, (1,))))
        update = step(weights, images, labels, rng)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.add_(update[name])
        return reply_to(message, model, len(labels))

    return app


def measured(
    directory: Path, step: Step, **claim: Any
) -> tuple[MeasurementRecord | None, ClaimCheck | None]:
    claims = {
        "delta": DELTA,
        "epsilon": OVER_ALL,
        "clipping_norm": 1.0,
        "noise_multiplier": NOISE,
        "accountant": "persistent",
        **claim,
    }
    torch.manual_seed(0)
    run(directory, app_of(step), rounds=ROUNDS, net=wide_net, controls=False, claim=claims)
    last = last_run(read_ledger(directory))
    return last.measured, check_run(last)


def flagged(check: ClaimCheck | None) -> bool:
    assert check is not None
    return "measured-above-claim" in [flag.code for flag in check.flags]


def test_a_client_that_does_as_it_says_is_not_accused(tmp_path: Path) -> None:
    record, check = measured(tmp_path, dp_sgd(NOISE))
    assert record is not None and check is not None
    assert (record.round, record.over_rounds.rounds) == (ROUNDS, ROUNDS)
    assert (record.of_a_round.rounds, record.over_rounds.canaries) == (1, 80)
    assert 28 < record.records < 52
    assert 0.3 * OVER_ALL < record.over_rounds.highest <= OVER_ALL
    assert 0.2 * OF_ONE < record.of_a_round.gauss <= OF_ONE
    assert check.measured == (record.of_a_round, record.over_rounds)
    assert not check.flags and not flagged(check)


@pytest.mark.parametrize(
    ("step", "claim"),
    [
        (dp_sgd(NOISE), {"epsilon": OF_ONE}),
        (dp_sgd(NOISE / 2), {}),
        (clips_last, {}),
    ],
    ids=["an accountant that starts again", "half of the noise", "clipping after the noise"],
)
def test_cheats_are_found_by_measurement(tmp_path: Path, step: Step, claim: dict[str, Any]) -> None:
    _, check = measured(tmp_path, step, **claim)
    assert flagged(check)


NAMED = app_of(dp_sgd(NOISE))
CLAIM = {"delta": DELTA, "epsilon": OVER_ALL, "clipping_norm": 1.0, "noise_multiplier": NOISE}


def federation(directory: Path, **settings: Any) -> LedgerContents:
    """Three rounds of the app that another process finds."""
    seed_everything(0)
    more: dict[str, Any] = {"claim": CLAIM, "seconds_per_round": 6000, "metrics": ["mse"]}
    run(directory, NAMED, rounds=3, net=wide_net, controls=False, **more, **settings)
    return read_ledger(directory)


def figures(records: Sequence[Record]) -> list[dict[str, Any]]:
    return [record.model_dump(exclude={"time", "run"}) for record in records]


def test_what_a_round_leaves_is_all_that_the_next_needs_and_a_death_costs_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each round by an auditor of its own, as by workers of which none knows what others did."""
    expected = federation(tmp_path / "inline").measurements
    assert [record.over_rounds.rounds for record in expected] == [1, 2, 3]
    ledger = federation(tmp_path / "left", executor="process", at_end="leave")
    assert (ledger.measurements, ledger.gaps) == ((), ())
    (folder,) = (tmp_path / "left" / "spool").iterdir()
    spool = Spool.take(folder)
    assert spool is not None
    app = NamedApp(
        name="tests.strategies.test_measure:NAMED",
        image=IMAGE,
        weights=frozenset(wide_net().state_dict()),
    )
    found = []
    for path in spool.captures():
        capture = read_capture(path, app)
        if capture.measured is None:
            continue
        spool.lend_figures(path, capture.round)
        if capture.round == 3:
            with pytest.raises(SystemExit):
                Journal(path).step("epsilon: replay", sys.exit)
            assert note_death(path, Reason.of("worker died", how="exit code 7"))
        work = CaptureAuditor(spool.config, model=wide_net(), run=spool.run)
        found.append(work.measured(capture.measured, path, EpsilonMeter(), Journal(path)))
        spool.keep_figures(path, capture.round)
    spool.close()
    assert figures(found[:2]) == figures(expected[:2])
    assert isinstance(found[2], GapRecord)
    assert say(found[2].reason) == (
        "epsilon was not measured in round 3: the worker that was at it ended: exit code 7"
    )
    assert [line for line in caplog.messages if "epsilon was not measured in round 3" in line]


def test_what_was_not_measured_is_recorded_once(tmp_path: Path) -> None:
    """A server that is killed after the line, and before the capture is gone, writes no second one."""
    slot = Slot(round=3, view="canary", replies=())
    gap = as_record("run", slot, Reason.of("no client app"))
    write_ledger(tmp_path, [run_line(), gap])
    assert recorded(tmp_path, "run") == {("run", 3, EPSILON, ""): 1}
    assert recorded(tmp_path, "another") == {}


APP = """
import torch
from flwr.clientapp import ClientApp
from tests.strategies.test_measure import app_of, dp_sgd

app = app_of(dp_sgd({noise}))
"""
PROJECT = f"""
[tool.flwr.app.config.audit]
image.shape = "1, 8, 8"
image.mean = "0.5"
image.std = "0.25"
training.learning-rate = {RATE}
training.steps = 1
claim.delta = {DELTA}
claim.epsilon = {OVER_ALL:.2f}
claim.clipping-norm = 1.0
claim.noise-multiplier = {NOISE}
"""


@pytest.mark.parametrize(("noise", "code"), [(NOISE, 0), (NOISE / 3, 3)])
def test_an_app_is_measured_from_the_command_line(tmp_path: Path, noise: float, code: int) -> None:
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / f"measured_{code}.py").write_text(APP.format(noise=noise))
    arguments = ["probe", f"measured_{code}:app", "--app", str(tmp_path), "--canaries", "64"]
    more = ["--rounds", str(ROUNDS), "--model", "tests.strategies.test_measure:wide_net"]
    result = CliRunner().invoke(cli, [*arguments, *more])
    assert result.exit_code == code, result.output
    said = " ".join(result.output.split())
    assert "Epsilon measured: at least" in said and f"over {ROUNDS} rounds" in said
    assert ("The claim is false" in said) == (code == 3)
    read = json.loads(CliRunner().invoke(cli, [*arguments, *more, "--json"]).output)
    assert read["over_rounds"]["canaries"] == 64 and read["refuted"] == (code == 3)
    missing = CliRunner().invoke(cli, arguments)
    assert missing.exit_code == 2 and "--model" in missing.output


def test_what_is_measured_stands_in_every_output(tmp_path: Path) -> None:
    measured(tmp_path / "audit", dp_sgd(NOISE / 2))
    folder = str(tmp_path / "audit")
    record = last_run(read_ledger(folder)).measured
    assert record is not None
    figure = epsilon(record.over_rounds.highest)
    shown = CliRunner().invoke(cli, ["show", folder]).output
    assert f"at least {figure} over {ROUNDS} rounds" in " ".join(shown.split())
    compared = CliRunner().invoke(cli, ["compare", folder, "--format", "md"]).output
    assert "epsilon measured" in compared and f"| {figure} |" in compared
    page = render_html(summarise([folder]), pictures=False)
    assert f"Measured: at least {figure} over {ROUNDS} rounds: the claim is false" in page
    assert "The claim is false: more was measured than is claimed, with 95%" in page
    assert f"at least {figure}" in render_markdown(summarise([folder]))
    assert summarise([folder]).settings[0].epsilon_measured == record.over_rounds.highest
    scope = {row.asks: row.in_scope for row in annex(summarise([folder]))}
    assert scope["Membership inference"]
    rows = [row for row in records_table(folder) if row["status"] == "measured"]
    assert len(rows) == 4 * ROUNDS
    assert {row["metric"]: row["mean"] for row in rows if row["round"] == ROUNDS} == {
        "epsilon_gauss": record.over_rounds.gauss,
        "epsilon_steinke": record.over_rounds.steinke,
        "epsilon_ceiling": record.over_rounds.ceiling,
        "epsilon_claimed": OVER_ALL,
    }
