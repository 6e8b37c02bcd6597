"""Apps of clients that another process finds by their names."""

import os
import time

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
from torch import Tensor

from fl_privacy_audit.strategies import audit_mod, canary, defend

from .canary_apps import HELD, Mod, canaries_or_own, own_images, plain_app, quickstart_app

MODS: dict[str, tuple[Mod, ...]] = {
    "none": (),
    "audit_mod": (audit_mod,),
    "defend": (audit_mod, defend("gaussian", seed=5, std=0.01)),
    "local_dp": (audit_mod, LocalDpMod(1.0, 0.1, 10.0, 0.1)),
    "clipping": (audit_mod, fixedclipping_mod),
}
CALLS: list[bool] = []
"""For each call of `counted` in this process whether it was a replay."""


def canaries_or_held(context: Context) -> tuple[Tensor, Tensor]:
    return canary(context) or HELD[1]


def _counted(context: Context) -> tuple[Tensor, Tensor]:
    CALLS.append(canary(context) is not None)
    return canaries_or_own(context)


def _dies(context: Context) -> tuple[Tensor, Tensor]:
    if canary(context):
        os._exit(7)
    return own_images(context)


def _hangs(context: Context) -> tuple[Tensor, Tensor]:
    if canary(context):
        time.sleep(1000)
    return own_images(context)


counted, dies, hangs = plain_app(_counted, audit_mod), plain_app(_dies), plain_app(_hangs)

tensors_none, tensors_audit_mod, tensors_defend, tensors_local_dp, tensors_clipping = (
    plain_app(canaries_or_held, *mods) for mods in MODS.values()
)
loaders_none, loaders_audit_mod, loaders_defend, loaders_local_dp, loaders_clipping = (
    quickstart_app(*mods) for mods in MODS.values()
)


def app_of(shape: str, mods: str) -> ClientApp:
    """One of the apps with a mod; what is in `defend` draws anew for each."""
    found = globals()[f"{shape}_{mods}"]
    assert isinstance(found, ClientApp)
    return found
