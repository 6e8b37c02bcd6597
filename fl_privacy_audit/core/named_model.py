"""The clients' model by its name on a command line."""

import importlib
import sys
from pathlib import Path

from torch import nn

from .errors import ConfigError


def find_model(name: str, folder: Path) -> nn.Module:
    """The model that ``MODULE:NAME`` names, where a module may lie in a folder of its own.

    Raises:
        ConfigError: There is none, or it is no model.
    """
    module, _, attribute = name.partition(":")
    before = sys.path[:]
    sys.path.insert(0, str(folder.absolute()))
    try:
        found = getattr(importlib.import_module(module), attribute)
        model = found() if callable(found) and not isinstance(found, nn.Module) else found
    except Exception as error:
        raise ConfigError(
            f"`--model` must name a model as MODULE:NAME, seen from {folder}, but {name!r} gives "
            f"{type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path[:] = before
    if not isinstance(model, nn.Module):
        raise ConfigError(f"`--model` {name!r} is a {type(model).__name__}, not a torch module")
    return model
