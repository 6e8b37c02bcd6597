"""Before the first round: what `doctor` and `probe` find."""

from collections.abc import Mapping
from typing import Final

STEPS: Final[Mapping[str, str]] = {
    # Before the first round.
    "no second derivatives": (
        "replace what has one derivative only (a fused kernel, say), or name attacks that solve"
    ),
    "attack lacks time": "`seconds_per_round = {seconds}`, or another attack",
    "attack lacks time for so many images": (
        "let each client of a simulation keep {fewer} of its training images or fewer, which also leak more "
        "(`.select(range({fewer}))` on the training split, after `train_test_split` where the app splits); or "
        "`seconds_per_round = {seconds}`"
    ),
    "examples not known": "say `--examples`",
    "described otherwise": "make them the same, unless clients do not train by what the app says there",
    "noise not told": (
        "say `training.max_grad_norm` and `training.noise_multiplier`, of clients that differ the least: "
        "attacks adapt to them"
    ),
    "not tried yet": "`--try 60` tries it on public pictures, for up to 60 s a size of client",
    "trial failed": "see that the audit's settings fit the model",
    "trial leaks with fewer": (
        "for a verdict let each client of a simulation keep {fewer} of its training images "
        "(`.select(range({fewer}))` on the training split, after `train_test_split` where the app splits), and attack "
        "{clients} clients "
        "(`clients_per_round = {clients}`); or try for longer (`--try`)"
    ),
    "trial shows nothing": (
        "try for longer (`--try`), or name another attack: *withstood* needs an undefended copy that "
        "leaks"
    ),
    "clients keep arrays": (
        "if these go into the model, audit the first round alone, in which clients train what they were "
        "sent: `every = {rounds}`, and `clients_per_round = {needed}`"
    ),
    "audit is no dependency": (
        "`export {variable}=1` before `flwr run`, and end a `flower-superlink` that runs already; or let "
        "the app's `dependencies` name `fl-privacy-audit`"
    ),
    "wrapper missing": (
        "in {place} write `{wrapper}({strategy}, auditor=auditor)` in place of `{strategy}`; above it "
        "`auditor = Auditor(AuditConfig.from_run_config(context.run_config), model=Net())`; and "
        "`from fl_privacy_audit import AuditConfig, Auditor`, `from fl_privacy_audit.strategies import "
        "{wrapper}`"
    ),
    "attack refuses": "choose another attack, or `auto`",
    "run not known": "say `--rounds` and `--clients`",
    "too few batches to come": "`clients_per_round = {attacked}`, or more rounds (`every`)",
    "too few rounds to come": (
        "`every = 1`, `clients_per_round = {attacked}`, and at least {enough} rounds"
    ),
    "just enough batches": (
        "noise hides weak leaks: {enough} clients or more would tell better, with `clients_per_round = {enough}`"
    ),
    "too few clients attacked": "`clients_per_round = {needed}`: one client again adds nothing",
    "too few clients": (
        "spread the images over at least {needed} clients, in a simulation: `flwr run . "
        "--federation-config 'num-supernodes={needed}'`; and `clients_per_round = {needed}`"
    ),
    "app not given": "give the app's folder; in a deployment use canaries: `client_app=`",
    "mod missing": (
        "in a simulation put it first, `@app.train(mods=[audit_mod])` or `ClientApp(client_fn, "
        "mods=[audit_mod])`; in a deployment use canaries: `client_app=`"
    ),
    "publish call missing": (
        "in a simulation, for each batch that is trained on, in {place}: `publish_batch(context, images, "
        "labels, normalised=True)`; in a deployment use canaries: `client_app=`"
    ),
    "nothing is published": (
        "in a simulation: `from fl_privacy_audit.strategies import audit_mod, publish_batch`; "
        "`@app.train(mods=[audit_mod])`, or `ClientApp(client_fn, mods=[audit_mod])`; and for each batch, "
        "in {place}: `publish_batch(context, images, labels, normalised=True)`; in a deployment use "
        "canaries: `client_app=`"
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
    "epsilon of a round is above the one claimed": "claim what is measured, or add noise",
}
"""Code -> what to do."""

REASONS: Final[Mapping[str, str]] = {
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
    "not tried yet": (
        "nobody knows whether attacks show anything of {images} images, even where there is no defence"
    ),
    "trial failed": "no client could be tried: {cause}",
    "trial leaks": "without a defence {attack} shows public pictures of a client with {images} images",
    "trial leaks with fewer": (
        "without a defence, in {took} s, nothing clear shows of a client with {images} images, and "
        "{attack} shows {fewer}: *withstood* cannot come, *leaked* hardly"
    ),
    "trial shows nothing": (
        "without a defence, in {took} s, nothing clear shows of a client with {images} images, down to {fewer}"
    ),
    "clients keep arrays": (
        "clients put arrays into their state ({spot}), which the server never sends: trained from those, "
        "an update does not fit the description"
    ),
    "audit is no dependency": (
        "`flwr run` installs what the app's `dependencies` name into an environment of its own, and "
        "`fl-privacy-audit` is not among them"
    ),
    "app audits": "the app wraps its strategy",
    "wrapper missing": "no module of {app} names `{wrapper}`: nothing would be audited",
    "attack refuses": "{attack} will not run: {cause}",
    "run not known": "nobody knows yet how many rounds and clients there will be",
    "enough batches": "{batches} in {rounds} rounds; a verdict needs {needed}",
    "just enough batches": (
        "{batches}, as clients train on all their images in every round; a verdict needs {needed} at least"
    ),
    "too few batches to come": "{batches} in {rounds} rounds, and a verdict needs {needed}",
    "too few rounds to come": (
        "{batches} in {rounds} rounds of {clients} clients, and a verdict needs {needed}"
    ),
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
    "epsilon of a round is above the one claimed": (
        "epsilon of a round is {measured}; claimed is {stated}"
    ),
}
"""Code -> its words."""
