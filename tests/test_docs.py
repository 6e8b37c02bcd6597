"""The pages say what the tables say."""

import re
import tomllib
from pathlib import Path

from fl_privacy_audit import AuditConfig
from fl_privacy_audit.attacks import ATTACKS
from fl_privacy_audit.cli import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_guide_names_every_attack() -> None:
    guide = (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8")
    assert [
        name for name in ATTACKS if f"`{name}`" not in guide and name != "inverting_gradients"
    ] == []


def test_the_settings_of_the_readme_are_an_audit() -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", README, flags=re.DOTALL)
    config = AuditConfig.build(tomllib.loads(block))
    assert config.training.steps == 1


def test_commands_that_the_readme_names_exist() -> None:
    named = set(re.findall(r"fl-privacy-audit ([a-z]+)", README))
    assert named <= set(cli.list_commands(None))  # type: ignore[arg-type]
    assert {"demo", "show", "compare", "attacks", "study"} <= named


def test_links_between_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
