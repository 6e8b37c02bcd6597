"""The pages say what the tables say."""

import re
import runpy
import tomllib
from pathlib import Path

import click
import torch

from fl_privacy_audit import AuditConfig
from fl_privacy_audit.attacks import ATTACKS
from fl_privacy_audit.cli import cli
from fl_privacy_audit.metrics import METRICS, SET_METRICS
from fl_privacy_audit.report.doctor import flattened
from tests.support.cases import LeNet, observation, photos, seeded

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def command_page() -> str:
    """``docs/commands.md``: what each command prints for ``--help``."""
    parts = ["# Commands\n\nWhat each command says of itself.\n"]

    def add(command: click.Command, name: str) -> None:
        context = click.Context(
            command, info_name=name, max_content_width=96, terminal_width=96, color=False
        )
        text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
        parts.append(f"## `{name}`\n\n```text\n{text}\n```\n")
        if isinstance(command, click.Group):
            for below in command.list_commands(context):
                found = command.get_command(context, below)
                assert found is not None
                add(found, f"{name} {below}")

    add(cli, "fl-privacy-audit")
    return "\n".join(parts)


def test_the_page_of_commands_is_what_they_print() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert page == command_page(), "run: python -m tests.test_docs > docs/commands.md"


def test_the_guide_names_every_attack() -> None:
    guide = (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8")
    assert [name for name in ATTACKS if f"`{name}`" not in guide] == []


def test_the_example_of_an_attack_runs(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", guide, flags=re.DOTALL)
    (tmp_path / "my_paper.py").write_text(example, encoding="utf-8")
    names = runpy.run_path(str(tmp_path / "my_paper.py"))
    seen = observation(seeded(LeNet), photos(count=1), torch.tensor([3]))
    attack = names["my_attack"](steps=2)
    assert attack.reconstruct(seen, rng=torch.Generator()).images.shape == (1, 3, 32, 32)


def test_the_page_of_metrics_says_what_the_tables_say() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("| ").split(" | ")]
        for line in page.splitlines()
        if line.startswith("| `")
    ]
    pairs = {row[0].strip("`"): row[2:6] for row in rows if len(row) == 6}
    sets = {row[0].strip("`"): row[2:5] for row in rows if len(row) == 5}
    for name, metric in METRICS.items():
        assert pairs.pop(name) == [
            metric.leaks_when,
            metric.range,
            f"{metric.least_side} px",
            metric.needs or "-",
        ]
    for name, many in SET_METRICS.items():
        assert sets.pop(name) == [many.leaks_when, many.range, many.needs or "-"]
    assert pairs == sets == {}


def test_the_settings_of_the_readme_are_an_audit() -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", README, flags=re.DOTALL)
    stated = tomllib.loads(block)["tool"]["flwr"]["app"]["config"]
    config = AuditConfig.from_run_config(flattened(stated))
    assert config.training.steps == 1
    assert config.directory == Path.home() / "audit"


def test_commands_that_the_readme_names_exist() -> None:
    named = set(re.findall(r"fl-privacy-audit ([a-z]+)", README))
    assert named <= set(cli.list_commands(None))  # type: ignore[arg-type]
    assert {"demo", "show", "compare", "attacks", "study"} <= named


def test_links_between_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


if __name__ == "__main__":
    print(command_page(), end="")
