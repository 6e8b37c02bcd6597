"""Does a release hold every file that git knows, at the place where it is imported, and no other?

Usage: ``python .ci/check_dist.py DIST``, from the root of the repository.
"""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

LINKED = ("attacks/", "strategies/")
"""Folders at the root that are imported as part of the package."""
KEPT = (".py", ".typed", ".html", ".css", ".js", ".toml", ".json", ".md", ".safetensors")


def expected() -> set[str]:
    """Files of the package by their path inside it."""
    listed = subprocess.run(["git", "ls-files"], check=True, capture_output=True, text=True)
    wheel = set()
    for name in listed.stdout.splitlines():
        if name.startswith(LINKED):
            name = f"fl_privacy_audit/{name}"
        if name.startswith("fl_privacy_audit/") and name.endswith(KEPT):
            wheel.add(name)
    return wheel


def main() -> None:
    """Compare, and end with an error that names the files."""
    (wheel_path,) = Path(sys.argv[1]).glob("*.whl")
    (sdist_path,) = Path(sys.argv[1]).glob("*.tar.gz")
    with zipfile.ZipFile(wheel_path) as wheel:
        packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    with tarfile.open(sdist_path) as sdist:
        source = {member.name.partition("/")[2] for member in sdist if member.isfile()}
        links = [member.name for member in sdist if member.issym() or member.islnk()]
    wanted = expected()
    roots = tuple(f"fl_privacy_audit/{folder}" for folder in LINKED)
    missing_sources = {
        name.removeprefix("fl_privacy_audit/") if name.startswith(roots) else name
        for name in wanted
    } - source
    problems = [
        f"{what}: {', '.join(sorted(names))}"
        for what, names in (
            ("missing in the wheel", wanted - packed),
            ("should not be in the wheel", packed - wanted),
            ("missing in the sdist", missing_sources),
            ("links in the sdist", set(links)),
        )
        if names
    ]
    if problems:
        sys.exit("\n".join(problems))
    print(f"{wheel_path.name} and {sdist_path.name} hold {len(wanted)} files of the package")


if __name__ == "__main__":
    main()
