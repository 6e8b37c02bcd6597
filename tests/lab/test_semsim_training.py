"""From a corpus and answers to weights."""

import dataclasses
import math
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fl_privacy_audit.core.errors import ConfigError, CorpusError
from fl_privacy_audit.lab.manifest import Response, write_answers
from fl_privacy_audit.lab.semsim import Examples, Selection, TrainSettings, read_examples, train
from fl_privacy_audit.lab.semsim.examples import is_held_back, read_judged
from fl_privacy_audit.lab.semsim.training import pooled_auc, split, triplet_loss
from fl_privacy_audit.lab.semsim.triplets import ITSELF, augment, draw_triplets, mixes, pictures
from fl_privacy_audit.metrics.semsim import embed, load_semsim, to_tensors
from tests.support.semsim_corpus import build

TINY = TrainSettings(width=2, epochs=3, batch=8, held_back=0.0)


def read(folder: Path, *, shuffle: int | None = None, **chosen: object) -> Examples:
    corpus, answers = build(folder, shuffle=shuffle)
    judged = read_judged([corpus], [answers], **chosen)  # type: ignore[arg-type]
    return read_examples(judged, threshold=0.4)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return read(tmp_path_factory.mktemp("corpus"))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Joining


def test_a_pair_is_recognisable_when_enough_annotators_named_it(examples: Examples) -> None:
    assert len(examples.pairs) == 24
    assert examples.annotators == ("ada", "bob")
    for pair, share, yes in zip(
        examples.pairs, examples.share.tolist(), examples.recognisable.tolist(), strict=True
    ):
        assert share == {"strong": 1.0, "middling": 0.5, "weak": 0.0}[pair.attack]
        assert yes == (pair.attack != "weak")


def test_half_of_them_are_not_more_than_half(tmp_path: Path) -> None:
    corpus, answers = build(tmp_path)
    found = read_examples(read_judged([corpus], [answers]))
    assert found.recognisable.tolist() == [p.attack == "strong" for p in found.pairs]


def test_order_of_files_and_rows_does_not_matter(tmp_path: Path, examples: Examples) -> None:
    shuffled = read(tmp_path, shuffle=3)
    assert [p.key for p in shuffled.pairs] == [p.key for p in examples.pairs]
    for name in ("original", "truths", "guesses", "share"):
        assert torch.equal(getattr(shuffled, name), getattr(examples, name)), name
    assert shuffled.fingerprint() == examples.fingerprint()


def test_each_guess_lies_beside_its_own_original(examples: Examples) -> None:
    """Known answer: a strong attack's work is nearest, in pixels, to the picture it was made from."""
    strong = [i for i, pair in enumerate(examples.pairs) if pair.attack == "strong"]
    gaps = torch.cdist(
        examples.guesses[strong].flatten(1).float(), examples.truths.flatten(1).float()
    )
    assert torch.equal(gaps.argmin(dim=1), examples.original[strong])


def test_chosen_annotators_alone_count(tmp_path: Path) -> None:
    only_bob = read(tmp_path, annotators=["bob"])
    assert only_bob.recognisable.tolist() == [p.attack == "strong" for p in only_bob.pairs]


def test_the_other_rule_reads_the_other_column(tmp_path: Path) -> None:
    beside = read(tmp_path, rule="beside")
    assert beside.annotators == ("ada",)  # Bob was not asked
    assert beside.recognisable.tolist() == [p.attack == "strong" for p in beside.pairs]


def test_selections_keep_pairs_away(tmp_path: Path) -> None:
    chosen = read(
        tmp_path,
        without=[Selection.parse("architecture=res*")],
        only=[Selection.parse("attack=*ong")],
    )
    assert {(p.architecture, p.attack) for p in chosen.pairs} == {("lenet", "strong")}


@pytest.mark.parametrize("text", ["architecture", "architecture=", "key=a", "=x"])
def test_a_selection_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(
        ConfigError, match="a selection must look like FIELD=PATTERN with a field of"
    ):
        Selection.parse(text)


def test_what_does_not_meet_is_said(tmp_path: Path) -> None:
    corpus, answers = build(tmp_path)
    with pytest.raises(CorpusError, match=r"annotator 'eve' judged none .* there are ada, bob"):
        read_judged([corpus], [answers], annotators=["eve"])
    with pytest.raises(CorpusError, match="no pair is left"):
        read_judged([corpus], [answers], only=[Selection.parse("source=faces")])
    with pytest.raises(CorpusError, match=r"key '0-strong-lenet' is in .* and in"):
        read_judged([corpus, corpus], [answers])
    other, _ = build(tmp_path / "other", prefix="b-")
    assert len(read_judged([corpus, other], [answers]).pairs) == 24
    assert read_judged([corpus, other], [answers]).unjudged == 24


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    corpus, answers = build(tmp_path)
    (corpus / "reconstructions/0-weak-lenet.png").unlink()
    with pytest.raises(CorpusError, match=r"0-weak-lenet.png is missing"):
        read_examples(read_judged([corpus], [answers]))


def test_larger_pictures_are_made_small(tmp_path: Path) -> None:
    corpus, answers = build(tmp_path, side=64)
    assert read_examples(read_judged([corpus], [answers])).truths.shape == (4, 3, 32, 32)


# Triplets


def test_triplets_are_what_the_paper_says(examples: Examples) -> None:
    drawn = draw_triplets(examples, torch.arange(4), rng=rng())
    assert len(drawn) == 4 * 4  # each original has four recognisable and two unrecognisable
    for anchor, good, bad in zip(
        drawn.anchor.tolist(), drawn.positive.tolist(), drawn.negative.tolist(), strict=True
    ):
        assert examples.original[good] == examples.original[bad] == anchor
        assert bool(examples.recognisable[good])
        assert not bool(examples.recognisable[bad])
    used = torch.cat([drawn.positive, drawn.negative]).bincount()
    assert used.tolist() == [2 if p.attack == "weak" else 1 for p in examples.pairs]


def test_an_original_without_one_kind_borrows(examples: Examples) -> None:
    good = examples.recognisable.clone()
    good[examples.original == 0] = True
    good[examples.original == 1] = False
    changed = dataclasses.replace(examples, recognisable=good)
    drawn = draw_triplets(changed, torch.arange(4), rng=rng())
    of_first, of_second = drawn.anchor == 0, drawn.anchor == 1
    assert bool((changed.original[drawn.negative[of_first]] != 0).all())
    assert bool((drawn.positive[of_second] == ITSELF).all())
    assert bool((drawn.positive[~of_second] != ITSELF).all())
    rows = slice(0, len(drawn))
    shown = pictures(changed, drawn, rows, joint=True, recolour=True, rng=rng())
    anchors, positives, _ = shown.chunk(3)
    assert torch.equal(anchors[of_second], positives[of_second])


def test_one_kind_alone_is_refused(examples: Examples) -> None:
    for only in (torch.ones(24, dtype=torch.bool), torch.zeros(24, dtype=torch.bool)):
        changed = dataclasses.replace(examples, recognisable=only)
        with pytest.raises(CorpusError, match="a triplet needs both kinds"):
            draw_triplets(changed, torch.arange(4), rng=rng())


def slow_augment(images: Tensor, sets: int, generator: torch.Generator) -> Tensor:
    """The obvious way: pad by hand, cut, mirror, one picture at a time."""
    top = torch.randint(9, (sets,), generator=generator)
    left = torch.randint(9, (sets,), generator=generator)
    mirrored = torch.rand(sets, generator=generator) < 0.5
    cut = []
    for i, image in enumerate(images):
        padded = np.pad(image.numpy(), ((0, 0), (4, 4), (4, 4)), mode="reflect")
        y, x = int(top[i % sets]), int(left[i % sets])
        part = padded[:, y : y + 32, x : x + 32]
        cut.append(torch.from_numpy((part[..., ::-1] if mirrored[i % sets] else part).copy()))
    return torch.stack(cut)


@pytest.mark.parametrize("sets", [2, 6])
def test_augmentation_against_the_obvious_way(examples: Examples, sets: int) -> None:
    images = examples.guesses[:6]
    assert torch.equal(augment(images, sets=sets, rng=rng(5)), slow_augment(images, sets, rng(5)))


def test_a_triplet_is_recoloured_alike(examples: Examples) -> None:
    drawn = draw_triplets(examples, torch.arange(4), rng=rng())
    options = {"joint": True, "rng": rng(2)}
    plain = pictures(examples, drawn, slice(0, 16), recolour=False, **options)  # type: ignore[arg-type]
    options["rng"] = rng(2)
    other = pictures(examples, drawn, slice(0, 16), recolour=True, **options)  # type: ignore[arg-type]
    kinds = set()
    for i in range(16):
        mine, theirs = plain[i::16], other[i::16]  # anchor, positive, negative of one triplet
        orders = [
            order for order in permutations(range(3)) if torch.equal(mine[:, list(order)], theirs)
        ]
        if orders:
            kinds.add(orders[0])
        else:
            grey = mine.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
            torch.testing.assert_close(theirs, grey)
            kinds.add(())
    assert len(kinds) > 3


def test_about_one_mixture_in_five_is_grey() -> None:
    mix = mixes(2000, rng=rng())
    torch.testing.assert_close(mix.sum(dim=2), torch.ones(2000, 3))
    grey = (mix < 0.5).all(dim=(1, 2))
    assert 0.17 < float(grey.float().mean()) < 0.23
    assert len({tuple(one.argmax(dim=1).tolist()) for one in mix[~grey]}) == 6


def test_a_blend_needs_a_start(examples: Examples, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`blend` needs weights to start from"):
        train(examples, dataclasses.replace(TINY, blend=0.25), tmp_path)


# The loss


def slow_loss(features: Tensor, anchors: Tensor, settings: TrainSettings) -> float:
    a, p, n = (part.tolist() for part in features.double().chunk(3))
    count, total = len(a), 0.0
    for i in range(count):
        total += max(0, math.dist(a[i], p[i]) - math.dist(a[i], n[i]) + settings.margin) / count
    for i in range(count):
        for j in range(count):
            hinge = max(0, math.dist(a[i], p[i]) - math.dist(a[j], n[j]) + settings.margin)
            total += settings.across * hinge / count**2
    pairs = [(i, j) for i in range(count) for j in range(count) if anchors[i] != anchors[j]]
    for i, j in pairs:
        hinge = max(0, math.dist(a[i], p[i]) - math.dist(p[i], a[j]) + settings.margin)
        total += settings.other * hinge / len(pairs)
    return total


@pytest.mark.parametrize(("across", "other"), [(0, 0), (0.5, 0), (0, 0.25), (1, 1)])
def test_the_loss_against_the_obvious_way(across: float, other: float) -> None:
    settings = TrainSettings(across=across, other=other, margin=0.5)
    features = torch.nn.functional.normalize(torch.randn(15, 6, generator=rng()), dim=1)
    anchors = torch.tensor([0, 0, 1, 2, 1])
    found = triplet_loss(features, anchors, settings)
    assert float(found) == pytest.approx(slow_loss(features, anchors, settings), abs=1e-4)


def test_the_paper_s_loss_is_torch_s() -> None:
    settings = TrainSettings(across=0, other=0)
    features = torch.nn.functional.normalize(torch.randn(12, 6, generator=rng()), dim=1)
    expected = torch.nn.TripletMarginLoss(margin=1.0)(*features.chunk(3))
    found = triplet_loss(features, torch.arange(4), settings)
    assert float(found) == pytest.approx(float(expected), abs=1e-4)


def test_an_original_as_its_own_positive_has_a_gradient() -> None:
    features = torch.nn.functional.normalize(torch.randn(6, 4, generator=rng()), dim=1)
    features[2:4] = features[:2]
    features.requires_grad_()
    triplet_loss(features, torch.arange(2), TrainSettings()).backward()
    assert features.grad is not None
    assert bool(features.grad.isfinite().all())


# Training


def weights(folder: Path) -> dict[str, Tensor]:
    return to_tensors(load_semsim(folder / "semsim.safetensors"))


def same(x: dict[str, Tensor], y: dict[str, Tensor]) -> bool:
    return all(torch.equal(x[name], y[name]) for name in x)


def test_it_learns(tmp_path: Path, examples: Examples) -> None:
    settings = dataclasses.replace(TINY, width=4, epochs=8)
    net, history = train(examples, settings, tmp_path)
    assert history[-1].loss < 0.6 * history[0].loss
    assert pooled_auc(net, examples, torch.arange(4)) > 0.95
    assert [epoch.number for epoch in history] == list(range(1, 9))
    assert math.isnan(history[-1].auc)  # nothing was held back


def test_the_same_seed_gives_the_same_weights(tmp_path: Path, examples: Examples) -> None:
    before = torch.random.get_rng_state()
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(examples, dataclasses.replace(TINY, seed=seed), tmp_path / folder)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_is_returned_is_what_is_written(tmp_path: Path, examples: Examples) -> None:
    net, _ = train(examples, TINY, tmp_path)
    x = examples.truths.float() / 255
    assert torch.equal(
        embed(x, net=net), embed(x, net=load_semsim(tmp_path / "semsim.safetensors"))
    )
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_resumed_equals_uninterrupted(tmp_path: Path, examples: Examples) -> None:
    whole = train(examples, TINY, tmp_path / "whole")
    part = train(examples, TINY, tmp_path / "part", stop_after=1)
    assert len(part[1]) == 1
    assert not (tmp_path / "part/semsim.safetensors").exists()
    rest = train(examples, TINY, tmp_path / "part", resume=True)
    assert str(rest[1]) == str(whole[1])  # by their text, since NaN equals nothing
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "part"))


def test_it_can_begin_from_weights(tmp_path: Path, examples: Examples) -> None:
    still = dataclasses.replace(TINY, rate=1e-12, decay=0.0, epochs=1)
    begun, _ = train(examples, TINY, tmp_path / "first")
    net, _ = train(examples, still, tmp_path / "second", start=begun)
    assert all(
        torch.equal(value, to_tensors(begun)[name])
        for name, value in to_tensors(net).items()
        if value.ndim == 4
    )
    with pytest.raises(ConfigError, match="are of width 2, but `width` is 4; set it to 2"):
        train(examples, dataclasses.replace(TINY, width=4), tmp_path / "third", start=begun)
    train(examples, TINY, tmp_path / "fifth", start=begun, stop_after=1)
    with pytest.raises(CorpusError, match="is of other settings, answers or pictures"):
        train(examples, TINY, tmp_path / "fifth", resume=True)


def test_a_folder_in_use_is_refused(tmp_path: Path, examples: Examples) -> None:
    train(examples, TINY, tmp_path, stop_after=1)
    with pytest.raises(ConfigError, match="holds an unfinished training; go on with --resume"):
        train(examples, TINY, tmp_path)
    with pytest.raises(CorpusError, match="is of other settings, answers or pictures"):
        train(examples, dataclasses.replace(TINY, rate=0.1), tmp_path, resume=True)
    other = dataclasses.replace(examples, share=examples.share / 2)
    with pytest.raises(CorpusError, match="is of other settings, answers or pictures"):
        train(other, TINY, tmp_path, resume=True)
    train(examples, TINY, tmp_path, resume=True)
    with pytest.raises(ConfigError, match="holds trained weights already"):
        train(examples, TINY, tmp_path)


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("sprung"),))


def test_a_foreign_checkpoint_is_not_unpickled(
    tmp_path: Path, examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"mark": Trap()}, tmp_path / "checkpoint.safetensors")
    with pytest.raises(CorpusError, match=r"cannot be used: .*; delete it to start again"):
        train(examples, TINY, tmp_path, resume=True)
    assert not (tmp_path / "sprung").exists()


def test_validation_holds_whole_originals_back(examples: Examples) -> None:
    settings = dataclasses.replace(TINY, held_back=0.5, seed=1)
    training, away = split(examples, settings)
    assert sorted([*training.tolist(), *away.tolist()]) == [0, 1, 2, 3]
    for index in away.tolist():
        assert is_held_back(examples.originals[index], share=0.5, seed=1)
    names = [f"patterns/{i}" for i in range(2000)]
    assert sum(is_held_back(n, share=0.1, seed=0) for n in names) == pytest.approx(200, abs=45)


def test_everything_held_back_is_refused(examples: Examples) -> None:
    with pytest.raises(CorpusError, match="all 4 originals are held back"):
        split(examples, dataclasses.replace(TINY, held_back=0.9999))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "`width` must be a whole number of at least 1, but got 0"),
        ({"epochs": 0}, "`epochs` must be a whole number of at least 1, but got 0"),
        ({"margin": 0.0}, r"`margin` must be in \(0, 2\], but got 0.0"),
        ({"held_back": 1.0}, r"`held_back` must be in \[0, 1\), but got 1.0"),
        ({"seed": -1}, "`seed` must be a whole number of at least 0, but got -1"),
    ],
)
def test_impossible_settings(change: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainSettings(**change)  # type: ignore[arg-type]


def test_the_last_answer_of_an_annotator_counts(tmp_path: Path) -> None:
    corpus, _ = build(tmp_path)
    said = [Response(key="0-strong-lenet", annotator="ada", answer=answer) for answer in (-1, 0)]
    write_answers(tmp_path / "changed.csv", said)
    assert read_judged([corpus], [tmp_path / "changed.csv"]).verdicts == ({"ada": True},)
