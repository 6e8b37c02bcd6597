"""The page of benchmarks has the rows that the code defines, and the writer makes its tables."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import (
    page,
    peer,
    test_known_answers,
    test_memory,
    test_peers,
    test_quality,
    test_speed,
)
from benchmarks.measuring import target
from fl_privacy_audit.attacks import ATTACKS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
CPU = torch.device("cpu")


def tables(text: str) -> dict[str, list[dict[str, str]]]:
    """Rows of the table under each heading."""
    found = {}
    for section in text.split("\n## ")[1:]:
        heading, _, body = section.partition("\n")
        lines = [line[1:-1].split(" | ") for line in body.splitlines() if line.startswith("|")]
        cells = [[cell.strip() for cell in line] for line in lines]
        found[heading] = [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]
    return found


def test_the_page_says_what_each_section_measures_and_how_to_renew_it() -> None:
    assert list(tables(PAGE)) == ["Targets", *page.SECTIONS]
    for text in (page.RENEW, page.HOW, *page.SECTIONS.values()):
        assert text in PAGE
    assert page.NOT_MEASURED["Speed on a GPU"] in PAGE


def test_the_page_has_every_known_answer_and_every_attack_has_one() -> None:
    columns = ("attack", "case", "published or checked")
    rows = [tuple(row[column] for column in columns) for row in tables(PAGE)["Known answers"]]
    cases = [
        (f"`{case['attack']}`", case["case"], case["published or checked"])
        for case in test_known_answers.CASES
    ]
    assert rows[: len(cases)] == cases
    cheating = ["`imprint`", "`quantile_biases`", "`class_fishing`"]
    assert [attack for attack, *_ in rows[len(cases) :]] == cheating + ["label counts"] * 2
    assert {attack.strip("`") for attack, *_ in rows[:-2]} == set(ATTACKS)


def test_the_other_tables_of_the_page_have_the_rows_of_the_code() -> None:
    found = tables(PAGE)
    names = [case.name for case in test_speed.ON_CPU]
    assert list(dict.fromkeys(row["targets"] for row in found["Speed"])) == names
    for case in test_speed.ON_CPU:
        backends = [row["backend"] for row in found["Speed"] if row["targets"] == case.name]
        assert backends[0] == "sequential" and set(backends) <= {*test_speed.EAGER, "compiled"}
    assert [(row["target"], row["recipe"]) for row in found["Time to quality"]] == [
        (case.name, recipe) for case in test_quality.CASES for recipe in test_quality.recipes(case)
    ]
    clients = [str(clients) for clients, _ in test_memory.CASES]
    assert [row["clients"] for row in found["Memory"]] == clients
    libraries = [peer.NAME, *test_peers.OURS]
    assert [row["library"] for row in found["Beside breaching"]] == libraries


def test_the_page_has_the_targets_of_the_code() -> None:
    wanted = {row["figure"]: row["wanted"] for row in tables(PAGE)["Targets"]}
    for answer in test_known_answers.CASES:
        if answer["wanted"]:
            figure = f"`{answer['attack']}`: {answer['case']}"
            assert wanted[figure] == f"at least {float(answer['wanted']):g} dB"
    for speed in test_speed.ON_CPU:
        (fast,) = (
            bound
            for figure, bound in wanted.items()
            if figure.startswith(f"{speed.name}: `") and figure.endswith("over the plain loop")
        )
        assert fast == f"at least {speed.wanted:g}"
    for case in test_quality.CASES:
        figure = (
            f"{case.name}: seconds to {case.level:g} dB, ours over those of {test_quality.PAPER}"
        )
        assert wanted[figure] == f"at most {case.share:g}"


def results(*benchmarks: dict[str, Any], quick: bool = False) -> dict[str, Any]:
    facts = {"cores": "2"}
    machine = {"quick": quick, "facts": facts}
    return {"datetime": "2026-01-02T03:04", "machine_info": machine, "benchmarks": benchmarks}


ANSWER = {
    "group": "Known answers",
    "stats": {"mean": 1.26},
    "extra_info": {
        "rows": [{"attack": "`dlg`", "found": "a|b", "seconds": ""}],
        "targets": [target("dlg", 12.34, 10, unit="dB")],
    },
}


def test_the_writer_makes_a_table_of_each_group_and_one_of_targets() -> None:
    quality = {"stats": {"mean": 9.0}, "extra_info": {"rows": [{"step": "3", "seconds": "0.5"}]}}
    text = page.markdown(results(ANSWER, {"group": "Time to quality", **quality}))
    assert "Made on 2026-01-02; " in text
    assert "| machine |  |\n| --- | --- |\n| cores | 2 |\n" in text
    assert "## Targets\n\n| figure | wanted | found |  |\n| --- | --- | --- | --- |\n" in text
    assert "\n| dlg | at least 10 dB | 12.3 dB | met |\n" in text
    table = "| attack | found | seconds |\n| --- | --- | --- |\n| `dlg` | a\\|b | 1.3 |\n"
    assert f"## Known answers\n\n{page.SECTIONS['Known answers']}\n\n{table}" in text
    assert "| step | seconds |\n| --- | --- |\n| 3 | 0.5 |\n" in text
    assert "waits for a GPU" in text and "`pip install breaching`" in text


def test_tiny_settings_have_no_targets_and_the_page_says_so() -> None:
    text = page.markdown(results(ANSWER, quick=True))
    assert "mean nothing" in text and "## Targets" not in text


@pytest.mark.parametrize(
    ("found", "at_most", "verdict"),
    [
        (1.5, False, "met"),
        (1.0, False, "**missed**"),
        (2.0, True, "**missed**"),
        (float("nan"), False, "**missed**"),
        (float("nan"), True, "**missed**"),
    ],
)
def test_a_target_is_met_or_missed(found: float, at_most: bool, verdict: str) -> None:
    assert target("speed", found, 1.5, at_most=at_most)[""] == verdict
    assert target("speed", found, 1.5, at_most=at_most, not_asked="old")[""] == "not asked: old"


@pytest.mark.exhaustive
def test_the_commands_make_the_tables_of_the_page(tmp_path: Path) -> None:
    results, made = tmp_path / "results.json", tmp_path / "docs" / "page.md"
    options = ["--benchmark-only", "--quick", "-k", "not test_metrics"]
    for command in (
        ["pytest", "benchmarks", *options, f"--benchmark-json={results}"],
        ["benchmarks.page", str(results), "--out", str(made)],
    ):
        subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=True, capture_output=True)
    here, there = tables(made.read_text(encoding="utf-8")), tables(PAGE)
    for section in ("Known answers", "Speed", "Time to quality", "Memory"):
        assert list(here[section][0]) == list(there[section][0])
    cases = len(test_known_answers.CASES) - 2  # without those that take minutes
    assert len(here["Known answers"]) == cases + 5  # three servers that cheat, two counts of labels
    backends = [row["backend"] for row in here["Speed"]]
    assert backends == list(test_speed.EAGER) * len(test_speed.ON_CPU)
    assert len(here["Speed on a GPU"]) == len(test_speed.EAGER) * len(test_speed.ON_GPU)
    assert len(here["Memory"]) == len(test_memory.CASES)
    assert "node" not in json.loads(results.read_text())["machine_info"]
