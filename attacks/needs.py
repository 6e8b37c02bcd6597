"""What an attack needs to know and to work on, declared as data and checked before it starts."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from fl_privacy_audit.core.errors import UnmetNeedError
from fl_privacy_audit.core.protocols import Attack
from fl_privacy_audit.core.types import Observation, Options

Check = Callable[[Observation], object]
"""Raises `UnmetNeedError` where an observation lacks something; what it returns is not used."""

THREAT_MODELS = {
    "A": "eavesdropper: model and update",
    "B": "informed: and generic priors",
    "C": "parameter-aware: and the settings of local training",
    "D": "data-enhanced: and surrogate data",
    "E": "statistical-informed: and the clients' distribution or batch-norm statistics",
    "F": "active manipulator: changes the model it sends",
    "G": "active, with surrogate data",
    "H": "active, and chooses the clients",
}
"""Threat models of Carletti et al. 2025, "SoK: Gradient Inversion Attacks in Federated Learning",
USENIX Security; each adds to those before it."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What an observation must offer.

    Attributes:
        update: ``"gradient"``: one SGD step; ``"any"``: several steps too.
        gradient_length: Whether the length of the gradient must be known, hence the learning rate.
        most_images: The largest batch that makes sense; None for any.
        server: Whether the server keeps to the protocol, or cheats.
        model: What model and training must be, in words.
        fits: The same as a check of the attack's own; None where anything does.
    """

    update: Literal["gradient", "any"] = "any"
    gradient_length: bool = False
    most_images: int | None = None
    server: Literal["honest but curious", "malicious"] = "honest but curious"
    model: str = ""
    fits: Check | None = None

    def check(self, seen: Observation) -> None:
        """Refuse an observation that lacks something.

        Raises:
            UnmetNeedError: With what is missing, and how to fix it.
        """
        if self.update == "gradient" and seen.gradient is None:
            raise UnmetNeedError(
                f"it needs one gradient, but the client took {seen.training.steps} local steps; "
                "use an attack that replays them"
            )
        if self.gradient_length and seen.defence is not None and seen.defence.length_lost:
            raise UnmetNeedError(
                f"it needs the length of the gradient, which the defence {seen.defence.name!r} "
                "took away; use an attack that compares directions"
            )
        if self.gradient_length and seen.gradient is not None and not seen.gradient_scale_known:
            raise UnmetNeedError(
                "it needs the length of the gradient; give the local learning rate and optimiser"
            )
        if self.most_images is not None and seen.num_images > self.most_images:
            raise UnmetNeedError(
                f"it works on a batch of at most {self.most_images}, but there are "
                f"{seen.num_images} images"
            )
        if self.fits is not None:
            self.fits(seen)

    def describe(self) -> str:
        """In words, for the table of attacks."""
        parts = [
            "one SGD step" if self.update == "gradient" else "",
            "learning rate" if self.gradient_length else "",
            "" if self.most_images is None else f"batch of at most {self.most_images}",
            self.model,
        ]
        return "; ".join(part for part in parts if part) or "nothing more"


@dataclass(frozen=True, kw_only=True)
class AttackEntry:
    """One row of the table.

    Attributes:
        factory: Makes the attack; its keyword arguments are its options.
        paper: Author, year, arXiv.
        threat_model: A letter of `THREAT_MODELS`.
        needs: What it needs; checked before it starts.
        cost: What one target costs, in words.
        auto: When ``"auto"`` takes it. 0: wherever it fits, as it solves and does not search. From 1:
            its turn among those that search, of which the first that fits runs. Else why never.
        suits: What ``"auto"`` asks beyond `needs`; None where nothing.
        auto_options: With which options ``"auto"`` runs it, where they are not the paper's.
    """

    factory: Callable[..., Attack]
    paper: str
    threat_model: str
    needs: Needs
    cost: str
    auto: int | str = "its row gives it no turn"
    suits: Check | None = None
    auto_options: Options = field(default_factory=dict)
