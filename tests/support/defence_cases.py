"""One row for each defence: settings to test it with. A new defence adds its row here."""

from fl_privacy_audit.core.types import Options

AT_THE_SERVER = {"noise_multiplier": 1.0, "clipping_norm": 0.5, "num_sampled_clients": 4}

CASES: dict[str, Options] = {
    "none": {},
    "clipping": {"norm": 0.5},
    "gaussian": {"std": 0.1},
    "laplace": {"scale": 0.1},
    "pruning": {"share": 0.7},
    "quantisation": {"bits": 4, "bucket": 7},
    "sign": {},
    "soteria": {"share": 0.5},
    "dp-sgd": {"noise_multiplier": 1.0},
    "local-dp": {"clipping_norm": 0.5, "sensitivity": 0.5, "epsilon": 0.9, "delta": 1e-5},
    "client-clipping": AT_THE_SERVER,
    "server-clipping": AT_THE_SERVER,
}
