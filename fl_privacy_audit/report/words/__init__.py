"""What the audit says in plain English: verdicts, their reasons, and what to do about them."""

from collections.abc import Mapping
from typing import Final

from fl_privacy_audit.verdicts.verdict import Word

from . import canaries, descriptions, first, guard, rounds

LOWER_BOUND: Final = (
    "An audit is a lower bound on leakage: it shows what these attacks got, and says nothing about "
    "attacks it did not try."
)

IDENTIFIED: Final = (
    "Identified, or picked out: how often, among true images of the round, the one that a reconstruction is most like is "
    "its own (correlation of pixels). Where a batch has several images its reconstructions are matched to them first, "
    "those of a null control too, which helps both. A setting has not withstood where exact tests say, with 95 % "
    "confidence, that more are picked out than by chance and than for the null control of the same images; a few more "
    "may be luck. Certified features are what a layer saw of an image, known exactly though its picture is blurred: "
    "whoever has that picture can tell that it took part."
)

JUDGES: Final = (
    "Recognisable: as a network says that learnt from the judgements of a vision-language model, not of "
    "people, of things, animals and scenes. Of faces as persons, medical pictures, text and drawings it "
    "saw no judgements: there it guesses, and so does SemSim, by which verdicts go. For such images look at the other "
    "metrics, and at the pictures, before you rely on a verdict."
)

LEAKS_ALL_THE_SAME: Final = (
    "what leaked has leaked all the same: a wrong description can only hide a leak"
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

CAUSES: Final[Mapping[str, str]] = {
    "smoke run": 'audit with `profile = "standard"`',
    "too few batches": "audit more rounds (`every`) or more clients (`clients_per_round`)",
    "same images every round": (
        "attack more clients, `clients_per_round = {needed}` at least: one client again adds nothing"
    ),
    "same images every round, too few clients": (
        "more rounds will not help; spread the images over at least {needed} clients in a "
        "simulation, or let clients train on other images in each round"
    ),
    "same images in every release": (
        "more rounds of the same clients will not help; let rounds sample clients "
        "(`fraction_train`), or let clients train on other images in each round"
    ),
    "no null attack": 'audit with `controls = true`, or with "noise" among the controls',
    "no positive control": (
        'audit with `controls = true`, or with "undefended" among the controls'
    ),
    "attack too weak": (
        "{stronger}, or choose another: "
        "`fl-privacy-audit attacks` lists them; `fl-privacy-audit frontier` shows how far the setting is "
        "from one that leaks"
    ),
    "copies leak on average": "audit {fresh} until there are {enough} batches, better a few more",
    "some records reached": (
        "look at the worst record, and audit more batches: luck does not repeat"
    ),
    "unclear": "audit more rounds or clients, or with a stronger attack",
    "unclear, more batches would tell": (
        "audit {fresh} until there are {enough} batches, better a few more"
    ),
    "images are picked out": (
        "treat it as a leak of whose images took part: train with more noise, or with more images in each update"
    ),
    "features are certified": (
        "treat it as a leak: whoever has a picture can tell whether it took part, and with which label"
    ),
    "metrics disagree": (
        "look at the worst record (`keep_pictures = true`), and take it for a leak until you have"
    ),
    "description does not fit": (
        "correct `training`, `defence` or what is published, and audit again"
    ),
    "description not checked": "give the replay check more time: `seconds_per_round`",
    "attack failed": (
        "mend what it says, or choose another attack: `fl-privacy-audit attacks` lists them"
    ),
    "not attacked": (
        "mend what it says, or choose another attack: `fl-privacy-audit attacks` lists them"
    ),
    "nothing to compare with": (
        "replay canaries (`client_app=`), or audit a simulation whose clients publish batches"
    ),
}
"""Code of *inconclusive* -> what to do; see `advise`."""

STEPS: Final[Mapping[str, str]] = {
    **rounds.STEPS,
    **first.STEPS,
    **canaries.STEPS,
    **descriptions.STEPS,
    "too few pictures": "keep them (`keep_pictures = true`), and attack more clients or rounds",
    **guard.STEPS,
}
"""Code of another verdict or of a cause -> what to do."""

EXAMINED: Final[Mapping[str, str]] = {
    "model": "the model",
    "derivatives": "gradients of gradients",
    "attack": "an attack",
    "strength": "attacks that show something",
    "batches": "enough batches",
    "description": "the training as described",
    "wrapper": "the audit in the app",
    "environment": "where the app runs",
    "truth": "the truth to score with",
    "canaries": "canaries",
    "spool": "what earlier runs left",
}
"""What `doctor` looks at -> its name."""

REASONS: Final[Mapping[str, str]] = {
    **rounds.REASONS,
    **first.REASONS,
    **canaries.REASONS,
    **descriptions.REASONS,
    **guard.REASONS,
    # Verdicts.
    "above every null control": "clearly more than every null control",
    "more records than chance": (
        "{reached} of {records} came half as far as without defence, more than chance gives"
    ),
    "more than chance gives null attacks": "more than chance gives, batch by batch, beside null attacks",
    "no more than a null control": "no more than a null control",
    "undefended copies": "undefended copies: {net}",
    "no null attack": "no null control was attacked, so nobody knows what chance gives{because}",
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
    "copies leak on average": (
        "without defence images show on average, and the batches are too few to be sure; about {enough} like "
        "these would tell"
    ),
    "some records reached": "{reached} of {records} came half as far as without defence",
    "unclear": "neither clearly more than the null controls nor clearly no more",
    "unclear, more batches would tell": (
        "neither clearly more than the null controls nor clearly no more, about {enough} batches "
        "like these would tell"
    ),
    "images are picked out": (
        "nobody would recognise the images, but {first} of {images} are picked out among others by their "
        "reconstruction, where chance gives {chance}"
    ),
    "features are certified": (
        "nobody would recognise the images, but what the network saw of {certified} of {images}, and their labels, "
        "is known exactly"
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
    # Ledgers, and runs side by side.
    "no truth to pair runs": (
        "a run has no published truth, so nobody can tell if the images are the same"
    ),
    "too few pictures": "there are {pictures} pictures, and {needed} are needed",
    "different counts": "settings have different numbers of scored records; compare counts first",
    "damaged line": "{path}: line {line} is damaged ({problem})",
    "more damaged lines": "{path}: {lines} more lines are damaged",
    "run line missing": (
        "{path}: the first line of the run, with its settings, is missing or damaged"
    ),
    "records of no run": "{path}: {records} belong to no run whose first line is there",
    "ledger was replaced": (
        "the audit log was gone, replaced or rotated while the run went on; this file begins in the "
        "middle of it"
    ),
    "ledger was changed": (
        "lines of the audit log were gone or changed when the run went on below them; `verify` names them"
    ),
    "no line has a hash": (
        "no line has a hash: it was written by an earlier version, and nothing can be shown of it"
    ),
    "no hash": "line {line} has no hash, though lines above it have: no audit wrote it there",
    "hash differs": (
        "line {above} or line {line} was changed, or lines were removed, added, repeated or moved there"
    ),
    "first lines missing": "line 1 is not the first that was written, or was changed",
    "head missing": "{file} is missing, so that nobody can tell whether the last lines are",
    "head differs": (
        "line {line}, the last, is not the last that was written, or it or the kept head was changed"
    ),
    "foreign end": "line {line} has no end, and is not how a line of this log begins",
    "changed above": (
        "line {line} says that lines above it were gone or changed when it was written"
    ),
    "lines without hashes": (
        "lines 1 to {line} have no hash, for an earlier version wrote them: changes of before the next "
        "line was written do not show"
    ),
    "torn line": "line {line} was cut short: the audit was killed while it wrote it",
    "unfinished line": "line {line} was cut short by a kill, or is being written; it is not counted",
    "lines below the head": (
        "{lines} lines were written since the head was last kept: the audit was killed then, or is writing"
    ),
    "goes on from another": (
        "it goes on from another file, which was gone, replaced or rotated while the run went on; the "
        "head of that is {head}"
    ),
    "head not there": "no line has the head {head}",
    "report changed": "the report was changed after it was written",
    "not a report": "it is no report that carries a hash: an earlier version wrote it, or nobody here",
    "smoke run": "a smoke run shows whether the audit works, and gives no verdict",
    "public report": (
        "this is for the public: names of settings, clients, machines and files, records, images and "
        "pictures are withheld, and groups of fewer than {fewest} records are left out and counted nowhere"
    ),
    "group left out": "fewer than {fewest} records, which a public report leaves out",
    "withheld": "withheld",
    "records lost": "{records} could not be written, for want of space say",
    "captures wait": (
        "{captures} in the spool, not attacked yet: run `fl-privacy-audit attack {directory} --model "
        "MODULE:NAME`"
    ),
    "captures under attack": (
        "{captures} in the spool, not attacked yet: a process is at work on this run"
    ),
    "captures removed": "{captures} were removed before they were attacked",
    "several runs": "{path} holds {runs} runs; the last one counts, unless `--run` names another",
}
"""Code -> its words; a name in braces is a figure, or made from figures in `_phrases`."""

DETAILS: Final[Mapping[str, str]] = {
    "above every null control": ": {net}; {batches}",
    "more records than chance": "; on average {net}; {batches}",
    "more than chance gives null attacks": "; on average {net}; {batches}",
    "no more than a null control": ": {net}; {batches}; {cause}",
    "no positive control": ": {net}; {batches}",
    "attack too weak": "; {cause}",
    "copies leak on average": "; {cause}",
    "some records reached": "; on average {net}; {batches}",
    "unclear": ": {net}; {batches}",
    "unclear, more batches would tell": ": {net}; {batches}",
}
"""Code -> what follows where the figures do not stand beside the sentence."""
