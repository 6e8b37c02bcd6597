"""What a report begins with: verdicts, what was tested, how sure that is, and what to do."""

from collections import Counter

from fl_privacy_audit.core.types import View
from fl_privacy_audit.verdicts.verdict import WORST_FIRST, Word

from .conditions import sample
from .formats import count, duration, settings
from .lines import LITTLE, VIEW_ORDER, Line, lines_of, numbered, percent, verdict_of, views
from .summary import AuditSummary, SettingSummary


def headline(summary: AuditSummary, view: View) -> str:
    """How many settings have which verdict, worst first; and how many images are recognisable.

    Without a defence beside the setting with fewest, or in the one with most where all are defended; where that
    one leaked in another view, that is said. Smoke runs are only counted: they have no verdict.
    """
    lines = lines_of(summary, view)
    smoke = sum(line.smoke for line in lines)
    judged = [line for line in lines if not line.smoke]
    said = [_verdicts(judged) + _recognisable(summary, view, judged)] * bool(judged)
    if smoke:
        runs = "1 smoke run" if smoke == 1 else f"{smoke} smoke runs"
        said.append(f"{runs} without a verdict.")
    return " ".join(said)


def _verdicts(lines: list[Line]) -> str:
    counts = Counter(line.word for line in lines)
    parts = [f"{counts[word]} {word}" for word in WORST_FIRST if counts[word]]
    return f"{count(len(lines), 'setting')}: {', '.join(parts)}."


def _recognisable(summary: AuditSummary, view: View, lines: list[Line]) -> str:
    judged = sorted(
        (line for line in lines if line.recognisable.images),
        key=lambda line: -line.recognisable.expected / line.recognisable.images,
    )
    shown = judged[:1]
    if (undefended := [line for line in judged if not line.defended]) and len(judged) > 1:
        least = next(line for line in reversed(judged) if line is not undefended[0])
        shown = [undefended[0], least]
    if not shown:
        return ""
    named = [f"{line.setting}: " if len(lines) > 1 else "" for line in shown]
    most = "Most recognisable" if len(shown) == 1 and len(lines) > 1 else "Recognisable"
    texts = [
        f"{name}{line.recognisable}{_elsewhere(summary, view, line)}"
        for name, line in zip(named, shown, strict=True)
    ]
    return f" {most}: {'; '.join(texts)}."


def _elsewhere(summary: AuditSummary, view: View, line: Line) -> str:
    """In which other views a defended setting leaked that did not leak in this one."""
    if not line.defended or line.word == "leaked":
        return ""
    setting = summary.settings[line.number - 1]
    leaked = [
        f"{other} view"
        for other in views(summary)
        if other != view and (verdict := verdict_of(setting, other)) and verdict.word == "leaked"
    ]
    return f" (but it leaked in the {' and the '.join(leaked)})" if leaked else ""


def what_was_tested(summary: AuditSummary) -> str:
    """What was attacked, by what and how often, in a few sentences for readers who begin here."""
    tried = [one for setting in summary.settings for one in setting.attacks if one.scored]
    scored = [
        f"{count(number, 'update' if view != 'release' else 'release')} in the {view} view"
        for view in VIEW_ORDER
        if (number := sum(one.scored for one in tried if one.view == view))
    ]
    if not scored:
        return "Nothing was attacked and scored."
    names = dict.fromkeys(one.attack for one in tried)
    samples = "; ".join(dict.fromkeys(sample(setting) for setting in summary.settings))
    images = "; ".join(dict.fromkeys(_images(setting) for setting in summary.settings))
    attacked = sum(one.scored + one.not_scored for one in tried)
    effort = duration(sum(one.seconds for one in tried) / attacked)
    return (
        f"Tested: whether {', '.join(names)} can rebuild the clients' images ({images}) from what they send. "
        f"{count(len(summary.settings), 'setting')}; {' and '.join(scored)} ({samples}), with {effort} of attack each "
        "on average."
    )


def _images(setting: SettingSummary) -> str:
    """What the clients' images show, as far as the settings say, and their size."""
    stated = setting.stated
    shows = stated.data or "what they show was not stated"
    if stated.image is None:
        return shows
    channels, *size = stated.image.shape
    colour = {1: "grey", 3: "colour"}.get(channels, f"{channels} channels")
    return f"{shows}; {' x '.join(map(str, size))} pixels, {colour}"


def how_sure(summary: AuditSummary) -> str:
    """How far the verdicts can be relied on, in a sentence."""
    return (
        f"How sure: leaked and withstood hold with {confidence(summary)} confidence for the records and attacks that "
        "were tried, and say nothing of others; numbers in brackets after recognisable images are a range of "
        "95\u00a0%."
    )


def confidence(summary: AuditSummary) -> str:
    """At which levels the intervals of the verdicts are."""
    levels = {v.confidence for s in summary.settings for one in s.verdicts for v in one.attacks}
    return " and ".join(f"{100 * level:.4g}\u00a0%" for level in sorted(levels)) or "99\u00a0%"


def next_step(summary: AuditSummary) -> str:
    """What to do now: with the settings that leaked, and which one to train with."""
    words: dict[int, set[Word]] = {}
    for view in views(summary):
        for line in lines_of(summary, view):
            if not line.smoke:
                words.setdefault(line.number, set()).add(line.word)
    leaked = [number for number, found in words.items() if "leaked" in found]
    safe = [
        (number, setting)
        for number, setting in numbered(summary)
        if words.get(number) == {"withstood these attacks"}
    ]
    steps = []
    if leaked:
        steps.append(
            f"treat what clients sent under {settings(leaked)} as known to whoever has the view that leaked"
        )
    unclear = [n for n, found in words.items() if "inconclusive" in found and n not in leaked]
    if unclear:
        steps.append(
            f"take {settings(unclear)} for a leak until more is known: the audit could not tell"
        )
    if safe:
        offered = "; ".join(_offer(number, setting) for number, setting in safe)
        steps.append(
            f"train with a setting that withstood in every view ({offered}), and audit again"
        )
    elif words:
        steps.append(
            "no setting withstood in every view: train with more noise, or with more images in each update, and audit "
            "again"
        )
    return f"What to do: {'; '.join(steps)}." if steps else ""


def _offer(number: int, setting: SettingSummary) -> str:
    """A setting with what it costs and what it promises."""
    facts = [f"{number}, {setting.setting}"]
    if setting.accuracy is not None:
        facts.append(f"accuracy {percent(setting.accuracy)}")
    spent = setting.epsilon_in_effect
    if spent is not None and spent >= LITTLE:
        facts.append("whose epsilon by itself promises little")
    return ", ".join(facts)
