"""How SemSim is trained."""

import hashlib
import json
from dataclasses import asdict, dataclass

from fl_privacy_audit.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Settings of a training; the optimiser's are those of the paper's code, the schedule is not.

    Attributes:
        width: Channels of the first stage; 64 is the paper's.
        epochs: Passes over the corpus; in each, every reconstruction is in a triplet at least once.
        batch: Triplets a step.
        rate: Highest learning rate; it rises over the first tenth of the steps and falls to zero
            along a cosine.
        momentum: Nesterov's momentum.
        decay: Weight decay.
        margin: Of every hinge; embeddings have length one, so distances end at 2.
        across: Weight of a second hinge, over every positive and every negative of the batch,
            whatever their originals: distances then mean the same for each original.
        other: Weight of a third hinge, which wants a recognisable reconstruction nearer to its own
            original than to another one; 0 for the paper's loss alone.
        joint: Whether the three pictures of a triplet are cropped and mirrored alike; the paper's
            code draws for each.
        recolour: Whether the channels of a triplet's pictures are put in the same random order, and
            one triplet in five made grey. Without it the distance leans on the colours of the few
            sources it was trained on.
        blend: Share of the starting weights in the result, which is a mean of them and of the trained
            ones (Wortsman et al. 2022, arXiv:2109.01903): what a few judged sources teach is kept,
            and what many pictures taught before is not lost. 0 for the trained weights alone.
        held_back: Share of originals kept for validation.
        bfloat16: Compute convolutions in bfloat16; twice as fast where the processor has it.
        seed: Seed of weights, order and augmentation.
    """

    width: int = 32
    epochs: int = 20
    batch: int = 32
    rate: float = 0.05
    momentum: float = 0.9
    decay: float = 5e-4
    margin: float = 1.0
    across: float = 1.0
    other: float = 0.0
    joint: bool = False
    recolour: bool = True
    blend: float = 0.0
    held_back: float = 0.1
    bfloat16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "epochs", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"Argument `{name}` must be 1 or more, but got {getattr(self, name)}"
                )
        if not 0 < self.margin <= 2:
            raise ConfigError(f"Argument `margin` must be in (0, 2], but got {self.margin}")
        if not 0 <= self.blend < 1:
            raise ConfigError(f"Argument `blend` must be in [0, 1), but got {self.blend}")
        if not 0 <= self.held_back < 1:
            raise ConfigError(f"Argument `held_back` must be in [0, 1), but got {self.held_back}")
        if self.seed < 0:
            raise ConfigError(f"Argument `seed` must be 0 or more, but got {self.seed}")

    def fingerprint(self, data: str) -> str:
        """Of these settings and of the data behind a training."""
        text = json.dumps([asdict(self), data], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
