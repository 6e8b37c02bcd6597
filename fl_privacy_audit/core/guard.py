"""The one guard around code of others: attacks, metrics, truth, models, sinks, progress.

It stands around the smallest piece of work that can fail alone, such as one attack on one target. What
goes wrong in there costs that piece.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from .process_state import process_state_kept
from .reasons import Reason, message_of

log = logging.getLogger("fl_privacy_audit")

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Guard:
    """Calls code of others so that neither what it raises nor what it changes gets out.

    Attributes:
        fail_fast: Whether `result` raises after all.
    """

    fail_fast: bool = False
    _told: set[str] = field(default_factory=set)

    def call(self, whose: str, work: Callable[[], T], *, often: bool = False) -> T | Exception:
        """What `work` returns, or what it raised; a `RuntimeError` for `SystemExit` and its like.

        Settings of the process that it changed are put back; the log says so once.

        Args:
            whose: Who is called, for the log: ``"metric 'psnr'"``.
            work: Takes nothing.
            often: Whether it is called in every step; see `process_state_kept`.

        Raises:
            KeyboardInterrupt: The user wants to stop everything.
        """
        changed: list[str] = []
        try:
            with process_state_kept(often=often) as changed:
                return work()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - `SystemExit` of others must not end training
            return error if isinstance(error, Exception) else _in_place_of(error)
        finally:
            self._tell(f"privacy audit: {whose} changed {', '.join(changed)}" if changed else "")

    def result(self, whose: str, work: Callable[[], T], *, often: bool = False) -> T | Reason:
        """As `call`, with the reason in place of the error.

        Raises:
            Exception: What `work` raised, only with `fail_fast`.
        """
        result = self.call(whose, work, often=often)
        if not isinstance(result, Exception):
            return result
        if self.fail_fast:
            raise result
        return Reason.of_error(result)

    def _tell(self, what: str) -> None:
        if what and what not in self._told:
            self._told.add(what)
            log.warning("%s; settings of the process were put back", what)


def _in_place_of(error: BaseException) -> RuntimeError:
    mine = RuntimeError(f"it raised {type(error).__name__}: {message_of(error)}")
    mine.__cause__ = error
    return mine
