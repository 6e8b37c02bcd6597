"""Whether the attacks of an audit are strong enough here, tried on public pictures without a defence.

A verdict of *withstood* needs undefended copies that leak. Whether they do depends on model, images,
steps and seconds; an audit tells it only when it is over.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from torch import Tensor, nn

from fl_privacy_audit.audit import Auditor, ClientReply
from fl_privacy_audit.audit.canary import MOST_IMAGES
from fl_privacy_audit.audit.controls import undefended
from fl_privacy_audit.core.config import AuditConfig, DefenceConfig
from fl_privacy_audit.core.exchange import Arrays
from fl_privacy_audit.core.reasons import Figure, Reason
from fl_privacy_audit.core.types import Client, ControlKind, Observation, Truth
from fl_privacy_audit.ledger import last_run, read_ledger
from fl_privacy_audit.verdicts.rules import judge_run
from fl_privacy_audit.verdicts.verdict import FEWEST, SettingVerdict

from .doctor import Finding

FREE: Final[tuple[ControlKind, ...]] = ("other client", "grey")
"""Null controls that cost no attack."""
CLIENTS: Final = 2 * FEWEST
"""Clients that are tried: among twice as many as a verdict needs, weak leaks show too."""
FEWER: Final = (32, 8, 4, 1)
"""Images of a client that are tried where its own are too many."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What attacks made of clients without a defence.

    Attributes:
        images: Of a client.
        verdict: On these clients, or why there is none.
    """

    images: int
    verdict: SettingVerdict | Reason

    @property
    def leaked(self) -> bool:
        """Whether an undefended copy of so many images would leak."""
        return isinstance(self.verdict, SettingVerdict) and self.verdict.word == "leaked"


def strength(
    config: AuditConfig, model: nn.Module, num_examples: int | None, seconds: float | None
) -> Iterator[Finding]:
    """Whether undefended clients would leak, and if not, how few images they may hold until they do.

    Args:
        config: Of the audit.
        model: With the weights that are sent.
        num_examples: Images of one client.
        seconds: For each try; None to try nothing.
    """
    training = config.training.for_client(num_examples)
    images = training.images or (training.steps or 0) * training.batch_size
    if not images:
        return
    if seconds is None:
        reason = Reason.of("not tried yet", images=images, most=MOST_IMAGES)
        yield Finding(about="strength", state="unknown", reason=reason)
        return
    tried = list(trials(config, model, images, seconds=seconds))
    last = tried[-1]
    figures: dict[str, Figure] = {
        "images": images,
        "fewer": last.images,
        "took": seconds,
        "clients": CLIENTS,
    }
    if isinstance(last.verdict, Reason):
        yield Finding(
            about="strength",
            state="missing",
            reason=Reason.of("trial failed", last.verdict, **figures),
        )
        return
    figures["attack"] = last.verdict.attack
    if last.verdict.word == "not tested":
        reason = Reason.of("trial failed", last.verdict.reason, **figures)
        yield Finding(about="strength", state="missing", reason=reason)
    elif not last.leaked:
        reason = Reason.of("trial shows nothing", **figures)
        yield Finding(about="strength", state="missing", reason=reason)
    elif last.images < images:
        reason = Reason.of("trial leaks with fewer", **figures)
        yield Finding(about="strength", state="missing", reason=reason)
    else:
        yield Finding(about="strength", state="well", reason=Reason.of("trial leaks", **figures))


def trials(
    config: AuditConfig, model: nn.Module, images: int, *, seconds: float
) -> Iterator[Trial]:
    """Try a client of so many images, then smaller ones until one leaks.

    More than `MOST_IMAGES` are not tried: no attack rebuilds so many. A client that takes a number of
    steps takes them with fewer images too, so there are no smaller ones.

    Args:
        config: Of the audit. Its defence and the noise of its training are left out.
        model: With the weights that are sent.
        images: Of one client in a round.
        seconds: For each try: all attacks on `CLIENTS` clients.
    """
    epochs = config.training.epochs is not None
    own = [images] if images <= MOST_IMAGES or not epochs else []
    for count in (*own, *(count for count in FEWER if epochs and count < images)):
        found = Trial(images=count, verdict=_tried(config, model, count, seconds))
        yield found
        if found.leaked:
            return


def _tried(
    config: AuditConfig, model: nn.Module, images: int, seconds: float
) -> SettingVerdict | Reason:
    training = config.training.replace(max_grad_norm=None, noise_multiplier=None)
    with tempfile.TemporaryDirectory(prefix="fl-privacy-audit-") as folder:
        settings = config.replace(
            directory=Path(folder) / "audit",
            training=training,
            defence=DefenceConfig(),
            claim=None,
            profile=None,
            views=("server",),
            clients_per_round="all",
            every=1,
            controls=FREE,
            seconds_per_round=seconds,
            keep_pictures=False,
            executor="inline",
        )
        auditor = Auditor(settings, model=model)
        seen = auditor.rehearse(num_examples=images).seen
        if isinstance(seen, Reason):
            return seen
        replies = [_client(auditor, model, seen, number) for number in range(CLIENTS)]
        auditor.audit_round(1, replies)
        auditor.finish()
        (verdict,) = judge_run(last_run(read_ledger(settings.directory)))
    return verdict


def _client(auditor: Auditor, model: nn.Module, seen: Observation, number: int) -> ClientReply:
    """A client that trains on public pictures as the audit is told."""
    truth = auditor.canaries.images(number, seen.num_images)
    made = undefended(seen, truth)
    before = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    after = before | {name: tensor.cpu() for name, tensor in made.returned_buffers.items()}
    after |= {name: before[name] + tensor.cpu() for name, tensor in made.update.items()}
    return ClientReply(
        client=Client(number, partition=number),
        sent=partial(_arrays, before),
        returned=partial(_arrays, after),
        num_examples=seen.num_images,
        truth=partial(_given, truth),
    )


def _arrays(tensors: dict[str, Tensor]) -> Arrays:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _given(truth: Truth) -> Truth:
    return truth
