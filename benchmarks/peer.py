"""Inverting Gradients by `breaching`, on what our server sees, and a clock that reads the truth."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from fl_privacy_audit.core.types import Observation

from .clients import CPU
from .measuring import Finish, decibels, now

NAME = "breaching"
MOST_STEPS = 24_000
"""Of the settings that come with the library; its learning rate falls after 3/8 of them."""


def installed() -> str:
    """Why it cannot be used; empty where it can."""
    try:
        import breaching  # type: ignore[import-not-found]  # noqa: F401
    except Exception as error:  # noqa: BLE001 - another project's library, and optional
        return f"{error or type(error).__name__}; `pip install breaching` installs it"
    return ""


class Peer:
    """Its attack with the same settings as ours, on one target, whose labels it is told.

    Args:
        model: Of the target.
        seen: What its client sent.
        labels: ``(N,)`` of its images.
        steps: Of a restart.
        restarts: The one with the least cosine distance wins.
        total_variation: Weight of the prior.
    """

    def __init__(
        self,
        model: nn.Module,
        seen: Observation,
        labels: Tensor,
        *,
        steps: int,
        restarts: int = 1,
        total_variation: float,
    ) -> None:
        import breaching

        settings = breaching.get_attack_config("invertinggradients")
        settings.optim.max_iterations = steps
        settings.optim.callback = steps + 1
        settings.restarts.num_trials = restarts
        settings.regularization.total_variation.scale = total_variation
        setup = {"dtype": torch.float, "device": CPU}
        self._attacker: Any = breaching.attacks.prepare_attack(
            model, nn.CrossEntropyLoss(), settings, setup
        )
        assert seen.gradient is not None
        facts = SimpleNamespace(
            shape=seen.image.shape,
            classes=seen.num_classes,
            mean=seen.image.mean,
            std=seen.image.std,
            modality="vision",
        )
        self._sent = {
            "parameters": list(seen.parameters.values()),
            "buffers": list(seen.buffers.values()),
            "metadata": facts,
        }
        known = {"num_data_points": len(labels), "labels": labels, "local_hyperparams": None}
        self._returned = {
            "gradients": list(seen.gradient.values()),
            "buffers": None,
            "metadata": known,
        }
        self._seen = seen

    def attack(self) -> Tensor:
        """The images, ``(N, C, H, W)`` in [0, 1]."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            found, _ = self._attacker.reconstruct([self._sent], [self._returned], {}, dryrun=False)
        return self._pictures(found["data"].detach())

    def watched(self, truth: Tensor, most_steps: int, level: float = float("inf")) -> "Trace":
        """How good the picture was after each step: the one that stopping there would return.

        Args:
            truth: ``(N, C, H, W)`` in [0, 1]; reads the clock, and the attack does not see it.
            most_steps: Where the attack is given up.
            level: PSNR at which the attack is ended.
        """
        inner, trace = self._attacker._compute_objective, Trace()
        least, found, looking, started = float("inf"), float("inf"), 0.0, now()

        def look(candidate: Tensor) -> None:
            """After a step: it keeps the iterate if the objective before that step was the least."""
            nonlocal least, looking
            began = now()
            if found < least:
                least = found
                trace.decibels.append(decibels(self._pictures(candidate.detach()), truth))
            else:
                trace.decibels.append(trace.decibels[-1])
            trace.seconds.append(began - started - looking)
            if trace.decibels[-1] >= level or len(trace.decibels) >= most_steps:
                raise _Enough
            looking += now() - began

        def objective(candidate: Tensor, *others: object) -> Callable[[], Tensor]:
            if found < float("inf"):
                look(candidate)
            closure: Callable[[], Tensor] = inner(candidate, *others)

            def evaluated() -> Tensor:
                nonlocal found
                value = closure()
                found = float(value)
                return value

            return evaluated

        self._attacker._compute_objective = objective
        try:
            self.attack()
        except _Enough:
            pass
        finally:
            self._attacker._compute_objective = inner
        return trace

    def _pictures(self, inputs: Tensor) -> Tensor:
        return self._seen.image.denormalise(inputs).clamp(0, 1)


class Trace:
    """Processor seconds and PSNR after each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.decibels: list[float] = []


class _Enough(Exception):
    """The level is reached, or the steps are up."""


def steps_to(traces: Sequence[Trace], level: float) -> int | None:
    """Steps of each attack after which the mean PSNR reaches the level; None where it never does."""
    means = (sum(row) / len(row) for row in zip(*(t.decibels for t in traces), strict=False))
    return next((step for step, mean in enumerate(means, start=1) if mean >= level), None)


def race(peers: Sequence[Peer], truths: Sequence[Tensor], level: float, most_steps: int) -> Finish:
    """Attack the targets one after the other, until their mean PSNR reaches the level."""
    alone = level if len(peers) == 1 else float("inf")
    traces = [
        peer.watched(truth, most_steps, alone) for peer, truth in zip(peers, truths, strict=True)
    ]
    steps = steps_to(traces, level)
    last = steps or len(traces[0].seconds)
    return Finish(
        seconds=sum(trace.seconds[last - 1] for trace in traces),
        steps=last,
        decibels=sum(trace.decibels[last - 1] for trace in traces) / len(traces),
        reached=steps is not None,
    )
