"""What the audit says in plain English: verdicts, their reasons, and what to do about them."""

from collections.abc import Mapping
from typing import Final

from fl_privacy_audit.verdicts.verdict import Word

from .canary_words import CANARY_REASONS, CANARY_STEPS

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
        "replay canaries (`client_app=`), or audit a simulation whose clients publish batches",
    ),
}
"""Code of *inconclusive* -> the cause in a few words, and what to do; see `advise`."""

STEPS: Final[Mapping[str, str]] = {
    # Who is attacked.
    "no record": "let the strategy run under `AuditedStrategy`, or call `audit_round`",
    "view not audited": 'audit it too: `views = ["server", "release"]`',
    "no attack fits": "say more of local training in `training`, or name an attack in `attacks`",
    "not due": "audit rounds more often: `every = 1`",
    "time up": "give it more time: `seconds_per_round`",
    "no time to explain": "give it more time: `seconds_per_round`",
    "not chosen": "attack more clients: `clients_per_round`",
    "only the release is audited": 'audit the server view too: `views = ["server", "release"]`',
    **CANARY_STEPS,
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
    # Before the first round.
    "no second derivatives": (
        "replace what has one derivative only (a fused kernel, say), or name attacks that solve"
    ),
    "attack lacks time": "`seconds_per_round = {seconds}`, or another attack",
    "attack lacks time for so many images": (
        "let each client of a simulation hold {fewer} images or fewer, which also leak more; or "
        "`seconds_per_round = {seconds}`"
    ),
    "examples not known": "say `--examples`",
    "described otherwise": "make them the same, unless clients do not train by what the app says there",
    "noise not told": "say `training.max_grad_norm` and `training.noise_multiplier`: attacks adapt to them",
    "wrapper missing": (
        "in the server: `auditor = Auditor(AuditConfig.from_run_config(context.run_config), "
        "model=Net())`, and `{wrapper}(strategy, auditor=auditor)` in place of the strategy"
    ),
    "attack refuses": "choose another attack, or `auto`",
    "run not known": "say `--rounds` and `--clients`",
    "too few batches to come": (
        "audit more rounds (`every`, the run's rounds) or more clients (`clients_per_round`)"
    ),
    "too few clients attacked": "`clients_per_round = {needed}`: one client again adds nothing",
    "too few clients": "spread the images over at least {needed} clients, in a simulation",
    "app not given": "give the app's folder; in a deployment use canaries: `client_app=`",
    "mod missing": (
        "in a simulation put it first, `@app.train(mods=[audit_mod])` or `ClientApp(client_fn, "
        "mods=[audit_mod])`; in a deployment use canaries: `client_app=`"
    ),
    "publish call missing": (
        "in a simulation call `publish_batch(context, images, labels, normalised=True)` in the train "
        "function for each batch that is trained on; in a deployment use canaries: `client_app=`"
    ),
    "nothing is published": (
        "in a simulation: `from fl_privacy_audit.strategies import audit_mod, publish_batch`; "
        "`@app.train(mods=[audit_mod])`, or `ClientApp(client_fn, mods=[audit_mod])`; and in the train "
        "function, for each batch, `publish_batch(context, images, labels, normalised=True)`; in a "
        "deployment use canaries: `client_app=`"
    ),
    # What the probe of a mechanism finds.
    "updates are not clipped": "clip before noise is added: without a clip no epsilon holds",
    "no noise": "add noise after clipping, or claim no epsilon",
    "noise depends on the update": (
        "clip first and add noise last; of two mods the later in the list works first"
    ),
    "some arrays have less noise": "add the same noise to every array that leaves",
    "noise is the same each time": "draw it anew: leave out the seed outside comparisons",
    "noise is not normal": "take epsilon from an analysis of this noise, not from here",
    "noise cannot be repeated": "let its generator be seeded for narrower intervals",
    "clips to more than stated": "set the clip to what is claimed, and clip last before the noise",
    "noise is scaled to less than the sensitivity": "set the sensitivity to the clipping norm",
    "less noise than stated": "find what takes it away: a mod that works after it, or a seed",
    "epsilon of a round is above the one stated": "claim what is measured, or add noise",
    # What does not fit the description.
    "tensors differ": (
        "if clients put in parameters of their own, audit the first round alone, in which they train "
        "what they were sent: `every` as large as there are rounds, and `clients_per_round = 5` at least"
    ),
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
"""Code of another verdict or of a cause -> what to do."""

EXAMINED: Final[Mapping[str, str]] = {
    "model": "the model",
    "derivatives": "gradients of gradients",
    "attack": "an attack",
    "batches": "enough batches",
    "description": "the training as described",
    "wrapper": "the audit in the app",
    "truth": "the truth to score with",
    "canaries": "canaries",
}
"""What `doctor` looks at -> its name."""

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
    # Before the first round.
    "model fits": "{weights} weights; it takes images of {shape} and gives {classes} scores",
    "second derivatives": "there: attacks that search can run",
    "no second derivatives": "attacks that search cannot run: {cause}",
    "attack fits": "{attack} fits; what it takes is not known before it has run",
    "attack has time": "{attack} takes about {needed} for each client; there is {available}",
    "attack lacks time": (
        "{attack} takes about {needed} for each client, controls included, and there is only "
        "{available}"
    ),
    "attack lacks time for so many images": (
        "{attack} takes about {needed} for each client of {images} images, controls included, and "
        "there is only {available}"
    ),
    "examples not known": (
        "{attack} fits; how long it takes depends on how many images a client holds"
    ),
    "described otherwise": "`{key}`: the app says {said}, the audit is told {told}",
    "noise not told": "the app trains by Opacus (`make_private`), the audit is told of no noise",
    "app audits": "the app wraps its strategy",
    "wrapper missing": "no module of {app} names `{wrapper}`: nothing would be audited",
    "attack refuses": "{attack} will not run: {cause}",
    "run not known": "nobody knows yet how many rounds and clients there will be",
    "enough batches": "{batches} in {rounds} rounds; a verdict needs {needed}",
    "too few batches to come": "{batches} in {rounds} rounds, and a verdict needs {needed}",
    "too few clients attacked": (
        "clients train on all their images in every round, which count once: {batches}, and a "
        "verdict needs {needed}"
    ),
    "too few clients": (
        "clients train on all their images in every round, which count once, and there are only "
        "{clients} clients; a verdict needs {needed}"
    ),
    "truth given": "the Auditor was given `truth=`",
    "app not given": "nobody knows whether clients publish what they train on",
    "mod missing": "no module of {app} names `audit_mod`: clients publish nothing",
    "publish call missing": "no module of {app} calls `publish_batch`",
    "nothing is published": (
        "no module of {app} names `audit_mod` or `publish_batch`: there would be nothing to compare with"
    ),
    "clients publish": "the app names `audit_mod` and `publish_batch`",
    # What the probe of a mechanism finds.
    "updates are not clipped": "updates are not clipped: one may change what leaves without limit",
    "no noise": "no noise is added: who sees what leaves sees the update",
    "noise depends on the update": (
        "the noise depends on the update, {short} on almost none and {long} on a long one: it is added "
        "before the clipping, say"
    ),
    "some arrays have less noise": "some arrays have less noise, {least} at least: {names}",
    "noise is the same each time": (
        "noise of {noise} is the same in every draw: who knows its seed subtracts it"
    ),
    "noise is not normal": "the noise is not normal, so the epsilon beside it does not hold",
    "noise cannot be repeated": (
        "the noise has a generator of its own, so the sensitivity is a mean of {draws} draws"
    ),
    "clips to more than stated": "an update changes what leaves by {measured}; stated is {stated}",
    "noise is scaled to less than the sensitivity": (
        "the noise is scaled to a sensitivity of {stated}, and an update changes what leaves by "
        "{measured}"
    ),
    "less noise than stated": "the noise is {measured}; stated is {stated}",
    "epsilon of a round is above the one stated": (
        "epsilon of a round is {measured}; stated is {stated}"
    ),
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
    **CANARY_REASONS,
    "spool full": "no room in the spool: {needed} MB more needed, {free} of {most} MB free",
    "capture failed": "it could not be put into the spool: {message}",
    "worker died": "the worker that was at it ended: {how}",
    "worker hung": "the worker that was at it did not answer and was ended after {seconds} s",
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
        "parameters that differ: {count}, {tensors} among them, as if clients put in their own"
    ),
    "sign-like update": "the update holds values of one size, as signs do: is a defence declared?",
    "another batch or training": (
        "another batch, or training that is not as described: publish every batch as it goes into "
        "the model, and check `training` and `defence`"
    ),
    # What had to be assumed of an update and its training.
    "as recorded": "{text}",
    "optimiser unknown": "local optimiser not known; the update is taken as one gradient step",
    "steps unknown": "number of local steps not known; taken as one",
    "steps taken as one": (
        "{steps} local steps with an unknown optimiser or learning rate; the update is taken as one "
        "gradient step"
    ),
    "learning rate unknown": (
        "local learning rate not known; only the gradient's direction is used"
    ),
    "mode unknown": "local training mode not known; taken as train mode",
    "dropout unknown": "the client's dropout masks are not known; replayed without dropout",
    "one image in eval mode": (
        "batch norm cannot be trained on one image, so the client is taken to train in eval mode"
    ),
    "last image left out": (
        "{images} images in batches of {batch_size} leave one over, on which batch norm cannot be "
        "trained; taken as left out (`drop_last`)"
    ),
    "fewer examples": "the client reports {images} examples, so as many are rebuilt",
    "statistics moved": (
        "batch-norm running statistics moved, which eval mode does not do; attacked in eval mode as "
        '`mode` says: if clients train in train mode, set it to "train"'
    ),
    "weights rounded": (
        "rounding of the weights to {dtype} makes up about {percent} of the update; the rest is what "
        "clients learned"
    ),
    "one score": (
        "the model returns one score an image; taken as that of class 1 against class 0, as binary "
        "cross-entropy does"
    ),
    "loss given": "clients minimise `{loss}`, which the Auditor was given",
    "buffer shape differs": (
        "the buffer `{name}` {which} has shape {shape} where the model has {wanted}; left out"
    ),
    "buffer not finite": "the buffer `{name}` {which} is not finite; left out",
    "prefix of Opacus": (
        "weights carry Opacus's `_module.` prefix, which was removed here; the client should return "
        "`model._module.state_dict()`"
    ),
    "weights without names": "the weights have no names; taken in the order of {order}",
    "weights not sent": "not sent, so those of the model given to the Auditor are used: {names}",
    "weights not returned": "not returned, so taken as they were sent and not compared: {names}",
    "frozen for the Auditor alone": (
        "frozen in the model given to the Auditor, so not compared, but trained by the client: {names}"
    ),
    "returned but never sent": "returned but never sent, so their updates are not known: {names}",
    "taken as frozen": (
        "did not move at all, so taken as frozen by the client and not compared: {names}"
    ),
    "release taken as mean": (
        "the release is taken as the mean of {clients} clients' updates; a server optimiser, or "
        "weights that are not by the number of images, would change it"
    ),
    "sent but not replayed": "the server sends {setting} {value}, which is not replayed",
    "read from the message": "{setting} {value} was read from the message to the client{instead}",
    # Ledgers, and runs side by side.
    "no truth to pair runs": (
        "a run has no published truth, so nobody can tell if the images are the same"
    ),
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
    "records lost": "{records} could not be written, for want of space say",
    "captures removed": "{captures} captures were removed before they were attacked",
    "several runs": "{path} holds {runs} runs; the last one counts, unless `--run` names another",
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
