"""What the report says in plain English: verdicts, their reasons, views, threat models, a glossary."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from fl_privacy_audit.core.reasons import Figure, Reason
from fl_privacy_audit.core.types import ControlKind, View
from fl_privacy_audit.metrics import METRICS, title_of
from fl_privacy_audit.verdicts.verdict import ReplayFit, Word

from .formats import count

LOWER_BOUND: Final = (
    "An audit is a lower bound on leakage: it shows what these attacks got, and says nothing about "
    "attacks it did not try."
)

SYMBOLS: Final[Mapping[Word, str]] = {
    "leaked": "▲",
    "inconclusive": "◆",
    "withstood these attacks": "●",
    "not tested": "○",
}
"""A shape beside each word, so that no colour has to be told from another."""

LEADS: Final[Mapping[Word, str]] = {
    "leaked": "More of the training images showed than chance explains.",
    "inconclusive": "The audit cannot tell; no sign of safety.",
    "withstood these attacks": "The attack works without the defence, and not here.",
    "not tested": "No attack ran here. Nothing is known.",
}

CAUSES: Final[Mapping[str, tuple[str, str]]] = {
    "too few batches": (
        "too few batches",
        "audit more rounds (`every`) or more clients (`clients_per_round`)",
    ),
    "same images every round": (
        "the same images in every round",
        "attack more clients, `clients_per_round = {needed}` at least: one client again adds nothing",
    ),
    "same images every round, too few clients": (
        "the same images in every round",
        (
            "more rounds will not help; spread the images over at least {needed} clients in a "
            "simulation, or let clients train on other images in each round"
        ),
    ),
    "same images in every release": (
        "the same images in every round",
        (
            "more rounds of the same clients will not help; let rounds sample clients "
            "(`fraction_train`), or let clients train on other images in each round"
        ),
    ),
    "no null attack": (
        "no null control",
        'audit with `controls = true`, or with "noise" among the controls',
    ),
    "no positive control": (
        "no positive control",
        'audit with `controls = true`, or with "undefended" among the controls',
    ),
    "attack too weak": (
        "an attack that fails even where there is no defence",
        (
            "give it more time (`seconds_per_round`) or steps, or choose another: "
            "`fl-privacy-audit attacks` lists them"
        ),
    ),
    "some records reached": (
        "a single image that came half as close as without defence",
        "look at the worst record, and audit more batches: luck does not repeat",
    ),
    "unclear": (
        "figures too uncertain to tell",
        "audit more rounds or clients, or with a stronger attack",
    ),
    "unclear, more batches would tell": (
        "figures too uncertain to tell",
        "audit more rounds or clients until there are {enough} batches",
    ),
    "metrics disagree": (
        "metrics that disagree",
        "look at the worst record (`keep_pictures = true`), and take it for a leak until you have",
    ),
    "description does not fit": (
        "a description of the training that does not fit the clients",
        "correct `training`, `defence` or what is published, and audit again",
    ),
    "description not checked": (
        "a description of the training that was not checked against the clients",
        "give the replay check more time: `seconds_per_round`",
    ),
    "attack failed": (
        "an attack that failed",
        "mend what it says, or choose another attack: `fl-privacy-audit attacks` lists them",
    ),
    "not attacked": (
        "records that could not be attacked",
        "mend what it says, or choose another attack: `fl-privacy-audit attacks` lists them",
    ),
    "nothing to compare with": (
        "no true images to compare with",
        "audit a simulation of this federation, whose clients publish their batches",
    ),
}
"""Code of *inconclusive* -> the cause in a few words, and what to do; see `advise`."""

STEPS: Final[Mapping[str, str]] = {
    # Who is attacked.
    "no record": "let the strategy run under `AuditedStrategy`, or call `audit_round`",
    "view not audited": 'audit it too: `views = ["server", "release"]`',
    "not due": "audit rounds more often: `every = 1`",
    "time up": "give it more time: `seconds_per_round`",
    "no time to explain": "give it more time: `seconds_per_round`",
    "not chosen": "attack more clients: `clients_per_round`",
    "only the release is audited": 'audit the server view too: `views = ["server", "release"]`',
    "failed": "see in the log of the clients why they fail",
    "timed out": "give clients more time, or see in their logs why they do not reply",
    "client error": "mend the clients' error first",
    "answers no message": "reply with `Message(content, reply_to=message)`",
    "array records": "set the strategy's `arrayrecord_key`",
    "no floating-point weights": (
        "audit without secure aggregation: a server cannot attack what it cannot read"
    ),
    "nothing released": "see in the log why the strategy aggregated nothing",
    "release is no mean": (
        'look at the server view, `views = ["server", "release"]`: the release is made of them'
    ),
    "weights unchanged": "check that clients train, and return what they trained",
    "global model unchanged": "check that clients train, and that the strategy uses their updates",
    # Truth.
    "no truth": "let the `truth` of the Auditor return the batch, in a simulation",
    "no audit_mod": (
        "in a simulation put it first in `@app.train(mods=[audit_mod])` and call `publish_batch`, "
        "or give the Auditor `truth=`"
    ),
    "nothing published": "call `publish_batch` for each batch that the client trains on",
    "publishing failed": "mend what it says; images are floats (N, C, H, W), labels (N,) integers",
    "no shared folder": ("audit a simulation on one machine; elsewhere give the Auditor `truth=`"),
    "empty batch": "publish the batch that the client trains on",
    "truth does not fit": "publish the images that the client trains on, as the message says",
    # Controls and scores.
    "no other client": (
        "attack rounds of at least two clients with different images, or control by noise"
    ),
    "nothing scored": "audit with `metrics` that can be computed here",
    "unavailable": "choose other `metrics`, or install what is missing",
    # Errors.
    "unmet need": (
        "choose an attack that fits: `fl-privacy-audit attacks` says what each of them needs"
    ),
    "audit error": "mend what the message says",
    "bad setting": "mend what the message says",
    "ledger error": "mend what the message says",
    "metric unavailable": "choose other `metrics`, or install what is missing",
    "attack error": (
        "mend what it says, or choose another attack: `fl-privacy-audit attacks` lists them"
    ),
    "update does not fit": "give the Auditor the model that the clients train",
    "unexpected error": "set `fail_fast = true` to see where it comes from",
    "text": "audit again with this version, which says what to do",
}
"""Code of another verdict or of a cause -> what to do."""

MEANINGS: Final[Mapping[Word, tuple[str, str]]] = {
    "leaked": (
        (
            "On average the attack came closer to the private images than it does when it is given "
            "nothing to go by. Or more of the batches than chance gives came at least half as close "
            "as they do without any defence."
        ),
        (
            "It does not say that a person was recognised, nor how much harm is done. It does not say "
            "that other settings leak less."
        ),
    ),
    "inconclusive": (
        (
            f"One of these: {', '.join(dict.fromkeys(cause for cause, _ in CAUSES.values()))}. "
            "Nothing may be concluded in either direction. The verdict says what to do."
        ),
        "It does not mean that the setting is safe, or nearly so.",
    ),
    "withstood these attacks": (
        (
            "The very same attack succeeded on undefended copies of the same updates. Here it got no "
            "more than it gets from nothing, no single image came half as close as without defence, "
            "and no other metric says leaked. So the attack works, and the defence stopped it."
        ),
        (
            "It does not mean private, safe or anonymous. Other attacks, more effort or more rounds "
            "may succeed."
        ),
    ),
    "not tested": (
        "No attack ran: something was missing, and the report says what.",
        "It does not mean that there is no leak.",
    ),
}
"""Word -> what it means, and what it does not; the rules themselves are in `fl_privacy_audit.verdicts.rules`."""

NULL_WORDS: Final[Mapping[ControlKind, str]] = {
    "noise": "noise of equal norm",
    "other client": "another client's update",
    "grey": "a grey picture",
    "undefended": "the undefended copy",
}
"""Control -> what it is, after "against"."""

VIEWS: Final[Mapping[View, tuple[str, str]]] = {
    "server": (
        "Server view: what the server could see",
        "The attacker is whoever runs the server. It receives the update of each client by itself.",
    ),
    "release": (
        "Release view: what anyone could see who gets the model",
        (
            "The attacker sees only the global model before and after a round: the updates of all "
            "clients averaged. A defence that acts on the server protects here, and not above."
        ),
    ),
}
"""View -> heading, and who the attacker is. The two are never mixed in one row or plot."""

_THREATS: Final[Mapping[str, str]] = {
    "A": "It needs the model and the update",
    "B": "It needs the model and the update, and knows how pictures look in general",
    "C": "It needs the model and the update, and knows the settings of local training",
    "D": "It needs the model and the update, and similar images of its own",
    "E": "It needs the model and the update, and statistics of the clients' images",
    "F": "It changes the model that clients get",
    "G": "It changes the model that clients get, and needs similar images of its own",
    "H": "It changes the model that clients get, and chooses the clients",
}
THREATS: Final[Mapping[str, str]] = {
    k: f"{v} (threat model {k} of Carletti et al. 2025)." for k, v in _THREATS.items()
}
"""Threat model of an attack -> what that attacker has; `attacks.THREAT_MODELS` in a sentence."""

UPDATE_FORMS: Final[Mapping[str, str]] = {
    "exact gradient": "the exact gradient of one training step: the learning rate is known",
    "defended gradient": "the gradient of one training step, as a defence left it",
    "gradient signs": "the signs of the gradient of one training step: the optimiser or a defence "
    "leaves no more",
    "gradient direction": "the direction of the gradient of one training step; its length is not "
    "known",
    "weight difference": "the difference that several training steps made",
    "none": "nothing: the update could not be read",
}

MECHANISMS: Final[Mapping[str, tuple[str, str, str]]] = {
    "dp-sgd": (
        "DP-SGD: every image's gradient is clipped, and noise is added in each training step",
        "one image of one client",
        "The server sees updates that already hold the noise.",
    ),
    "local-gaussian": (
        "Local noise: the client clips its whole update and adds noise before it sends",
        "one client's update in a round, and so every image in it",
        "The server sees updates that already hold the noise.",
    ),
    "central-gaussian": (
        "Central noise: updates are clipped, and the server adds noise to their sum",
        "one client's whole contribution, in the released model",
        "The server sees every update without noise. This claim does not protect from the server.",
    ),
}
"""Mechanism -> in words, the unit of privacy, and who sees raw updates."""

NEVER_TESTED: Final[tuple[str, ...]] = (
    (
        "Whether an image was among the training data (membership inference), and properties of a whole "
        "data set (property inference)."
    ),
    (
        "Servers that cheat, by changing the model they send for instance, unless an attack above says "
        "so."
    ),
    "Servers and clients that work together, and attackers who know more than is said above.",
    "What the finished model gives away when it is used, beyond what the release view shows.",
    (
        "Figures over whole sets of reconstructions (FID, identification precision): audit logs hold "
        "the scores of single images."
    ),
    "Rounds, clients and images that were not attacked; other data, models and training settings.",
)
"""What no audit of this kind looks at."""

RESIDUAL_RISK: Final = (
    "Whatever the verdicts, a risk remains. Stronger attacks are published every year, and an "
    "update that was sent cannot be called back. Whether the remaining risk is acceptable depends "
    "on the data, on who may become the attacker, and on the harm to the people in the images. "
    "That judgement is not made here. This report is evidence for it."
)

GLOSSARY: Final[Mapping[str, str]] = {
    "accuracy": "Share of test images that the trained model classifies correctly. What the defence costs.",
    "attack": "Here: a program that tries to rebuild training images from what a client sent.",
    "batch": "The images that a client trained on when it made one update.",
    "control": "The same attack on something else, for comparison. See null control and positive "
    "control.",
    "defence": "Whatever changes an update before others see it: noise, clipping, pruning.",
    "delta": "The small chance with which a differential-privacy promise may fail altogether.",
    "differential privacy": "A promise, with noise behind it, that nobody can tell much better than "
    "before whether one image (or one client) took part.",
    "epsilon": "The strength of that promise. Smaller is stronger. Each round spends some more. "
    "Above ten or so it promises little.",
    "federated learning": "Clients train a model on their own data and send updates of the model, "
    "not the data.",
    "interval": "The range in which the true figure lies with the confidence stated. It comes from "
    "drawing batches of images again and again (bootstrap).",
    "lower bound": "The leakage is at least this much. It may be more.",
    "metric": "A number for how alike two pictures are.",
    "neighbour relation": "What a differential-privacy promise compares: data with and without one "
    "record (add or remove), or with one record exchanged (replace one). The second is stricter.",
    "net leakage": "The score of the attack minus that of the null control that scores best. Zero: "
    "no more than chance. It is signed so that higher always means more leakage.",
    "noise multiplier": "Standard deviation of the noise, in units of the clipping norm.",
    "null control": "The same attack, given nothing of the images: noise instead of the update, "
    "another client's update, or just a grey picture. It shows what chance gives.",
    "PLD and RDP": "Two ways to add up epsilon over rounds (privacy loss distribution, Renyi "
    "differential privacy). Both are upper bounds; PLD is the tighter one.",
    "positive control": "The same attack on an undefended copy of the same update. If it fails "
    "there, the attack is too weak for any verdict.",
    "record": "One update of one client in one round that was attacked.",
    "reconstruction": "The picture that an attack made.",
    "round": "One turn of federated learning: clients train, the server averages.",
    "update": "The change of the model's weights that a client sends back.",
}

REASONS: Final[Mapping[str, str]] = {
    # Verdicts.
    "above every null control": "clearly more than every null control",
    "more records than chance": (
        "{reached} of {records} came half as far as without defence, more than chance gives"
    ),
    "no more than a null control": "no more than a null control",
    "undefended copies": "undefended copies: {net}",
    "no null attack": ("no null control was attacked, so nobody knows what chance gives{because}"),
    "too few batches": (
        "too few: {batches} attacked and scored, at least {needed} are needed{because}"
    ),
    "same images every round": (
        "each client trains on much the same images in every round, which count once: {batches} of "
        "{clients} attacked clients, {available} in all; at least {needed} are needed{because}"
    ),
    "same images every round, too few clients": (
        "each client trains on much the same images in every round, which count once, and there are only "
        "{available} clients: {batches}, at least {needed} are needed{because}"
    ),
    "same images in every release": (
        "the release is made of much the same images in every round, which count once: {batches}, at "
        "least {needed} are needed{because}"
    ),
    "no positive control": "not clearly leaked, and no positive control{because}",
    "attack too weak": "the attack is too weak here, it fails without defence{time}",
    "some records reached": "{reached} of {records} came half as far as without defence",
    "unclear": "neither clearly more than the null controls nor clearly no more",
    "unclear, more batches would tell": (
        "neither clearly more than the null controls nor clearly no more, about {enough} batches "
        "like these would tell"
    ),
    "metrics disagree": "the metrics disagree: {leaking} says leaked, {metric} does not",
    "description does not fit": (
        "the description does not fit the clients: trained as described, the true batch gives "
        "another update in {misfits} of {records} (cosine {cosine}{lengths}); {cause}"
    ),
    "description not checked": (
        "nobody knows whether the description fits the clients in {unchecked} of {records}{because}"
    ),
    "attack failed": "the attack failed on {lost} of {records}: {cause}",
    "not attacked": "{lost} of {records} were not attacked: {cause}",
    "nothing to compare with": "attacked, but nothing to compare with: {cause}{objective}",
    "no record": "no record of this view",
    "nothing scored": "nothing was scored",
    "view not audited": "this run did not audit this view",
    "text": "{text}",
    # Errors; the message was made where the error was raised, and says what to do.
    "audit error": "{message}",
    "bad setting": "{message}",
    "update does not fit": "{message}",
    "attack error": "{message}",
    "unmet need": "{message}",
    "time up": "{message}",
    "truth does not fit": "{message}",
    "ledger error": "{message}",
    "metric unavailable": "{message}",
    "unexpected error": "{type}: {message}",
    # Who is attacked.
    "not due": "not due: every {every} rounds",
    "only the release is audited": "only the release is audited",
    "not chosen": "not chosen: {chosen} of {clients} clients are attacked",
    "failed": "the client failed",
    "timed out": "no reply in time",
    "client error": "error {number}: {message}",
    "answers no message": "the reply answers no message of this round",
    "array records": (
        "{count} array records were {direction} ({keys}), and none is known to hold the weights of "
        "the audited model"
    ),
    "no floating-point weights": (
        "the reply holds no floating-point weights: this strategy sends other bytes"
    ),
    "nothing released": "nothing was released in this round",
    "release is no mean": (
        "{strategy} selects among updates: the release is not their mean, and is not attacked as one"
    ),
    # What is observed.
    "weights unchanged": (
        "the client returned the weights it was sent: there is nothing to attack"
    ),
    "global model unchanged": (
        "the global model did not change in this round: there is nothing to attack"
    ),
    "no truth": "no true batch was published or provided",
    "no truth of a client": "{client}: {cause}",
    "no audit_mod": ("no true batch: the reply carries nothing of `audit_mod`"),
    "nothing published": (
        "no true batch: `audit_mod` ran, but the train function did not call `publish_batch`"
    ),
    "publishing failed": "no true batch: publishing it failed: {message}",
    "no shared folder": (
        "no true batch: the client found no request for one in its truth folder, so client and "
        "server do not share it; that works in a simulation on one machine"
    ),
    # Controls and scores.
    "the release holds every client": "the release holds every client's update",
    "no other client": "no other client of this round trained on other images",
    "empty batch": "the client's batch held no image",
    "result cannot be scored": "the attack ran, but its result cannot be scored: {cause}",
    "picture not kept": "not kept: {message}",
    "unavailable": "{metric} is unavailable: {cause}",
    # What would explain that the true batch, trained as described, gives another update.
    "scale differs": (
        "the update points the same way and is {ratio} times as long, as a learning rate of {rate} "
        "would make it"
    ),
    "fits with": "it would fit with {option} {value}",
    "inputs not normalised": "it would fit if the client did not normalise its images",
    "pixels published as normalised": (
        "it would fit if the published images were normalised already"
    ),
    "no time to explain": (
        "there was no time left to look for what would explain it (cosine {cosine})"
    ),
    "tensors differ": (
        "parameters that differ: {count}, {tensors} among them: check whether clients put in their "
        "own; if so, audit the first round, in which they train what they were sent"
    ),
    "sign-like update": "the update holds values of one size, as signs do: is a defence declared?",
    "another batch or training": (
        "another batch, or training that is not as described: publish every batch as it goes into "
        "the model, and check `training` and `defence`"
    ),
    # Ledgers, and runs side by side.
    "no truth to pair runs": (
        "a run has no published truth, so nobody can tell if the images are the same"
    ),
    "different counts": "settings have different numbers of scored records; compare counts first",
    "damaged line": "{path}: line {line} is damaged ({problem})",
    "ledger was replaced": (
        "the audit log was gone, replaced or rotated while the run went on; this file begins in the "
        "middle of it"
    ),
    "records lost": "{records:records} could not be written, for want of space say",
    "several runs": "{path} holds {runs} runs; the last one counts",
}
"""Code -> its words; a name in braces is a figure, or made from figures in `_phrases`."""

DETAILS: Final[Mapping[str, str]] = {
    "above every null control": ": {net}; {batches}",
    "more records than chance": "; on average {net}; {batches}",
    "no more than a null control": ": {net}; {batches}; {cause}",
    "no positive control": ": {net}; {batches}",
    "attack too weak": "; {cause}",
    "some records reached": "; on average {net}; {batches}",
    "unclear": ": {net}; {batches}",
    "unclear, more batches would tell": ": {net}; {batches}",
}
"""Code -> what follows where the figures do not stand beside the sentence."""


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
    words = REASONS.get(reason.code, f"{reason.code} {{figures}}")
    if not brief:
        words += DETAILS.get(reason.code, "")
    return words.format_map(defaultdict(lambda: "?", _phrases(reason, brief=brief))).strip()


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
    step = CAUSES[reason.code][1] if reason.code in CAUSES else STEPS.get(reason.code, "")
    return step.format_map(_phrases(reason, brief=True))


def say_why(reason: Reason, *, brief: bool = False) -> str:
    """A verdict's reason in words, and what to do where there is something to do."""
    step = advise(reason)
    return say(reason, brief=brief) + (f"; what to do: {step}" if step else "")


def spoken(reason: Reason) -> dict[str, str]:
    """What stands beside a reason in JSON."""
    step = advise(reason)
    return {"sentence": say(reason)} | ({"advice": step} if step else {})


def say_fit(fit: ReplayFit) -> str:
    """The replay check in a sentence, without its end."""
    length = "" if fit.length_ratio is None else f", length ratio {fit.length_ratio:.3f}"
    exact = fit.cosine > 0.9999
    gives = "the real update" if exact else "one as far from the real update as its noise allows"
    return (
        f"the description fits {fit.fitting} of {count(fit.records, 'record')}: trained as described, "
        f"the true batch gives {gives} (median cosine {fit.cosine:.5f}{length})"
    )


def _phrases(reason: Reason, *, brief: bool) -> dict[str, str]:
    """Figures as text, and the phrases that are made from several of them."""
    figures = reason.figures
    phrases = {
        name: f"{value:.3g}" if isinstance(value, float) else str(value)
        for name, value in figures.items()
    }
    phrases["figures"] = ", ".join(f"{name} {value}" for name, value in phrases.items())
    if reason.cause is not None:
        phrases["cause"] = say(reason.cause, brief=brief)
    phrases["because"] = f"; {phrases['cause']}" if reason.cause is not None else ""
    if "metric" in figures:
        phrases["metric"] = title_of(phrases["metric"])
    for name, one, many in (("batches", "batch", "batches"), ("records", "record", "records")):
        if isinstance(number := figures.get(name), int):
            phrases[name] = count(number, one, many)
    allowed = figures.get("allowed")
    phrases["time"] = f": its time allows {steps(allowed)}" if isinstance(allowed, float) else ""
    leaking = figures.get("leaking")
    if isinstance(leaking, list):
        phrases["leaking"] = ", ".join(map(title_of, leaking))
    phrases["lengths"] = f", length ratio {phrases['ratio']}" if "ratio" in figures else ""
    phrases["objective"] = ""
    if "own" in figures:
        phrases["objective"] = _OBJECTIVE.format_map(phrases)
    if "mean" in figures:
        phrases["net"] = _net(figures)
    return phrases


def _net(figures: Mapping[str, Figure]) -> str:
    metric = METRICS[str(figures["metric"])]
    mean, low, high = (
        metric.format(float(figures[name]), signed=True, unit=name == "mean")  # type: ignore[arg-type]
        if name in figures
        else ""
        for name in ("mean", "low", "high")
    )
    interval = f" ({low} to {high})" if low and high else ""
    against = figures["against"]
    return f"net {metric.short} {mean}{interval} against {NULL_WORDS.get(against, against)}"  # type: ignore[call-overload]
