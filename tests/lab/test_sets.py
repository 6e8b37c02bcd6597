"""Scores of whole sets of a corpus."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from fl_privacy_audit.cli import cli
from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.lab.manifest import read_corpus
from fl_privacy_audit.lab.sets import ALL, corpus_sets
from tests.support.semsim_corpus import build


def test_each_attack_is_scored_where_it_has_enough(tmp_path: Path) -> None:
    corpus, _ = build(tmp_path, originals=6)
    found = corpus_sets(read_corpus(corpus))
    assert list(found) == [ALL, "middling", "strong", "weak"]
    pixels = {name: figures["identification_pixels"] for name, figures in found.items()}
    assert {name: figure.images for name, figure in pixels.items()} == {
        ALL: 36, "middling": 12, "strong": 12, "weak": 12,
    }  # fmt: skip
    # Each original is there twice an attack, and is one candidate of six.
    assert {figure.chance for figure in pixels.values()} == {1 / 6}
    assert pixels["strong"].value == 1.0
    few = found[ALL]["fid"]
    assert few.value is None and few.reason is not None
    assert few.reason.code == "too few pictures"


def test_pictures_of_several_sizes_are_refused(tmp_path: Path) -> None:
    small, _ = build(tmp_path, originals=2)
    build(tmp_path / "large", originals=2, side=48)
    (tmp_path / "large" / "reconstructions" / "1-weak-resnet20.png").rename(
        small / "reconstructions" / "1-weak-resnet20.png"
    )
    with pytest.raises(CorpusError, match=r"'1-weak-resnet20' in .* are of another size than"):
        corpus_sets(read_corpus(small))


def test_the_command_says_what_a_corpus_holds(tmp_path: Path) -> None:
    corpus, _ = build(tmp_path, originals=6)
    ran = CliRunner().invoke(cli, ["corpus", "report", str(corpus), "--by", "architecture"])
    assert ran.exit_code == 0, ran.output
    assert "36 reconstructions of 6 originals under 6 settings" in ran.output
    assert "\nlenet: FID not computed (there are 18 pictures, and 2049 are needed)" in ran.output
    assert "by chance 0.17" in ran.output
