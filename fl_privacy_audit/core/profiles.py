"""Profiles: attacks, rounds, controls and seeds that are fixed together, so that audits can be set side by side."""

from collections.abc import Mapping
from typing import Any, Final, Literal

Profile = Literal["smoke", "standard", "thorough"]
SMOKE: Final[Profile] = "smoke"
"""The profile that shows whether an audit works, and gives no verdict."""

PROFILES: Final[Mapping[str, Mapping[str, Any]]] = {
    "smoke": {
        "attacks": ("auto",),
        "every": 1,
        "clients_per_round": 1,
        "choose": "random",
        "controls": False,
        "seconds_per_round": 5.0,
        "seed": 0,
    },
    "standard": {
        "attacks": ("auto",),
        "every": 1,
        "clients_per_round": 2,
        "choose": "random",
        "controls": True,
        "seconds_per_round": 120.0,
        "seed": 0,
    },
    "thorough": {
        "attacks": ("auto", "inverting_gradients", "swept_inversion", "modern_inversion"),
        "every": 1,
        "clients_per_round": None,
        "choose": "random",
        "controls": True,
        "seconds_per_round": 1800.0,
        "seed": 0,
    },
}
"""Profile -> the settings that it fixes; what is set besides counts, and is said."""
