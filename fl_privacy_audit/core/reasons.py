"""Why something was not done, failed, or was decided: a code with figures.

Words are made where they are shown, in `fl_privacy_audit.report.words`; nothing ever reads them back.
"""

import math
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
)

from .errors import AuditError
from .numbers import LARGEST
from .texts import MOST, clean

Figure = int | float | str | list[str]
MOST_CODE = 100
"""Characters of a code, which may be of somebody else's error."""


def _cleaned(figure: Figure) -> Figure:
    if isinstance(figure, list):
        return [clean(text, MOST) for text in figure[:100]]
    if isinstance(figure, int) and abs(figure) >= LARGEST:
        return math.inf if figure > 0 else -math.inf
    return clean(figure, MOST) if isinstance(figure, str) else figure


class Reason(BaseModel):
    """A code, and the figures that belong to it.

    Attributes:
        code: A key of `fl_privacy_audit.report.words.REASONS`.
        figures: By name; text only for what came from outside, such as the message of an error.
        cause: What led to it, if something else did.
    """

    # extra: a sentence that a writer put beside the code is never read back.
    model_config = ConfigDict(extra="ignore", frozen=True, ser_json_inf_nan="strings")

    code: str
    figures: dict[str, Figure] = Field(default_factory=dict)
    cause: "Reason | None" = None

    @field_validator("figures", mode="after")
    @classmethod
    def _cleaned(cls, figures: dict[str, Figure]) -> dict[str, Figure]:
        """Text from outside, such as a client's error, is cut and steers nothing."""
        return {name: _cleaned(value) for name, value in figures.items()}

    @model_serializer(mode="wrap")
    def _with_words(
        self, dump: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        """Words stand beside the code if the writer has them: ``context={"words": spoken}``."""
        words = (info.context or {}).get("words")
        return {**dump(self), **(words(self) if words else {})}

    def __eq__(self, other: object) -> bool:
        """Equal reasons count as one."""
        return self is other or (
            isinstance(other, Reason)
            and self.code == other.code
            and self.figures == other.figures
            and self.cause == other.cause
        )

    def __hash__(self) -> int:
        figures = ((k, tuple(v) if isinstance(v, list) else v) for k, v in self.figures.items())
        return hash((self.code, self.cause, frozenset(figures)))

    @property
    def said(self) -> str:
        """The figures alone, for a line of a log or an error.

        >>> Reason.of("worker died", how="exit code 1").said
        'exit code 1'
        """
        return ", ".join(map(str, self.figures.values()))

    @classmethod
    def of(cls, code: str, cause: "Reason | None" = None, /, **figures: Figure) -> "Reason":
        """Shorthand: ``Reason.of("not due", every=10)``."""
        return cls(code=code, figures=figures, cause=cause)

    @classmethod
    def of_error(cls, error: BaseException) -> "Reason":
        """An error: its own code where the package raised it on purpose."""
        message = message_of(error)
        if isinstance(error, AuditError) and isinstance(type(error).code, str):
            return cls.of(clean(type(error).code, MOST_CODE), message=message)
        return cls.of("unexpected error", type=type(error).__name__, message=message)


def message_of(error: BaseException) -> str:
    """What an error says, cut and clean; it may be of somebody else's class."""
    try:
        return clean(str(error), MOST)
    except KeyboardInterrupt:
        raise
    except BaseException as another:  # noqa: BLE001 - raised where a text was to be made
        return f"its message cannot be made: {type(another).__name__}"
