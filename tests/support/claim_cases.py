"""Claims that are right, and claims with mistakes planted in them."""

import dataclasses
from typing import Any

from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.dp import (
    DpClaim,
    MeasuredEpsilon,
    Observed,
    SampledGaussian,
    analytic_sigma,
    epsilon_rdp,
)

DELTA = 1e-5
DP_SGD = DpClaim(
    mechanism="dp-sgd",
    epsilon=14.06,  # Opacus RDP of 800 steps
    delta=DELTA,
    clipping_norm=1.0,
    noise_multiplier=1.0,
    sample_rate=0.064,
    sampling="poisson",
    steps_per_round=16,
    rounds=50,
    accountant="persistent",
    arrays={"conv.weight": "float32", "conv.bias": "torch.float32"},
)
LOCAL = DpClaim(
    mechanism="local-gaussian",
    epsilon=0.9,
    epsilon_covers="round",
    delta=DELTA,
    clipping_norm=0.5,
    sensitivity=0.5,
    rounds=3,
    arrays={"conv.weight": "float32"},
)
CENTRAL = DpClaim(
    mechanism="central-gaussian",
    epsilon=18.0,  # ten releases at noise multiplier 1: 17.86
    delta=DELTA,
    clipping_norm=0.1,
    noise_multiplier=1.0,
    sample_rate=0.2,
    sampling="fixed",
    sampled_clients=2,
    rounds=10,
    accountant="persistent",
    arrays={"conv.weight": "float32"},
)
TEN_ROUNDS = {number: {"a": 0.1, "b": 0.05} for number in range(1, 11)}
EQUAL = {number: {"a": 50.0, "b": 50.0} for number in range(1, 11)}
GROWING = tuple(
    epsilon_rdp(
        SampledGaussian(noise_multiplier=1.0, sample_rate=0.064, steps=16 * number), delta=DELTA
    ).epsilon
    for number in range(1, 6)
)


def change(claim: DpClaim, **fields: Any) -> DpClaim:
    return dataclasses.replace(claim, **fields)


RIGHT: dict[str, tuple[DpClaim, Observed]] = {
    "DP-SGD, epsilon by RDP": (DP_SGD, Observed()),
    "DP-SGD, epsilon by PLD": (change(DP_SGD, epsilon=12.9024), Observed()),
    "DP-SGD, replaced records": (
        change(DP_SGD, neighbours="replace-one", epsilon=22.2),
        Observed(),
    ),
    "DP-SGD, sensitivity spelled out": (change(DP_SGD, sensitivity=1.0), Observed()),
    "DP-SGD, reported epsilon grows": (
        change(DP_SGD, reported_epsilon={"a": GROWING, "b": GROWING[:3]}),
        Observed(),
    ),
    "DP-SGD, long updates": (DP_SGD, Observed(update_norms={1: {"a": 70.0}})),
    "DP-SGD, fixed batches and no gain counted": (
        change(DP_SGD, sampling="fixed", epsilon=92.0),  # 100 epochs at most: mu = 10
        Observed(),
    ),
    "DP-SGD, one round by its own accountant": (
        change(DP_SGD, rounds=1, accountant="per-round", epsilon=2.82),
        Observed(),
    ),
    "DP-SGD, no noise and says so": (
        change(
            DP_SGD, noise_multiplier=0.0, epsilon=None, reported_epsilon={"a": [float("inf")] * 3}
        ),
        Observed(),
    ),
    "DP-SGD, nothing claimed": (change(DP_SGD, epsilon=None), Observed()),
    "LocalDpMod at epsilon 0.9": (LOCAL, Observed()),
    "LocalDpMod, one round is the run": (
        change(LOCAL, rounds=1, epsilon_covers="run"),
        Observed(),
    ),
    "LocalDpMod, replaced updates": (
        change(LOCAL, sensitivity=1.0, neighbours="replace-one"),
        Observed(),
    ),
    "local noise, exact at epsilon 10": (
        change(
            LOCAL,
            epsilon=10.0,
            sigma=analytic_sigma(sensitivity=0.5, epsilon=10.0, delta=DELTA),
        ),
        Observed(),
    ),
    "central DP, everything seen": (
        CENTRAL,
        Observed(update_norms=TEN_ROUNDS, complete=True, weights=EQUAL),
    ),
    "central DP, clipped in float32": (
        CENTRAL,
        Observed(update_norms={1: {"a": 0.1 * (1 + 1e-4), "b": 0.1}}, complete=True),
    ),
    "central DP, not every client seen": (CENTRAL, Observed(update_norms={1: {"a": 0.1}})),
    "central DP, clipped by the server": (
        change(CENTRAL, clipped_by="server"),
        Observed(update_norms={1: {"a": 3.0, "b": 2.0}}, complete=True),
    ),
    "DP-SGD, everything as typed": (
        DP_SGD,
        Observed(
            stated={"clipping_norm": 1.0, "delta": DELTA},
            stated_by="a mod",
            noise={"a": 1.0, "b": 1.0},
            rates={"a": 0.064},
            records={"a": 1000, "b": 999},
            batch_size=64,
            parameters=62_006,
        ),
    ),
    "DP-SGD, records exchanged: their number is no secret": (
        change(DP_SGD, neighbours="replace-one", epsilon=22.2),
        Observed(records={"a": 1024}, batch_size=64),
    ),
    "central DP, clients by coins": (
        change(CENTRAL, sampling="poisson", epsilon=5.0),  # dp-accounting PLD: 4.98
        Observed(update_norms={1: {"a": 0.1}, 2: {}}, complete=True),
    ),
}

SHOWN = MeasuredEpsilon(
    gauss=30.0, steinke=2.0, ceiling=2.3, canaries=64, rounds=8, delta=DELTA, confidence=0.95
)
BY_CLIENTS = dataclasses.replace(SHOWN, unit="client")
RIGHT["central DP, canary clients below it"] = (
    CENTRAL,
    Observed(measured={"all": [dataclasses.replace(BY_CLIENTS, gauss=15.0)]}),
)

WRONG: dict[str, tuple[DpClaim, Observed, set[str]]] = {
    "canaries show twice the claim": (
        DP_SGD,
        Observed(measured={"a": [SHOWN]}),
        {"measured-above-claim"},
    ),
    "canary clients show more than the noise stated gives": (
        change(CENTRAL, epsilon=40.0),
        Observed(measured={"all": [BY_CLIENTS]}),
        {"measured-above-claim"},
    ),
    "known updates show less noise than is stated": (
        CENTRAL,
        Observed(probed={"mod": [Reason.of("less noise than stated", stated=1.0, measured=0.5)]}),
        {"probe-contradicts"},
    ),
    "less noise than was typed": (
        CENTRAL,
        Observed(stated={"noise_multiplier": 0.5}, stated_by="the strategy"),
        {"typed-claim-differs"},
    ),
    "more clipping than was typed": (
        CENTRAL,
        Observed(stated={"clipping_norm": 0.05}, stated_by="the strategy"),
        {"typed-claim-differs"},
    ),
    "an accountant that was told less noise": (
        DP_SGD,
        Observed(noise={"a": 1.0, "b": 0.5}),
        {"typed-claim-differs", "unequal-noise"},
    ),
    "an accountant that was told another rate": (
        DP_SGD,
        Observed(rates={"a": 0.064, "b": 0.2}),
        {"typed-claim-differs"},
    ),
    "one record less, and another divisor": (
        DP_SGD,
        Observed(records={"a": 1024}, batch_size=64, parameters=62_006),
        {"noise-tells-size"},
    ),
    "one record less, and another divisor, of a model of unknown size": (
        DP_SGD,
        Observed(records={"a": 1024}, batch_size=64),
        {"noise-tells-size"},
    ),
    "one record in ten": (
        change(DP_SGD, delta=0.1, epsilon=None),
        Observed(records={"a": 10, "b": 3}),
        {"delta-too-large"},
    ),
    "one record of all clients": (
        change(DP_SGD, delta=1e-4, epsilon=None),
        Observed(records={"a": 6000, "b": 6000}),
        {"delta-too-large"},
    ),
    "one chance in two, nothing known of the data": (
        change(DP_SGD, delta=0.5, epsilon=None),
        Observed(),
        {"delta-too-large"},
    ),
    "one chance in ten, five records": (
        change(DP_SGD, delta=0.1, epsilon=None),
        Observed(records={"a": 5}),
        {"delta-too-large"},
    ),
    "one client in ten": (
        change(CENTRAL, delta=0.1),
        Observed(),
        {"delta-too-large"},
    ),
    "FLIP's default": (
        change(LOCAL, clipping_norm=1.0, sensitivity=1e-4, epsilon=10.0, rounds=1),
        Observed(),
        {"sensitivity-not-clip", "classic-beyond-one", "epsilon-understated"},
    ),
    "sensitivity above the clip": (
        change(LOCAL, sensitivity=2.0),
        Observed(),
        {"sensitivity-not-clip"},
    ),
    "sensitivity of DP-SGD": (
        change(DP_SGD, sensitivity=0.5),
        Observed(),
        {"sensitivity-not-clip"},
    ),
    "LocalDpMod, half the noise for replaced updates": (
        change(LOCAL, neighbours="replace-one"),
        Observed(),
        {"sensitivity-not-clip", "epsilon-understated"},
    ),
    "LocalDpMod at epsilon 10": (
        change(LOCAL, epsilon=10.0),
        Observed(),
        {"classic-beyond-one", "epsilon-understated"},
    ),
    "LocalDpMod at epsilon 5, where it happens to be enough": (
        change(LOCAL, epsilon=5.0),
        Observed(),
        {"classic-beyond-one"},
    ),
    "the classic formula by hand": (
        change(LOCAL, epsilon=10.0, sigma=0.2422402631),
        Observed(),
        {"classic-beyond-one", "epsilon-understated"},
    ),
    "LocalDpMod over rounds": (
        change(LOCAL, epsilon_covers="run"),
        Observed(),
        {"epsilon-understated"},
    ),
    "a new accountant each round": (
        change(DP_SGD, accountant="per-round", epsilon=2.82),
        Observed(),
        {"accountant-reset", "epsilon-understated"},
    ),
    "a new accountant each round, and it says so": (
        change(DP_SGD, accountant="per-round", epsilon=2.82, epsilon_covers="round"),
        Observed(),
        {"accountant-reset"},
    ),
    "reported epsilon stands still": (
        change(DP_SGD, reported_epsilon={"a": GROWING, "b": GROWING[:1] * 5}),
        Observed(),
        {"accountant-reset"},
    ),
    "reported epsilon falls back": (
        change(DP_SGD, reported_epsilon={"a": (*GROWING[:3], *GROWING[:2])}),
        Observed(),
        {"accountant-reset"},
    ),
    "reported epsilon grows but is too low": (
        change(DP_SGD, reported_epsilon={"a": tuple(e / 3 for e in GROWING)}),
        Observed(),
        {"epsilon-understated"},
    ),
    "fixed batches": (
        change(DP_SGD, sampling="fixed"),
        Observed(),
        {"sampling-not-poisson"},
    ),
    "fixed batches, nothing claimed": (
        change(DP_SGD, sampling="fixed", epsilon=None),
        Observed(),
        {"sampling-not-poisson"},
    ),
    "fixed number of clients": (
        change(CENTRAL, epsilon=5.76),  # Opacus RDP with q = 0.2
        Observed(),
        {"sampling-not-poisson"},
    ),
    "noise on a counter": (
        change(LOCAL, arrays={"bn.weight": "float32", "bn.num_batches_tracked": "int64"}),
        Observed(),
        {"noise-on-integers"},
    ),
    "noise on a torch counter": (
        change(CENTRAL, arrays={"bn.num_batches_tracked": "torch.int64"}),
        Observed(),
        {"noise-on-integers"},
    ),
    "the client did not clip": (
        CENTRAL,
        Observed(update_norms={1: {"a": 0.1, "b": 0.11}}, complete=True),
        {"norm-above-clip"},
    ),
    "the client diverged": (
        CENTRAL,
        Observed(update_norms={1: {"a": 0.1, "b": float("inf")}}, complete=True),
        {"norm-above-clip"},
    ),
    "the client neither clipped nor noised": (
        LOCAL,
        Observed(update_norms={1: {"a": 200.0}}, parameters=1000),
        {"norm-above-clip"},
    ),
    "a client is missing": (
        change(CENTRAL, epsilon=40.0),
        Observed(update_norms={1: {"a": 0.1, "b": 0.1}, 2: {"a": 0.1}}, complete=True),
        {"client-count-mismatch"},
    ),
    "a client is missing, and epsilon counts on it": (
        change(CENTRAL, epsilon=18.0),
        Observed(update_norms={n: {"a": 0.1} for n in range(1, 11)}, complete=True),
        {"client-count-mismatch", "epsilon-understated"},
    ),
    "a client too many": (
        CENTRAL,
        Observed(update_norms={1: {"a": 0.1, "b": 0.1, "c": 0.1}}, complete=True),
        {"client-count-mismatch"},
    ),
    "a client with most of the data": (
        change(CENTRAL, epsilon=40.0),
        Observed(weights={1: {"a": 30.0, "b": 10.0}}),
        {"unequal-weights"},
    ),
    "epsilon out of thin air": (
        change(DP_SGD, epsilon=8.0),
        Observed(),
        {"epsilon-understated"},
    ),
    "no noise": (
        change(DP_SGD, noise_multiplier=0.0),
        Observed(),
        {"epsilon-understated"},
    ),
}
