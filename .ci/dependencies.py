"""The packages that this one names, as pins of the lowest versions and as they are installed.

Usage, from the root of the repository::

    python .ci/dependencies.py lowest test > lowest.txt; pip install -c lowest.txt ".[test]"
    python .ci/dependencies.py installed test
    python .ci/dependencies.py installed test lowest.txt   # and nothing but those versions

Needs ``packaging``.
"""

import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

PROJECT = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]


def direct(extras: Iterable[str]) -> Iterator[Requirement]:
    """What the package needs, and what these extras need, followed where one names another."""
    yield from map(Requirement, PROJECT["dependencies"])
    for extra in extras:
        for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
            if requirement.name == PROJECT["name"]:
                yield from direct(requirement.extras)
            else:
                yield requirement


def lowest(requirement: Requirement) -> str:
    """The lowest version that its bounds allow.

    Raises:
        SystemExit: It has no lower bound.
    """
    bounds = [one.version for one in requirement.specifier if one.operator in (">=", "==")]
    if not bounds:
        sys.exit(f"{requirement} has no lower bound")
    return max(bounds, key=Version)


def main(what: str, extra: str, pins: str | None = None) -> None:
    """Print ``name==version`` lines, and end with an error where they are not the pins."""
    found = {
        one.name: lowest(one) if what == "lowest" else version(one.name) for one in direct([extra])
    }
    print("\n".join(f"{name}=={found[name]}" for name in sorted(found)))
    wanted = dict(line.split("==") for line in Path(pins).read_text().split()) if pins else {}
    other = [name for name in wanted if Version(wanted[name]) != Version(found[name])]
    if other:
        sys.exit(f"not the lowest version: {', '.join(other)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
