"""The frontier: which settings are tried, what is measured there, and what it says."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from fl_privacy_audit.cli import cli
from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.ledger.ledger import FILE_NAME
from fl_privacy_audit.report.frontier import (
    Frontier,
    Leakage,
    Place,
    answer,
    markdown,
    read_frontier,
    write_frontier,
)
from fl_privacy_audit.report.html import render_html
from fl_privacy_audit.report.summary import summarise
from fl_privacy_audit.simulate.frontier.cell import GALLERY, gallery
from fl_privacy_audit.simulate.frontier.command import DONE, measured
from fl_privacy_audit.simulate.frontier.grid import MOST_HELD, Grid, make_grid, settings_at
from tests.support.builders import audit_config

SIZE = 16


def config(tmp_path: Path, **training: Any) -> Any:
    told = {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 8, "steps": 4, "mode": "train"}
    image = {"shape": [3, SIZE, SIZE], "mean": [0.5] * 3, "std": [0.25] * 3}
    return audit_config(tmp_path, image=image, training=told | training, seconds_per_round=20)


def perceptron() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 60), nn.ReLU(), nn.Linear(60, 5))


def leak(batch: int, row: float, share: float | None, **more: Any) -> Leakage:
    found = {
        "attack": "dlg",
        "images": 8,
        "candidates": 108,
        "held": 8,
        "low": (share or 0) / 2,
        **more,
    }
    return Leakage(place=Place(batch=batch, row=row), recognisable=share, **found)


def frontier(*found: Leakage, own: int = 8) -> Frontier:
    return Frontier(
        batches=(1, 2, 8, 16),
        rows=(1.0, 4.0),
        strength="",
        here=Place(batch=own, row=4),
        found=found,
    )


def test_the_places_around_a_setting_begin_with_it(tmp_path: Path) -> None:
    grid = make_grid(config(tmp_path), (), (), "")
    assert grid.batches == (1, 2, 4, 8, 16)
    assert grid.rows == (1.0, 2.0, 4.0)
    places = grid.places()
    assert places[0] == grid.here == Place(batch=8, row=4)
    assert len(places) == len(set(map(str, places))) == 15
    assert str(places[-1]) == str(Place(batch=1, row=1))


def test_given_sizes_are_taken_with_ones_own(tmp_path: Path) -> None:
    grid = make_grid(config(tmp_path), (32, 1), (2,), "")
    assert grid.batches == (1, 8, 32)
    assert grid.rows == (2.0, 4.0)
    big = settings_at(config(tmp_path), grid, Place(batch=32, row=4))
    assert (big.training.batch_size, big.training.steps, big.training.images) == (32, 4, MOST_HELD)


@pytest.mark.parametrize("strength", ["std=0.1,0.2", "noise_multiplier=0.5"])
def test_a_strength_takes_the_place_of_the_steps(tmp_path: Path, strength: str) -> None:
    name = strength.split("=")[0]
    if name == "std":
        own = config(tmp_path).replace(defence={"name": "gaussian", "options": {"std": 0.1}})
    else:
        own = config(tmp_path, max_grad_norm=1.0, noise_multiplier=1.0)
    grid = make_grid(own, (8,), (), strength)
    assert grid.strength == name
    there = settings_at(own, grid, Place(batch=8, row=grid.rows[0]))
    told = there.defence.options if name == "std" else there.training.model_dump()
    assert told[name] == grid.rows[0]
    assert there.training.steps == 4


@pytest.mark.parametrize(
    ("steps", "strength", "message"),
    [
        ((), "std", "must be NAME=V1,V2"),
        ((), "std=much", "must be NAME=V1,V2"),
        ((), "std=0.1", "'std' is none"),
        ((2,), "std=0.1", "`--steps` or `--strength`"),
    ],
)
def test_what_cannot_be_rows_is_refused(
    tmp_path: Path, steps: tuple[int, ...], strength: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_grid(config(tmp_path), (), steps, strength)


def test_one_image_leaks_and_noise_hides_it_and_nothing_is_measured_twice(tmp_path: Path) -> None:
    noisy = config(tmp_path, steps=1, batch_size=1).replace(
        attacks=["first_linear"], defence={"name": "gaussian", "options": {"std": 0.0}}
    )
    grid = Grid(batches=(1,), rows=(0.0, 1.0), strength="std", here=Place(batch=1, row=0.0))
    found = list(measured(noisy, grid, perceptron(), tmp_path, replays=3))
    open_, hidden = found
    assert open_.attack == "first_linear"
    assert open_.images == 3
    assert open_.worst_psnr > 60
    assert open_.identification == 1.0
    assert open_.chance == pytest.approx(1 / 103)
    assert open_.leaks
    assert hidden.worst_psnr < 20
    assert not hidden.identifies
    done = tmp_path / "batch1-std0" / DONE
    kept = json.loads(done.read_text())
    kept["leakage"]["seconds"] = 12345.0
    done.write_text(json.dumps(kept))
    again = list(measured(noisy, grid, perceptron(), tmp_path, replays=3))
    assert [one.seconds for one in again] == [12345.0, hidden.seconds]
    with pytest.raises(ConfigError, match="other settings or another model"):
        list(measured(noisy, grid, perceptron(), tmp_path, replays=2))


def test_places_at_the_same_time_are_those_one_after_the_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = config(tmp_path, steps=1, batch_size=1).replace(
        attacks=[{"name": "inverting_gradients", "options": {"steps": 5}}]
    )
    grid = Grid(batches=(1, 2), rows=(1.0,), strength="", here=Place(batch=1, row=1.0))
    half = tmp_path / "apart" / "batch1-steps1"
    half.mkdir(parents=True)
    for name in ("half", FILE_NAME):
        (half / name).touch()
    in_turn = measured(one, grid, perceptron(), tmp_path / "turn", replays=2)
    apart = one.replace(executor="process")
    aside = measured(apart, grid, perceptron(), tmp_path / "apart", replays=2, workers=2)

    def of(found: Iterator[Leakage]) -> dict[Place, Leakage]:
        own = {"seconds": 0.0, "picture": None}  # names the run
        return {leakage.place: leakage.model_copy(update=own) for leakage in found}

    expected = of(in_turn)
    assert len(expected) == 2
    assert of(aside) == expected
    assert not caplog.records
    assert not (half / "half").exists()


def test_where_no_attack_fits_it_is_not_tested(tmp_path: Path) -> None:
    several = config(tmp_path, steps=2, batch_size=1).replace(attacks=["first_linear"])
    grid = Grid(batches=(1,), rows=(2.0,), strength="", here=Place(batch=1, row=2.0))
    (one,) = measured(several, grid, perceptron(), tmp_path, replays=1)
    assert one.attack is None
    assert one.leaks is None
    assert one.reason is not None
    table = Frontier(batches=(1,), rows=(2.0,), strength="", here=grid.here, found=(one,))
    assert answer(table).startswith(
        "Nobody knows whether your own setting leaks to these attacks: "
    )
    assert "**not tested**" in markdown(table)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([leak(8, 4, 0.0), leak(2, 4, 0.0), leak(1, 4, 0.9)], "they may shrink to 2, and at 1 they leak"),
        ([leak(8, 4, 0.0), leak(2, 4, 0.9), leak(1, 4, 0.9)], "they may shrink to 8, and at 2 they leak"),
        ([leak(8, 4, 0.0), leak(2, 4, 0.0), leak(1, 4, 0.0)], "no batch from"),
        ([leak(8, 4, 0.9), leak(16, 4, 0.0)], "batches of 8 leak to these attacks; those from 16 up do not"),
        ([leak(8, 4, 0.9), leak(16, 4, 0.9)], "batches of 8 leak to these attacks, and so do larger"),
        ([leak(8, 4, 0.9)], "batches of 8 leak to these attacks."),
        ([leak(8, 4, 0.9, by_chance=0.5)], "no batch from"),
        ([leak(8, 4, 0.0, identification=0.75)], "batches of 8 leak"),
        ([leak(8, 4, 0.0, identification=1 / 8)], "no batch from"),
        # Of 8 images of one replay each fits some original: chance is 8 in 108.
        ([leak(8, 4, 0.0, identification=2 / 8)], "no batch from"),
        ([leak(2, 4, 0.9)], "Nobody knows"),
    ],
)  # fmt: skip
def test_it_says_how_much_smaller_the_batch_may_get(found: list[Leakage], said: str) -> None:
    assert said in answer(frontier(*found))


def test_the_gallery_is_of_pictures_that_no_client_trains_on() -> None:
    shown = gallery(SIZE, SIZE)
    assert shown.shape == (GALLERY, 3, SIZE, SIZE)
    assert len(shown.flatten(1).unique(dim=0)) == GALLERY


def test_tables_and_report_show_what_was_measured(tmp_path: Path) -> None:
    why = Reason.of("not chosen")
    found = leak(8, 4, 0.25, worst_psnr=21.5), Leakage(place=Place(batch=1, row=1), reason=why)
    table = frontier(*found)
    write_frontier(table, tmp_path)
    assert read_frontier(tmp_path) == table
    text = (tmp_path / "frontier.md").read_text()
    for cell in ("**25%**", "**21.5 dB**", "not tested", "not yet"):
        assert cell in text
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "frontier.json").write_text("{")
    with pytest.raises(ConfigError, match="Name the --out folder of `frontier`"):
        read_frontier(tmp_path)


def test_the_command_writes_a_frontier_that_the_report_takes(tmp_path: Path) -> None:
    (tmp_path / "net_of_frontier.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self):\n"
        f"        super().__init__(nn.Flatten(), nn.Linear({3 * SIZE**2}, 40), nn.ReLU(), nn.Linear(40, 3))\n"
    )
    (tmp_path / "audit.toml").write_text(
        'attacks = ["first_linear"]\n'
        f"[image]\nshape = [3, {SIZE}, {SIZE}]\nmean = [0.5, 0.5, 0.5]\nstd = [0.25, 0.25, 0.25]\n"
        '[training]\noptimizer = "sgd"\nlearning_rate = 0.1\nbatch_size = 1\nsteps = 1\nmode = "train"\n'
    )
    out = tmp_path / "out"
    told = [
        "frontier",
        str(tmp_path / "audit.toml"),
        "--model",
        "net_of_frontier:Net",
        "--out",
        str(out),
    ]
    sizes = ["--batches", "1,2", "--steps", "1", "--replays", "2", "--workers", "2"]
    done = CliRunner().invoke(cli, [*told, *sizes], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "[2/2] batch " in done.output
    assert "batch 1, steps 1: 100% recognisable" not in done.output
    page = tmp_path / "page.html"
    ledger = str(out / "batch1-steps1")
    for form in ("html", "md"):
        shown = ["report", ledger, "--frontier", str(out), "--out", str(page), "--format", form]
        assert CliRunner().invoke(cli, shown, catch_exceptions=False).exit_code == 0
        assert answer(read_frontier(out)) in page.read_text()
    assert "How far this setting" not in render_html(summarise([out / "batch1-steps1"], [None]))
    wrong = CliRunner().invoke(cli, [*told, "--batches", "0"])
    assert wrong.exit_code == 2
