"""Out of the database and into the study."""

import stat
from pathlib import Path

import krippendorff
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from statsmodels.stats.inter_rater import fleiss_kappa

from fl_privacy_audit.cli import cli
from fl_privacy_audit.lab.manifest import CANNOT_TELL, Corpus, Response, read_answers
from fl_privacy_audit.lab.people import Settings, Store, answers, ratings_table
from fl_privacy_audit.lab.people.plan import plan
from fl_privacy_audit.lab.reliability import reliability
from fl_privacy_audit.lab.study import read_ratings
from tests.lab.conftest import MakeCorpus


def judge(corpus: Corpus, name: str, *, share: float = 1.0, beside: bool = True) -> Store:
    """Everything in order; the answer follows from key, name and visit."""
    store = Store(corpus.directory / "annotations.sqlite")
    if not store.exists():
        store.create(Settings(repeat=0.5, beside=beside))
    keys = [pair.key for pair in corpus.pairs]
    who = store.join(name, plan(keys, store.settings(), annotator=name))
    tasks = store.tasks(who)
    for task in tasks[: round(share * len(tasks))]:
        if task.stage == "beside":
            store.answer(who, task.id, int(said(task.key, name) >= 0))
        else:
            store.answer(who, task.id, said(task.key, name, task.visit))
    return store


def said(key: str, name: str, visit: int = 1) -> int:
    if visit == 2 and key.endswith("1"):
        return CANNOT_TELL
    return (sum(map(ord, key + name)) % 5) - 1


def ran(corpus: Corpus, *options: str, code: int = 0) -> Result:
    done = CliRunner().invoke(cli, ["annotate", str(corpus.directory), *options])
    assert done.exit_code == code, done.output
    return done


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_answers_come_out_as_they_were_given(
    make_corpus: MakeCorpus, tmp_path: Path, form: str
) -> None:
    corpus = make_corpus()
    judge(corpus, "Ann")
    judge(corpus, "Bob, the 2nd")
    target = tmp_path / f"answers.{form}"
    assert f"Wrote {target}" in ran(corpus, "--export", str(target)).output
    if form == "csv":
        found = read_answers(target)
        rows = [(a.key, a.annotator, a.answer, a.recognisable) for a in found]
    else:
        frame = pd.read_parquet(target)
        assert list(frame) == ["key", "annotator", "answer", "recognisable", "confidence", "time"]
        names = ["key", "annotator", "answer", "recognisable"]
        rows = list(frame[names].itertuples(index=False, name=None))
    expected = {
        (pair.key, name, said(pair.key, name), said(pair.key, name) >= 0)
        for pair in corpus.pairs
        for name in ("Ann", "Bob, the 2nd")
    }
    assert set(rows) == expected and len(rows) == len(expected)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("form", [[], ["--log"]])
def test_an_export_holds_no_formula_and_is_its_owners(
    make_corpus: MakeCorpus, tmp_path: Path, form: list[str]
) -> None:
    corpus = make_corpus(1)
    judge(corpus, "=HYPERLINK(A1)")
    target = tmp_path / "answers.csv"
    ran(corpus, "--export", str(target), *form)
    assert ",=" not in target.read_text() and ",'=HYPERLINK(A1)" in target.read_text()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    if not form:
        assert {answer.annotator for answer in read_answers(target)} == {"=HYPERLINK(A1)"}


def test_the_study_reads_the_ratings(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    corpus = make_corpus()
    judge(corpus, "Ann")
    judge(corpus, "Bob")
    judge(corpus, "Cleo", share=0.2)
    target = tmp_path / "ratings.csv"
    output = ran(
        corpus, "--export", str(target), "--ratings", "--annotator", "bob", "--annotator", "Ann"
    ).output
    assert "rater1: Bob\n" in output and "rater2: Ann\n" in output
    found = read_ratings(target)
    assert found.settings == tuple(dict.fromkeys(pair.setting for pair in corpus.pairs))
    assert list(found.metrics) == ["mse", "psnr", "ssim"]
    expected = [[said(pair.key, "Bob"), said(pair.key, "Ann")] for pair in corpus.pairs]
    assert found.answers.tolist() == expected
    assert found.true_label.tolist() == [pair.label for pair in corpus.pairs]
    first = corpus.pairs[0]
    gap = corpus.picture(first.original) - corpus.picture(first.reconstruction)
    assert found.metrics["mse"][0] == pytest.approx(float((gap.double() ** 2).mean()))
    for name in ("Ann", "Bob"):
        assert name not in target.read_text()


def test_only_complete_pictures_are_rated(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus()
    judge(corpus, "Ann")
    store = judge(corpus, "Bob", share=0.3)
    people = store.annotators()
    _, table = ratings_table(corpus, answers(store, people))
    assert len(table) == len(answers(store, people[1:])) > 0


def test_two_sources_are_not_taken_for_one(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(sources=("a", "b"), side=6)
    judge(corpus, "Ann")
    store = judge(corpus, "Bob")
    columns, table = ratings_table(corpus, answers(store, store.annotators()))
    second = [row for row in table if row["image"].startswith("b/")]
    assert len(second) == len(corpus.pairs) / 2
    assert [row["true_label"] for row in second] == [4 + pair.label for pair in corpus.pairs[12:]]
    assert {row["rater1"] for row in second} <= {-1, 4, 5, 6, 7}
    assert "psnr" in columns and "ssim" not in columns  # too small for its window


def test_the_log_holds_everything(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    corpus = make_corpus()
    store = judge(corpus, "Ann")
    who = store.annotators()[0]
    last = store.tasks(who)[-1].event
    assert last is not None and store.undo(who, last)
    for form in ("csv", "parquet"):
        target = tmp_path / f"log.{form}"
        ran(corpus, "--export", str(target), "--log")
        frame = pd.read_csv(target) if form == "csv" else pd.read_parquet(target)
        assert len(frame) == len(store.log()) == 12 + 6 + 12 + 1
        assert frame["kind"].tolist()[-1] == "undo"


def test_agreement_is_that_of_the_libraries(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus()
    judge(corpus, "Ann")
    judge(corpus, "Bob")
    store = judge(corpus, "Cleo", share=0.2)
    people = store.annotators()
    given = answers(store, people)
    found = reliability(corpus, given, answers(store, people, visit=2))
    cells = np.full((3, len(corpus.pairs)), np.nan)
    places = {pair.key: i for i, pair in enumerate(corpus.pairs)}
    raters = [who.name for who in people]
    for answer in given:
        cells[raters.index(answer.annotator), places[answer.key]] = answer.answer
    whole = krippendorff.alpha(reliability_data=cells, level_of_measurement="nominal")
    assert found.codings["label"].krippendorff == pytest.approx(whole)
    complete = cells[:, ~np.isnan(cells).any(axis=0)]
    counts = [[int((column == k).sum()) for k in range(-1, 4)] for column in complete.T]
    used = np.array(counts)[:, np.array(counts).any(axis=0)]
    assert found.codings["label"].fleiss == pytest.approx(float(fleiss_kappa(used)))
    assert (found.codings["label"].complete, found.codings["label"].shared) == (len(counts), 12)
    assert set(found.codings) == {"label", "right", "answered", "recognisable"}


def test_self_consistency_by_hand(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus()
    keys = [pair.key for pair in corpus.pairs]
    first = [Response(key=key, annotator="ann", answer=i % 2) for i, key in enumerate(keys[:4])]
    again = [Response(key=key, annotator="ann", answer=0) for key in keys[:3]]
    habits = reliability(corpus, first, again).annotators["ann"]
    assert (habits.answers, habits.repeats, habits.same) == (4, 3, 2)
    # Labels are 0 0 0 1, answers 0 1 0 1.
    assert (habits.right, habits.cannot_tell) == (0.75, 0)
    # Observed disagreement 2/6, expected 2 * 5 * 1 / (6 * 5).
    assert habits.alpha == pytest.approx(1 - (2 / 6) / (10 / 30))


def test_agreement_is_printed(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus()
    judge(corpus, "Ann [bold]")
    judge(corpus, "Bob")
    output = ran(corpus, "--agreement").output
    assert "Fleiss'" in output and "recognisable beside the original" in output
    (line,) = [line for line in output.splitlines() if line.startswith("Ann [bold]")]
    assert " of 6 " in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--export", "a.xlsx"], "a table is written as .csv or .parquet, but got 'a.xlsx'"),
        (["--ratings"], "--ratings and --log are two forms of --export FILE; give one"),
        (["--agreement", "--annotator", "Zoe"], "nobody is called 'Zoe'; there is 'Ann'"),
        (["--export", "no/where.csv"], "the table cannot be written to no/where.csv: "),
        (["--export", "a.csv", "--ratings"], "named by all of 1 annotators, and a study needs two"),
        (["--database", "none", "--agreement"], "there are no answers in none yet"),
    ],
)
def test_misuse_is_one_line(
    make_corpus: MakeCorpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    corpus = make_corpus(1)
    judge(corpus, "Ann")
    done = ran(corpus, *options, code=1)
    assert message in done.output
    assert done.output.count("\n") == 1


def test_nobody_has_answered(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(1)
    judge(corpus, "Ann", share=0)
    assert "nobody has answered yet" in ran(corpus, "--agreement", code=1).output
