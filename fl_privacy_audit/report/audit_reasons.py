"""The words for what an audit records: one sentence for each code."""

from collections.abc import Mapping
from typing import Final

from fl_privacy_audit.core.reasons import Reason

REASONS: Final[Mapping[str, str]] = {
    "text": "{text}",
    # Errors; the message was made where the error was raised, and says what to do.
    "audit error": "{message}",
    "bad setting": "{message}",
    "update does not fit": "{message}",
    "attack error": "{message}",
    "unmet need": "{message}",
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
        "the audited model; set the strategy's `arrayrecord_key`"
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
        "the client returned the weights it was sent: there is nothing to attack; check that it "
        "trains, and returns what it trained"
    ),
    "global model unchanged": (
        "the global model did not change in this round: there is nothing to attack"
    ),
    "no truth": "no true batch was published or provided",
    "no truth of a client": "{client}: {cause}",
    "no audit_mod": (
        "no true batch: the reply carries nothing of `audit_mod`; in a simulation put it first in "
        "`@app.train(mods=[audit_mod])` and call `publish_batch`, or give the Auditor `truth=`"
    ),
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
    # Ledgers, and runs side by side.
    "no truth to pair runs": (
        "a run has no published truth, so nobody can tell if the images are the same"
    ),
    "different counts": "settings have different numbers of scored records; compare counts first",
    "damaged line": "{path}: line {line} is damaged ({problem})",
    "several runs": "{path} holds {runs} runs; the last one counts",
}


def say(reason: Reason) -> str:
    """A reason in words."""
    cause = "" if reason.cause is None else say(reason.cause)
    return REASONS[reason.code].format(**reason.figures, cause=cause)
