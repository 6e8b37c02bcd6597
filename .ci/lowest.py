"""Constraints that pin every direct dependency to the lowest version that its bounds allow.

Usage, from the root of the repository: ``python .ci/lowest.py EXTRA... > lowest.txt``, then ``pip
install -c lowest.txt ".[EXTRA,...]"``. Needs the package ``packaging``.
"""

import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]


def direct(extras: Iterable[str]) -> Iterator[Requirement]:
    """What the package needs, and what these extras need, followed where one names another."""
    for line in PROJECT["dependencies"]:
        yield Requirement(line)
    for extra in extras:
        for line in PROJECT["optional-dependencies"][extra]:
            requirement = Requirement(line)
            if requirement.name == PROJECT["name"]:
                yield from direct(requirement.extras)
            else:
                yield requirement


def lowest(requirement: Requirement) -> str:
    """Its lower bound as a pin.

    Raises:
        StopIteration: It has no lower bound.
    """
    version = next(one.version for one in requirement.specifier if one.operator in (">=", "=="))
    return f"{requirement.name}=={version}"


if __name__ == "__main__":
    print("\n".join(sorted({lowest(requirement) for requirement in direct(sys.argv[1:])})))
