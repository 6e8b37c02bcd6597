"""Everything that can be set about this federation, for server and clients alike."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from flwr.app import ConfigRecord


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One federation.

    Attributes:
        dataset: ``"photos"`` (patches of scikit-image's photographs) or ``"cifar10"``.
        data_root: Folder with CIFAR-10 in torchvision's layout; empty to download it.
        images_per_client: Images each client holds.
        num_rounds: Rounds of training.
        batch_size: Images in one local step.
        local_steps: Local SGD steps a round.
        learning_rate: Of the local SGD.
        server_optimizer: ``"adam"``: FedAdam. ``"average"``: FedAvg, whose new model is the mean of
            what the clients returned, and so tells most of it.
        server_learning_rate: Of FedAdam.
        noise_multiplier: DP-SGD noise in units of `max_grad_norm`; negative for no DP-SGD.
        max_grad_norm: DP-SGD clipping norm.
        delta: At which epsilon is reported.
        defence: A name in `fl_privacy_audit.defences.DEFENCES` other than DP-SGD, for which there
            are the three settings above.
        defence_settings: Of the defence, as text: ``"std=1e-3"``.
        sampling: ``"poisson"``: DP-SGD's own, batches vary in size. ``"fixed"``: every setting
            draws the same batches, and epsilon counts no amplification by sampling.
        seed: Of data, weights and batches.
        reproducible_noise: Seed the DP noise too. Only for comparisons: it voids the guarantee.
    """

    dataset: str = "photos"
    data_root: str = ""
    images_per_client: int = 42
    num_rounds: int = 60
    batch_size: int = 1
    local_steps: int = 1
    learning_rate: float = 0.03
    server_optimizer: str = "adam"
    server_learning_rate: float = 0.003
    noise_multiplier: float = -1.0
    max_grad_norm: float = 1.0
    delta: float = 1e-3
    defence: str = "none"
    defence_settings: str = ""
    sampling: str = "fixed"
    seed: int = 0
    reproducible_noise: bool = False

    @property
    def private(self) -> bool:
        """Whether clients train with DP-SGD."""
        return self.noise_multiplier >= 0

    def to_config(self) -> ConfigRecord:
        """What the server sends to its clients."""
        return ConfigRecord(asdict(self))

    @classmethod
    def read(cls, values: Mapping[str, object]) -> "Settings":
        """From a run config (``num-rounds``) or a received config (``num_rounds``).

        Keys that are not settings are passed over; a value of the wrong type is an error.

        Raises:
            ValueError: A value does not fit.
        """
        found: dict[str, object] = {}
        for field in fields(cls):
            value = values.get(field.name, values.get(field.name.replace("_", "-")))
            if value is None:
                continue
            default = field.default
            if isinstance(default, float) and isinstance(value, int):
                value = float(value)
            if type(value) is not type(default):
                raise ValueError(
                    f"`{field.name}` must be {type(default).__name__}, but got {value!r}"
                )
            found[field.name] = value
        settings = cls(**found)  # type: ignore[arg-type]
        if settings.sampling not in ("fixed", "poisson"):
            raise ValueError(
                f"`sampling` must be 'fixed' or 'poisson', but got {settings.sampling!r}"
            )
        if settings.server_optimizer not in ("adam", "average"):
            raise ValueError(
                "`server_optimizer` must be 'adam' or 'average', but got "
                f"{settings.server_optimizer!r}"
            )
        if settings.dataset not in ("photos", "cifar10"):
            raise ValueError(
                f"`dataset` must be 'photos' or 'cifar10', but got {settings.dataset!r}"
            )
        if settings.defence == "dp-sgd":
            raise ValueError("`defence` dp-sgd is set by `noise_multiplier` and `max_grad_norm`")
        return settings
