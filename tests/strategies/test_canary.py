"""Canary replay: the app of the clients, called beside the server on public images."""

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import fixedclipping_mod
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
)
from torch import Tensor

from fl_privacy_audit import Auditor, Client, read_ledger
from fl_privacy_audit.cli import cli
from fl_privacy_audit.core.seeds import seed_everything
from fl_privacy_audit.core.types import Truth
from fl_privacy_audit.ledger.ledger import last_run
from fl_privacy_audit.ledger.records import AuditRecord
from fl_privacy_audit.report.html.page import render_html
from fl_privacy_audit.report.markdown import render_markdown
from fl_privacy_audit.report.sentences import advise, say
from fl_privacy_audit.report.summary import summarise
from fl_privacy_audit.strategies import (
    AuditedStrategy,
    audit_mod,
    canary,
    defend,
    publish_batch,
    side_channel,
)
from fl_privacy_audit.strategies.canary_images import MARK
from fl_privacy_audit.verdicts.compare import compare
from fl_privacy_audit.verdicts.rules import judge_run
from tests.support.builders import IMAGE, audit_config, trained
from tests.support.canary_apps import (
    Mod,
    canaries_or_own,
    fed_avg,
    own_images,
    plain_app,
    quickstart_app,
    reply_to,
    run,
)
from tests.support.grid import InProcessGrid
from tests.support.judged_cases import open_net, picture
from tests.support.spies import Spy


def word(directory: Path) -> tuple[str, str]:
    """The verdict of the canary view, and the code of its reason."""
    verdicts = judge_run(last_run(read_ledger(directory)))
    (verdict,) = [verdict for verdict in verdicts if verdict.view == "canary"]
    return verdict.word, verdict.reason.code


def test_an_undefended_app_leaks_its_canaries(tmp_path: Path) -> None:
    records = run(tmp_path, plain_app(canaries_or_own))
    canaries = [record for record in records if record.view == "canary"]
    assert [(r.round, r.client) for r in canaries] == [
        (n, f"canary {k}") for n in (1, 2, 3) for k in (1, 2)
    ]
    assert len({record.truth_digest for record in canaries}) == 6
    assert all(record.replay is not None and record.replay.fits for record in canaries)
    assert word(tmp_path) == ("leaked", "above every null control")


def test_what_is_published_in_a_replay_is_its_truth(tmp_path: Path) -> None:
    """The app holds four canaries, trains on one, and says which."""
    app = plain_app(canaries_or_own, publish=True)
    (said, _) = canaries(run(tmp_path, app, rounds=1, canary={"images": 4}))
    assert said.replay is not None and said.replay.fits
    assert len(said.truth_sketch) == 1


def test_a_loader_knows_what_was_read(tmp_path: Path) -> None:
    records = canaries(run(tmp_path, quickstart_app(), rounds=1, canary={"images": 5}))
    assert [len(record.truth_sketch) for record in records] == [5, 5]


def canaries(records: tuple[AuditRecord, ...]) -> list[AuditRecord]:
    return [record for record in records if record.view == "canary"]


def test_an_app_that_takes_no_canaries_is_not_attacked(tmp_path: Path) -> None:
    """It may have trained on images of whoever owns the machine."""
    spy = Spy()
    config = audit_config(tmp_path, views=["canary"])
    app = plain_app(own_images)
    auditor = Auditor(config, model=open_net(), client_app=app, attacks=[spy])
    AuditedStrategy(fed_avg(), auditor=auditor).start(
        grid=InProcessGrid(app, 1),
        initial_arrays=ArrayRecord(open_net().state_dict()),
        num_rounds=1,
    )
    records = read_ledger(tmp_path).audits
    codes = [record.reason and record.reason.code for record in records]
    assert codes == ["only canaries are audited", "canaries not taken", "canaries not taken"]
    assert spy.calls == []


def test_an_app_that_fails_in_a_replay_says_why_and_trains_on(tmp_path: Path) -> None:
    def load(context: Context) -> tuple[Tensor, Tensor]:
        if canary(context):
            raise KeyError("data-path")
        return own_images(context)

    for record in canaries(run(tmp_path, plain_app(load), rounds=1)):
        assert record.client_status == "failed"
        assert record.reason is not None and record.reason.code == "replay failed"
        assert "KeyError 'data-path'" in say(record.reason)
        assert "canary(context)" in advise(record.reason)
    assert word(tmp_path)[0] == "not tested"


def test_a_replay_without_time_is_left_out(tmp_path: Path) -> None:
    records = canaries(run(tmp_path, plain_app(canaries_or_own), rounds=1, seconds_per_round=1e-6))
    assert [r.reason and r.reason.code for r in records] == ["no time to replay"] * 2


def test_without_an_app_the_view_says_so(tmp_path: Path) -> None:
    auditor = Auditor(audit_config(tmp_path, views=["canary"]), model=open_net())
    records = auditor.audit_round(1, [])
    assert [r.reason and r.reason.code for r in records] == ["no client app"] * 2
    not_due = Auditor(audit_config(tmp_path, views=["canary"], every=2), model=open_net())
    assert [r.reason and r.reason.code for r in not_due.audit_round(2, [])] == ["not due"] * 2


def test_clients_never_see_a_mark_and_keep_their_state(tmp_path: Path) -> None:
    app = ClientApp()
    seen: list[dict[str, Any]] = []

    @app.train()
    def train(message: Message, context: Context) -> Message:
        seen.append(dict(context.node_config))
        count = context.state.config_records.setdefault("count", ConfigRecord({"rounds": 0}))
        count["rounds"] = int(count["rounds"]) + 1  # type: ignore[arg-type]
        images, labels = canary(context) or own_images(context)
        model = open_net()
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        truth = Truth(images=IMAGE.denormalise(images), labels=labels)
        return reply_to(message, trained(model, truth), int(count["rounds"]))  # type: ignore[arg-type]

    records = run(tmp_path, app, rounds=3, nodes=2)
    real = [record for record in records if record.view == "server"]
    assert sorted(r.num_examples or 0 for r in real) == [1, 1, 2, 2, 3, 3]
    assert [record.num_examples for record in canaries(records)] == [1] * 6
    assert [MARK in config for config in seen] == [False, False, True, True] * 3
    assert sorted(c["partition-id"] for c in seen[:4]) == [0, 1, 2, 3]


def test_training_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    def weights(client_app: ClientApp | None) -> dict[str, bytes]:
        seed_everything(1)
        app = plain_app(canaries_or_own, draws)
        auditor = Auditor(
            audit_config(tmp_path / str(client_app is None), attacks=["first_linear"]),
            model=open_net(),
            client_app=client_app and app,
        )
        result = AuditedStrategy(fed_avg(fraction_train=0.6), auditor=auditor).start(
            grid=InProcessGrid(app, 4),
            initial_arrays=ArrayRecord(open_net().state_dict()),
            num_rounds=3,
        )
        return {name: array.numpy().tobytes() for name, array in result.arrays.items()}

    assert weights(None) == weights(plain_app(canaries_or_own))


def draws(message: Message, context: Context, call_next: Mod) -> Message:
    """A mod that draws from every global generator."""
    reply = call_next(message, context)
    noise = random.random() + float(np.random.rand()) + float(torch.rand(1))
    arrays = reply.content.array_records["arrays"].to_torch_state_dict()
    reply.content["arrays"] = ArrayRecord({k: t + 1e-3 * noise for k, t in arrays.items()})
    return reply


@pytest.mark.parametrize("noise", [0.5])
def test_a_defended_app_withstands(tmp_path: Path, noise: float) -> None:
    mods = (defend("gaussian", seed=5, std=noise),)
    run(
        tmp_path,
        plain_app(canaries_or_own, *mods),
        rounds=6,
        defence={"name": "gaussian", "options": {"std": noise}},
        metrics=["psnr"],
    )
    assert word(tmp_path)[0] == "withstood these attacks"


def test_flowers_own_clipping_gets_the_norm_that_it_is_sent(tmp_path: Path) -> None:
    strategy = DifferentialPrivacyClientSideFixedClipping(
        fed_avg(), noise_multiplier=0.1, clipping_norm=0.01, num_sampled_clients=2
    )
    app = plain_app(canaries_or_own, fixedclipping_mod)
    records = run(tmp_path, app, strategy=strategy, rounds=2)
    norms = [record.update_norm or 0 for record in canaries(records)]
    assert np.allclose(norms, 0.01, rtol=1e-4)


def test_same_settings_draw_the_same_canaries_and_pair_runs(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    run(one, plain_app(canaries_or_own), setting="no defence")
    run(other, plain_app(canaries_or_own, defend("gaussian", seed=1, std=0.2)), setting="noise")
    digests = [[r.truth_digest for r in canaries(read_ledger(d).audits)] for d in (one, other)]
    assert digests[0] == digests[1]
    comparison = compare([one, other])
    assert {(row.setting, row.view) for row in comparison.rows} == {
        ("no defence", "canary"),
        ("noise", "canary"),
    }


def test_pages_name_the_view_and_what_it_does_not_cover(tmp_path: Path) -> None:
    run(tmp_path, plain_app(canaries_or_own))
    summary = summarise([tmp_path])
    page, text = render_html(summary), render_markdown(summary)
    for shown in (page, text):
        assert "public images" in shown and "secure aggregation" in shown
    assert "canary" in (CliRunner().invoke(cli, ["show", str(tmp_path)]).output)


def test_nobody_is_asked_for_its_batch_where_canaries_alone_are_audited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    open_round = side_channel.open_round

    def opened(nodes: Iterable[int], run_id: int) -> Path:
        asked.append(nodes)
        return open_round(nodes, run_id)

    monkeypatch.setattr(side_channel, "open_round", opened)
    run(tmp_path / "canary", plain_app(canaries_or_own, audit_mod, publish=True), rounds=1)
    assert asked == []
    run(tmp_path / "both", plain_app(canaries_or_own), rounds=1, views=["server", "canary"])
    assert len(asked) == 1


def test_both_views_have_their_verdicts_and_share_the_seconds(tmp_path: Path) -> None:
    app = plain_app(canaries_or_own, audit_mod, publish=True)
    run(tmp_path, app, rounds=5, views=["server"], clients_per_round=None)
    words = {v.view: v.word for v in judge_run(last_run(read_ledger(tmp_path)))}
    assert words == {"server": "inconclusive", "canary": "leaked"}  # two clients, one image each


def test_a_provider_of_truth_is_not_asked_for_canaries(tmp_path: Path) -> None:
    config = audit_config(tmp_path, views=["canary"], attacks=["first_linear"], metrics=["psnr"])
    app = plain_app(canaries_or_own)

    def never(server_round: int, client: Client) -> Truth | None:
        raise AssertionError

    auditor = Auditor(config, model=open_net(), client_app=app, truth=never)
    AuditedStrategy(fed_avg(), auditor=auditor).start(
        grid=InProcessGrid(app, 1),
        initial_arrays=ArrayRecord(open_net().state_dict()),
        num_rounds=1,
    )
    statuses = [o.status for r in canaries(read_ledger(tmp_path).audits) for o in r.attacks]
    assert statuses == ["scored"] * 2


def test_a_canary_node_gives_the_server_view_a_verdict(tmp_path: Path) -> None:
    """One node publishes public images of its own; the others publish nothing."""
    app = ClientApp()

    @app.train(mods=[audit_mod])
    def train(message: Message, context: Context) -> Message:
        number = int(message.content.config_records["config"]["server-round"])  # type: ignore[arg-type]
        truth = picture(10 * number + int(context.node_config["partition-id"]), seed=2)
        if context.node_config["partition-id"] == 2:
            publish_batch(context, truth.images, truth.labels, normalised=False)
        model = open_net()
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        return reply_to(message, trained(model, truth), 1)

    config = audit_config(
        tmp_path, controls=True, attacks=["first_linear"], metrics=["psnr"], clients_per_round=None
    )
    AuditedStrategy(fed_avg(), auditor=Auditor(config, model=open_net())).start(
        grid=InProcessGrid(app, 3),
        initial_arrays=ArrayRecord(open_net().state_dict()),
        num_rounds=6,
    )
    (verdict,) = judge_run(last_run(read_ledger(tmp_path)))
    assert (verdict.view, verdict.word) == ("server", "leaked")
