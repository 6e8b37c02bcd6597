"""Shows the audit's lines where Flower shows its own: on the terminal, and in ``flwr log``."""

import contextlib
import logging
from collections.abc import Iterator

AUDIT, FLOWER = "fl_privacy_audit", "flwr"


class _ToFlower(logging.Handler):
    """Warnings of the audit are also shown to those who have silenced Flower."""

    def emit(self, record: logging.LogRecord) -> None:
        flower = logging.getLogger(FLOWER)
        if record.levelno >= logging.WARNING or flower.isEnabledFor(record.levelno):
            flower.handle(record)


@contextlib.contextmanager
def through_flower() -> Iterator[None]:
    """Let the audit's lines take the way of Flower's while a federation runs.

    Where the logger ``fl_privacy_audit`` has a handler of its own, the user decides where they go,
    and nothing is changed.
    """
    logger = logging.getLogger(AUDIT)
    if logger.handlers:
        yield
        return
    handler, level, propagate = _ToFlower(), logger.level, logger.propagate
    logger.addHandler(handler)
    logger.propagate = False  # Flower's logger passes them up
    if level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
        logger.setLevel(level)
