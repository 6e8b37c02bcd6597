"""Whatever a command is given, and wherever it writes: one line, an exit code, no traceback."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from fl_privacy_audit.cli import cli
from fl_privacy_audit.core import endings
from fl_privacy_audit.core.endings import TRACEBACK_VARIABLE
from fl_privacy_audit.core.private_folders import DIRECTORY_VARIABLE

ABSURD_NUMBERS = ("9" * 30, "nan", "-inf", "1e999", "", "three")
ABSURD_NAMES = ("x" * 5000, "two\nlines", "nul\0", "\x1b[31mred", "x" * 300, "here/is/none")


def walk(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command that does something."""
    if not isinstance(command, click.Group):
        yield path
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        each = command.get_command(context, name)
        assert each is not None
        yield from walk(each, (*path, name))


def command_of(words: tuple[str, ...]) -> click.Command:
    command: click.Command = cli
    for word in words:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), word)  # type: ignore[assignment]
    return command


COMMANDS = list(walk(cli))


def ended(arguments: list[str]) -> Result:
    """A run that failed as it should: one line that says why, and a code."""
    result = CliRunner().invoke(cli, arguments)
    assert isinstance(result.exception, SystemExit), (arguments, result.exception)
    assert result.exit_code in (1, 2), (arguments, result.output)
    lines = result.output.splitlines()
    assert sum(line.startswith("Error: ") for line in lines) == 1, result.output
    assert "Traceback" not in result.output
    assert lines[-1].startswith("Error: "), result.output
    assert "\x1b" not in result.output and "\0" not in result.output
    return result


def filled(words: tuple[str, ...], missing: Path, chosen: click.Parameter, value: str) -> list[str]:
    """A call whose files are not there and cannot be made; `chosen` has `value`."""
    arguments, last = list(words), []
    for param in command_of(words).params:
        given = value if param is chosen else str(missing / "file" / "none.csv")
        if isinstance(param, click.Argument):
            last.append(given)
        elif param is chosen or param.required:
            choices = getattr(param.type, "choices", None)
            arguments += [param.opts[0], given if choices is None else str(choices[0])]
    return [*arguments, "--", *last] if last else arguments


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_absurd_numbers_are_refused_by_every_option(words: tuple[str, ...], tmp_path: Path) -> None:
    for param in command_of(words).params:
        if isinstance(param.type, (click.types.IntParamType, click.types.FloatParamType)):
            for value in ABSURD_NUMBERS:
                (tmp_path / "file").touch()
                result = ended(filled(words, tmp_path, param, value))
                assert result.exit_code == 2
                assert param.opts[0] in result.output


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_absurd_names_are_one_line(words: tuple[str, ...], tmp_path: Path) -> None:
    for param in command_of(words).params:
        if isinstance(param.type, click.Path):
            (tmp_path / "file").touch()
            for value in ABSURD_NAMES[: -1 if param.name == "out" else None]:
                ended(filled(words, tmp_path, param, value))
            ended(filled(words, tmp_path, param, str(tmp_path / "file" / "below")))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_what_begins_with_a_dash_is_an_unknown_option(words: tuple[str, ...]) -> None:
    assert ended([*words, "-not-a-name"]).exit_code == 2


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    below = str(tmp_path / "file" / "out")
    corpus = ["corpus", "build", below, "--images", "1"]
    for arguments in (["demo", "--out", below], ["sweep", "--default", "--out", below], corpus):
        assert "Not a directory" in ended(arguments).output
        long = [argument.replace(below, str(tmp_path / ("x" * 300))) for argument in arguments]
        assert "File name too long" in ended(long).output


def test_an_error_that_nobody_expected_is_one_line_unless_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(self: object, context: click.Context) -> None:
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(click.Group, "invoke", broken)
    output = ended(["attacks"]).output
    assert output == f"Error: RuntimeError: first ({TRACEBACK_VARIABLE}=1 shows where)\n"
    monkeypatch.setenv(TRACEBACK_VARIABLE, "1")
    assert isinstance(CliRunner().invoke(cli, ["attacks"]).exception, RuntimeError)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "out.csv"), "out.csv: No space left"),
        (MemoryError(), "there is not enough memory"),
        (endings.Stopped(15), "Stopped by SIGTERM"),
        (KeyboardInterrupt(), "Stopped by SIGINT"),
    ],
)
def test_what_may_happen_to_any_command(
    error: BaseException, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, context: click.Context) -> None:
        raise error

    monkeypatch.setattr(click.Group, "invoke", broken)
    result = CliRunner().invoke(cli, ["attacks"])
    assert line in result.output
    assert len(result.output.splitlines()) == 1
    assert result.exit_code == {"Sto": 128 + getattr(error, "number", 2)}.get(line[:3], 1)


def shell(script: str, tmp_path: Path) -> tuple[int, str]:
    """Exit code and standard error of the command in a shell, which calls it ``$AUDIT``."""
    done = subprocess.run(
        ["bash", "-c", script],
        env={
            **os.environ,
            "AUDIT": f"{sys.executable} -m fl_privacy_audit",
            DIRECTORY_VARIABLE: str(tmp_path),
        },
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.slow
def test_closed_pipes_and_full_disks_are_no_tracebacks(tmp_path: Path) -> None:
    assert shell("$AUDIT attacks | true; exit ${PIPESTATUS[0]}", tmp_path) == (1, "")
    full = "Error: No space left on device\n"
    if Path("/dev/full").exists():
        for words in ("attacks", "--help", "clean", "sweep --show-default", "attacks --help"):
            assert shell(f"$AUDIT {words} > /dev/full", tmp_path) == (1, full)
    assert shell("$AUDIT attacks >&-", tmp_path) == (0, "")
