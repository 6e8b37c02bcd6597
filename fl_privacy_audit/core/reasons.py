"""Why something was not done, failed, or was decided: a code with figures.

Words are made where they are shown, in `fl_privacy_audit.report.words`; nothing ever reads them back.
"""

from pydantic import BaseModel, ConfigDict, Field

Figure = int | float | str


class Reason(BaseModel):
    """A code, and the figures that belong to it.

    Attributes:
        code: A key of `fl_privacy_audit.report.words.REASONS`.
        figures: By name; text only for what came from outside, such as the message of an error.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    code: str
    figures: dict[str, Figure] = Field(default_factory=dict)

    @classmethod
    def of(cls, code: str, **figures: Figure) -> "Reason":
        """Shorthand: ``Reason.of("not due", every=10)``."""
        return cls(code=code, figures=figures)
