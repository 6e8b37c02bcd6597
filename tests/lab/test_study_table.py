import gzip
import random
from pathlib import Path
from typing import Any

import pytest

from fl_privacy_audit.lab.study import StudyError, read_ratings, run_study
from fl_privacy_audit.lab.study.bootstrap import draw
from fl_privacy_audit.lab.study.image_level import image_level
from fl_privacy_audit.lab.study.model_level import model_level

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


def test_rows_are_paired_by_key_not_by_order(tmp_path: Path) -> None:
    header, *rows = SMALL.splitlines()
    random.Random(0).shuffle(rows)
    shuffled = read_ratings(save(tmp_path, "\n".join([header, *rows]), "shuffled.csv"))
    plain = read_ratings(save(tmp_path))
    a, b = (
        image_level(r, draw(2, 3, bootstraps=100, seed=0)).rankings["psnr"]
        for r in (plain, shuffled)
    )
    assert (a.pooled.value, a.same_original.value) == (b.pooled.value, b.same_original.value)
    c, d = (
        model_level(r, draw(2, 3, bootstraps=100, seed=0)).correlations["ssim"]
        for r in (plain, shuffled)
    )
    assert c.pearson.value == pytest.approx(d.pearson.value)


def test_gzip_blank_lines_byte_order_mark_and_whole_floats(tmp_path: Path) -> None:
    text = "\ufeff" + SMALL.replace("B,p,3,3,", "\nB,p,3.0,3.0,") + "\n\n"
    path = tmp_path / "ratings.csv.gz"
    path.write_bytes(gzip.compress(text.encode()))
    assert read_ratings(path).answers.tolist() == read_ratings(save(tmp_path)).answers.tolist()


def test_n_correct_may_be_absent(tmp_path: Path) -> None:
    lines = [line.split(",") for line in SMALL.splitlines()]
    text = "\n".join(",".join(line[:6] + line[7:]) for line in lines)
    assert read_ratings(save(tmp_path, text)).recognised.sum() == 3


def test_a_direction_may_be_given(tmp_path: Path) -> None:
    path = save(tmp_path, SMALL.replace("ssim", "ours"))
    high = read_ratings(path, leaks_when={"ours": "high"})
    low = read_ratings(path, leaks_when={"ours": "low"})
    assert high.leakage("ours").tolist() == (-low.leakage("ours")).tolist()


HEADER, FIRST = SMALL.splitlines()[:2]
TWO_SETTINGS = "\n".join(SMALL.splitlines()[:5])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            HEADER,
            "folder,image,rater1,psnr",
            (
                "ratings.csv, line 1: lacks column `true_label`, `rater2`; split at commas it has "
                "folder, image, rater1, psnr"
            ),
        ),
        (
            ",ssim,",
            ",psnr,",
            "ratings.csv, line 1: column `psnr` appears twice; rename or drop one",
        ),
        (
            SMALL,
            "folder,image,true_label,rater1,rater2\nA,p,3,3,3\n",
            "ratings.csv: has no metric column; add one, such as `psnr`",
        ),
        (
            ",ssim,",
            ",ours,",
            (
                "ratings.csv: column `ours` is no known metric; say whether high or low values leak "
                "(--direction ours=high or ours=low), or drop it"
            ),
        ),
        (
            "A,q,5,5,5,-1,2,8,0.3,1",
            "A,q,5,5,5,-1,2,8,0.3",
            "ratings.csv, line 3: must have 10 fields like the header, but has 9",
        ),
        (
            "B,p,3,3,-1",
            "B,p,3,3,",
            "ratings.csv, line 4, column `rater2`: is empty; fill it in or drop the row",
        ),
        (
            "B,p,3,3,-1",
            "B,p,3,3,dog",
            (
                "ratings.csv, line 4, column `rater2`: must be a whole number of -1 or more "
                "(-1 is 'cannot tell'), but got 'dog'"
            ),
        ),
        (
            "B,p,3,3,-1",
            "B,p,3,3,-2",
            (
                "ratings.csv, line 4, column `rater2`: must be a whole number of -1 or more "
                "(-1 is 'cannot tell'), but got '-2'"
            ),
        ),
        (
            "B,p,3,3,-1",
            "B,p,3,3,1.5",
            (
                "ratings.csv, line 4, column `rater2`: must be a whole number of -1 or more "
                "(-1 is 'cannot tell'), but got '1.5'"
            ),
        ),
        (
            "C,p,3,",
            "C,p,-1,",
            (
                "ratings.csv, line 6, column `true_label`: must be a whole number of 0 or more, "
                "but got '-1'"
            ),
        ),
        (
            "12,0.1",
            "inf,0.1",
            (
                "ratings.csv, line 2, column `psnr`: must be a finite number, but got 'inf'; cap it, "
                "or drop the column"
            ),
        ),
        (
            "A,p,3,3,3,3,3",
            "A,p,3,3,3,3,2",
            (
                "ratings.csv, line 2, column `n_correct`: is 2, but 3 answers equal true_label; fix "
                "the answers or drop this column"
            ),
        ),
        (
            "B,p,",
            "A,p,",
            "ratings.csv, line 4, column `image`: repeats line 2 (same folder and image); drop one",
        ),
        (
            "C,p,3,-1,-1,3,1",
            "C,p,4,-1,-1,3,0",
            "ratings.csv, line 6, column `true_label`: is 4, but line 2 says 3 for this image",
        ),
        (
            SMALL,
            TWO_SETTINGS,
            (
                "ratings.csv: column `folder` must name at least 3 settings to correlate, but names 2; "
                "add reconstructions of other attacks, models or defences"
            ),
        ),
        (SMALL, HEADER, "ratings.csv: the table has a header but no row"),
        (
            SMALL,
            "",
            (
                "ratings.csv, line 1: lacks column `folder`, `image`, `true_label`, `rater1`, "
                "`rater2`; it is empty"
            ),
        ),
    ],
)
def test_errors_name_the_place_and_the_fix(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in SMALL
    with pytest.raises(StudyError) as caught:
        read_ratings(save(tmp_path, SMALL.replace(old, new, 1)))
    assert str(caught.value).removeprefix(f"{tmp_path}/") == message


def test_errors_of_files_and_settings(tmp_path: Path) -> None:
    good = save(tmp_path)
    absent = tmp_path / "absent.csv"
    (tmp_path / "plain.csv.gz").write_text(SMALL)
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(SMALL.encode())[:60])
    packed = bytearray(gzip.compress(SMALL.encode()))
    packed[20:30] = b"0123456789"
    (tmp_path / "damaged.csv.gz").write_bytes(packed)
    (tmp_path / "latin.csv").write_bytes(SMALL.replace("A,p", "\xe9,p").encode("latin-1"))
    cases: list[tuple[Path, dict[str, Any], str]] = [
        (absent, {}, f"{absent}: cannot be read (No such file or directory)"),
        (
            tmp_path / "plain.csv.gz",
            {},
            "plain.csv.gz: is not a whole gzip file; unpack it or copy it again",
        ),
        (
            tmp_path / "cut.csv.gz",
            {},
            "cut.csv.gz: is not a whole gzip file; unpack it or copy it again",
        ),
        (
            tmp_path / "damaged.csv.gz",
            {},
            "damaged.csv.gz: is not a whole gzip file; unpack it or copy it again",
        ),
        (tmp_path, {}, f"{tmp_path}: cannot be read (Is a directory)"),
        (
            good,
            {"leaks_when": {"ours": "high"}},
            "ratings.csv: a direction is given for `ours`, not a metric here",
        ),
        (
            good,
            {"leaks_when": {"psnr": "up"}},
            "the direction of `psnr` must be 'high' or 'low', but got 'up'",
        ),
        (
            good,
            {"bootstraps": 99},
            "Argument `bootstraps` must be at least 100 for a 95 % interval, but got 99",
        ),
        (good, {"seed": -1}, "Argument `seed` must be 0 or more, but got -1"),
    ]
    for path, settings, message in cases:
        with pytest.raises(StudyError) as caught:
            run_study(path, tmp_path / "out", **settings)
        assert str(caught.value).removeprefix(f"{tmp_path}/") == message.removeprefix(
            f"{tmp_path}/"
        )
    with pytest.raises(StudyError, match=r"/latin\.csv: is neither UTF-8 nor UTF-16 \("):
        read_ratings(tmp_path / "latin.csv")
    with pytest.raises(StudyError, match=r"ratings\.csv: cannot be made a folder \(File exists\)$"):
        run_study(good, good)
    (tmp_path / "taken" / "study.md").mkdir(parents=True)
    with pytest.raises(StudyError, match=r"taken: cannot be written to \(Is a directory\)$"):
        run_study(good, tmp_path / "taken", bootstraps=100)
