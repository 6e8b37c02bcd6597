"""Training, calibrating and asking machine annotators, on pictures of shapes."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Generator, Tensor, nn

from fl_privacy_audit.cli import cli
from fl_privacy_audit.core.errors import CorpusError, WeightsError
from fl_privacy_audit.lab.machines import MEMBERS, Order, Training, answer, load_all, make, train
from fl_privacy_audit.lab.machines import panel as panel_module
from fl_privacy_audit.lab.machines.corruption import blank
from fl_privacy_audit.lab.machines.networks import make_network
from fl_privacy_audit.lab.machines.panel import Member
from fl_privacy_audit.lab.manifest import CANNOT_TELL, Response, read_answers, read_corpus
from fl_privacy_audit.lab.reliability import reliability
from tests.support.annotator_cases import SHAPES, save_corpus, save_folder, shapes

ORDER = Order(
    source="shapes", directory=Path(), steps=50, mirror=False, room=0, light=True, precision=0.97
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trained annotators, one of each panel."""
    directory = tmp_path_factory.mktemp("annotators")
    order = replace(ORDER, directory=directory)
    for name in ("machine-t2", "machine-e1"):
        assert make(name, order, shapes(480))
    return directory


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen readable pairs, then sixteen that show nothing."""
    pictures = shapes(32, seed=99)
    rng = Generator().manual_seed(5)
    pixels = pictures.pixels / 255
    seen = (pixels + 0.05 * torch.randn(pixels.shape, generator=rng)).clamp(0, 1)
    seen[16:] = blank(pixels[16:], rng)
    seen = (seen * 255).round().to(torch.uint8)
    return save_corpus(pictures, seen, tmp_path_factory.mktemp("corpus"))


def test_an_annotator_reads_what_is_readable_and_says_so_where_nothing_is(
    folder: Path, corpus: Path
) -> None:
    read = read_corpus(corpus)
    labels = {pair.key: pair.label for pair in read.pairs}
    answers = answer(read, load_all(folder))
    readable, nothing = answers[:32], answers[32:]
    given = [one for one in readable if one.answer != CANNOT_TELL]
    assert len(given) >= 20
    assert sum(one.answer == labels[one.key] for one in given) >= 0.9 * len(given)
    assert sum(one.answer == CANNOT_TELL for one in nothing) >= 26


def test_every_annotator_answers_every_pair_once(folder: Path, corpus: Path) -> None:
    read = read_corpus(corpus)
    members = load_all(folder)
    answers = answer(read, members)
    assert [(one.key, one.annotator) for one in answers] == [
        (pair.key, name) for pair in read.pairs for name in ("machine-e1", "machine-t2")
    ]
    assert all(one.confidence is not None and 0 <= one.confidence <= 1 for one in answers)
    assert answer(read, members) == answers


def test_answers_do_not_depend_on_the_label_or_on_other_pairs(folder: Path, corpus: Path) -> None:
    read = read_corpus(corpus)
    members = load_all(folder)
    blind = replace(
        read,
        pairs=tuple(
            replace(pair, label=0, original=pair.reconstruction) for pair in read.pairs[5:9]
        ),
    )
    whole = {(one.key, one.annotator): one.answer for one in answer(read, members)}
    alone = answer(blind, members)
    assert [whole[one.key, one.annotator] for one in alone] == [one.answer for one in alone]


def test_originals_can_be_shown_instead(folder: Path, corpus: Path) -> None:
    read = read_corpus(corpus)
    answers = answer(read, load_all(folder, panel="training"), what="original")
    labels = {pair.key: pair.label for pair in read.pairs}
    assert sum(one.answer == labels[one.key] for one in answers) >= 24
    assert sum(one.answer == CANNOT_TELL for one in answers[16:]) <= 6


def test_classes_are_matched_by_name(folder: Path, corpus: Path) -> None:
    read = read_corpus(corpus)
    turned = replace(read, classes={"shapes": list(reversed(SHAPES))})
    members = load_all(folder)
    for plain, other in zip(answer(read, members), answer(turned, members), strict=True):
        assert other.answer == (CANNOT_TELL if plain.answer == CANNOT_TELL else 3 - plain.answer)


def test_a_pair_with_a_picture_of_training_is_refused(folder: Path, tmp_path: Path) -> None:
    pictures = shapes(480)
    mine = pictures.take(torch.arange(8))
    dim = (mine.pixels * 0.5).to(torch.uint8)
    guesses = read_corpus(save_corpus(replace(mine, pixels=dim), mine.pixels, tmp_path / "guess"))
    with pytest.raises(CorpusError, match=r"trained or calibrated on the reconstruction of pair"):
        answer(guesses, load_all(folder))
    originals = read_corpus(save_corpus(mine, dim, tmp_path / "original"))
    with pytest.raises(CorpusError, match=r"trained or calibrated on the original of pair"):
        answer(originals, load_all(folder))


def test_originals_of_a_corpus_are_left_out_of_training(tmp_path: Path) -> None:
    pictures = shapes(120)
    mine = pictures.take(torch.arange(10))
    dim = (mine.pixels * 0.99).to(torch.uint8)
    corpus = save_corpus(replace(mine, pixels=dim), dim, tmp_path / "corpus")
    notes: list[str] = []
    order = replace(ORDER, directory=tmp_path, corpora=(corpus,), steps=1, halves=False)
    make("machine-t2", order, pictures, note=notes.append)
    assert notes == ["10 pictures are originals of a corpus and are left out"]
    card = json.loads((tmp_path / "shapes-machine-t2.json").read_text())
    assert card["trained_on"] + card["calibrated_on"] == 110
    assert card["left_out"] == 10
    assert answer(read_corpus(corpus), load_all(tmp_path))


def test_the_panels_share_no_network_no_seed_and_no_picture(folder: Path) -> None:
    panels = {
        which: [one for one in MEMBERS.values() if one.panel == which]
        for which in ("training", "reference")
    }
    for what in ("network", "light", "seed", "half"):
        mine, others = ({getattr(one, what) for one in members} for members in panels.values())
        assert not mine & others
    seen = [one.seen for one in load_all(folder)]
    assert len(seen[0]) == len(seen[1]) == 240
    assert not torch.isin(seen[0], seen[1]).any()


def test_the_same_seed_trains_the_same_annotator() -> None:
    outputs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model = make_network("stem24", 4)
        train(model, shapes(60), Training(steps=2, seed=seed))
        outputs.append(model(shapes(4).pixels / 255))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_a_stopped_training_goes_on_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl_privacy_audit.lab.machines.training.LAP", 2)

    class StoppedError(Exception):
        pass

    def stop(done: int, steps: int) -> None:
        if done == 4:
            raise StoppedError

    def run(checkpoint: Path, progress: object = None) -> Tensor:
        torch.manual_seed(0)
        model = make_network("stem24", 4)
        torch.manual_seed(1)
        more = {"progress": progress} if progress else {}
        train(model, shapes(60), Training(steps=6), checkpoint=checkpoint, **more)  # type: ignore[arg-type]
        scores: Tensor = model(shapes(4).pixels / 255)
        return scores

    whole = run(tmp_path / "whole")
    with pytest.raises(StoppedError):
        run(tmp_path / "part", stop)
    assert torch.allclose(run(tmp_path / "part"), whole, atol=1e-6)


def test_a_foreign_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "other"
    train(make_network("stem24", 4), shapes(60), Training(steps=1), checkpoint=path)
    with pytest.raises(
        CorpusError, match=r"other cannot be used: .* size mismatch .*; delete it to start again"
    ):
        train(make_network("stem32", 4), shapes(60), Training(steps=2), checkpoint=path)


def test_an_annotator_that_is_there_is_kept(folder: Path) -> None:
    notes: list[str] = []
    order = replace(ORDER, directory=folder)
    assert make("machine-t2", order, shapes(480), note=notes.append) is None
    assert notes == [f"{folder / 'shapes-machine-t2.json'} is there already and is kept"]


def test_weights_of_another_source_are_a_start(folder: Path) -> None:
    order = replace(ORDER, directory=folder, source="more", after="shapes", steps=1)
    assert make("machine-t2", order, shapes(200, seed=4))
    card = json.loads((folder / "more-machine-t2.json").read_text())
    assert card["start"].startswith("shapes-machine-t2.safetensors, SHA-256 ")
    (folder / "more-machine-t2.json").unlink()
    with pytest.raises(CorpusError, match="was not made for source 'none' yet"):
        make("machine-t2", replace(order, after="none"), shapes(80))


def test_damaged_weights_and_cards_are_named(folder: Path, tmp_path: Path) -> None:
    for path in folder.glob("shapes-machine-t2.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "shapes-machine-t2.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsError, match="are not those of its card: SHA-256"):
        load_all(tmp_path)
    weights.unlink()
    with pytest.raises(WeightsError, match=r"machine-t2.json cannot be read"):
        load_all(tmp_path)
    with pytest.raises(CorpusError, match="there is no annotator of panel 'reference' in"):
        load_all(tmp_path / "empty", panel="reference")


def test_agreement_of_two_who_agree_and_two_who_do_not(corpus: Path) -> None:
    read = read_corpus(corpus)

    def told(name: str, shift: int) -> list[Response]:
        return [
            Response(key=pair.key, annotator=name, answer=(pair.label + shift) % 4)
            for pair in read.pairs
        ]

    same = reliability(read, told("a", 0) + told("b", 0)).codings["label"]
    assert same.fleiss == 1
    assert same.krippendorff == 1
    other = reliability(read, told("a", 0) + told("b", 1)).codings["label"]
    assert other.fleiss == pytest.approx(-1 / 3)  # never agree, chance 1/4
    assert math.isnan(reliability(read, told("a", 0)).codings["label"].fleiss)


def test_candidates_are_the_classes_that_occur(folder: Path, corpus: Path) -> None:
    read = read_corpus(corpus)
    (member,) = load_all(folder, panel="training")
    two = replace(read, pairs=tuple(pair for pair in read.pairs if pair.label in (1, 3)))
    told = replace(member, candidates=2, threshold=0.0)
    assert {one.answer for one in answer(two, [told])} == {1, 3}
    assert {one.answer for one in answer(two, [replace(told, candidates=0)])} - {1, 3}


def test_unknown_sources_classes_and_members_are_named(folder: Path, corpus: Path) -> None:
    read, members = read_corpus(corpus), load_all(folder)
    with pytest.raises(CorpusError, match="the corpus has no source 'cats'; it has shapes"):
        answer(read, members, sources=["cats"])
    with pytest.raises(CorpusError, match="no annotator knows source 'shapes'"):
        answer(read, [])
    strange = replace(read, classes={"shapes": [*SHAPES, "star"]})
    with pytest.raises(CorpusError, match="does not know the class 'star' of source 'shapes'"):
        answer(strange, members)
    with pytest.raises(CorpusError, match="there is no annotator 'me'; there are machine-t1"):
        make("me", ORDER, shapes(8))


def test_the_commands(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        panel_module.MEMBERS,
        "machine-t3",
        Member("training", "stem24", light="stem24", half="all", seed=3),
    )
    pictures = save_folder(shapes(240), tmp_path / "pictures")
    out = tmp_path / "annotators"

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli, ["annotators", *arguments])

    trained = run(
        "train", *["shapes", "--images", str(pictures), "--out", str(out), "--size", "16",
         "--no-mirror", "--steps", "4", "--annotator", "machine-t2", "--annotator", "machine-t3",
         "--light", "--corpus", str(corpus)],
    )  # fmt: skip
    assert trained.exit_code == 0, trained.output
    assert "shapes machine-t3: temperature" in trained.output
    table = tmp_path / "answers.csv"
    asked = ["answer", str(corpus), "--annotators", str(out), "--out", str(table)]
    answered = run(*[*asked, "--panel", "training"])
    assert answered.exit_code == 0, answered.output
    assert "agreement on class named, or cannot tell: Fleiss" in answered.output
    assert len(read_answers(table)) == 64
    with table.open(newline="") as file:
        assert {row["recognisable"] for row in csv.DictReader(file)} == {""}
    missing = run(*[*asked, "--panel", "reference"])
    assert missing.exit_code == 1
    assert "there is no annotator of panel 'reference'" in missing.output


def test_bad_starts_are_named(tmp_path: Path) -> None:
    from fl_privacy_audit.lab.machines.networks import load_start

    model = make_network("resnet20", 10)
    broken = tmp_path / "broken.th"
    broken.write_bytes(b"no weights")
    with pytest.raises(WeightsError, match=r"broken.th cannot be read"):
        load_start(model, broken)
    other = tmp_path / "other.th"
    torch.save({"state_dict": nn.Linear(2, 2).state_dict()}, other)
    with pytest.raises(WeightsError, match=r"the network needs 'body.conv1.weight' of shape"):
        load_start(model, other)
    with pytest.raises(CorpusError, match="there is no network 'vgg'; there are resnet20"):
        make_network("vgg", 10)


def test_public_weights_are_read_and_know_their_classes(shared_data: Path) -> None:
    from fl_privacy_audit.lab.machines.networks import load_start

    model = make_network("resnet20", 10)
    load_start(model, shared_data / "weights" / "resnet20-12fca82f.th")
    tile = torch.from_numpy(_tile(shared_data / "cifar10" / "test_000.webp"))[:200]
    index = _labels(shared_data / "cifar10" / "index.tsv.gz")[:200]
    with torch.inference_mode():
        named = model.eval()(tile.permute(0, 3, 1, 2).float() / 255).argmax(dim=1)
    assert (named == torch.tensor(index)).float().mean() > 0.85  # 91.7 % of all


def _tile(path: Path):  # type: ignore[no-untyped-def]
    import numpy as np
    from PIL import Image

    pixels = np.asarray(Image.open(path).convert("RGB"))
    rows, columns = pixels.shape[0] // 32, pixels.shape[1] // 32
    return pixels.reshape(rows, 32, columns, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3).copy()


def _labels(path: Path) -> list[int]:
    import gzip

    with gzip.open(path, "rt") as file:
        rows = [line.rstrip("\n").split("\t") for line in file][1:]
    return [int(row[2]) for row in rows if row[0] == "test"]
