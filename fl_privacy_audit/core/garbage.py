"""Python's search for objects that refer to each other in circles, and when it is of no use."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_search(*, ever: bool = True) -> Iterator[None]:
    """No search for circles meanwhile: what is read from a ledger makes none.

    Each search looks at everything that is kept, so that of a long ledger they take longer than the
    reading itself.

    Args:
        ever: Whether what there is at the end is searched later; not where the process ends with it.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not ever:
            gc.freeze()
        if enabled:
            gc.enable()
