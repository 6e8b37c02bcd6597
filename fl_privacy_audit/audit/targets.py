"""From slots to targets: what is observed of a client or a release, and the truth to score with."""

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from fl_privacy_audit.core.config import AuditConfig
from fl_privacy_audit.core.exchange import without_frozen
from fl_privacy_audit.core.guard import Guard
from fl_privacy_audit.core.losses import Loss
from fl_privacy_audit.core.models import Forward, classifier
from fl_privacy_audit.core.observe import count_images, observe, update_norm
from fl_privacy_audit.core.protocols import TruthProvider
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import LocalTraining, Observation, Truth
from fl_privacy_audit.defences import Defence, inform, inform_of_release

from .schedule import ClientReply, Release, Slot
from .truth import check_truth

log = logging.getLogger("fl_privacy_audit")

SENT_ALONG: Mapping[str, tuple[str, ...]] = {
    "learning_rate": ("lr", "learning-rate", "learning_rate"),
    "proximal_mu": ("proximal-mu", "proximal_mu"),
}
"""Setting of local training -> under which names servers send it to clients."""
REPORTED: Mapping[str, tuple[str, ...]] = {
    "max_grad_norm": ("max_grad_norm", "max-grad-norm"),
    "noise_multiplier": ("noise_multiplier", "noise-multiplier"),
}
"""Setting of DP-SGD -> under which names clients, each with its own, report it to the server."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """One observation about to be attacked, and what its reconstruction will be compared with.

    Attributes:
        slot: The client or release it was observed of.
        seen: What the attack gets.
        truth: The true batch, of all clients in order, or None.
        no_truth: Why there is none.
        counts: Images of each client in it.
    """

    slot: Slot
    seen: Observation
    truth: Truth | None
    no_truth: Reason | None
    counts: Sequence[int] = ()

    @property
    def name(self) -> str:
        """As in the ledger."""
        return self.slot.name


@dataclass(frozen=True, kw_only=True)
class Observer:
    """Turns slots into targets. Whatever goes wrong is a reason, not an error.

    Attributes:
        model: The clients' architecture.
        config: The audit's settings.
        defence: The clients', which attackers are told of.
        truth: ``truth(round, client)``; None to take what the client published.
        device: Where attacks run.
        forward: How class scores are made with the model; None to call it.
        loss: What clients minimise; None for what the settings say.
        guard: Stands around the model, `forward`, `loss` and `truth`.
    """

    model: nn.Module
    config: AuditConfig
    defence: Defence
    truth: TruthProvider | None
    device: torch.device
    forward: Forward | None = None
    loss: Loss | None = None
    guard: Guard = field(default_factory=Guard)

    def observe(self, slot: Slot) -> Target | Reason:
        """The observation and its truth, or why there is nothing to attack."""
        seen = self.guard.result("the clients' model", lambda: self._observation(slot))
        if isinstance(seen, Reason):
            why = seen.figures.get("message", "")
            log.warning("audit of round %d, client %s: %s", slot.round, slot.name, why)
            return seen
        if not update_norm(seen.update) > 0:
            unchanged = "weights unchanged" if slot.release is None else "global model unchanged"
            return Reason.of(unchanged)
        batches = self._batches(slot, seen.num_classes)
        if isinstance(batches, Reason):
            return Target(slot=slot, seen=seen, truth=None, no_truth=batches)
        truth = Truth(
            images=torch.cat([batch.images for batch in batches]),
            labels=torch.cat([batch.labels for batch in batches]),
        )
        counts = [len(batch.labels) for batch in batches]
        return Target(slot=slot, seen=seen, truth=truth, no_truth=None, counts=counts)

    def count_classes(self) -> int:
        """Of the model.

        Raises:
            UpdateError: It does not take the images.
        """
        probed = copy.deepcopy(self.model).eval()
        return classifier(probed, self.config.image, self.forward)[1]

    def _observation(self, slot: Slot) -> Observation:
        return replace(self._observed(slot), round=slot.round)

    def _observed(self, slot: Slot) -> Observation:
        if slot.release is not None:
            seen = observe_release(self, slot.release, slot.replies)
            return without_frozen(inform_of_release(seen, self.defence, len(slot.replies)))
        (reply,) = slot.replies
        training, notes = training_told(self.config.training, slot.replies)
        seen = observe(
            self.model,
            reply.sent(),
            reply.returned(),
            image=self.config.image,
            training=training,
            num_examples=reply.num_examples,
            device=self.device,
            forward=self.forward,
            loss=self.loss,
        )
        told = replace(seen, assumptions=(*seen.assumptions, *notes))
        return without_frozen(inform(told, self.defence))

    def _batches(self, slot: Slot, classes: int) -> list[Truth] | Reason:
        """The true batch of a client, of each in a release, or why there is none."""
        batches = []
        for reply in slot.replies:
            provider = None if slot.view == "canary" else self.truth
            batch = self._batch(slot.round, reply, classes, provider)
            if isinstance(batch, Reason):
                if slot.view != "release":
                    return batch
                return Reason.of("no truth of a client", batch, client=str(reply.client))
            batches.append(batch)
        return batches

    def _batch(
        self,
        server_round: int,
        reply: ClientReply,
        classes: int,
        provider: TruthProvider | None,
    ) -> Truth | Reason:
        def provided() -> Truth | None:
            truth = reply.true_batch(server_round, provider)
            return None if truth is None else check_truth(truth, self.config.image, classes)

        truth = self.guard.result("the truth provider", provided)
        if truth is None:
            return (provider is None and reply.no_truth) or Reason.of("no truth")
        return truth


def observe_release(
    observer: Observer, release: Release, replies: Sequence[ClientReply]
) -> Observation:
    """The release of a round as one update for the images of all its clients.

    The mean of one-step updates is the gradient of all batches together, if clients count by their
    images. With one client it is the client's own update.

    Args:
        observer: What is known of model and local training.
        release: Before and after.
        replies: Of the clients whose updates were aggregated; at least one.

    Raises:
        UpdateError: Names or shapes do not fit the model, or a value is not finite.
    """
    training, notes = training_told(observer.config.training, replies)
    counts = [count_images(training, reply.num_examples) for reply in replies]
    seen = observe(
        observer.model,
        release.before(),
        release.after(),
        image=observer.config.image,
        training=_together(training, counts),
        num_examples=None,
        device=observer.device,
        forward=observer.forward,
        loss=observer.loss,
    )
    assumed = Reason.of("release taken as mean", clients=len(replies))
    # A weighted mean divides by each client's own weights, sums count by the square of their images.
    odd = training.reduction == "mean" and training.class_weights is not None
    odd |= training.reduction == "sum" and len(set(counts)) > 1
    return replace(
        seen,
        gradient_scale_known=seen.gradient_scale_known and not (odd and len(replies) > 1),
        assumptions=(*seen.assumptions, *notes, assumed),
    )


def parts_of(target: Target, training: LocalTraining) -> list[tuple[Truth, LocalTraining]]:
    """The clients of a release, each with its batch and its training as the settings have it."""
    assert target.truth is not None
    told = training_told(training, target.slot.replies)[0]
    if target.seen.gradient is not None:
        told = told.replace(steps=1)
    counts = [*target.counts]
    each = zip(target.truth.images.split(counts), target.truth.labels.split(counts), strict=True)
    return [
        (Truth(images=images, labels=labels), _together(told, [len(labels)]))
        for images, labels in each
    ]


def training_told(
    training: LocalTraining, replies: Sequence[ClientReply]
) -> tuple[LocalTraining, list[Reason]]:
    """Local training, with what the server sent along in place of what the settings say.

    Where these name DP-SGD, what a client reports of its own goes before them too. One that does not
    say the truth does not pass the replay check.

    Args:
        training: As the settings have it.
        replies: Of one client, or of all in a release; what differs between them is not used.

    Returns:
        The training, and a note of each thing that was read from the messages.
    """
    changes: dict[str, float] = {}
    notes = []
    for name, keys in SENT_ALONG.items():
        told = {_told(reply.config, keys) for reply in replies}
        value = told.pop() if len(told) == 1 else None
        if value is None:
            continue
        if name not in LocalTraining.model_fields:
            if value > 0 and training.steps != 1:
                notes.append(Reason.of("sent but not replayed", setting=keys[0], value=value))
            continue
        if name == "learning_rate" and value == 0:
            continue
        stated = getattr(training, name)
        changes[name] = value
        instead = {} if stated in (None, value) else {"stated": stated}
        notes.append(Reason.of("read from the message", setting=name, value=value, **instead))
    for name, keys in REPORTED.items():
        told = {_told(reply.reported, keys) for reply in replies}
        value, stated = told.pop() if len(told) == 1 else None, getattr(training, name)
        if stated and value and value != stated:
            changes[name] = value
            notes.append(Reason.of("reported by clients", setting=name, value=value, stated=stated))
    return training.replace(**changes), notes


def _told(config: Mapping[str, float], keys: Sequence[str]) -> float | None:
    values = (config[key] for key in keys if key in config)
    return next((value for value in values if math.isfinite(value) and value >= 0), None)


def _together(training: LocalTraining, counts: Sequence[int]) -> LocalTraining:
    """Local training of clients with so many images, taken as that of one with all of them."""
    total, noise, rate = sum(counts), training.noise_multiplier, training.learning_rate
    several_steps = (training.steps or 1) > 1
    if training.reduction == "sum" and rate is not None and training.optimizer == "sgd":
        # The mean of sums is shorter than the sum over all images.
        rate *= sum(count**2 for count in counts) / total**2
    return training.replace(
        images=total,
        batch_size=training.batch_size * len(counts) if several_steps else total,
        learning_rate=rate,
        # Independent noise: its variance in the sum grows with the number of clients.
        noise_multiplier=None if noise is None else noise * math.sqrt(len(counts)),
    )
