"""How the gradients of one step are computed, for all trials: one oracle and its fast twins.

``sequential`` is a plain autograd loop, one trial after the other: obviously correct, and what the
others are tested against. ``by_hand`` takes the slope of the cosine distance in closed form, which
saves a third of the operations of a small network and many passes over the weights of a wide one;
``bfloat16`` is that with the model's arithmetic in bfloat16.
``vmap`` computes all trials as one batched computation, and ``compiled`` fuses that by
torch.compile. Small networks gain from ``vmap``; wide convolutions lose, because their weight
gradients become grouped convolutions.
"""

import contextlib
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from fl_privacy_audit.attacks.parts import distances
from fl_privacy_audit.attacks.parts.replay import Differentiate, by_autograd, by_transform
from fl_privacy_audit.core.devices import has_bfloat16
from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.core.types import Update

from .batch import Trials

if TYPE_CHECKING:
    from .loop import OptimisationAttack

CLEARLY_FASTER = 1.25
"""How much faster bfloat16 must be before its rounding is accepted."""
WORTH_COMPILING = 300.0
"""Seconds of plain work from which a minute of compiling pays."""


@dataclass(frozen=True)
class Step:
    """What an evaluator finds at the present guesses; the first axis is the trial."""

    objectives: Tensor
    distances: Tensor
    guess_gradients: Tensor
    score_gradients: Tensor | None
    extra_gradients: Tensor | None

    @classmethod
    def of(
        cls, trials: Trials, objectives: Tensor, distances: Tensor, slopes: Sequence[Tensor]
    ) -> "Step":
        """From the gradients for `Trials.leaves`, in order."""
        by_name = dict(zip(trials.leaves(), slopes, strict=True))
        found = (by_name.get(name) for name in ("scores", "extra"))
        return cls(objectives, distances, by_name["guesses"], *found)


class Evaluator:
    """Computes a `Step`; stateless but for what it prepares once.

    Args:
        attack: The recipe.
        trials: What it will be called with; their tensors may change, not their number.
    """

    name = "sequential"
    autocast = False

    def __init__(self, attack: "OptimisationAttack", trials: Trials) -> None:
        self._attack = attack

    def __call__(self, trials: Trials) -> Step:
        """One trial after the other, by the tape."""
        found = []
        for index in range(len(trials)):
            leaves = {
                name: leaf[index].detach().requires_grad_()
                for name, leaf in trials.leaves().items()
            }
            objective, distance = _objective(
                self._attack,
                trials,
                by_autograd,
                leaves["guesses"],
                leaves.get("scores", trials.scores[index].detach()),
                leaves.get("extra", trials.extra[index].detach()),
                trials.parameters[index],
                trials.buffers[index],
                trials.returned[index],
                trials.targets[index],
                trials.weights[index],
                autocast=self.autocast,
            )
            slopes = torch.autograd.grad(objective, list(leaves.values()))
            found.append((objective.detach(), distance.detach(), *slopes))
        columns = [torch.stack(column) for column in zip(*found, strict=True)]
        return Step.of(trials, columns[0], columns[1], columns[2:])


class ByHand(Evaluator):
    """The plain loop with the slope of the cosine distance in closed form: the same numbers."""

    name = "by_hand"

    def __init__(self, attack: "OptimisationAttack", trials: Trials) -> None:
        if attack.distance is distances.cosine:
            attack = replace(attack, distance=distances.cosine_by_hand)
        super().__init__(attack, trials)


class Bfloat16(ByHand):
    """That with the model's arithmetic in bfloat16; distances stay in float32."""

    name = "bfloat16"
    autocast = True


class Vmap(Evaluator):
    """All trials as one batched computation."""

    name = "vmap"

    def __init__(self, attack: "OptimisationAttack", trials: Trials) -> None:
        super().__init__(attack, trials)
        parameters, parameter_axis = _stack(trials.parameters)
        buffers, buffer_axis = _stack(trials.buffers)
        returned, returned_axis = _stack(trials.returned)
        targets, target_axis = _stack(trials.targets)
        self._fixed = (parameters, buffers, returned, targets, trials.weights)

        def one(*arguments: Any) -> tuple[Tensor, Tensor]:
            return _objective(attack, trials, by_transform, *arguments, autocast=False)

        wanted = tuple(("guesses", "scores", "extra").index(name) for name in trials.leaves())
        axes = (0, 0, 0, parameter_axis, buffer_axis, returned_axis, target_axis, 0)
        self._all: Callable[..., Any] = vmap(
            grad_and_value(one, argnums=wanted, has_aux=True),
            in_dims=axes,
            randomness="different",
        )

    def __call__(self, trials: Trials) -> Step:
        """All at once."""
        slopes, (objectives, distances) = self._all(
            trials.guesses.detach(), trials.scores.detach(), trials.extra.detach(), *self._fixed
        )
        return Step.of(trials, objectives, distances, slopes)


class Compiled(Vmap):
    """`Vmap` fused by torch.compile, and checked against it on the first call."""

    name = "compiled"

    def __init__(self, attack: "OptimisationAttack", trials: Trials) -> None:
        super().__init__(attack, trials)
        plain = super().__call__(trials)
        eager, self._all = self._all, torch.compile(self._all, fullgraph=True)
        fused = super().__call__(trials)
        # Compiled vmap has been silently wrong on some versions of torch.
        if not torch.allclose(fused.distances, plain.distances, rtol=1e-3, atol=1e-6):
            self._all = eager


EVALUATORS: dict[str, type[Evaluator]] = {
    kind.name: kind for kind in (Evaluator, ByHand, Bfloat16, Vmap, Compiled)
}


def choose_evaluator(attack: "OptimisationAttack", trials: Trials, deadline: float) -> Evaluator:
    """The evaluator that the recipe names, or for ``"auto"`` the fastest in a timed probe.

    The probe runs where there is something to gain; its choice is kept for networks and counts
    that have been seen, so that a process gives the same result for the same seed.

    Raises:
        ConfigError: There is no such evaluator.
    """
    if attack.engine != "auto":
        if attack.engine not in EVALUATORS:
            raise ConfigError(
                f"`engine` must be 'auto' or one of {', '.join(EVALUATORS)}, but got "
                f"{attack.engine!r}"
            )
        return EVALUATORS[attack.engine](attack, trials)
    if attack.dtype != torch.float32 or attack.steps < 50 or time.monotonic() > deadline:
        return Evaluator(attack, trials)
    layout = tuple(tuple(t.shape) for t in trials.parameters[0].values())
    key = (attack.name, layout, tuple(trials.guesses.shape), str(trials.guesses.device))
    if key not in _CHOSEN:
        _CHOSEN[key] = _probe(attack, trials, deadline)
    return EVALUATORS[_CHOSEN[key]](attack, trials)


_CHOSEN: dict[tuple[object, ...], str] = {}


def _probe(attack: "OptimisationAttack", trials: Trials, deadline: float) -> str:
    names = ["sequential"]
    if attack.distance is distances.cosine:
        names.append("by_hand")
    if has_bfloat16(trials.guesses.device):
        names.append("bfloat16")
    if len(trials) > 1 or trials.guesses.is_cuda:
        names.append("vmap")
    if len(names) == 1:
        return names[0]
    seconds = {name: _time(EVALUATORS[name](attack, trials), trials) for name in names}
    if "bfloat16" in seconds:
        seconds["bfloat16"] *= CLEARLY_FASTER
    best = min(seconds, key=seconds.__getitem__)
    if best == "bfloat16":
        # What bfloat16 wins is bound by convolutions, of which compiling makes nothing faster.
        return best
    work = min(seconds[best] * attack.steps, deadline - time.monotonic())
    return "compiled" if work > WORTH_COMPILING and can_compile(trials.guesses.device) else best


def _time(evaluator: Evaluator, trials: Trials) -> float:
    evaluator(trials)
    best = float("inf")
    for _ in range(2):
        if trials.guesses.is_cuda:
            torch.cuda.synchronize(trials.guesses.device)
        started = time.perf_counter()
        evaluator(trials)
        if trials.guesses.is_cuda:
            torch.cuda.synchronize(trials.guesses.device)
        best = min(best, time.perf_counter() - started)
    return best


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile finds what it needs: a C++ compiler on the CPU."""
    return device.type == "cuda" or any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def _objective(
    attack: "OptimisationAttack",
    trials: Trials,
    differentiate: Differentiate,
    guess: Tensor,
    scores: Tensor,
    extra: Tensor,
    parameters: Update,
    buffers: Update,
    returned: Update,
    target: Update,
    weights: Tensor,
    *,
    autocast: bool,
) -> tuple[Tensor, Tensor]:
    """Objective and distance of one trial: the one place where a recipe's parts meet."""
    probabilities = scores.softmax(dim=-1) if trials.learned else scores
    context = (
        torch.autocast(guess.device.type, torch.bfloat16) if autocast else contextlib.nullcontext()
    )
    inputs = attack.decode(guess, trials.seen)
    with context:
        update = trials.run(
            differentiate, parameters, buffers, inputs, probabilities, extra, target
        )
    distance = attack.distance(update, target)
    objective = distance
    if attack.priors:
        seen = replace(
            trials.seen, parameters=parameters, buffers=buffers, returned_buffers=returned
        )
        for index, (_, prior) in enumerate(attack.priors):
            objective = objective + weights[index] * prior(inputs, seen)
    return objective, distance


def _stack(tensors: Sequence[Update]) -> tuple[Update, int | None]:
    """Stacked along a new first axis, or as they are with axis None where all are the same."""
    first = {name: tensor.detach() for name, tensor in tensors[0].items()}
    alike = all(
        other is tensors[0] or all(torch.equal(t, tensors[0][n]) for n, t in other.items())
        for other in tensors[1:]
    )
    if alike:
        return first, None
    return {n: torch.stack([t[n].detach() for t in tensors]) for n in first}, 0
