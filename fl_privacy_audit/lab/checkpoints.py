"""Trainings on disk: weights, momentum, and how far it got, in one safetensors file."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.core.files import write_whole


def save_checkpoint(
    path: Path, model: nn.Module, optimiser: torch.optim.SGD, *, done: int, **facts: Any
) -> None:
    """Write a checkpoint in one step, so that a kill loses at most what came after the last one.

    Args:
        path: Its folder is created if missing.
        model: On any device.
        optimiser: Of `model`.
        done: Epochs or steps done.
        facts: What else to keep, as JSON.
    """
    tensors = {f"model.{name}": value.detach() for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        velocity = optimiser.state.get(parameter, {}).get("momentum_buffer")
        if velocity is not None:
            tensors[f"momentum.{name}"] = velocity
    content = {name: value.cpu().contiguous() for name, value in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, save(content, {"facts": json.dumps({"done": done, **facts})}))


def load_checkpoint(
    path: Path, model: nn.Module, optimiser: torch.optim.SGD, *, of: str = ""
) -> dict[str, Any]:
    """Read a checkpoint into `model` and `optimiser`.

    Args:
        path: From `save_checkpoint`.
        model: Changed in place.
        optimiser: Of `model`; changed in place.
        of: What the fact ``of`` must be; empty where there is none.

    Returns:
        ``done`` and the other facts.

    Raises:
        CorpusError: The file is damaged, or is of another training.
    """
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
        prefix = "model."
        model.load_state_dict(
            {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        )
        facts["done"] = int(facts["done"])
    except CorpusError:
        raise
    except (SafetensorError, OSError, RuntimeError, KeyError, ValueError) as error:
        reason = " ".join(
            " ".join(str(error).split("\n")[:2]).split()
        )  # torch goes on with every layer
        raise CorpusError(
            f"the checkpoint {path} cannot be used: {reason}; delete it to start again"
        ) from error
    for name, parameter in model.named_parameters():
        if f"momentum.{name}" in tensors:
            velocity = tensors[f"momentum.{name}"].to(parameter.device)
            optimiser.state[parameter]["momentum_buffer"] = velocity
    return facts
