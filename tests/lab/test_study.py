import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from fl_privacy_audit.cli import cli
from fl_privacy_audit.lab import study
from fl_privacy_audit.lab.study import Ratings, StudyResult, read_ratings, run_study
from fl_privacy_audit.lab.study.agreement import agreement
from fl_privacy_audit.lab.study.beside import between
from fl_privacy_audit.lab.study.bootstrap import Draws, draw
from fl_privacy_audit.lab.study.ceiling import ceiling
from fl_privacy_audit.lab.study.contradictions import contradictions
from fl_privacy_audit.lab.study.image_level import image_level
from fl_privacy_audit.lab.study.model_level import model_level

# Three settings, two originals, three annotators: small enough to work out on paper.
SMALL = """\
folder,image,true_label,rater1,rater2,rater3,n_correct,psnr,ssim,mse
A,p,3,3,3,3,3,12,0.1,1
A,q,5,5,5,-1,2,8,0.3,1
B,p,3,3,-1,3,2,9,0.6,1
B,q,5,5,-1,-1,1,10,0.4,1
C,p,3,-1,-1,3,1,6,0.2,2
C,q,5,-1,7,-1,0,7,0.4,2
"""


def save(folder: Path, text: str = SMALL, name: str = "ratings.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.fixture
def small(tmp_path: Path) -> Ratings:
    return read_ratings(save(tmp_path))


def drawn(ratings: Ratings) -> Draws:
    return draw(len(ratings.originals), len(ratings.settings), bootstraps=200, seed=0)


# --- Known answers -----------------------------------------------------------------------------


def test_model_level_by_hand(small: Ratings) -> None:
    found = model_level(small, drawn(small))
    # Right answers 5, 3, 1 of 6.
    assert [s.human for s in found.settings] == pytest.approx([5 / 6, 3 / 6, 1 / 6])
    assert [s.recognised for s in found.settings] == [1.0, 0.5, 0.0]
    assert [s.metrics["mse"] for s in found.settings] == [1.0, 1.0, 2.0]
    # PSNR means 10, 9.5, 6.5: the human order.
    assert found.correlations["psnr"].spearman.value == pytest.approx(1)
    assert found.correlations["psnr"].kendall.value == pytest.approx(1)
    # SSIM means .2, .5, .3: ranks 1, 3, 2 against 3, 2, 1; one pair of three agrees.
    assert found.correlations["ssim"].spearman.value == pytest.approx(-0.5)
    assert found.correlations["ssim"].kendall.value == pytest.approx(-1 / 3)
    assert found.correlations["ssim"].pearson.value == pytest.approx(-math.sqrt(3 / 28))
    # MSE means 1, 1, 2, low leaks: one tie, two pairs agree, tau-b = 2 / sqrt(2 * 3).
    assert found.correlations["mse"].kendall.value == pytest.approx(2 / math.sqrt(6))
    assert found.correlations["mse"].spearman.value == pytest.approx(1.5 / math.sqrt(3))
    first = found.spearman_differences[0]
    assert (first.first, first.second) == ("psnr", "ssim")
    assert first.estimate.value == pytest.approx(1.5)


def test_image_level_by_hand(small: Ratings) -> None:
    found = image_level(small, drawn(small))
    assert (found.threshold, found.recognised) == (2, 0.5)
    psnr = found.rankings["psnr"]
    # Recognised 12, 8, 9; not 10, 6, 7: seven of nine pairs are won.
    assert psnr.pooled.value == pytest.approx(7 / 9)
    # A is all recognised, C not at all; in B, 9 loses to 10.
    assert (found.settings_used, psnr.within_setting.value) == (1, 0.0)
    # p: 12 and 9 beat 6. q: 8 beats 7 and loses to 10.
    assert (found.pairs_used, psnr.same_original.value) == (4, 0.75)


def test_contradictions_by_hand(small: Ratings) -> None:
    found = contradictions(small, drawn(small))
    assert (found.pairs, found.any_gap_pairs, found.clear_gap_pairs, found.clear_gap) == (
        6,
        6,
        2,
        2,
    )
    assert found.people["psnr"].clear_gap.value == 0
    assert found.people["psnr"].any_gap.value == pytest.approx(1 / 6)
    assert found.people["psnr"].settings == 0
    assert found.people["ssim"].settings == pytest.approx(2 / 3)
    between = {(b.first, b.second): b.share.value for b in found.between}
    assert between["psnr", "ssim"] == pytest.approx(3 / 6)  # B,q and C,q tie on SSIM


def test_agreement_by_hand(small: Ratings) -> None:
    found = agreement(small, drawn(small)).codings
    # Right / not right: observed 5/9, chance 1/2.
    assert found["right"].fleiss.value == pytest.approx(1 / 9)
    assert found["right"].krippendorff.value == pytest.approx(1 / 9 + 8 / 9 / 18)
    # Labels 3, 5, 7, -1 named 6, 3, 1, 8 times: observed 144/324, chance 110/324.
    assert found["label"].categories == 4
    assert found["label"].fleiss.value == pytest.approx(34 / 214)
    habits = agreement(small, drawn(small)).annotators["rater2"]
    assert (habits.right, habits.cannot_tell) == pytest.approx((2 / 6, 3 / 6))
    assert habits.right_if_answered == pytest.approx(2 / 3)


def test_ceiling_by_hand(small: Ratings) -> None:
    found = ceiling(small)
    # rater1 is right 2, 2, 0 times; the others together 3, 1, 1 times.
    assert found.singles["rater1"].spearman == pytest.approx(0.5)
    # Others right 2, 1, 1, 0 where rater1 is right, 1, 0 where not: 5.5 of 8.
    assert found.singles["rater1"].auc == pytest.approx(5.5 / 8)
    # rater3 is right once in every setting: no order to correlate with.
    assert math.isnan(found.singles["rater3"].spearman)
    assert (found.split, found.splits) == ((1, 2), 2)


def test_equal_halves_are_counted_once(tmp_path: Path) -> None:
    lines = [line.split(",") for line in SMALL.splitlines()]
    four = [[*line[:6], "rater4" if i == 0 else line[3], *line[7:]] for i, line in enumerate(lines)]
    found = ceiling(read_ratings(save(tmp_path, "\n".join(map(",".join, four)))))
    assert found.split == (2, 2)
    assert found.splits <= 3


# --- The whole, and the command ----------------------------------------------------------------


def test_a_study_writes_four_files_and_repeats_itself(tmp_path: Path) -> None:
    path = save(tmp_path)
    steps: list[tuple[str, int, int]] = []
    first = run_study(
        path, tmp_path / "a", bootstraps=100, progress=lambda *step: steps.append(step)
    )
    assert [file.name for file in first.files] == [
        "study.md", "study.json", "scatter.png", "forest.png"
    ]  # fmt: skip
    assert [done for _, done, _ in steps] == list(range(6))
    assert steps[-1] == ("done", 5, 5)
    second = run_study(path, tmp_path / "b" / "deeper", bootstraps=100)
    for one, other in zip(first.files, second.files, strict=True):
        assert one.read_bytes() == other.read_bytes()
    data = json.loads(first.files[1].read_text())
    assert data["schema"] == 1
    assert data["source"]["leaks_when"] == {"psnr": "high", "ssim": "high", "mse": "low"}
    assert data["ceiling"]["singles"]["rater3"]["spearman"] is None
    assert data["image_level"]["rankings"]["psnr"]["pooled"]["value"] == pytest.approx(7 / 9)
    page = first.files[0].read_text()
    assert "| PSNR | 1.000 |" in page
    assert "| rater3 | n/a |" in page


def test_a_constant_metric_is_undefined_not_a_number(tmp_path: Path) -> None:
    lines = [line.split(",") for line in SMALL.splitlines()]
    text = "\n".join(",".join([*line[:7], "7" if i else "psnr"]) for i, line in enumerate(lines))
    found = run_study(save(tmp_path, text), tmp_path / "out", bootstraps=100)
    assert math.isnan(found.model_level.correlations["psnr"].spearman.value)
    assert found.image_level.rankings["psnr"].pooled.value == 0.5
    assert "| PSNR | n/a |" in found.files[0].read_text()


def test_nobody_right_is_undefined_not_a_number(tmp_path: Path) -> None:
    header, *rows = SMALL.splitlines()
    blind = [",".join([*row.split(",")[:3], "-1,-1,-1,0", *row.split(",")[7:]]) for row in rows]
    path = save(tmp_path, "\n".join([header, *blind]))
    found = run_study(path, tmp_path / "out", bootstraps=100)
    assert math.isnan(found.image_level.rankings["psnr"].pooled.value)
    assert math.isnan(found.agreement.codings["label"].fleiss.value)
    assert math.isnan(found.agreement.annotators["rater1"].right_if_answered)
    assert json.loads(found.files[1].read_text())["ceiling"]["split_mean"] is None


def test_command_prints_the_table_and_the_files(tmp_path: Path) -> None:
    path, out = save(tmp_path, SMALL.replace("ssim", "ours")), tmp_path / "out"
    arguments = [str(path), "--out", str(out), "--bootstraps", "100", "--direction", "ours=high"]
    ran = CliRunner().invoke(cli, ["study", *arguments])
    assert ran.exit_code == 0, ran.output
    assert "PSNR" in ran.stdout and "ours" in ran.stdout
    assert str(out / "study.md") in ran.stdout
    assert "told apart by Spearman" in ran.stdout


def test_two_tables_side_by_side(tmp_path: Path) -> None:
    """The second judges say less of (A, p), and have a metric of their own."""
    other = SMALL.replace("A,p,3,3,3,3,3", "A,p,3,3,-1,-1,1").replace("ssim", "ours")
    tables = [save(tmp_path, SMALL, "people.csv"), save(tmp_path, other, "machines.csv")]
    out = tmp_path / "out"
    arguments = ["study", *map(str, tables), "--out", str(out), "--bootstraps", "100"]
    ran = CliRunner().invoke(cli, [*arguments, "--direction", "ours=high"])
    assert ran.exit_code == 0, ran.output
    alone = run_study(tables[0], tmp_path / "alone", bootstraps=100)
    assert (out / "people" / "study.md").read_bytes() == alone.files[0].read_bytes()
    page = (out / "beside.md").read_text()
    assert "| SSIM | -0.500 [-0.866, -0.500] | - |" in page
    found = json.loads((out / "beside.json").read_text())
    assert found["metrics"]["ours"]["people"] is None
    between = found["between"][0]
    assert (between["first"], between["second"]) == ("people", "machines")
    assert (between["metrics"], between["reconstructions"]) == (["psnr", "mse"], 6)
    # They part on (A, p) alone, and say yes to 3 and 2 of 6.
    assert between["same"] == pytest.approx(5 / 6)
    assert between["kappa"] == pytest.approx(1 - (1 / 6) / (2 * 5 / 12 * 7 / 12))
    assert set(between["orders"].values()) == {None}  # two metrics have no order
    again = CliRunner().invoke(cli, ["study", str(tables[0]), str(tables[0]), "--out", str(out)])
    assert "two tables are called 'people'" in again.output
    lost = CliRunner().invoke(cli, [*arguments, "--direction", "mine=high"])
    assert "a direction is given for `mine`, a metric in none of the tables" in lost.output


def test_tables_without_a_common_picture_compare_orders_alone(tmp_path: Path) -> None:
    first = read_ratings(save(tmp_path))
    second = read_ratings(save(tmp_path, SMALL.replace(",p,", ",r,").replace(",q,", ",s,")))
    result = run_study(save(tmp_path), tmp_path / "out", bootstraps=100)
    found = between(("one", first, result), ("two", second, result))
    assert (found.reconstructions, len(found.metrics)) == (0, 3)
    assert math.isnan(found.same) and math.isnan(found.kappa)
    assert found.orders["pooled AUC"] == 1


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([], "Error: ratings.csv, line 2, column `rater1`: is empty; fill it in or drop the row\n"),
        (
            ["--direction", "ours"],
            "Error: --direction must look like ours=high or ours=low, but got 'ours'\n",
        ),
    ],
)
def test_command_fails_in_one_line(tmp_path: Path, extra: list[str], message: str) -> None:
    path = save(tmp_path, SMALL.replace("A,p,3,3,", "A,p,3,,"))
    ran = CliRunner().invoke(cli, ["study", str(path), "--out", str(tmp_path / "out"), *extra])
    assert ran.exit_code == 1
    assert ran.output.lstrip("\n").replace(f"{tmp_path}/", "") == message
    assert not (tmp_path / "out").exists()


def test_every_public_name_is_importable() -> None:
    assert {name for name in vars(study) if name[0].isupper()} >= {
        "Agreement", "Ceiling", "Contradictions", "Estimate", "ImageLevel", "Interval",
        "ModelLevel", "Ratings", "StudyError", "StudyResult",
    }  # fmt: skip


# --- The published judgements ------------------------------------------------------------------
# Expected figures: the re-analysis of the people's labels in the note "semsim.md", section 8,
# made from the same 8,400 rows by another program. Rows: MSE, PSNR, SSIM, LPIPS, DreamSim, SemSim.

PEOPLE = Path(__file__).parents[2] / "../shared/data/semsim/human_ratings.csv.gz"
METRICS = ("mse", "psnr", "ssim", "lpips_squeeze", "dreamsim", "semsim")


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    if not PEOPLE.is_file():
        pytest.skip("human_ratings.csv.gz is not published with this repository; see docs/study.md")
    return run_study(PEOPLE, tmp_path_factory.mktemp("study"), bootstraps=1000)


def test_people_model_level(people: StudyResult) -> None:
    found = [people.model_level.correlations[name] for name in METRICS]
    spearmans = [0.688, 0.723, 0.468, 0.789, 0.371, 0.692]
    assert [f.spearman.value for f in found] == pytest.approx(spearmans, abs=0.01)
    kendalls = [0.473, 0.516, 0.341, 0.604, 0.275, 0.560]
    assert [f.kendall.value for f in found] == pytest.approx(kendalls, abs=0.01)
    images = [(0.61, 0.78), (0.65, 0.79), (0.36, 0.63), (0.59, 0.84), (0.28, 0.48), (0.60, 0.85)]
    for f, (low, high) in zip(found, images, strict=True):
        span = f.spearman.over_images
        assert (span.low, span.high) == pytest.approx((low, high), abs=0.03)
    settings = [
        (0.30, 0.89), (0.35, 0.90), (-0.07, 0.84), (0.40, 0.95), (-0.38, 0.86), (0.15, 0.96)
    ]  # fmt: skip
    for f, (low, high) in zip(found, settings, strict=True):
        over_settings = f.spearman.over_settings
        assert over_settings is not None
        assert over_settings.low == pytest.approx(low, abs=0.08)
        assert over_settings.high == pytest.approx(high, abs=0.03)
    rates = {s.name: round(s.human, 3) for s in people.model_level.settings}
    assert len(rates) == 14
    assert rates["ConvNet_200_inversed_aug_auglist__rlabel_False"] == 0.275
    assert max(rates.values()) == 0.805


def test_people_image_level(people: StudyResult) -> None:
    found = [people.image_level.rankings[name] for name in METRICS]
    pooled = [0.606, 0.606, 0.585, 0.698, 0.706, 0.633]
    assert [f.pooled.value for f in found] == pytest.approx(pooled, abs=0.005)
    within = [0.584, 0.584, 0.586, 0.681, 0.696, 0.617]
    assert [f.within_setting.value for f in found] == pytest.approx(within, abs=0.005)
    same = [0.744, 0.744, 0.593, 0.781, 0.777, 0.762]
    assert [f.same_original.value for f in found] == pytest.approx(same, abs=0.005)
    psnr = people.image_level.rankings["psnr"]
    for found_interval, expected in (
        (psnr.pooled.over_images, (0.587, 0.626)),
        (psnr.within_setting.over_images, (0.562, 0.606)),
        (psnr.same_original.over_images, (0.731, 0.758)),
    ):
        assert (found_interval.low, found_interval.high) == pytest.approx(expected, abs=0.006)
    assert people.image_level.recognised == pytest.approx(0.554, abs=0.001)


def test_people_contradictions(people: StudyResult) -> None:
    found = people.contradictions
    assert (found.clear_gap_pairs, found.any_gap_pairs) == (13_677, 41_363)
    against = [found.people[name] for name in METRICS]
    clear = [0.205, 0.205, 0.378, 0.154, 0.157, 0.178]
    assert [a.clear_gap.value for a in against] == pytest.approx(clear, abs=0.001)
    any_gap = [0.322, 0.322, 0.431, 0.283, 0.280, 0.299]
    assert [a.any_gap.value for a in against] == pytest.approx(any_gap, abs=0.001)
    settings = [0.264, 0.242, 0.330, 0.198, 0.363, 0.220]
    assert [a.settings for a in against] == pytest.approx(settings, abs=0.001)
    between = {(b.first, b.second): b.share.value for b in found.between}
    assert between["mse", "psnr"] == 0
    assert between["psnr", "ssim"] == pytest.approx(0.313, abs=0.001)
    assert between["ssim", "semsim"] == pytest.approx(0.433, abs=0.001)
    assert between["lpips_squeeze", "dreamsim"] == pytest.approx(0.202, abs=0.001)


def test_people_agreement(people: StudyResult) -> None:
    found = people.agreement.codings
    assert found["label"].categories == 101
    for coding, kappa, low, high in (
        ("label", 0.579, 0.565, 0.592),
        ("right", 0.374, 0.358, 0.390),
        ("answered", 0.417, 0.402, 0.432),
    ):
        for estimate in (found[coding].fleiss, found[coding].krippendorff):
            assert estimate.value == pytest.approx(kappa, abs=0.01)
            span = estimate.over_images
            assert (span.low, span.high) == pytest.approx((low, high), abs=0.005)
    habits = people.agreement.annotators.values()
    assert [h.right for h in habits] == pytest.approx([0.38, 0.71, 0.50, 0.60, 0.52], abs=0.005)
    assert [h.right_if_answered for h in habits] == pytest.approx(
        [0.77, 0.87, 0.87, 0.93, 0.98], abs=0.006
    )


def test_people_ceiling(people: StudyResult) -> None:
    found = people.ceiling
    assert (found.split, found.splits) == ((2, 3), 10)
    spread = (found.split_mean, found.split_low, found.split_high)
    assert spread == pytest.approx((0.83, 0.80, 0.89), abs=0.01)
    singles = [s.spearman for s in found.singles.values()]
    assert singles == pytest.approx([0.63, 0.75, 0.92, 0.85, 0.82], abs=0.01)
    areas = [s.auc for s in found.singles.values()]
    assert (min(areas), max(areas)) == pytest.approx((0.75, 0.85), abs=0.005)
