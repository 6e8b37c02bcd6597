"""What is imported when it is first used: torch alone takes seconds and half a gigabyte."""

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Signature, signature
from typing import Any


@dataclass(frozen=True)
class Later:
    """A function whose module is imported when it is first called.

    Attributes:
        module: Its full name.
        name: The function's name there.
    """

    module: str
    name: str

    @property
    def function(self) -> Callable[..., Any]:
        """The function itself."""
        found: Callable[..., Any] = getattr(importlib.import_module(self.module), self.name)
        return found

    @property
    def __signature__(self) -> Signature:
        """That of the function."""
        return signature(self.function)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call it."""
        return self.function(*args, **options)


def names_from(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's ``__getattr__`` that imports its names when they are first used.

    Args:
        package: Its full name.
        places: Module, relative to the package -> the names that come from it, with blanks between.
    """
    homes = {name: module for module, names in places.items() for name in names.split()}

    def found(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name)
        value = getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        return vars(sys.modules[package]).setdefault(name, value)

    return found
