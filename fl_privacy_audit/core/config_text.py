"""Settings that are written as text, and what is wrong with settings in words."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from .arguments import name_and_value
from .types import Option


def read_options(text: str) -> dict[str, Option]:
    """``"std=1e-3, scope=tensor"`` -> a mapping; how a flat run config holds options.

    Raises:
        ConfigError: A part is not ``name=value``.
    """
    found: dict[str, Option] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, value = name_and_value(part, "options", "'std=1e-3, scope=tensor'")
        found[name.replace("-", "_")] = _value(value)
    return found


def _value(text: str) -> Option:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def elsewhere(path: str | Path, error: Exception) -> str:
    """What to do where a file is not in the working directory."""
    if not isinstance(error, FileNotFoundError) or Path(path).is_absolute():
        return ""
    return (
        f". It was looked for in {Path.cwd()}, the working directory. Under `flwr run` that is not "
        f"the app's: give `Path(__file__).parents[1] / {str(path)!r}`"
    )


def listed(value: Any) -> Any:
    """``"a, b"`` -> a list; anything else as it is."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def explain(error: ValidationError) -> str:
    """What is wrong with some settings, a line each."""
    lines = []
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"]) or "settings"
        if problem["type"] == "missing":
            text = "is missing; there is no safe default"
        elif problem["type"] == "extra_forbidden":
            text = "is not a setting of this audit; check its spelling"
        else:
            text = problem["msg"].removeprefix("Value error, ") + f", got {problem['input']!r}"
        lines.append(f"`{place}` {text}")
    return "the audit settings are wrong:\n  " + "\n  ".join(lines)
