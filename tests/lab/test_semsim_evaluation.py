"""SemSim against other metrics, and the two commands."""

import json
import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from fl_privacy_audit.cli import cli
from fl_privacy_audit.core.errors import CorpusError, WeightsError
from fl_privacy_audit.lab.manifest import Response, read_answers, read_picture, write_answers
from fl_privacy_audit.lab.semsim import Evaluation, Selection, evaluate
from fl_privacy_audit.lab.semsim.card import read_card
from fl_privacy_audit.lab.semsim.examples import Judged, read_judged
from fl_privacy_audit.metrics import psnr
from fl_privacy_audit.metrics.semsim import SemSimNet, semsim, to_tensors
from tests.support.semsim_corpus import build


def tiny_net() -> SemSimNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SemSimNet(2).requires_grad_(False).eval()


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    corpus, answers = build(tmp_path_factory.mktemp("corpus"))
    return read_judged([corpus], [answers], annotators=["ada"])


@pytest.fixture(scope="module")
def found(judged: Judged) -> Evaluation:
    return evaluate(judged, net=tiny_net(), bootstraps=100)


def slow_values(judged: Judged) -> dict[str, list[float]]:
    """One pair at a time."""
    values: dict[str, list[float]] = {"semsim": [], "psnr": []}
    net = tiny_net()
    for pair, folder in zip(judged.pairs, judged.folders, strict=True):
        guess = read_picture(folder / pair.reconstruction)[None]
        truth = read_picture(folder / pair.original)[None]
        values["semsim"].append(-float(semsim(guess, truth, net=net)))
        values["psnr"].append(float(psnr(guess, truth)))
    return values


def test_the_auc_against_counting_pairs(judged: Judged, found: Evaluation) -> None:
    yes = [verdict["ada"] for verdict in judged.verdicts]
    names = [pair.image for pair in judged.pairs]
    for metric, values in slow_values(judged).items():
        wins: dict[bool, list[float]] = {False: [], True: []}
        for i, j in combinations(range(len(yes)), 2):
            if yes[i] != yes[j]:
                better = (values[i] - values[j]) * (1 if yes[i] else -1)
                wins[names[i] == names[j]].append(0.5 if better == 0 else float(better > 0))
        ranking = found.image_level.rankings[metric]
        assert ranking.pooled.value == pytest.approx(np.mean(wins[False] + wins[True]), abs=1e-9)
        assert ranking.same_original.value == pytest.approx(np.mean(wins[True]), abs=1e-9)


def test_a_difference_is_the_difference(found: Evaluation) -> None:
    for name, one in found.against.items():
        ours, theirs = (found.image_level.rankings[metric] for metric in ("semsim", name))
        assert one.pooled.value == pytest.approx(ours.pooled.value - theirs.pooled.value)
        assert one.same_original.value == pytest.approx(
            ours.same_original.value - theirs.same_original.value
        )
        ours_rho, theirs_rho = (
            found.model_level.correlations[metric].spearman.value for metric in ("semsim", name)
        )
        assert one.spearman.value == pytest.approx(ours_rho - theirs_rho)
        for estimate in (one.pooled, one.same_original, one.spearman):
            assert estimate.over_images.low <= estimate.value <= estimate.over_images.high


def test_what_was_judged_is_told(found: Evaluation) -> None:
    assert (found.pairs, found.originals, found.settings, found.dropped) == (24, 4, 6, 0)
    assert found.metrics[0] == "semsim"
    assert {"psnr", "ssim", "mse"} <= set(found.metrics)
    assert found.image_level.recognised == pytest.approx(2 / 3)
    assert found.image_level.rankings["psnr"].pooled.value == 1.0  # noise is noise to PSNR


def test_order_does_not_matter(tmp_path: Path, found: Evaluation) -> None:
    corpus, answers = build(tmp_path, shuffle=5)
    again = evaluate(
        read_judged([corpus], [answers], annotators=["ada"]), net=tiny_net(), bootstraps=100
    )
    assert str(again) == str(found)  # by their text, since NaN equals nothing


def test_pairs_that_not_all_judged_are_left_out(tmp_path: Path) -> None:
    corpus, answers = build(tmp_path)
    fewer = [a for a in read_answers(answers) if not (a.key[0] == "0" and a.annotator == "bob")]
    write_answers(answers, fewer)
    found = evaluate(read_judged([corpus], [answers]), net=tiny_net(), bootstraps=100)
    assert (found.pairs, found.dropped) == (18, 6)
    write_answers(answers, [Response(key="0-weak-lenet", annotator="ada", answer=0),
                            Response(key="1-weak-lenet", annotator="bob", answer=0)])  # fmt: skip
    with pytest.raises(CorpusError, match="no pair was judged by all of ada, bob"):
        evaluate(read_judged([corpus], [answers]), net=tiny_net(), bootstraps=100)


def test_sources_may_have_panels_of_their_own(tmp_path: Path) -> None:
    """Two judge one source, Bob alone another, where he is the majority."""
    corpus, answers = build(tmp_path / "a")
    other, more = build(tmp_path / "b", prefix="b-", source="stripes")
    write_answers(more, [a for a in read_answers(more) if a.annotator == "bob"])
    found = evaluate(read_judged([corpus, other], [answers, more]), net=tiny_net(), bootstraps=100)
    assert (found.pairs, found.originals, found.dropped) == (48, 8, 0)
    human = {setting.name: setting.human for setting in found.model_level.settings}
    assert human["patterns/lenet/none/middling/none"] == 0.5
    assert human["stripes/lenet/none/middling/none"] == 0.0
    assert found.image_level.recognised == pytest.approx(1 / 3)


def test_pictures_of_several_sizes(tmp_path: Path, found: Evaluation) -> None:
    small, answers = build(tmp_path / "small")
    large, more = build(tmp_path / "large", side=48, prefix="l-")
    both = read_judged([small, large], [answers, more], annotators=["ada"])
    assert evaluate(both, net=tiny_net(), bootstraps=100).pairs == 48
    tiny, answers = build(tmp_path / "tiny", side=4)
    alone = evaluate(
        read_judged([tiny], [answers], annotators=["ada"]), net=tiny_net(), bootstraps=100
    )
    assert "ssim" not in alone.metrics
    assert alone.unavailable["ssim"] == "it needs 7 pixels a side; a picture has 4"


def test_one_setting_has_no_order(tmp_path: Path) -> None:
    corpus, answers = build(tmp_path)
    only = [Selection.parse("architecture=lenet"), Selection.parse("attack=middling")]
    found = evaluate(read_judged([corpus], [answers], only=only), net=tiny_net(), bootstraps=100)
    assert math.isnan(found.model_level.correlations["semsim"].spearman.value)


# Commands


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["semsim", *map(str, arguments)], catch_exceptions=True)


def trained(folder: Path, *more: object) -> tuple[Path, Path, Path]:
    corpus, answers = build(folder / "corpus", originals=6)
    out = folder / "out"
    result = run(
        "train", "--paper", corpus, "--answers", answers, "--out", out, "--labelled-by", "machines",
        "--width", 2, "--epochs", 2, "--held-back", 0.4, "--note", "made up", *more,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return corpus, answers, out


def test_train_writes_weights_and_a_card(tmp_path: Path) -> None:
    _, _, out = trained(tmp_path, "--leave-out", "architecture=resnet20")
    assert sorted(p.name for p in out.iterdir()) == [
        "semsim.json",
        "semsim.md",
        "semsim.safetensors",
    ]
    card = read_card(out / "semsim.safetensors")
    assert card is not None
    assert card["labels"] == {
        "by": "machines",
        "annotators": ["ada", "bob"],
        "rule": "named",
        "threshold": 0.5,
    }
    assert card["data"]["counts"]["architecture"] == {"lenet": 18}
    assert card["protocol"]["left_out"] == ["architecture=resnet20"]
    assert len(card["history"]) == 2
    assert card["validation"]["originals"] in range(1, 6)
    page = (out / "semsim.md").read_text()
    assert "**No person judged these reconstructions.**" in page
    assert "- made up" in page
    assert "| PSNR |" in page


def test_the_card_of_people_s_labels_says_so(tmp_path: Path) -> None:
    corpus, answers = build(tmp_path)
    result = run(
        "train", "--paper", corpus, "--answers", answers, "--out", tmp_path / "out", "--labelled-by", "people",
        "--width", 2, "--epochs", 1, "--held-back", 0, "--rule", "beside",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    page = (tmp_path / "out/semsim.md").read_text()
    assert "People judged the reconstructions." in page
    assert "said so beside the original" in page
    assert "None were held back." in page


def test_evaluate_writes_a_page_that_names_what_is_new(tmp_path: Path) -> None:
    corpus, answers, out = trained(
        tmp_path, "--annotator", "ada", "--leave-out", "architecture=resnet20"
    )
    result = run(
        "evaluate", corpus, "--answers", answers, "--weights", out / "semsim.safetensors",
        "--out", tmp_path / "page", "--bootstraps", 100, "--only", "architecture=resnet20",
        "--annotator", "bob", "--title", "A network never seen",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "By pooled AUC, SemSim is" in result.output
    page = (tmp_path / "page/evaluation.md").read_text()
    assert page.startswith("# A network never seen\n")
    assert "Of the architectures, new to SemSim: resnet20; seen in training: none." in page
    assert "Of the annotators, new to SemSim: bob; seen in training: none." in page
    assert "Of the attacks, new to SemSim: none; seen in training: middling, strong, weak." in page
    data = json.loads((tmp_path / "page/evaluation.json").read_text())
    assert data["pairs"] == 18
    assert data["image_level"]["rankings"]["semsim"]["pooled"]["value"] is not None
    assert (tmp_path / "page/evaluation.png").stat().st_size > 10_000


def test_weights_without_a_card_are_said_to_be_unknown(tmp_path: Path) -> None:
    corpus, answers = build(tmp_path)
    save_file(to_tensors(tiny_net()), tmp_path / "bare.safetensors")
    result = run(
        "evaluate", corpus, "--answers", answers, "--weights", tmp_path / "bare.safetensors",
        "--out", tmp_path / "page", "--bootstraps", 100,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "No card lies beside the weights" in (tmp_path / "page/evaluation.md").read_text()


def test_of_an_eye_it_says_whether_chances_come_true(tmp_path: Path) -> None:
    corpus, answers = build(tmp_path)
    result = run(
        "evaluate", corpus, "--answers", answers, "--out", tmp_path / "page", "--bootstraps", 100
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "## The chance of being recognised" in (tmp_path / "page/evaluation.md").read_text()
    data = json.loads((tmp_path / "page/evaluation.json").read_text())
    over_all = data["chances"][0]
    assert over_all["name"] == "all"
    assert over_all["pairs"] == data["pairs"]
    assert over_all["recognised"] == pytest.approx(data["image_level"]["recognised"])
    assert 0 <= over_all["said"] <= 1


def test_a_card_of_other_weights_is_refused(tmp_path: Path) -> None:
    _, _, out = trained(tmp_path)
    save_file(to_tensors(tiny_net()), out / "semsim.safetensors")
    with pytest.raises(WeightsError, match=r"is of weights with sha256 .*; put the right card"):
        read_card(out / "semsim.safetensors")
    (out / "semsim.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"semsim.json cannot be read: KeyError\('weights'\)"):
        read_card(out / "semsim.safetensors")


def test_a_wrong_selection_is_an_error_of_ours(tmp_path: Path) -> None:
    corpus, answers = build(tmp_path)
    result = run("evaluate", corpus, "--answers", answers, "--out", tmp_path, "--only", "x=y")
    assert result.exit_code == 1
    assert result.output.startswith("Error: a selection must look like FIELD=PATTERN")
