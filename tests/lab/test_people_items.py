"""Pictures that cannot be shown are named, and the rest goes on."""

from dataclasses import replace

import pytest

from fl_privacy_audit.core.errors import ConfigError, CorpusError
from fl_privacy_audit.lab.manifest import Corpus
from fl_privacy_audit.lab.people import Store, check_corpus
from fl_privacy_audit.lab.people.command import prepare
from tests.lab.conftest import MakeCorpus


def spoilt(corpus: Corpus) -> Corpus:
    """Six pairs: one missing, one cut short, one outside, one of no class; an original missing."""
    folder, pairs = corpus.directory, list(corpus.pairs)
    (folder / pairs[0].reconstruction).unlink()
    cut = folder / pairs[1].reconstruction
    cut.write_bytes(cut.read_bytes()[:-40])
    outside = folder.parent / "outside.png"
    outside.write_bytes((folder / pairs[2].reconstruction).read_bytes())
    pairs[2] = replace(pairs[2], reconstruction="../outside.png")
    pairs[3] = replace(pairs[3], label=4)
    (folder / pairs[4].original).unlink()
    return replace(corpus, pairs=tuple(pairs))


def test_every_bad_picture_is_named_and_the_rest_is_shown(make_corpus: MakeCorpus) -> None:
    corpus = spoilt(make_corpus(2))
    keys = [pair.key for pair in corpus.pairs]
    items, problems = prepare(corpus, Store(corpus.directory / "a.sqlite"), {})
    assert list(items) == keys[4:]
    assert len(problems) == 4
    for line, key, what in zip(
        problems,
        keys,
        (
            f"{corpus.directory / corpus.pairs[0].reconstruction} is missing",
            f"{corpus.directory / corpus.pairs[1].reconstruction} is damaged",
            "the picture '../outside.png' lies outside the corpus; copy it in",
            "label 4 is no class of 'tiny', which has 4",
        ),
        strict=False,
    ):
        assert line.startswith(f"{key}: ") and what in line


@pytest.mark.parametrize("which", ["reconstruction", "original"])
def test_a_bomb_is_refused_by_what_its_head_says(make_corpus: MakeCorpus, which: str) -> None:
    corpus = make_corpus(1)
    bomb = corpus.directory / getattr(corpus.pairs[0], which)
    bomb.write_bytes(b"P5 4096 4096 255\n")  # a head alone: decoded, it would be damaged
    items, problems = check_corpus(corpus, beside=True)
    assert corpus.pairs[0].key not in items
    assert "is too large to be decoded: 4096 x 4096 pixels, and at most 4194304" in problems[0]


def test_originals_are_checked_where_they_are_shown(make_corpus: MakeCorpus) -> None:
    corpus = spoilt(make_corpus(2))
    with pytest.raises(CorpusError, match=r"no picture of .* can be shown"):
        prepare(corpus, Store(corpus.directory / "a.sqlite"), {"beside": True})


def test_strict_refuses_and_leaves_no_file(make_corpus: MakeCorpus) -> None:
    corpus = spoilt(make_corpus(2))
    store = Store(corpus.directory / "a.sqlite")
    with pytest.raises(CorpusError, match=r"4 of 6 pictures cannot be shown:\n  tiny-lenet-0: "):
        prepare(corpus, store, {}, strict=True)
    assert not store.exists()


def test_a_picture_that_changed_since_it_was_judged_is_left_out(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(1)
    store = Store(corpus.directory / "a.sqlite")
    assert prepare(corpus, store, {})[1] == []
    first, second = (corpus.directory / pair.reconstruction for pair in corpus.pairs[:2])
    first.write_bytes(second.read_bytes())
    items, problems = prepare(corpus, store, {})
    assert corpus.pairs[0].key not in items
    (problem,) = problems
    assert problem == (
        f"{corpus.pairs[0].key}: the picture {first} is not the one that was judged; keep the old "
        "corpus, or give the new one another --database"
    )


def test_settings_stay_what_they_were(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(1)
    store = Store(corpus.directory / "a.sqlite")
    prepare(corpus, store, {"seed": 4, "repeat": None})
    prepare(corpus, store, {"seed": None})
    assert store.settings().seed == 4
    with pytest.raises(ConfigError, match=r"begun with --seed 4, not 5: everybody must get"):
        prepare(corpus, store, {"seed": 5})
