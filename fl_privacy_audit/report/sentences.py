"""Reasons -> sentences, by the words of `words`."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from fl_privacy_audit.core.reasons import Figure, Reason
from fl_privacy_audit.metrics import METRICS, title_of
from fl_privacy_audit.verdicts.verdict import ReplayFit

from .background import NULL_WORDS
from .formats import between, count, duration
from .words import CAUSES, DETAILS, REASONS, STEPS

COUNTED: Final = (
    *(("batches", "batch", "batches"), ("records", "record", "records")),
    ("captures", "capture", "captures"),
)
"""Figures that are numbers of something."""
UNHURRIED: Final = (
    "it had time for all its steps: let clients train on fewer images in a round (`doctor --try 60` says how few leak "
    "anything), give it more steps"
)
"""What to do about an attack that fails though nothing cut it short."""
_OBJECTIVE: Final = (
    "; the images that it found explain the update better than noise as long in {explained} of {pairs} "
    "(objective {own} against {noise} in the median), which does not make them the true ones"
)


def say(reason: Reason, *, brief: bool = False) -> str:
    """A reason in words.

    Args:
        reason: What was recorded.
        brief: Whether to leave out figures that a table shows in columns of their own.
    """
    words = REASONS.get(reason.code, "{code} {figures}")
    if not brief:
        words += DETAILS.get(reason.code, "")
    return words.format_map(_phrases(reason, brief=brief)).strip()


def steps(allowed: float) -> str:
    """A share of an attack's steps.

    >>> steps(0.004), steps(0.4)
    ('0.4% of its steps', '40% of its steps')
    """
    return f"{100 * allowed:.2g}% of its steps"


def advise(reason: Reason) -> str:
    """What to do about it: what its innermost cause asks for, if that is known; else ``""``."""
    inner = "" if reason.cause is None else advise(reason.cause)
    if inner:
        return inner
    step = CAUSES.get(reason.code) or STEPS.get(reason.code, "")
    return step.format_map(_phrases(reason, brief=True))


def say_why(reason: Reason, *, brief: bool = False) -> str:
    """A verdict's reason in words, and what to do where there is something to do."""
    step = advise(reason)
    return say(reason, brief=brief) + (f"; what to do: {step}" if step else "")


def spoken(reason: Reason) -> dict[str, str]:
    """What stands beside a reason in JSON."""
    step = advise(reason)
    return {"sentence": say(reason)} | ({"advice": step} if step else {})


def is_exact(fit: ReplayFit) -> bool:
    """Whether the true batch gives the real update, but for rounding."""
    return fit.cosine > 0.9999


def say_fit(fits: Sequence[ReplayFit]) -> str:
    """The replay checks of settings that are alike in a sentence, without its end."""
    exact = is_exact(fits[0])
    gives = "the real update" if exact else "one as far from the real update as its noise allows"
    figures = [f"median cosine {between([fit.cosine for fit in fits], '.5f')}"]
    if lengths := [fit.length_ratio for fit in fits if fit.length_ratio is not None]:
        figures.append(f"length ratio {between(lengths, '.3f')}")
    fitting, records = (sum(getattr(fit, of) for fit in fits) for of in ("fitting", "records"))
    return (
        f"the description fits {fitting} of {count(records, 'record')}: trained as described, "
        f"the true batch gives {gives} ({', '.join(figures)})"
    )


def _phrases(reason: Reason, *, brief: bool) -> dict[str, str]:
    """Figures as text, and the phrases that are made from several of them; else question marks."""
    figures = reason.figures
    phrases = defaultdict(lambda: "?")
    for name, value in figures.items():
        phrases[name] = f"{value:.3g}" if isinstance(value, float) else str(value)
    phrases["figures"] = ", ".join(f"{name} {value}" for name, value in phrases.items())
    phrases["code"] = reason.code
    if reason.cause is not None:
        phrases["cause"] = say(reason.cause, brief=brief)
    phrases["because"] = f"; {phrases['cause']}" if reason.cause is not None else ""
    if "metric" in figures:
        phrases["metric"] = title_of(phrases["metric"])
    for name, one, many in COUNTED:
        if isinstance(number := figures.get(name), int):
            phrases[name] = count(number, one, many)
    for name in ("needed", "available"):
        if isinstance(seconds := figures.get(name), float):
            phrases[name] = duration(seconds)
    allowed = figures.get("allowed")
    phrases["stronger"] = (
        "give it more time (`seconds_per_round`)" if "allowed" in figures else UNHURRIED
    )
    phrases["fresh"] = "other clients" if "clients" in figures else "more rounds or clients"
    phrases["time"] = f": its time allows {steps(allowed)}" if isinstance(allowed, float) else ""
    leaking = figures.get("leaking")
    if isinstance(leaking, list):
        phrases["leaking"] = ", ".join(map(title_of, leaking))
    if isinstance(lacking := figures.get("lacking"), list):
        phrases["lacking"] = "; ".join(lacking)
    phrases["passed"] = f" (not {phrases['lacking']})" if "lacking" in phrases else ""
    if isinstance(names := figures.get("names"), list):
        more = figures.get("more")
        phrases["names"] = ", ".join(f"`{name}`" for name in names)
        phrases["names"] += f" and {more} more" if more else ""
    if isinstance(share := figures.get("share"), float):
        phrases["percent"] = f"{share:.0%}"
    stated = phrases.get("stated")
    phrases["instead"] = "" if stated is None else f", in place of {stated} in the settings"
    phrases["lengths"] = f", length ratio {phrases['ratio']}" if "ratio" in figures else ""
    phrases["objective"] = ""
    if "own" in figures:
        phrases["objective"] = _OBJECTIVE.format_map(phrases)
    if "mean" in figures:
        phrases["net"] = _net(figures)
    return phrases


def _net(figures: Mapping[str, Figure]) -> str:
    """Net leakage in words; somebody else's figures may lack anything."""
    metric = METRICS.get(str(figures.get("metric")))
    if metric is None:
        return "net leakage by a metric that is not known here"
    mean, low, high = (
        metric.format(value, signed=True, unit=name == "mean")
        if isinstance(value := figures.get(name), int | float)
        else ""
        for name in ("mean", "low", "high")
    )
    interval = f" ({low} to {high})" if low and high else ""
    against = str(figures.get("against", "?"))
    named = next((words for kind, words in NULL_WORDS.items() if kind == against), against)
    return f"net {metric.short} {mean or '?'}{interval} against {named}"
