"""Who the attacker was in each view: what holds for every setting once, then what differs."""

from collections.abc import Callable
from dataclasses import dataclass

from fl_privacy_audit.core.types import View
from fl_privacy_audit.ledger.records import ThreatModel

from .background import UPDATE_FORMS
from .formats import between, count, settings
from .lines import VIEW_ORDER, numbered
from .sentences import say
from .summary import AuditSummary


@dataclass(frozen=True, kw_only=True)
class Attacker:
    """The attacker of one view in words."""

    view: View  # what it sees
    facts: tuple[str, ...]  # what it is, knows and does not, in every setting
    # Settings, and what is true of these alone: ``("settings 2-3", fact)``.
    differences: tuple[tuple[str, str], ...]


def attackers(summary: AuditSummary) -> list[Attacker]:
    """One for each view in which something was attacked."""
    return [found for view in VIEW_ORDER if (found := _attacker(summary, view)) is not None]


def _attacker(summary: AuditSummary, view: View) -> Attacker | None:
    """Facts of every setting, in the order in which `_facts` has them."""
    said: dict[str, list[int]] = {}
    everyone = set()
    for number, setting in numbered(summary):
        models = [model for model in setting.threat_models if model.view == view]
        for fact in _facts(models) if models else []:
            everyone.add(number)
            said.setdefault(fact, []).append(number)
    if not everyone:
        return None
    return Attacker(
        view=view,
        facts=tuple(fact for fact, numbers in said.items() if {*numbers} == everyone),
        differences=tuple(
            (settings(numbers), fact)
            for fact, numbers in sorted(said.items(), key=lambda pair: pair[1])
            if {*numbers} != everyone
        ),
    )


def _facts(models: list[ThreatModel]) -> list[str]:
    """A sentence each. Where the records of a setting differ, a sentence has every variant."""

    def each(read: Callable[[ThreatModel], str]) -> str:
        return " or ".join(dict.fromkeys(filter(None, map(read, models))))

    facts = [
        "It is honest but curious: it follows the protocol and looks at what it gets.",
        f"It has {each(lambda m: UPDATE_FORMS.get(m.update_form, m.update_form))}.",
        "It knows the model, and its weights before and after.",
        f"It knows how clients train: {each(_training) or 'nothing'}.",
        f"It does not know {each(_unknown)}." if each(_unknown) else "",
        f"It knows the format of the images: {each(_format)}.",
        f"It has to rebuild {each(_images)} at once.",
        "It is given no labels and no image of the clients.",
        f"It knows that clients train by DP-SGD: {each(_dp_sgd)}." if each(_dp_sgd) else "",
    ]
    # The noise of quantisation is another in each update: one sentence has the range.
    noises: dict[str, list[float]] = {}
    for model in models:
        noises.setdefault(_defence(model), []).append(
            model.defence.noise_std if model.defence else 0
        )
    facts += [text.replace(NOISE, between(found, ".3g")) for text, found in noises.items() if text]
    facts += dict.fromkeys(
        f"Assumed: {say(note)}." for model in models for note in model.assumptions
    )
    return [fact for fact in facts if fact]


NOISE = "{noise}"
"""Stands for the figures until all records of a setting are read."""
_WITHOUT_A_WORD = ("images", "epochs", "max_grad_norm", "noise_multiplier")
"""Settings of training that stand empty where they do not apply."""


def _training(model: ThreatModel) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {value}"
        for name, value in model.local_training.items()
        if name not in _WITHOUT_A_WORD and value not in (None, "unknown", 0)
    )


def _unknown(model: ThreatModel) -> str:
    return ", ".join(
        f"the {name.replace('_', ' ')}"
        for name, value in model.local_training.items()
        if name not in _WITHOUT_A_WORD and value in (None, "unknown")
    )


def _dp_sgd(model: ThreatModel) -> str:
    clip, noise = (model.local_training.get(n) for n in ("max_grad_norm", "noise_multiplier"))
    if clip is None or (model.defence is not None and model.defence.name == "dp-sgd"):
        return ""  # with the defence, the same figures are told below
    return f"clipping norm {clip}" + ("" if noise is None else f", noise multiplier {noise}")


def _format(model: ThreatModel) -> str:
    parts: list[str] = []
    for name, values in model.image.items():
        if name == "shape":
            parts.insert(0, f"{' x '.join(map(str, values))} numbers")
        else:
            alike = values[:1] if len(set(values)) == 1 else values
            word = "standard deviation" if name == "std" else name
            parts.append(f"{word} {'/'.join(map(str, alike))}")
    return ", ".join(parts)


def _images(model: ThreatModel) -> str:
    number = model.num_images
    return "an unknown number of images" if number is None else count(number, "image")


def _defence(model: ThreatModel) -> str:
    known = model.defence
    if known is None or known.name == "none":
        return ""
    chosen = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in known.options.items())
    facts = {
        f"It knows the defence, {known.name}{f' ({chosen})' if chosen else ''}, and adapts": True,
        f"noise of standard deviation {NOISE} a number": known.noise_std > 0,
        f"updates no longer than {known.clip_norm or 0:.3g}": known.clip_norm is not None,
        "a zero may stand for anything": known.zeros_hide,
        "signs alone are left": known.signs_only,
        "the length of an update says nothing": known.length_lost,
    }
    return "; ".join(fact for fact, true in facts.items() if true) + "."
