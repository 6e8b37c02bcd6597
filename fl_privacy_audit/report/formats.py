"""Numbers, times and lists as people write them."""

import datetime
import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from fl_privacy_audit.core.texts import clean
from fl_privacy_audit.core.types import MeasuredEpsilon, View
from fl_privacy_audit.dp import ClaimCheck

GROUP = "\N{NARROW NO-BREAK SPACE}"
"""Between thousands."""


def count(number: int, one: str, many: str = "") -> str:
    """A number with its noun.

    >>> count(1, "record"), count(2, "record")
    ('1 record', '2 records')
    """
    noun = one if number == 1 else many or f"{one}s"
    return f"{number:,} {noun}".replace(",", GROUP)


def ranges(numbers: Iterable[int]) -> str:
    """Numbers, neighbours joined.

    >>> ranges([1, 2, 3, 7])
    '1-3, 7'
    """
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)


def settings(numbers: Iterable[int]) -> str:
    """Settings by their numbers.

    >>> settings([2]), settings([1, 2])
    ('setting 2', 'settings 1-2')
    """
    numbers = set(numbers)
    return f"setting{'' if len(numbers) == 1 else 's'} {ranges(numbers)}"


def between(values: Sequence[float], digits: str) -> str:
    """The range of some numbers; one alone where both ends are written alike.

    >>> between([0.5, 0.25], ".3g"), between([1.0, 1.00001], ".3f")
    ('0.25 to 0.5', '1.000')
    """
    least, most = (format(end(values), digits) for end in (min, max))
    return least if least == most else f"{least} to {most}"


def duration(seconds: float) -> str:
    """A time that people can read.

    >>> duration(75), duration(120)
    ('1 min 15 s', '2 min')
    """
    if not math.isfinite(seconds) or seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    if not minutes:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"


def when(time: str) -> str:
    """A time of a ledger to the minute; text that is no time stays as it is.

    >>> when("2026-11-24T09:03:00+00:00")
    '2026-11-24, 09:03 UTC'
    """
    try:
        at = datetime.datetime.fromisoformat(time)
    except ValueError:
        return time
    zone = "" if at.tzinfo is None else " UTC" if not at.utcoffset() else f" {at:%z}"
    return f"{at:%Y-%m-%d, %H:%M}{zone}"


def epsilon(value: float) -> str:
    """Epsilon with three digits, and no exponent below a million.

    >>> epsilon(0.5), epsilon(62.24), epsilon(304.6)
    ('0.5', '62.2', '305')
    >>> epsilon(303_800).replace(GROUP, " ")
    '304 000'
    >>> epsilon(2.6e12)
    '2.6e12'
    """
    if not math.isfinite(value):
        return "infinite" if value > 0 else str(value)
    if value < 1000:
        return f"{value:.3g}"
    if value >= 999_500:
        digits, exponent = f"{value:.1e}".split("e")
        return f"{digits}e{int(exponent)}"
    rounded = round(value, 2 - math.floor(math.log10(value)))
    return f"{rounded:,.0f}".replace(",", GROUP)


CANARIES: Final = {
    "image": "canaries put in or left out by fair coins in a replay of the clients' app",
    "client": "canary clients put in or left out by fair coins, in place of real ones: training was changed",
}
"""What measured epsilon, by what a canary is."""


def measured_texts(check: ClaimCheck) -> list[str]:
    """What canaries showed: in a round, and over all that were replayed where there are several."""
    shown = (
        check.measured if len({one.rounds for one in check.measured}) > 1 else check.measured[:1]
    )
    return [
        f"at least {epsilon(one.highest)} {over_rounds(one.rounds)}, with {one.confidence:.0%} "
        f"confidence, by {one.canaries} {CANARIES[one.unit]} (delta {one.delta:g}, add-or-remove): "
        f"{epsilon(one.gauss)} if the noise is normal, {epsilon(one.steinke)} whatever it is, of at most "
        f"{epsilon(one.ceiling)} that so many can show{_estimate(one)}"
        for one in shown
    ]


def _estimate(one: MeasuredEpsilon) -> str:
    return "" if one.estimate is None else f"; estimated: {epsilon(one.estimate)}"


def over_rounds(rounds: int) -> str:
    """In how many.

    >>> over_rounds(1), over_rounds(8)
    ('in a round', 'over 8 rounds')
    """
    return "in a round" if rounds == 1 else f"over {rounds} rounds"


_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~!])")
_BLOCK = re.compile(r"^([-+=]+|\d+(?=[.)]))(?=[\s.)]|$)")
"""What begins a list, a line or a heading."""
_ADDRESS = re.compile(r"(?<=[a-z]):(?=//)|(?<=www)\.", re.IGNORECASE)
"""What makes an address where no brackets stand around it."""


def markdown_text(text: str) -> str:
    r"""Text from a run, on one line of Markdown: neither Markdown nor HTML in it is followed.

    >>> print(markdown_text("<b> _a_ [b](http://c)"))
    &lt;b&gt; \_a\_ \[b\](http\://c)
    """
    return _BLOCK.sub(_escape_block, _inline(text))


def _inline(text: str) -> str:
    """The same where no list, line or heading can begin: in the cell of a table."""
    text = " ".join(clean(text).split())
    text = _ADDRESS.sub(r"\\\g<0>", _SPECIAL.sub(r"\\\1", text))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _escape_block(found: re.Match[str]) -> str:
    start = found[1]
    return f"{start}\\" if start.isdecimal() else f"\\{start}"


def markdown_table(heads: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A table in Markdown; the cells are text, whatever they hold."""
    lines = [[_inline(str(cell)) for cell in line] for line in (heads, *rows)]
    lines.insert(1, ["---"] * len(heads))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def json_text(content: object) -> str:
    """JSON for programs that may also be printed: all but plain ASCII, ``<`` and ``>`` as escapes."""
    try:
        text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=True)
    except ValueError:
        text = json.dumps(_finite(content), indent=2, allow_nan=False, ensure_ascii=True)
    return escaped(text) + "\n"


def escaped(text: str) -> str:
    """JSON with all but plain ASCII, ``<``, ``>`` and ``&`` as escapes."""
    for character in "<>&\x7f":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text if text.isascii() else _WIDE.sub(lambda found: json.dumps(found[0])[1:-1], text)


_WIDE = re.compile("[^\\x00-\\x7f]+")


def _finite(content: Any) -> Any:
    """JSON has no word for NaN and infinity: they are written as text."""
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return "NaN" if math.isnan(content) else "Infinity" if content > 0 else "-Infinity"
    return content


def profile_text(profile: str | None, changes: Sequence[str]) -> str:
    """The profile of a run in words; empty where it has none.

    >>> profile_text("standard", ["every", "seed"])
    'standard, changed: every, seed'
    """
    if profile is None:
        return ""
    return profile + (f", changed: {', '.join(changes)}" if changes else "")


def sample_text(by_risk: bool) -> str:
    """Of which clients the figures are, where these were chosen by risk; empty where they were not.

    >>> sample_text(True)
    'of clients whose updates looked most at risk, which is no random sample of the federation'
    """
    if not by_risk:
        return ""
    return (
        "of clients whose updates looked most at risk, which is no random sample of the federation"
    )


def covers(check: ClaimCheck | None, view: View) -> bool:
    """Whether a setting's epsilon says anything of this view: central noise comes after the server."""
    return not (check and check.mechanism == "central-gaussian" and view != "release")


def epsilon_in_view(value: float | None, check: ClaimCheck | None, view: View) -> str:
    """Epsilon in effect, or reported, as every table shows it."""
    if value is None:
        return "none"
    return epsilon(value) if covers(check, view) else "none here"
