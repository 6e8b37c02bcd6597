"""What an attack needs to know and to work on, declared as data and checked before it starts."""

from dataclasses import dataclass
from typing import Literal

from fl_privacy_audit.core.errors import UnmetNeedError
from fl_privacy_audit.core.types import Observation

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
        model: What the model must be, in words; the attack itself checks it.
    """

    update: Literal["gradient", "any"] = "any"
    gradient_length: bool = False
    most_images: int | None = None
    server: Literal["honest but curious", "malicious"] = "honest but curious"
    model: str = ""

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

    def describe(self) -> str:
        """In words, for the table of attacks."""
        parts = [
            "one SGD step" if self.update == "gradient" else "",
            "learning rate" if self.gradient_length else "",
            "" if self.most_images is None else f"batch of at most {self.most_images}",
            self.model,
        ]
        return "; ".join(part for part in parts if part) or "nothing more"
