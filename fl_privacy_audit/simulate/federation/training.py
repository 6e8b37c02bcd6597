"""Local training, with or without DP-SGD."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from itertools import chain, islice, repeat
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from opacus import PrivacyEngine
from opacus.accountants import RDPAccountant
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fl_privacy_audit.core.seeds import seed_of

from .config import FederationConfig
from .data import Images

Batch = tuple[Tensor, Tensor]
History = list[tuple[float, float, int]]
"""History of an RDP accountant: (noise multiplier, sample rate, steps)."""


class LocalResult(NamedTuple):
    """What local training reports."""

    loss: float  # mean over the steps that had a batch; 0 if none had
    examples: int  # over all steps
    epsilon: float | None  # spent over all rounds so far; None without DP-SGD


def train(
    model: nn.Module,
    held: Images,
    federation: FederationConfig,
    *,
    server_round: int,
    partition: int,
    accountant: RDPAccountant,
    on_batch: Callable[[Tensor, Tensor], None],
) -> LocalResult:
    """Take the local steps; `model`, with the weights as received, is changed in place.

    Round and partition seed the batches. The accountant has counted all rounds so far, and counts
    this one; it is untouched without DP-SGD. `on_batch` gets (inputs, labels) of each batch.
    """
    place = (federation.seed, server_round, partition)
    rng = torch.Generator().manual_seed(seed_of(*place))
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=federation.learning_rate)
    batches = _fixed_batches(held, federation, rng)
    losses: list[float] = []
    examples = 0
    with _opacus_is_quiet():
        if federation.private:
            noise = torch.Generator()
            noise.seed()
            if federation.reproducible_noise:
                noise.manual_seed(seed_of(*place, "noise"))
            poisson = federation.sampling == "poisson"
            # With fixed batches Opacus sees a loader of the drawn images alone: its sample rate is
            # 1, so epsilon claims no amplification that fixed batches do not give.
            source = (held.inputs(), held.labels) if poisson else next(batches)
            engine = PrivacyEngine(accountant="rdp")
            engine.accountant = accountant
            model, optimizer, loader = engine.make_private(
                module=model,
                optimizer=optimizer,
                data_loader=DataLoader(
                    TensorDataset(*source), batch_size=federation.batch_size, generator=rng
                ),
                noise_multiplier=federation.noise_multiplier,
                max_grad_norm=federation.max_grad_norm,
                poisson_sampling=poisson,
                noise_generator=noise,
            )
            batches = chain.from_iterable(repeat(loader)) if poisson else chain([source], batches)
        model.train()
        for inputs, labels in islice(batches, federation.local_steps):
            on_batch(inputs, labels)
            optimizer.zero_grad()
            if len(inputs):
                loss = F.cross_entropy(model(inputs), labels)
                loss.backward()
                losses.append(loss.item())
                examples += len(inputs)
                optimizer.step()
            elif federation.private:
                # An empty Poisson batch still sends its noise, or its emptiness would show.
                for parameter in optimizer.params:
                    parameter.grad_sample = torch.zeros(0, *parameter.shape)
                optimizer.step()
    return LocalResult(
        loss=sum(losses) / max(len(losses), 1),
        examples=examples,
        epsilon=spent(accountant.history, federation.delta) if federation.private else None,
    )


def spent(history: History, delta: float) -> float:
    """Epsilon of an RDP accountant's history (Mironov 2017; Opacus).

    Orders close to 1 join Opacus's own, which stop short of what little noise needs.
    """
    accountant = RDPAccountant()
    accountant.history = list(history)
    orders = [1 + 10 ** (k / 10) for k in range(-40, -10)] + RDPAccountant.DEFAULT_ALPHAS
    with _opacus_is_quiet():
        return float(accountant.get_epsilon(delta, alphas=orders))


@contextlib.contextmanager
def _opacus_is_quiet() -> Iterator[None]:
    """Silence warnings that Opacus gives on every step although nothing is wrong."""
    with warnings.catch_warnings():
        for message in ("Secure RNG", "Full backward hook", "Optimal order"):
            warnings.filterwarnings("ignore", message=message)
        yield


def _fixed_batches(
    held: Images, federation: FederationConfig, rng: torch.Generator
) -> Iterator[Batch]:
    inputs = held.inputs()
    while True:
        drawn = torch.randperm(len(inputs), generator=rng)[: federation.batch_size]
        yield inputs[drawn], held.labels[drawn]
