"""Every message of a flag and every refusal, word for word."""

import math
import re
from typing import Any

import pytest

from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.dp import DpClaim, Observed, check_claim
from tests.support.claim_cases import CENTRAL, DP_SGD, LOCAL, WRONG, change

MESSAGES: list[tuple[str, str, str]] = [
    (
        "one record in ten",
        "error",
        (
            "Delta 0.1 is a chance of 10% that the promise fails altogether, for 10 records of one "
            "client: whoever gives one of them away whole keeps such a promise. "
            "Choose delta well below 0.1."
        ),
    ),
    (
        "one record of all clients",
        "warning",
        (
            "Delta 0.0001 is a chance of 0.01% that the promise fails altogether, for 12000 records "
            "of all clients: whoever gives one of them away whole keeps such a promise. "
            "Choose delta well below 8.3e-05."
        ),
    ),
    (
        "one chance in two, nothing known of the data",
        "error",
        (
            "Delta 0.5 is a chance of 50% that the promise fails altogether, for an unknown number of "
            "records. Choose delta well below one in the number of records, and no more than 0.001."
        ),
    ),
    (
        "one chance in ten, five records",
        "warning",
        (
            "Delta 0.1 is a chance of 10% that the promise fails altogether, for 5 records. Choose "
            "delta well below one in the number of records, and no more than 0.001."
        ),
    ),
    (
        "one client in ten",
        "error",
        (
            "Delta 0.1 is a chance of 10% that the promise fails altogether, for 10 clients: whoever "
            "gives one of them away whole keeps such a promise. Choose delta well below 0.1."
        ),
    ),
    (
        "FLIP's default",
        "error",
        (
            "The noise was scaled to sensitivity 0.0001, but clipping to 1 makes it 1 "
            "(add-or-remove), so there is less noise than the claim needs. "
            "Set the sensitivity to 1."
        ),
    ),
    (
        "sensitivity above the clip",
        "warning",
        (
            "The noise was scaled to sensitivity 2, but clipping to 0.5 makes it 0.5 "
            "(add-or-remove), so there is more noise than the claim needs. "
            "Set the sensitivity to 0.5."
        ),
    ),
    (
        "LocalDpMod at epsilon 10",
        "error",
        (
            "The noise 0.2422 comes from sensitivity x sqrt(2 ln(1.25 / delta)) / epsilon, which "
            "is proved only below epsilon 1, but epsilon is 10. "
            "Use the exact least noise for one release, 0.2499."
        ),
    ),
    (
        "LocalDpMod at epsilon 5, where it happens to be enough",
        "warning",
        (
            "The noise 0.4845 comes from sensitivity x sqrt(2 ln(1.25 / delta)) / epsilon, which "
            "is proved only below epsilon 1, but epsilon is 5. "
            "Use the exact least noise for one release, 0.4459."
        ),
    ),
    (
        "a new accountant each round",
        "error",
        (
            "Epsilon is that of one round: a new accountant was made in each of 50 rounds. Keep "
            "one accountant for each client and carry it over rounds, in `context.state`."
        ),
    ),
    (
        "a new accountant each round, and it says so",
        "warning",
        (
            "Epsilon is that of one round: a new accountant was made in each of 50 rounds. Keep "
            "one accountant for each client and carry it over rounds, in `context.state`."
        ),
    ),
    (
        "reported epsilon falls back",
        "error",
        (
            "Epsilon is that of one round: the epsilon reported by 'a' does not grow (3.878, then "
            "2.812). Keep one accountant for each client and carry it over rounds, in "
            "`context.state`."
        ),
    ),
    (
        "fixed batches",
        "error",
        (
            "For sample rate 0.064 accountants count epsilon 12.9, which holds for Poisson "
            "sampling, but a fixed number is drawn, for which 91.82 can be shown. "
            "Sample by Poisson (Opacus: `poisson_sampling=True`), or claim 91.82."
        ),
    ),
    (
        "fixed batches, nothing claimed",
        "warning",
        (
            "For sample rate 0.064 accountants count epsilon 12.9, which holds for Poisson "
            "sampling, but a fixed number is drawn, for which 91.82 can be shown. "
            "Sample by Poisson (Opacus: `poisson_sampling=True`), or claim 91.82."
        ),
    ),
    (
        "fixed number of clients",
        "error",
        (
            "For sample rate 0.2 accountants count epsilon 4.984, which holds for Poisson "
            "sampling, but a fixed number is drawn, for which 17.86 can be shown. "
            "Flower's strategies draw no other way, so claim 17.86."
        ),
    ),
    (
        "noise on a counter",
        "error",
        (
            "Noise on 'bn.num_batches_tracked' is cut off to whole numbers, so it hides nothing, "
            "and such a counter also takes up the clipping norm. Send no integer buffers: use a "
            "normalisation without them, GroupNorm for example."
        ),
    ),
    (
        "the client did not clip",
        "error",
        (
            "The update of 'b' in round 1 has norm 0.11, but clipping to 0.1 allows at most 0.1; "
            "updates too long in all: 1. No epsilon holds for them. Check that the clipping mod "
            "is in `@app.train(mods=[...])`, listed before every mod that changes the update."
        ),
    ),
    (
        "a client is missing",
        "error",
        (
            "Noise is scaled to 2 clients, but 1 took part in round 2, and the number differs in "
            "1 of 2 rounds. Fewer clients have too little noise. Set `num_sampled_clients` to the "
            "number that takes part, and drop rounds with fewer."
        ),
    ),
    (
        "a client with most of the data",
        "error",
        (
            "In round 1 one client weighs 1.5 times the mean, but noise is scaled to equal "
            "weights. Have every client report the same `num-examples`."
        ),
    ),
    (
        "epsilon out of thin air",
        "error",
        (
            "Epsilon 8 is claimed for a run, but 12.9 is in effect for 'any client', rounds: 50 "
            "(add-or-remove, delta 1e-05). Claim that, add noise or train less."
        ),
    ),
    (
        "no noise",
        "error",
        (
            "Epsilon 14.06 is claimed for a run, but infinity is in effect for 'any client', "
            "rounds: 50 (add-or-remove, delta 1e-05). Claim that, add noise or train less."
        ),
    ),
    (
        "reported epsilon grows but is too low",
        "error",
        (
            "Reported epsilons are too low for 'a': 'a' reports 1.557 after 5 rounds, but 4.071 "
            "is in effect (add-or-remove, delta 1e-05). Check what the accountant was told: "
            "noise, sample rate, steps, delta."
        ),
    ),
]


@pytest.mark.parametrize(("name", "severity", "message"), MESSAGES)
def test_messages_say_what_was_seen_and_how_to_fix_it(
    name: str, severity: str, message: str
) -> None:
    claim, observed, _ = WRONG[name]
    flag = check_claim(claim, observed).flags[0]
    assert (flag.severity, flag.message) == (severity, message)


def test_long_lists_of_clients_are_cut() -> None:
    stuck = dict.fromkeys("abcde", (1.0, 1.0))
    (flag,) = check_claim(change(DP_SGD, reported_epsilon=stuck)).flags
    assert "reported by 'a', 'b', 'c' and 2 more does not grow (1, then 1)" in flag.message


@pytest.mark.parametrize(
    ("claim", "fields", "message"),
    [
        (
            DP_SGD,
            {"mechanism": "dpsgd"},
            (
                "Argument `mechanism` must be one of 'dp-sgd', 'local-gaussian', "
                "'central-gaussian', but got 'dpsgd'"
            ),
        ),
        (
            DP_SGD,
            {"noise_multiplier": None},
            (
                "Argument `noise_multiplier` must be given for dp-sgd, but got None; "
                "it is the noise over `clipping_norm`"
            ),
        ),
        (
            DP_SGD,
            {"sigma": 1.0},
            "Argument `sigma` must be left out for dp-sgd, but got 1.0; give `noise_multiplier`",
        ),
        (
            DP_SGD,
            {"epsilon": 0.0},
            (
                "Argument `epsilon` must be a positive number, but got 0.0; "
                "leave it out if none is claimed"
            ),
        ),
        (
            DP_SGD,
            {"reported_epsilon": {"a": [math.nan]}},
            ("Argument `reported_epsilon['a']` must be zero or more, but got nan"),
        ),
        (
            LOCAL,
            {"noise_multiplier": 1.0},
            (
                "Argument `noise_multiplier` must be left out for local noise, but got 1.0; "
                "give `sigma`"
            ),
        ),
        (
            LOCAL,
            {"sensitivity": None},
            (
                "Argument `sigma` must be given for local noise, but got None; "
                "or give `sensitivity` and `epsilon` as LocalDpMod takes them"
            ),
        ),
        (
            LOCAL,
            {"sample_rate": 0.5},
            (
                "Argument `sample_rate` must be 1 for local noise, but got 0.5; "
                "the server knows who takes part, so sampling clients hides nothing"
            ),
        ),
        (
            CENTRAL,
            {"steps_per_round": 5},
            (
                "Argument `steps_per_round` must be 1 for central-gaussian, but got 5; "
                "its noise is added once a round"
            ),
        ),
        (
            CENTRAL,
            {"sampled_clients": None},
            (
                "Argument `sampled_clients` must be given for central-gaussian, but got None; "
                "it is the wrapper's `num_sampled_clients`"
            ),
        ),
    ],
)
def test_impossible_claims_are_refused(
    claim: DpClaim, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        change(claim, **fields)


def test_impossible_observations_are_refused() -> None:
    with pytest.raises(ConfigError, match=re.escape("`update_norms[2]['a']` must be zero or")):
        Observed(update_norms={2: {"a": -1.0}})
    with pytest.raises(ConfigError, match=re.escape("`update_norms[2]['a']` must be zero or")):
        Observed(update_norms={2: {"a": math.nan}})
    with pytest.raises(ConfigError, match=re.escape("`weights[1]['a']` must be a positive")):
        Observed(weights={1: {"a": 0.0}})
    with pytest.raises(ConfigError, match=re.escape("`parameters` must be a whole number")):
        Observed(parameters=0)
