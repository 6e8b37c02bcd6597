import ast
import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SOURCES = ("fl_privacy_audit", "attacks", "strategies", "examples", "tests", "benchmarks")
LINKS = {
    "attacks": "../attacks",
    "strategies": "../strategies",
}


def python_files(*folders: str) -> list[Path]:
    """Real files, each once: links are not followed."""
    found = []
    for folder in folders:
        for place, _, names in os.walk(ROOT / folder):
            found += [Path(place) / name for name in names if name.endswith(".py")]
    return sorted(found)


def packages() -> dict[str, Path]:
    """Package -> folder, as a build maps them."""
    table = PROJECT["tool"]["setuptools"]
    places = {}
    for package in table["packages"]:
        parts = package.split(".")
        for kept in range(len(parts), 0, -1):
            folder = table["package-dir"].get(".".join(parts[:kept]))
            if folder is not None:
                places[package] = ROOT.joinpath(folder, *parts[kept:])
                break
    return places


def test_every_package_is_packed() -> None:
    folders = {p.parent for p in python_files(*SOURCES[:3]) if p.name == "__init__.py"}
    assert set(packages().values()) == folders
    assert set(packages()) == set(PROJECT["tool"]["setuptools"]["packages"])
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"]["*"]
    assert (ROOT / "fl_privacy_audit/py.typed").is_file()


def test_rooms_are_links() -> None:
    folder = ROOT / "fl_privacy_audit"
    links = {name: os.readlink(folder / name) for name in LINKS if os.path.islink(folder / name)}
    assert links == LINKS
    assert {p.name for p in folder.iterdir() if p.is_symlink()} == set(LINKS)
    for package, place in packages().items():
        assert ROOT.joinpath(*package.split(".")).resolve() == place.resolve()


@pytest.mark.parametrize("room", ["attacks", "strategies"])
def test_a_room_is_no_package_of_its_own(room: str) -> None:
    command = [sys.executable, "-c", f"import {room}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == f"ImportError: import this package as 'fl_privacy_audit.{room}', not '{room}'"


def exporting() -> list[str]:
    names = []
    for package, folder in packages().items():
        for path in sorted(folder.glob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            targets = [t for n in tree.body if isinstance(n, ast.Assign) for t in n.targets]
            if any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets):
                names.append(package if path.stem == "__init__" else f"{package}.{path.stem}")
    return names


@pytest.mark.parametrize("module", exporting())
def test_exported_names_are_there(module: str) -> None:
    loaded = importlib.import_module(module)
    names = loaded.__all__
    assert len(set(names)) == len(names) > 0
    assert [name for name in names if getattr(loaded, name, None) is None] == []


def test_rooms_export_something() -> None:
    assert {"fl_privacy_audit.attacks", "fl_privacy_audit.strategies"} <= set(exporting())


@pytest.mark.parametrize("package", ["", ".attacks", ".metrics"])
def test_names_for_types_are_those_found_later(package: str) -> None:
    loaded = importlib.import_module(f"fl_privacy_audit{package}")
    assert loaded.__file__ is not None
    tree = ast.parse(Path(loaded.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and node.orelse)
    named = {
        alias.name: importlib.import_module("." * node.level + (node.module or ""), loaded.__name__)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert len(named) > 8
    assert all(getattr(loaded, name) is vars(home)[name] for name, home in named.items())


def test_the_face() -> None:
    face = importlib.import_module("fl_privacy_audit")
    names = ("Auditor", "AuditConfig", "AuditError", "Truth")
    assert all(getattr(face, name) is not None for name in names)


OLD_IMPORTS = """
import importlib, types, warnings

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from fl_privacy_audit import theory
    from fl_privacy_audit.attacks import dlg, inverting_gradients
    from fl_privacy_audit.attacks.dlg import PATIENCE, dlg as the_function
    from fl_privacy_audit.attacks.engine import OptimisationAttack
    from fl_privacy_audit.attacks.labels import Labels
    from fl_privacy_audit.config import AuditConfig, ImageConfig
    from fl_privacy_audit.theory import gaussian_mu
    from fl_privacy_audit.theory.gaussian import gaussian_mu as same
    from fl_privacy_audit.types import Observation
    import fl_privacy_audit.annotate
ours = [w for w in caught if "the old name goes in version" in str(w.message)]
assert {w.category for w in ours} == {DeprecationWarning}
assert {w.filename for w in ours} == {__file__}
first = "fl_privacy_audit.theory is now fl_privacy_audit.dp; the old name goes in version 0.3"
assert str(ours[0].message) == first

from fl_privacy_audit import attacks, core, dp
import fl_privacy_audit._moved, fl_privacy_audit.attacks.parts.labels, fl_privacy_audit.lab.people

assert Observation is core.types.Observation
assert AuditConfig is core.config.AuditConfig is fl_privacy_audit.AuditConfig
assert ImageConfig is fl_privacy_audit.ImageConfig
assert gaussian_mu is same is theory.gaussian_mu is dp.gaussian_mu
assert Labels is attacks.parts.labels.Labels
assert fl_privacy_audit.annotate.Store is fl_privacy_audit.lab.people.Store
assert dlg is the_function and attacks.ATTACKS["dlg"].factory.function is dlg
assert isinstance(attacks.dlg(steps=3), OptimisationAttack) and attacks.dlg(steps=3).steps == 3

for old, new in fl_privacy_audit._moved.MOVED.items():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alias = importlib.import_module(old)
    module = importlib.import_module(new)
    assert alias is not module
    assert module.__spec__.name == module.__name__ == new
    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    things = [name for name, value in public.items() if not isinstance(value, types.ModuleType)]
    assert all(getattr(alias, name) is public[name] for name in things), old
"""


def test_old_imports_give_the_same_objects_and_a_warning(tmp_path: Path) -> None:
    script = tmp_path / "old_imports.py"
    script.write_text(OLD_IMPORTS, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_names_that_never_were_are_not_found() -> None:
    for name in ("fl_privacy_audit.theories", "fl_privacy_audit.attacks.no_such_attack"):
        with pytest.raises(ModuleNotFoundError, match=name):
            importlib.import_module(name)


def test_no_file_is_too_long() -> None:
    files = python_files(*SOURCES)
    assert len(files) > 40
    lengths = {p: len(p.read_text(encoding="utf-8").splitlines()) for p in files}
    assert {str(p.relative_to(ROOT)): n for p, n in lengths.items() if n > 400} == {}


def test_the_command_is_installed() -> None:
    assert version("fl-privacy-audit") == PROJECT["project"]["version"]
    (command,) = entry_points(group="console_scripts", name="fl-privacy-audit")
    assert command.value == PROJECT["project"]["scripts"]["fl-privacy-audit"]
    assert callable(command.load())


def imported(path: Path) -> set[str]:
    """Packages from elsewhere that a file imports, wherever in it the import stands."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(str(node.module).partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"fl_privacy_audit"}


def declared(*extras: str) -> set[str]:
    """Import names of the base dependencies, and of those of some extras."""
    lines = list(PROJECT["project"]["dependencies"])
    for extra in extras:
        lines += PROJECT["project"]["optional-dependencies"][extra]
    names = {re.split(r"[\[<>=~!]", line)[0] for line in lines}
    other = {"pillow": "PIL", "scikit-image": "skimage", "mlflow-skinny": "mlflow"}
    brought = {"ray"} if any(line.startswith("flwr[simulation]") for line in lines) else set()
    return {other.get(name, name.replace("-", "_")) for name in names} | brought


def test_every_dependency_has_both_bounds() -> None:
    project = PROJECT["project"]
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    for line in project["dependencies"] + extras:
        if not line.startswith(project["name"]):
            assert re.search(r">=[\d.]+,<[\d.]+$|==[\d.]+$", line), line


OPTIONAL = {
    "fl_privacy_audit/core/tables.py": "parquet",
    "fl_privacy_audit/ledger/sinks.py": "mlflow",
    "fl_privacy_audit/simulate/federation/data.py": "cifar10",
}
"""Modules that use an extra inside a function, and name it in an error without it."""


def test_what_is_imported_is_declared() -> None:
    undeclared = {}
    used: set[str] = set()
    for path in python_files("fl_privacy_audit", "attacks", "strategies"):
        name = path.relative_to(ROOT).as_posix()
        lab = name.startswith("fl_privacy_audit/lab/")
        extras = (["lab"] if lab else []) + ([OPTIONAL[name]] if name in OPTIONAL else [])
        if missing := imported(path) - declared(*extras):
            undeclared[name] = missing
        used |= imported(path)
    assert undeclared == {}
    assert declared() - used == set()
    assert len(PROJECT["project"]["dependencies"]) <= 17


WITHOUT = """
import contextlib, io, json, sys
for name in {packages}:
    sys.modules[name] = None
from fl_privacy_audit.cli import main
results = []
for arguments in {commands}:
    sys.argv = ["fl-privacy-audit", *arguments]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    results.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(results))
"""


def run_without(packages: set[str], *commands: list[str]) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each command, in one process: to import takes seconds."""
    code = WITHOUT.format(packages=sorted(packages), commands=commands)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return [tuple(result) for result in json.loads(done.stdout)]


LAB_ONLY = (declared("lab") | {"lpips", "pandas"}) - declared()


def test_the_base_installation_is_enough() -> None:
    results = run_without(LAB_ONLY, ["--help"], ["attacks"], ["demo", "--help"])
    assert [(code, err) for code, _, err in results] == [(0, "")] * 3
    assert "Laboratory commands:\n  annotate " in results[0][1]
    assert all(out for _, out, _ in results)


def test_a_laboratory_command_names_its_extra() -> None:
    names = ["annotate", "annotators", "study"]
    results = run_without(LAB_ONLY, *([name, "--help"] for name in names))
    for name, (code, out, err) in zip(names, results, strict=True):
        assert (code, out) == (1, "")
        (line,) = err.splitlines()
        assert line.startswith(f"Error: `{name}` is part of the laboratory and needs the package ")
        assert line.endswith('`pip install "fl-privacy-audit[lab]"`')
