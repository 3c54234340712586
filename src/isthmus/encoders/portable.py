"""What a program without isthmus needs for an encoder's features: network by name, weights, preprocessing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from isthmus.errors import UsageError

TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
POOLINGS = {"cls": "cls", "max": "max", "mean": "mean", "lasttoken": "last"}  # of Sentence-Transformers, and ours


@dataclass(frozen=True)
class Portable:
    """One network as `export` ships it (`isthmus.exports.modeling_isthmus` reads it).

    network: how it is made, as JSON. state: its weights. processor: {"module", "class", "settings"} of an image
    encoder; tokenizer: {"json", "prompt", "max_tokens", …} of a text encoder. code: a file of plain torch that defines
    the network's class, for one that transformers does not have.
    """

    network: dict[str, Any]
    state: dict[str, Tensor]
    processor: dict[str, Any] | None = None
    tokenizer: dict[str, Any] | None = None
    code: Path | None = None


def prefixed(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    """The weights of a module under `prefix.`"""
    return {f"{prefix}.{name}": tensor.detach().cpu() for name, tensor in module.state_dict().items()}


def transformer(network: Any, what: Any) -> dict[str, Any]:
    """How a network of transformers is made: {"module", "class", "config"}. `UsageError` for code from elsewhere."""
    module = type(network).__module__
    if not module.startswith("transformers."):
        raise UsageError(f"{what}: its network is code of its own ({type(network).__name__}), which is not copied.")
    config = {name: value for name, value in network.config.to_dict().items() if name != "_name_or_path"}
    return {"module": module, "class": type(network).__name__, "config": config}


def image_processor(processor: Any, what: Any) -> dict[str, Any]:
    """How an image processor of transformers is made. `UsageError` for code from elsewhere."""
    module, settings = type(processor).__module__, processor.to_dict()
    if not module.startswith("transformers."):
        raise UsageError(f"{what}: its image processor is code of its own, which is not copied.")
    incidental = ("image_processor_type", "processor_class", "auto_map", "_processor_class")
    kept = {name: value for name, value in settings.items() if name not in incidental and value is not None}
    return {"module": module, "class": type(processor).__name__, "settings": kept}


def tokenizer(tokenizer: Any, what: Any, **how: Any) -> dict[str, Any]:
    """How a tokenizer of transformers, or of tokenizers, is made; `how`: what differs from the usual."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not hasattr(backend, "to_str"):
        raise UsageError(f"{what}: its tokenizer is Python code, which has no form that others read.")
    return {
        "json": backend.to_str(),
        "pad": getattr(tokenizer, "pad_token_id", None) or 0,
        "pad_type": getattr(tokenizer, "pad_token_type_id", 0),
        "left": getattr(tokenizer, "padding_side", "right") == "left",
        "prompt": "",
        "max_tokens": None,
        "add_special_tokens": True,
        "full": False,
        "empty": "",
        **how,
    }


def pipeline(modules: Any, what: Any) -> tuple[dict[str, Any], nn.ModuleList]:
    """What stands behind the network of a pipeline of Sentence-Transformers: {"pool", "modules"}, and its weights.

    modules: those behind the first. Raises `UsageError` for one that is not known.
    """
    found: list[dict[str, Any]] = []
    weights, pool = nn.ModuleList(), None
    for module in modules:
        kind, linear = type(module).__name__, getattr(module, "linear", nn.Identity())
        if kind == "Pooling" and pool is None and not found:
            pool = _pooling(module, what)
        elif kind == "Dense" and module.module_input_name == module.module_output_name == "sentence_embedding":
            found.append({"kind": "dense", "options": _dense(module)})
            weights.append(nn.ModuleDict({"linear": linear, **_residual(module)}))
        elif kind == "LayerNorm":
            found.append({"kind": "layer_norm", "width": module.dimension})
            weights.append(module.norm)
        elif kind == "Normalize":
            found.append({"kind": "normalize"})
            weights.append(nn.Identity())
        else:
            raise UsageError(f"{what}: the module {kind} of its pipeline is none that can be exported.")
    return {"pool": pool, "modules": found}, weights


def _pooling(module: Any, what: Any) -> str:
    modes = [module.pooling_mode] if isinstance(module.pooling_mode, str) else list(module.pooling_mode)
    for mode in modes:
        if mode not in POOLINGS:
            raise UsageError(f"{what}: its pooling {mode} is none that can be exported.")
    return "+".join(POOLINGS[mode] for mode in modes)


def _residual(module: Any) -> dict[str, nn.Module]:
    residual = getattr(module, "residual", None)
    return {} if residual is None else {"residual": residual}


def _dense(module: Any) -> dict[str, Any]:
    return {
        "inputs": module.in_features,
        "outputs": module.out_features,
        "bias": module.bias,
        "activation": type(module.activation_function).__name__,
        "residual": bool(getattr(module, "use_residual", False)),
    }
