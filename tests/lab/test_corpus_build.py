import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from fl_privacy_audit.cli import cli
from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.lab.corpus import Built, Part, Plan, Spec, Training, build_corpus, parse_spec
from fl_privacy_audit.lab.corpus import work as worker
from fl_privacy_audit.lab.manifest import read_corpus
from tests.support.image_folders import tiny_folder

PART = Part(
    sources=("photos",),
    architectures=("perceptron",),
    attacks=(Spec("first_linear"),),
    defences=(parse_spec("none"), parse_spec("gaussian:std=0.01")),
    images=4,
)
SMALL = Plan(parts=(PART,), size=16, side_by_side=2)
MIXED = Plan(
    parts=(
        PART,
        replace(
            PART,
            architectures=("lenet",),
            batches=(2,),
            attacks=(parse_spec("inverting_gradients:steps=2"),),
        ),
    ),
    size=16,
    side_by_side=2,
)


def build(directory: Path, plan: Plan, workers: int = 1) -> Built:
    return build_corpus(directory, plan, workers=workers, device="cpu")


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def test_rows_are_right(tmp_path: Path) -> None:
    built = build(tmp_path / "c", MIXED)
    assert (built.rows, built.fresh, built.refusals) == (16, 16, [])
    corpus = read_corpus(tmp_path / "c")
    assert {pair.setting for pair in corpus.pairs} == {
        "photos/perceptron/none/first_linear/none",
        "photos/perceptron/none/first_linear/gaussian:std=0.01",
        "photos/lenet/none/inverting_gradients:batch=2,steps=2/none",
        "photos/lenet/none/inverting_gradients:batch=2,steps=2/gaussian:std=0.01",
    }
    assert len({pair.image for pair in corpus.pairs}) == 4
    source = worker.source("photos", "data")
    for pair in corpus.pairs:
        index = list(source.attacked.names).index(pair.image)
        assert pair.label == source.attacked.labels[index]
        stored = corpus.picture(pair.original)
        assert torch.equal(stored, source.attacked.pixels([index], 16)[0])
        if pair.defence == "none" and pair.architecture == "perceptron":
            # The attack divides two gradients: but for rounding it is exact.
            assert float((corpus.picture(pair.reconstruction) - stored).abs().max()) <= 1 / 255
        else:
            assert not torch.equal(corpus.picture(pair.reconstruction), stored)


def test_a_corpus_is_for_its_owner(tmp_path: Path) -> None:
    build(tmp_path / "c", SMALL)
    assert (tmp_path / "c").stat().st_mode & 0o077 == 0


def test_same_seed_same_corpus(tmp_path: Path) -> None:
    for name in "ab":
        build(tmp_path / name, MIXED)
    build(tmp_path / "c", replace(MIXED, seed=1))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a").keys() != contents(tmp_path / "c").keys()


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [1, 3, 6])
def test_a_build_goes_on(after: int, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    build(whole, MIXED)
    calls = 0

    def stop(what: str, done: int, total: int) -> None:
        nonlocal calls
        calls += what == "attacking"
        if calls > after:
            raise Killed

    with pytest.raises(Killed):
        build_corpus(broken, MIXED, device="cpu", report=stop)
    rows = (broken / "manifest.csv").read_bytes()
    assert 0 < len(read_corpus(broken).pairs) < 16
    # What a killed process leaves: half a row, and half a picture.
    (broken / "manifest.csv").write_bytes(rows + b"photos-test00001-abc,photos,te")
    (broken / "originals/torn.part").write_bytes(b"\x89PN")
    built = build(broken, MIXED)
    assert built.rows == 16
    (broken / "originals/torn.part").unlink()
    assert contents(broken) == contents(whole)
    assert build(broken, MIXED).fresh == 0


def test_a_lost_row_is_made_again_and_no_other(tmp_path: Path) -> None:
    build(tmp_path, SMALL)
    before = contents(tmp_path)
    header, first, *others = (tmp_path / "manifest.csv").read_text().splitlines(keepends=True)
    header = header.replace("architecture", "victim")  # as it was called until 0.2
    (tmp_path / "manifest.csv").write_text(header + "".join(others))
    assert build(tmp_path, SMALL).fresh == 1
    after = contents(tmp_path)
    lines = after.pop("manifest.csv").decode().splitlines(keepends=True)
    assert lines == [header, *others, first]
    before.pop("manifest.csv")
    assert after == before


def test_a_corpus_can_grow(tmp_path: Path) -> None:
    build(tmp_path, SMALL)
    early = read_corpus(tmp_path).pairs
    more = replace(SMALL, parts=(replace(PART, images=6),))
    assert build(tmp_path, more).fresh == 4
    assert read_corpus(tmp_path).pairs[: len(early)] == early


def test_another_plan_is_refused(tmp_path: Path) -> None:
    build(tmp_path, SMALL)
    for other, message in (
        (replace(SMALL, seed=5), "was begun with seed 0, not 5; go on with that, or build into"),
        (replace(SMALL, size=8), "was begun with size 16, not 8"),
        (replace(SMALL, training=Training(epochs=1)), "was begun with training"),
    ):
        with pytest.raises(CorpusError, match=message):
            build(tmp_path, other)


def test_two_builds_at_once_are_refused(tmp_path: Path) -> None:
    def second(what: str, done: int, total: int) -> None:
        with pytest.raises(CorpusError, match="another build is writing to"):
            build(tmp_path, SMALL)

    build_corpus(tmp_path, SMALL, device="cpu", report=second)
    assert len(read_corpus(tmp_path).pairs) == 8


def test_what_is_impossible_is_said(tmp_path: Path) -> None:
    part = replace(
        PART,
        architectures=("lenet", "convnet16"),
        modes=("eval", "train"),
        batches=(1, 3),
        attacks=(Spec("first_linear"), Spec("imprint")),
        defences=(Spec("none"), parse_spec("soteria:share=0.5")),
        images=2,
    )
    built = build(tmp_path, Plan(parts=(part,), size=8))
    assert built.rows == 0
    reasons = {refusal.reason for refusal in built.refusals}
    assert reasons == {
        "convnet16 takes images of side 9 and up, in steps of 1, but they have side 8",
        "2 images do not fill a batch of 3",
        "it needs a server that cheats, and these clients are sent honest models",
        "soteria is no defence on one gradient",
        "train and eval mode are the same to it",
        *(reason for reason in reasons if reason.startswith("first_linear needs")),
    }
    assert len(reasons) == 6
    with (tmp_path / "refused.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["setting"], row["reason"]) for row in rows] == [
        (refusal.setting, refusal.reason) for refusal in built.refusals
    ]


def test_a_batch_that_is_not_full_is_said(tmp_path: Path) -> None:
    part = replace(PART, architectures=("lenet",), batches=(2,), images=3, defences=(Spec("none"),))
    part = replace(part, attacks=(parse_spec("inverting_gradients:steps=1"),))
    built = build(tmp_path, Plan(parts=(part,), size=8))
    assert built.rows == 2
    assert [(r.reason, r.images) for r in built.refusals] == [
        ("1 images do not fill a batch of 2", 1)
    ]


def test_pictures_are_paired_within_a_batch(tmp_path: Path) -> None:
    """Spear finds the images of a batch in an order of its own."""
    part = replace(PART, batches=(2,), attacks=(Spec("spear"),), defences=(Spec("none"),), images=2)
    build(tmp_path, Plan(parts=(part,), size=8))
    corpus = read_corpus(tmp_path)
    assert len(corpus.pairs) == 2
    for pair in corpus.pairs:
        error = corpus.picture(pair.original) - corpus.picture(pair.reconstruction)
        assert float(error.abs().max()) < 0.05


@pytest.mark.parametrize("recipe", ["crop", "3-1-7"])
def test_the_original_is_what_was_attacked(recipe: str, tmp_path: Path) -> None:
    part = replace(PART, recipes=("plain", recipe), defences=(Spec("none"),))
    plan = Plan(parts=(part,), size=16, training=Training(epochs=1, images=4, learning_rate=1e-3))
    build(tmp_path, plan)
    corpus = read_corpus(tmp_path)
    plain = {p.image: corpus.picture(p.original) for p in corpus.pairs if p.recipe == "plain"}
    for pair in corpus.pairs:
        original = corpus.picture(pair.original)
        assert float((original - corpus.picture(pair.reconstruction)).abs().max()) < 0.02
        assert torch.equal(original, plain[pair.image]) == (pair.recipe == "plain")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ("lenett",)}, "there is no architecture 'lenett'; there are lenet, "),
        ({"recipes": ("long",)}, "there is no recipe 'long'; there are none, plain, "),
        ({"modes": ("test",)}, "`mode` must be one of 'eval', 'train', but got 'test'"),
        ({"batches": (0,)}, "`batch` must be a whole number of at least 1, but got 0"),
        ({"attacks": (Spec("dlgg"),)}, "there is no attack 'dlgg'"),
        ({"attacks": (parse_spec("dlg:speed=1"),)}, "attack 'dlg' has no option 'speed'"),
        ({"defences": (Spec("gaussian"),)}, "defence 'gaussian' needs the option 'std'"),
        ({"only": (("test00001", 0),)}, "test00001' of source 'photos' should be of class 0"),
        ({"only": (("one", 0),)}, "source 'photos' has no image 'one' to attack"),
    ],
)
def test_messages(change: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=message):
        build(tmp_path, Plan(parts=(replace(PART, **change),)))  # type: ignore[arg-type]
    assert not (tmp_path / "manifest.csv").exists()


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["corpus", "build", *arguments])
    return done.exit_code, done.output


FAST = ("--architecture", "perceptron", "--attack", "first_linear", "--size", "8", "--workers", "1")


def test_the_command(tmp_path: Path) -> None:
    tiny_folder(tmp_path / "dogs")
    out = str(tmp_path / "c")
    code, said = run(out, "--source", f"dogs={tmp_path / 'dogs'}", "--images", "4", *FAST)
    assert (code, said) == (0, f"{out}: 4 reconstructions, 4 of them new\n")
    assert {pair.source for pair in read_corpus(out).pairs} == {"dogs"}
    assert read_corpus(out).classes == {"dogs": ["beagle", "pug"]}


def test_the_command_says_what_is_not_made(tmp_path: Path) -> None:
    more = ("--images", "2", "--batch", "2", "--attack", "rgap")
    code, said = run(str(tmp_path / "c"), *more, *FAST)
    assert code == 0
    assert "not made: photos/perceptron/none/rgap:batch=2/none (2 images): it works" in said


def test_steps_go_to_attacks_that_take_them(tmp_path: Path) -> None:
    out = str(tmp_path / "c")
    attacks = ("--attack", "inverting_gradients", "--attack", "dlg:steps=1,restarts=1")
    code, _ = run(out, "--images", "1", "--steps", "1", "--steps", "2", *FAST, *attacks)
    assert code == 0
    assert {pair.attack for pair in read_corpus(out).pairs} == {
        "first_linear",
        "inverting_gradients:steps=1",
        "inverting_gradients:steps=2",
        "dlg:restarts=1,steps=1",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "cifar"], "Error: there is no source 'cifar'"),
        (["--attack", "dlg:steps"], "options must look like 'std=1e-3, scope=tensor'"),
        (["--device", "toaster"], "`device` must be 'auto' or a device of this machine"),
        (["--preset", "default", "--seed", "3"], "--seed is settled by the preset"),
        (["--preset", "sun2023-cifar100"], "sun2023-cifar100 needs --ratings"),
        (["--preset", "heldout-dataset"], "this preset names no images of its own"),
    ],
)
def test_the_command_refuses(arguments: Sequence[str], message: str, tmp_path: Path) -> None:
    code, said = run(str(tmp_path / "c"), *arguments)
    assert code != 0
    assert message in said.replace("\n", " ")


@pytest.mark.slow
def test_two_workers_make_the_same_corpus(tmp_path: Path) -> None:
    build(tmp_path / "one", MIXED)
    build(tmp_path / "two", MIXED, workers=2)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    rows = [sorted(c.pop("manifest.csv").splitlines()) for c in (one, two)]
    assert rows[0] == rows[1]
    assert one == two


@pytest.mark.exhaustive  # a few in every run: tests/reliability/kills.py
@pytest.mark.parametrize("seed", [0, 1])
def test_a_killed_process_loses_and_doubles_nothing(seed: int, tmp_path: Path) -> None:
    """SIGKILL at whatever moment, twice, then to the end."""
    command = [sys.executable, "-m", "fl_privacy_audit", "corpus", "build", str(tmp_path / "c")]
    command += [
        "--architecture",
        "perceptron",
        "--architecture",
        "lenet",
        "--images",
        "24",
        "--size",
        "16",
    ]
    command += ["--attack", "inverting_gradients:steps=5", "--side-by-side", "2", "--workers", "1"]
    command += ["--seed", str(seed), "--device", "cpu"]
    for rows in (4, 20):
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        manifest = tmp_path / "c/manifest.csv"
        deadline = time.monotonic() + 120
        while running.poll() is None and time.monotonic() < deadline:
            if manifest.exists() and manifest.read_bytes().count(b"\n") > rows:
                break
            time.sleep(0.01)
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    corpus = read_corpus(tmp_path / "c")
    assert len(corpus.pairs) == 48
    assert len({(pair.setting, pair.image) for pair in corpus.pairs}) == 48
    for pair in corpus.pairs:
        assert corpus.picture(pair.original).shape == corpus.picture(pair.reconstruction).shape
