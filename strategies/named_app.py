"""The clients' app as another process finds it, and its replay there."""

import contextlib
import importlib
import sys
from dataclasses import dataclass
from typing import Self

from fl_privacy_audit.audit import Auditor, ClientReply
from fl_privacy_audit.audit.schedule import Canary, Errand
from fl_privacy_audit.core.types import ImageSpec

from .canary_replay import Replay, in_some_run
from .capture import Reading
from .messages import message_of


@dataclass(frozen=True, kw_only=True)
class NamedApp:
    """The clients' app where another process finds it, and how that reads what it returns.

    Attributes:
        name: MODULE:NAME.
        image: Shape and normalisation of the images.
        weights: Names of the audited model's weights.
    """

    name: str
    image: ImageSpec
    weights: frozenset[str]

    @classmethod
    def of(cls, auditor: Auditor) -> Self | None:
        """That of an audit; None where it has none, or no module that can be imported has a name for it."""
        name = None if auditor.client_app is None else name_of(auditor.client_app)
        if name is None:
            return None
        return cls(name=name, image=auditor.config.image, weights=auditor.weight_names)

    def __call__(self, errand: Errand) -> "NamedReplay":
        """The replay of an errand."""
        return NamedReplay(app=self, told=errand)


@dataclass(frozen=True, kw_only=True)
class NamedReplay:
    """A replay of what `Replay.errand` told, in whatever process it is.

    Attributes:
        app: Imported when the replay is made.
        told: What a real client was sent.
    """

    app: NamedApp
    told: Errand

    def errand(self, number: int) -> Errand | None:
        """What it was told."""
        del number
        return self.told

    def __call__(self, canary: Canary) -> ClientReply:
        """See `Replay`."""
        module, _, name = self.app.name.partition(":")
        told = self.told.settings
        reading = Reading(image=self.app.image, names=self.app.weights, key=told["key"])
        with in_some_run():
            replay = Replay(
                app=getattr(importlib.import_module(module), name),
                run_config=told["run_config"],
                sent=[message_of(told, self.told.arrays)],
                clients=told["clients"],
                reading=reading,
            )
            return replay(canary)


def name_of(thing: object) -> str | None:
    """MODULE:NAME by which another process finds the same object; None if it has no such name."""
    found = [
        f"{name}:{attribute}"
        for name, module in sys.modules.copy().items()
        if module is not None and name != "__main__" and not name.startswith("_")
        for attribute, value in vars(module).copy().items()
        if value is thing and _is_found(name)
    ]
    # A module that imports it from where it is made was begun before that one.
    return found[-1] if found else None


def _is_found(module: str) -> bool:
    """Whether a module of this process is what another would import by its name."""
    here = getattr(sys.modules[module], "__spec__", None)
    above = sys.modules.get(module.rpartition(".")[0])
    path = getattr(above, "__path__", None) if "." in module else None
    for finder in sys.meta_path:
        with contextlib.suppress(Exception):  # of finders that others have put there
            spec = finder.find_spec(module, path)
            if spec is not None:
                return here is not None and spec.origin == here.origin
    return False
