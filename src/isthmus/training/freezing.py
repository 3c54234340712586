"""Which parameters of a module are trained, which start from an earlier stage, and which stay frozen."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from isthmus.errors import InputError, UsageError


def freeze(module: nn.Module, train: Sequence[str]) -> None:
    """Train only parameters whose names match a pattern of `train`; () trains all that are trainable.

    Raises `UsageError` for a pattern that matches none.
    """
    names = [name for name, _ in module.named_parameters()]
    for pattern in train:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"train = {pattern!r} matches no parameter; there are {_some(names)}.")
    if train:
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in train))


def set_training(module: nn.Module) -> None:
    """Set training mode, except for parts with only frozen parameters, which stay in eval mode.

    So neither their dropout nor their running statistics change.
    """
    module.train()
    for part in module.modules():
        parameters = list(part.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            part.eval()


def take_over(module: nn.Module, start: Mapping[str, Mapping[str, Tensor]]) -> dict[str, str]:
    """Replace fresh tensors by those of an earlier stage, strictly; returns a digest of each part's tensors.

    start: for each part of `module`, all its tensors by name. Raises `InputError`, with a list, if tensors are missing,
    unknown or of another shape.
    """
    for part, tensors in start.items():
        try:
            wanted = module.get_submodule(part).state_dict()
        except AttributeError:
            raise InputError(f"start: this stage has no module {part!r}.") from None
        problems = [f"{name} is missing" for name in wanted if name not in tensors]
        problems += [f"{name} is unknown" for name in tensors if name not in wanted]
        problems += [
            f"{name} is {list(tensors[name].shape)} there, {list(wanted[name].shape)} here"
            for name in wanted
            if name in tensors and tensors[name].shape != wanted[name].shape
        ]
        if problems:
            raise InputError(f"start: the module {part!r} of the earlier stage does not fit: {_some(problems, 8)}.")
        module.get_submodule(part).load_state_dict(dict(tensors))
    return {part: digest(tensors) for part, tensors in start.items()}


def digest(tensors: Mapping[str, Tensor]) -> str:
    """32 hex digits of names, shapes and bytes."""
    found = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _some(names: Sequence[str], shown: int = 5) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown:,} more" if len(names) > shown else "")
