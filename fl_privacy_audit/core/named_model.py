"""The clients' model, or their app, by its name on a command line."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from .errors import ConfigError


def find_model(name: str, folder: Path) -> nn.Module:
    """The model that ``MODULE:NAME`` names, where a module may lie in a folder of its own.

    Raises:
        ConfigError: There is none, or it is no model.
    """

    def made(found: Any) -> Any:
        return found() if callable(found) and not isinstance(found, nn.Module) else found

    model = find_named("--model", name, folder, made)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"`--model` {name!r} is a {type(model).__name__}, not a torch module")
    return model


def find_named(
    option: str, name: str, folder: Path, made: Callable[[Any], Any] = lambda found: found
) -> Any:
    """What ``MODULE:NAME`` names, and what is made of it.

    Raises:
        ConfigError: There is no such thing, or it cannot be made.
    """
    module, _, attribute = name.partition(":")
    before = sys.path[:]
    sys.path.insert(0, str(folder.absolute()))
    try:
        return made(getattr(importlib.import_module(module), attribute))
    except Exception as error:
        raise ConfigError(
            f"`{option}` must name an object as MODULE:NAME, seen from {folder}, but {name!r} gives "
            f"{type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path[:] = before
