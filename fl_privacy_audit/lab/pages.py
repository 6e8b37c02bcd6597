"""Pages of the laboratory: Markdown from ``templates/``, and figures as every page writes them."""

from functools import cache, partial
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fl_privacy_audit.core import numbers
from fl_privacy_audit.core.texts import clean

number = partial(numbers.number, decimals=3)
"""Three decimals; "n/a" where not defined."""


def render(template: str, **facts: Any) -> str:
    """A page, from a template and what it names."""
    return _environment().get_template(template).render(facts)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fl_privacy_audit.lab"),
        undefined=StrictUndefined,
        finalize=lambda value: clean(value) if isinstance(value, str) else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "number": number,
        "thousands": "{:,}".format,
        "cell": lambda text: str(text).replace("|", "\\|"),
    }
    return environment
