"""Everything that can be set about the federation, for server and clients alike."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from fl_privacy_audit.core.types import ImageSpec, LocalTraining

IMAGE = ImageSpec(shape=(3, 32, 32), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
"""The images, whatever the dataset, and how clients normalise them."""
DATA = {
    "photos": "crops of the photographs that scikit-image ships",
    "cifar10": "CIFAR-10",
}
"""Dataset -> what its images show, for reports."""


class FederationConfig(BaseModel):
    """One federation. Unknown keys are ignored; a value of the wrong type is an error."""

    model_config = ConfigDict(frozen=True, strict=True)

    # ``"photos"`` (crops of scikit-image's photographs) or ``"cifar10"``.
    dataset: Literal["photos", "cifar10"] = "photos"
    data_root: str = ""  # folder with CIFAR-10 in torchvision's layout; empty to download it
    images_per_client: int = 42  # images that each client holds
    num_rounds: int = 60  # rounds of training
    batch_size: int = 1  # images in one local step
    local_steps: int = 1  # local SGD steps per round
    learning_rate: float = 0.03  # learning rate of local SGD
    # ``"adam"``: FedAdam. ``"average"``: FedAvg, whose new model is the mean of what the clients
    # returned, and so reveals most of it.
    server_optimizer: Literal["adam", "average"] = "adam"
    server_learning_rate: float = 0.003  # learning rate of FedAdam
    # DP-SGD noise in units of `max_grad_norm`; negative for no DP-SGD.
    noise_multiplier: float = -1.0
    max_grad_norm: float = 1.0  # DP-SGD clipping norm
    delta: float = 1e-3  # the delta at which epsilon is reported
    # A name in `fl_privacy_audit.defences.DEFENCES` other than ``"dp-sgd"``, which has the three
    # fields above.
    defence: str = "none"
    defence_options: str = ""  # options of the defence, as text: ``"std=1e-3"``
    # ``"poisson"``: DP-SGD's own, batches vary in size. ``"fixed"``: the same batches are drawn
    # whatever the defence, and epsilon counts no amplification by sampling.
    sampling: Literal["fixed", "poisson"] = "fixed"
    seed: int = 0  # seed for data, weights and batches
    # Seed the DP noise too. Only for comparisons: it voids the guarantee.
    reproducible_noise: bool = False

    @property
    def private(self) -> bool:
        """Whether clients train with DP-SGD."""
        return self.noise_multiplier >= 0

    @property
    def known_training(self) -> LocalTraining:
        """What an attacker who knows all of this knows of local training."""
        return LocalTraining(
            optimizer="sgd",
            learning_rate=self.learning_rate,
            steps=self.local_steps,
            batch_size=self.batch_size,
            max_grad_norm=self.max_grad_norm if self.private else None,
            noise_multiplier=self.noise_multiplier if self.private else None,
            mode="train",
        )

    @model_validator(mode="after")
    def _says_dp_sgd_once(self) -> Self:
        if self.defence == "dp-sgd":
            raise ValueError("`defence` dp-sgd is set by `noise_multiplier` and `max_grad_norm`")
        return self
