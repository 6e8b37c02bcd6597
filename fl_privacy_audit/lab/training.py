"""The loop under every training here that can be resumed: laps, and a checkpoint after each.

A lap is an epoch, or a number of steps. What it draws comes from a seed of its own, so a training
that was stopped goes on as if it had not been. A checkpoint is one safetensors file: weights,
momentum, and how far it got.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.core.files import write_whole
from fl_privacy_audit.core.protocols import Progress


def laps(
    model: nn.Module,
    optimiser: torch.optim.SGD,
    path: Path | None,
    *,
    total: int,
    each: int = 1,
    facts: dict[str, Any] | None = None,
    progress: Progress = lambda done, total: None,
) -> Iterator[int]:
    """Yield what is done before each lap that is still to do; the caller then does the lap.

    Args:
        model: On any device; changed in place where a checkpoint is gone on from.
        optimiser: Of `model`; likewise.
        path: Of the checkpoint, written in one step; its folder is created if missing. None for none.
        total: Epochs or steps.
        each: How many make a lap.
        facts: What else to keep, as JSON; brought up to date from the checkpoint. ``of`` must be
            the same there.
        progress: Told after each lap.

    Raises:
        CorpusError: The checkpoint is damaged, or is of another training.
    """
    facts = {} if facts is None else facts
    done = 0
    if path and path.exists():
        facts |= _load(path, model, optimiser, of=facts.get("of", ""))
        done = facts.pop("done")
    while done < total:
        yield done
        done = min(done + each, total)
        if path:
            _save(path, model, optimiser, {"done": done, **facts})
        progress(done, total)


def descend(
    optimiser: torch.optim.Optimizer,
    loss: Tensor,
    *,
    rate: float | None = None,
    change: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """One step; at another learning rate, and along changed gradients, where they are given."""
    optimiser.zero_grad()
    loss.backward()
    for group in optimiser.param_groups:
        group["lr"] = group["lr"] if rate is None else rate
        for parameter in group["params"]:
            if change is not None and parameter.grad is not None:
                parameter.grad = change(parameter.grad)
    optimiser.step()


def _save(path: Path, model: nn.Module, optimiser: torch.optim.SGD, facts: dict[str, Any]) -> None:
    tensors = {f"model.{name}": value.detach() for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        velocity = optimiser.state.get(parameter, {}).get("momentum_buffer")
        if velocity is not None:
            tensors[f"momentum.{name}"] = velocity
    content = {name: value.cpu().contiguous() for name, value in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, save(content, {"facts": json.dumps(facts)}))


def _load(path: Path, model: nn.Module, optimiser: torch.optim.SGD, *, of: str) -> dict[str, Any]:
    """Read a checkpoint into `model` and `optimiser`; returns ``done`` and the other facts."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        old = {"done": int(tensors.pop("epochs"))} if "epochs" in tensors else {}  # until 0.1
        facts: dict[str, Any] = json.loads(metadata.get("facts", "{}")) or old
        if facts.get("of", "") != of:
            raise CorpusError(
                f"the checkpoint {path} is of other settings, answers or pictures; resume with "
                "those, or delete it to start again"
            )
        model.load_state_dict(_under("model.", tensors))
        facts["done"] = int(facts["done"])
    except CorpusError:
        raise
    except (SafetensorError, OSError, RuntimeError, KeyError, ValueError) as error:
        reason = " ".join(" ".join(str(error).split("\n")[:2]).split())  # torch names every layer
        raise CorpusError(
            f"the checkpoint {path} cannot be used: {reason}; delete it to start again"
        ) from error
    parameters = dict(model.named_parameters())
    for name, velocity in _under("momentum.", tensors).items():
        parameter = parameters[name]
        optimiser.state[parameter]["momentum_buffer"] = velocity.to(parameter.device)
    return facts


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
