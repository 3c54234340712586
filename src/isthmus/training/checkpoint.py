"""A run's state on disk, from which it continues identical to the bit: named tensors in safetensors, the rest in JSON.

`state.json` is the commit point: it names the tensor file and its digest, so that a run killed between the
two writes still finds the checkpoint before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isthmus.errors import InputError
from isthmus.files import TEMPORARY, file_digest, read_sealed, write_sealed, writing
from isthmus.weights import read_tensors, write_tensors

FORMAT = 1  # of the files
TRAINING = 1  # version of the loop: raised when the same recipe ends in other weights
CheckpointState = dict[str, Any]
Tensors = dict[str, Tensor]


def save(folder: Path, state: CheckpointState, tensors: Tensors) -> None:
    """Replace the checkpoint in `folder` by this one; `state["step"]` names its file."""
    path = folder / f"step-{state['step']:09d}.safetensors"
    write_tensors(path, tensors)
    write_sealed(folder / "state.json", {"format": FORMAT, "file": path.name, "digest": file_digest(path), **state})
    with writing(folder):
        for old in [*folder.glob("step-*.safetensors"), *folder.glob(f"{TEMPORARY}*")]:
            if old != path:
                old.unlink(missing_ok=True)


def load(folder: Path, identity: dict[str, Any], device: torch.device) -> tuple[CheckpointState, Tensors] | None:
    """The checkpoint in `folder`, or None if there is none.

    `identity` says what the run is: recipe, data, seed, training format, and whether its losses are compiled. Raises
    `InputError` when the checkpoint is of another run (what differs is named) or damaged.
    """
    path = folder / "state.json"
    if not path.exists():
        return None
    with _remedied(folder):
        state = read_sealed(path)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"{path}: not a training checkpoint of this version of isthmus. {_remedy(folder)}")
    if what := differences(_current(state.get("identity"), identity), identity):
        raise InputError(f"{folder} holds a checkpoint of another run: {what}. {_remedy(folder)}")
    with _remedied(folder):
        return state, read_tensors(folder / str(state.get("file")), str(state.get("digest")), str(device))


def _current(saved: Any, wanted: dict[str, Any]) -> Any:
    """The identity of a checkpoint of isthmus 0.1.0, which named the version but not the losses, in today's form."""
    if not isinstance(saved, dict) or saved.get("isthmus") != "0.1.0":
        return saved
    kept = {name: value for name, value in saved.items() if name != "isthmus"}
    return {"training": 1, **({"losses": wanted["losses"]} if "losses" in wanted else {}), **kept}


def clear(folder: Path) -> None:
    """Remove the checkpoint, after the trained model is saved."""
    with writing(folder):
        for file in [folder / "state.json", *folder.glob("step-*.safetensors"), *folder.glob(f"{TEMPORARY}*")]:
            file.unlink(missing_ok=True)


def _remedy(folder: Path) -> str:
    return f"Remove {folder} to start anew, or choose another output folder."


@contextmanager
def _remedied(folder: Path) -> Iterator[None]:
    """Add a remedy to an error."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{error} {_remedy(folder)}") from None


def differences(saved: Any, wanted: Any) -> str:
    """What differs between two nested dicts, such as "recipe.optim.lr is 0.001 there, 0.0003 here"; "" for nothing."""
    return "; ".join(_differences(saved, wanted))


def _differences(saved: Any, wanted: Any, name: str = "") -> Iterator[str]:
    if isinstance(saved, dict) and isinstance(wanted, dict):
        for key in sorted(saved.keys() | wanted.keys()):
            yield from _differences(saved.get(key), wanted.get(key), f"{name}.{key}" if name else key)
    elif saved != wanted:
        yield f"{name or 'its identity'} is {saved!r} there, {wanted!r} here"


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensors:
    """The optimizer's state as tensors named after the parameters they belong to."""
    return {
        f"optimizer.{name}.{key}": value
        for name, param in model.named_parameters()
        for key, value in optimizer.state.get(param, {}).items()
    }


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Load a state that `optimizer_tensors` wrote."""
    for name, param in model.named_parameters():
        if state := under(f"optimizer.{name}.", tensors):
            optimizer.state[param] = state


def under(prefix: str, tensors: Tensors) -> Tensors:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
