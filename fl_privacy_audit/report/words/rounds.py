"""Who and what is attacked in a round, and what became of it."""

from collections.abc import Mapping
from typing import Final

STEPS: Final[Mapping[str, str]] = {
    # Who is attacked.
    "no record": "let the strategy run under `AuditedStrategy`, or call `audit_round`",
    "view not audited": 'audit it too: `views = ["server", "release"]`',
    "no attack fits": "say more of local training in `training`, or name an attack in `attacks`",
    "not due": "audit rounds more often: `every = 1`",
    "time up": "give it more time: `seconds_per_round`",
    "no time to explain": "give it more time: `seconds_per_round`",
    "not chosen": "attack more clients: `clients_per_round`",
    "less at risk": "attack more clients: `clients_per_round`",
    "only the release is audited": 'audit the server view too: `views = ["server", "release"]`',
    "failed": "see in the log of the clients why they fail",
    "timed out": "give clients more time, or see in their logs why they do not reply",
    "client error": "mend the clients' error first",
    "answers no message": "reply with `Message(content, reply_to=message)`",
    "array records": "set the strategy's `arrayrecord_key`",
    "too many arrays": "let clients return the weights of the audited model and nothing else",
    "no floating-point weights": (
        "audit without secure aggregation: a server cannot attack what it cannot read"
    ),
    "secure aggregation": (
        'look at the release view, `views = ["server", "release"]`: it holds all that the server sees'
    ),
    "no result": "see in the logs of the clients why they fail, or do not reply in time",
    "nothing released": "see in the log why the strategy aggregated nothing",
    "release is no mean": (
        'look at the server view, `views = ["server", "release"]`: the release is made of them'
    ),
    "spool full": "raise `spool_bytes`, or attack fewer clients or rounds, or for a shorter time",
    "capture failed": "mend what it says: the spool lies beside the ledger",
    "worker died": "give the machine more memory, or choose another attack",
    "worker hung": "choose another attack: this one does not keep to its seconds",
    "weights unchanged": "check that clients train, and return what they trained",
    "global model unchanged": "check that clients train, and that the strategy uses their updates",
    # Truth.
    "no truth": "let the `truth` of the Auditor return the batch, in a simulation",
    "no audit_mod": (
        "in a simulation put it first in `@app.train(mods=[audit_mod])` and call `publish_batch`, "
        "or give the Auditor `truth=`; in a deployment use canaries: `client_app=`"
    ),
    "nothing published": "call `publish_batch` for each batch that the client trains on",
    "publishing failed": "mend what it says; images are floats (N, C, H, W), labels (N,) integers",
    "no shared folder": "use canaries, `client_app=` of the Auditor, or simulate on one machine",
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
"""Code -> what to do."""

REASONS: Final[Mapping[str, str]] = {
    # Who is attacked.
    "not due": "not due: every {every} rounds",
    "only the release is audited": "only the release is audited",
    "not chosen": "not chosen: {chosen} of {clients} clients are attacked",
    "less at risk": (
        "not chosen: {chosen} of {clients} clients are attacked, those whose updates look most at risk"
    ),
    "chosen by risk": (
        "chosen because its update looked as if it told most ({place} of {clients}); no random sample"
    ),
    "failed": "the client failed",
    "timed out": "no reply in time",
    "client error": "error {number}: {message}",
    "answers no message": "the reply answers no message of this round",
    "array records": (
        "{count} array records were {direction} ({keys}), and none is known to hold the weights of "
        "the audited model"
    ),
    "too many arrays": "{count} arrays were returned, but the audited model has {most}",
    "no floating-point weights": (
        "the reply holds no floating-point weights: this strategy sends other bytes"
    ),
    "secure aggregation": (
        "secure aggregation: the server has the sum of all clients' updates and none by itself"
    ),
    "no result": (
        "no result came from this client; Flower's legacy API tells of errors, and not whose they "
        "are ({errors} in this round)"
    ),
    "nothing released": "nothing was released in this round",
    "release is no mean": (
        "{strategy} selects among updates: the release is not their mean, and is not attacked as one"
    ),
    "spool full": "no room in the spool: {needed} MB more needed, {free} of {most} MB free",
    "capture failed": "it could not be put into the spool: {message}",
    "worker died": "the worker that was at it ended: {how}",
    "worker hung": "the worker that was at it did not answer and was ended after {seconds} s",
    # Controls and scores.
    "the release holds every client": "the release holds every client's update",
    "no other client": "no other client of this round trained on other images",
    "empty batch": "the client's batch held no image",
    "result cannot be scored": "the attack ran, but its result cannot be scored: {cause}",
    "picture not kept": "not kept: {message}",
    "unavailable": "{metric} is unavailable: {cause}",
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
    # Which attacks run.
    "chosen to solve": "chosen by auto: it solves instead of searching, and what it needs is there",
    "chosen to search": "chosen by auto: the first that fits of those that search{passed}",
    "chosen as fastest": (
        "chosen by auto: the fastest that fits of those that search; there may be too few seconds for "
        "it{passed}"
    ),
    "explained already": "{attack} explains the update already",
    "no attack fits": "no attack fits ({lacking})",
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
}
"""Code -> its words."""
