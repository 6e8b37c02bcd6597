"""How a command ends: by a signal, by an error, or by what it was given.

One line on standard error and an exit code; a traceback only where it is asked for.
"""

import contextlib
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

import click

from .texts import clean

TRACEBACK_VARIABLE = "FL_PRIVACY_AUDIT_TRACEBACK"
"""Set it, and an error ends a command with Python's traceback."""
PATIENCE_SECONDS = 4.0
"""How long a command may clean up after a signal."""
LONGEST = 4096
"""Bytes of an argument: as many as a path may have on Linux."""
_STEERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def end_on_signals() -> None:
    """Let Ctrl-C and SIGTERM end this process, even where a shell had them ignored.

    They raise `Stopped` in the main thread. What is not over in `PATIENCE_SECONDS` is ended, and a
    second signal ends it at once.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    threading.Thread(target=_end_soon, args=(reader,), daemon=True).start()


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)
    raise Stopped(number)


def _end_soon(reader: int) -> None:
    number = 0
    while number not in (signal.SIGINT, signal.SIGTERM):
        number = os.read(reader, 1)[0]
    time.sleep(PATIENCE_SECONDS)
    os._exit(128 + number)


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse what is no name, number or sentence.

    Raises:
        click.UsageError: An argument is longer than a path may be, or holds control characters.
    """
    for argument in arguments:
        shown = repr(argument[:40]) + ("..." if len(argument) > 40 else "")
        if len(os.fsencode(argument) if _encodes(argument) else argument) > LONGEST:
            raise click.UsageError(f"{shown} is longer than {LONGEST} bytes")
        if _STEERS.search(argument):
            raise click.UsageError(f"{shown} holds control characters")


def check_numbers(command: click.Command) -> click.Command:
    """The same command; it refuses numbers that are not finite, or beyond 64 bits, in any option."""
    for param in command.params:
        numbers = (click.types.IntParamType, click.types.FloatParamType)
        if isinstance(param.type, numbers) and param.callback is None:
            param.callback = _in_bounds
    if isinstance(command, click.Group):
        for each in command.commands.values():
            check_numbers(each)
    return command


def _in_bounds(context: click.Context, param: click.Parameter, value: Any) -> Any:
    for number in value if isinstance(value, tuple) else (value,):
        if number is not None and not abs(number) < 2**63:  # NaN is not, either
            raise click.BadParameter(f"{number} is out of range", context, param)
    return value


def _encodes(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


@contextlib.contextmanager
def one_line_errors(expected: type[Exception]) -> Iterator[None]:
    """Make of an error its line on standard error and exit code 1; of a signal, 128 and its number.

    `expected` are errors whose text says all; of others the kind is said too.
    """
    try:
        try:
            yield
        finally:
            _flush()
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except expected as error:
        raise click.ClickException(clean(str(error), LONGEST)) from error
    except BrokenPipeError:
        _discard(sys.stdout)
        raise SystemExit(1) from None
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
        click.echo(f"Stopped by {signal.Signals(number).name}", err=True)
        raise SystemExit(128 + number) from None
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        raise click.ClickException(clean(_said(error), LONGEST)) from error


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return f"{where}{error.strerror}"
    if isinstance(error, MemoryError):
        return f"there is not enough memory {error}".strip()
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first} ({TRACEBACK_VARIABLE}=1 shows where)"


def _flush() -> None:
    """What was printed is on its way, or its error is told here and not when Python ends."""
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except OSError:
            _discard(sys.stdout)
            raise


def _discard(stream: object) -> None:
    """Let Python end without another try to write what nobody reads."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[attr-defined]
        os.close(nowhere)
