"""The types of an audit: what was observed, what an attack made of it, and the truth.

Images are ``(N, C, H, W)`` float tensors in ``[0, 1]`` everywhere outside the attack engine, which
works in the model's input space (see `ImageSpec.normalise`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator, model_validator

from .losses import ClassLoss, Reduction, cross_entropy
from .reasons import Reason

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Update = Mapping[str, "Tensor"]
"""Parameter name -> tensor: a gradient, or a difference of weights."""

Option = int | float | str | bool
Options = Mapping[str, Option]
"""Keyword arguments of an attack or a defence."""

OPTIONS = AliasChoices("options", "settings")
"""Before version 0.3, files called options settings."""

Mode = Literal["train", "eval", "unknown"]
View = Literal["server", "release", "canary"]
ControlKind = Literal["noise", "other client", "grey", "undefended"]
"""What an attack is compared with; `fl_privacy_audit.ledger.records.ControlOutcome` says what each is."""


class Checked(BaseModel):
    """Base of what a user states: frozen and checked; unknown fields and infinities are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked again; like `dataclasses.replace`."""
        return self.model_validate({**self.model_dump(), **changes})


class ImageSpec(Checked):
    """Shape of one image and the normalisation between pixels and model inputs.

    As a setting of an audit it is also called `fl_privacy_audit.ImageConfig`.

    Attributes:
        shape: ``(C, H, W)``.
        mean: Per-channel mean that the clients subtract, on pixels in ``[0, 1]``. There is no
            default: a wrong normalisation quietly ruins every attack. ``(0, 0, 0)`` means none.
        std: Per-channel standard deviation that the clients divide by; ``(1, 1, 1)`` means none.
    """

    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        channels = self.shape[0]
        if min(self.shape) < 1:
            raise ValueError(f"`shape` must be [C, H, W] of positive numbers, but got {self.shape}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels:
                raise ValueError(
                    f"`{name}` must have one number for each of the {channels} channels in "
                    f"`shape`, but got {list(values)}"
                )
        if min(self.std) <= 0:
            raise ValueError(f"`std` must be positive, but got {list(self.std)}")
        return self

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        import torch

        view = (1, -1, 1, 1)
        mean = torch.tensor(self.mean, dtype=like.dtype, device=like.device).view(view)
        std = torch.tensor(self.std, dtype=like.dtype, device=like.device).view(view)
        return mean, std

    def normalise(self, images: Tensor) -> Tensor:
        """Pixels in ``[0, 1]`` -> model inputs, both ``(N, C, H, W)``."""
        mean, std = self._statistics(images)
        return (images - mean) / std

    def denormalise(self, inputs: Tensor) -> Tensor:
        """Model inputs -> pixels, both ``(N, C, H, W)``; not clipped."""
        mean, std = self._statistics(inputs)
        return inputs * std + mean


class LocalTraining(Checked):
    """What the attacker knows, or assumes, of the clients' local training.

    As a setting of an audit it is also called `fl_privacy_audit.TrainingConfig`.

    Attributes:
        optimizer: ``"sgd"``, ``"adam"``, ``"adamw"``, or ``"unknown"``: then an update is taken as
            one gradient step, and the record says so.
        learning_rate: Step size of the local optimiser; None if it is not known.
        steps: Local optimiser steps per round; None if not known.
        epochs: In place of `steps`: passes over the client's images, whose number it reports by
            ``num-examples``.
        batch_size: Images in one step.
        images: Distinct images a client trains on in a round; by default batch_size x steps, and
            never more than the client reports by ``num-examples``.
        momentum: SGD momentum.
        nesterov: Whether the momentum is Nesterov's.
        weight_decay: L2 penalty that the optimiser adds; decoupled with ``"adamw"``.
        proximal_mu: FedProx: weight of the pull towards the weights that were sent.
        label_smoothing: Of cross-entropy.
        class_weights: Of cross-entropy, one for each class; None for equal ones.
        reduction: Whether the loss of a batch is the ``"mean"`` or the ``"sum"`` over its images.
        drop_last: Whether an incomplete last batch of an epoch is left out.
        max_grad_norm: DP-SGD clipping norm, if clients use it: attacks adapt to it.
        noise_multiplier: DP-SGD noise in units of `max_grad_norm`, likewise.
        mode: ``"train"`` or ``"eval"``: how batch-norm and dropout ran. ``"unknown"`` is attacked
            in train mode, which is what training code does, and the record says so.
    """

    optimizer: Literal["sgd", "adam", "adamw", "unknown"] = "unknown"
    learning_rate: float | None = Field(default=None, gt=0)
    steps: int | None = Field(default=None, ge=1)
    epochs: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=1, ge=1)
    images: int | None = Field(default=None, ge=1)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(default=0.0, ge=0)
    proximal_mu: float = Field(default=0.0, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    class_weights: tuple[float, ...] | None = None
    reduction: Reduction = "mean"
    drop_last: bool = False
    max_grad_norm: float | None = Field(default=None, gt=0)
    noise_multiplier: float | None = Field(default=None, ge=0)
    mode: Mode = "unknown"

    @field_validator("class_weights", mode="before")
    @classmethod
    def _weights_from_text(cls, value: Any) -> Any:
        return value.split(",") if isinstance(value, str) else value

    @field_validator("class_weights", mode="after")
    @classmethod
    def _weights_are_positive(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and not (value and min(value) >= 0 and max(value) > 0):
            raise ValueError("`class_weights` must be numbers from 0, not all 0")
        return value

    @model_validator(mode="after")
    def _noise_has_a_unit(self) -> Self:
        if self.noise_multiplier is not None and self.max_grad_norm is None:
            raise ValueError("`noise_multiplier` needs `max_grad_norm`: the noise is in its units")
        return self

    @model_validator(mode="after")
    def _fits_the_optimiser(self) -> Self:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give `steps` or `epochs`, not both")
        if self.nesterov and not self.momentum:
            raise ValueError("`nesterov` needs `momentum`")
        if self.momentum and self.optimizer in ("adam", "adamw"):
            raise ValueError(f"`momentum` belongs to SGD, but `optimizer` is {self.optimizer!r}")
        return self

    @property
    def adaptive(self) -> bool:
        """Whether steps hardly depend on the gradient's size: Adam's kind."""
        return self.optimizer in ("adam", "adamw")

    def for_client(self, num_examples: int | None) -> Self:
        """The same with `epochs` counted out in steps, where the client said how many images.

        A batch of an epoch holds no more than all of them, which is what DP-SGD divides its noise by.
        """
        if self.epochs is None or not num_examples or num_examples < 1:
            return self
        whole, left = divmod(num_examples, self.batch_size)
        steps = self.epochs * (whole if self.drop_last and whole else whole + bool(left))
        images = self.images or num_examples
        batch = min(self.batch_size, num_examples)
        changes = {"epochs": None, "steps": steps, "images": images, "batch_size": batch}
        return self.model_copy(update=changes)

    def minimised(self) -> ClassLoss:
        """Cross-entropy as it is set here."""
        return cross_entropy(self.label_smoothing, self.class_weights, self.reduction)


@dataclass(frozen=True, kw_only=True)
class KnownDefence:
    """What the attacker knows of the defence that an update went through, in units of the update.

    Attacks adapt to it, and the ledger stores it as it is.

    Attributes:
        name: A name in the table of defences.
        options: The defence's options, as configured.
        clip_norm: Greatest possible length of an update; None if its length is not limited.
        noise_std: Standard deviation of the noise added to each number.
        zeros_hide: Whether a zero may stand for any value, because the defence drops numbers.
        signs_only: Whether only the sign of each number is left.
        length_lost: Whether the length of this update says nothing.
    """

    name: str
    options: Annotated[Options, Field(validation_alias=OPTIONS)] = field(default_factory=dict)
    clip_norm: float | None = None
    noise_std: float = 0.0
    zeros_hide: bool = False
    signs_only: bool = False
    length_lost: bool = False

    @property
    def changes(self) -> bool:
        """Whether the update is no longer what training made it."""
        return self.noise_std > 0 or self.zeros_hide or self.signs_only or self.length_lost


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One client's update, as the server holds it: all that an attack may see.

    Attributes:
        model: The architecture, in the mode the client is taken to have trained in. Its own weights
            mean nothing; attacks call it with `parameters` and `buffers` and never change it.
        parameters: Trainable weights that were sent to the client.
        buffers: Buffers that were sent (batch-norm statistics, say).
        returned_buffers: Buffers that came back.
        update: Returned minus sent weights, trainable parameters only.
        gradient: The batch-mean gradient if `update` is one plain SGD step with a known learning
            rate; its direction, of unknown length, if the rate is not known; else None.
        gradient_scale_known: Whether the length of `gradient` means anything.
        num_images: How many images the attack has to rebuild.
        num_classes: Outputs of the model.
        image: Shape and normalisation.
        training: What is known of the local training.
        loss: What clients minimise, where `training` cannot say it.
        rounding: Length of the error in `update` that rounding of the weights makes.
        defence: What is known of the client's defence; None where it has none.
        assumptions: Whatever had to be assumed.
        round: Of the server, from 1: what the first has prepared later ones may use.
    """

    model: nn.Module
    parameters: Update
    buffers: Update
    returned_buffers: Update
    update: Update
    gradient: Update | None
    gradient_scale_known: bool
    num_images: int
    num_classes: int
    image: ImageSpec
    training: LocalTraining
    loss: ClassLoss | None = None
    rounding: float = 0.0
    defence: KnownDefence | None = None
    assumptions: tuple[Reason, ...] = ()
    round: int = 1

    @property
    def minimised(self) -> ClassLoss:
        """What clients minimise."""
        return self.loss or self.training.minimised()

    @property
    def signs_only(self) -> bool:
        """Whether `gradient` is little more than signs: one step of Adam, or a defence, left no more."""
        defended = self.defence is not None and self.defence.signs_only
        return self.gradient is not None and (self.training.adaptive or defended)

    @property
    def device(self) -> torch.device:
        """Device of the observed update."""
        return next(iter(self.update.values())).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the observed update."""
        return next(iter(self.update.values())).dtype


CERTIFIED: Final = "images whose features are certified"
"""The detail of a reconstruction that counts images of which what a layer saw is known exactly, label included."""


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """What an attack made of an observation, chosen by its own objective alone.

    Attributes:
        images: ``(N, C, H, W)`` in ``[0, 1]``.
        labels: ``(N,)`` recovered class indices, or None where the attack recovers none.
        objective: The attack's own objective at `images`; lower is better.
        steps: Optimiser steps taken, summed over restarts.
        stopped: Why it ended.
        exact: Whether these images, and no others, give the whole update, as far as the attack can
            tell without the truth: nothing is left to search for.
        details: Figures worth keeping, by name.
    """

    images: Tensor
    labels: Tensor | None
    objective: float
    steps: int
    stopped: Literal["finished", "converged", "out of time"]
    exact: bool = False
    details: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The images a client trained on: only ever seen by the scoring side.

    Attributes:
        images: ``(N, C, H, W)`` in ``[0, 1]``.
        labels: ``(N,)`` class indices.
    """

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Client:
    """Who sent an update.

    Attributes:
        node_id: Flower's node id: random, and new in every run.
        partition: The client's ``partition-id`` where it was published: stable between runs.
    """

    node_id: int
    partition: int | None = None

    def __str__(self) -> str:
        """The partition where it is known, else the node id."""
        return str(self.node_id) if self.partition is None else f"partition {self.partition}"


@dataclass(frozen=True, kw_only=True)
class MeasuredEpsilon:
    """Lower bounds on epsilon (add-or-remove) from canaries of one client, or from canary clients.

    Attributes:
        gauss: If the noise is normal.
        steinke: Whatever the noise.
        ceiling: The most that so many canaries can show by Steinke's bound: all guesses right.
        canaries: How many.
        rounds: Over how many rounds their scores were added.
        delta: At which the bounds hold.
        confidence: With which both hold together; each has half of the doubt.
        unit: What a canary is, and so what the epsilon protects.
        estimate: If the noise is normal, as likely too high as too low; None where canaries may show
            less than the worst case, and only bounds hold.
    """

    gauss: float
    steinke: float
    ceiling: float
    canaries: int
    rounds: int
    delta: float
    confidence: float
    unit: Literal["image", "client"] = "image"
    estimate: float | None = None

    @property
    def highest(self) -> float:
        """The higher of the two."""
        return max(self.gauss, self.steinke)
