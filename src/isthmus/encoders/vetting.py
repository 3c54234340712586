"""Checks of a model's folder before libraries load it, as long as running its code is not allowed.

Through their configuration, libraries can be led to import a Python class, fetch a compute kernel, or read weights
elsewhere or pickled ones. The entries listed here cannot do that; everything else is refused before a library reads the
folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from isthmus.encoders import modules
from isthmus.encoders.limits import MAX_BYTES, check_limits
from isthmus.errors import InputError
from isthmus.files import read_json

# Module names of Sentence-Transformers, present and former.
NAMESPACE = re.compile(r"sentence_transformers\.(models|base\.modules|sentence_transformer\.modules)(\.\w+)+")
MODULES = {
    *modules.WEIGHTED,
    *modules.ROUTERS,
    *("BoW", "Dropout", "Normalize", "Pooling", "WordWeights"),
}
TOKENIZERS = {"WhitespaceTokenizer", "PhraseTokenizer"}
METHODS = re.compile(r"forward|get_\w+_features")  # of a network, for one modality

# Entries of any configuration that make a library fetch or run what is not in the folder, and their harmless values.
HARMLESS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("attn_implementation", "_attn_implementation"), (None, "eager", "sdpa")),
    "_attn_implementation_internal": (None, "eager", "sdpa"),
    **dict.fromkeys(("experts_implementation", "_experts_implementation"), (None, "eager", "batched_mm", "grouped_mm")),
    "_experts_implementation_internal": (None, "eager", "batched_mm", "grouped_mm"),
    **dict.fromkeys(("allow_all_kernels", "use_kernels"), (None, False)),
    **dict.fromkeys(("use_pretrained_backbone", "timm_model_pretrained"), (None, False)),
    **dict.fromkeys(("kernel_config", "fusion_config", "distributed_config", "transformers_weights"), (None,)),
    **dict.fromkeys(("quantization_config", "checkpoint_path", "gguf_file"), (None,)),
}
# Names of architectures, which with a scheme (`hf_hub:owner/name`) are places.
ARCHITECTURES = ("architecture", "backbone", "timm_model_name")
WORDS, OPEN_CLIP = "wordembedding_config.json", "open_clip_config.json"
ELSEWHERE = ("timm_backbone",)  # types of models whose weights come from another library's hub

# Entries in the configuration of a Transformer module.
ENTRIES = {
    *("max_seq_length", "do_lower_case", "transformer_task", "modality_config", "module_output_name"),
    *("processing_kwargs", "unpad_inputs", "query_length", "document_length", "query_expansion"),
}
ARGUMENTS = {
    "model": {"add_pooling_layer", "attn_implementation", "dtype", "torch_dtype"},
    "config": {"attn_implementation", "num_labels", "use_cache", "use_memory_efficient_attention", "unpad_inputs"},
    "processor": {
        *("model_max_length", "padding_side", "truncation_side", "use_fast", "do_lower_case", "add_prefix_space"),
        *("add_eos_token", "add_bos_token", "pad_token", "max_length", "min_pixels", "max_pixels"),
    },
}
ARGUMENTS["tokenizer"] = ARGUMENTS["processor"]


def check_folder(folder: Path, uri: Any) -> None:
    """Refuse a folder whose modules or configurations have more than the entries listed above.

    Raises InputError that names the file and the entry.
    """
    found = modules.find_modules(folder)
    for path, type_ in found.items():
        if not (NAMESPACE.fullmatch(type_) and modules.kind(type_) in MODULES):
            _refuse(uri, folder / path, f"its module {type_!r} is not one of Sentence-Transformers' own")
    for place in sorted({folder, *(folder / path for path in found)}):
        for file in sorted(place.glob("*config.json")):
            read = read_json(file, MAX_BYTES)
            check_limits(file, read)
            for key, value in _entries(read):
                _check_entry(uri, file, key, value)
    for path, type_ in found.items():
        _check_module(uri, folder / path, modules.kind(type_))
    if not found and (folder / "config.json").exists():
        _check_type(uri, folder / "config.json")


def _check_module(uri: Any, folder: Path, kind: str) -> None:
    if kind in ("Transformer", "CLIPModel"):
        if (folder / "config.json").exists():
            _check_type(uri, folder / "config.json")
        for file in sorted(folder.glob("sentence_*_config.json")):
            _check_transformer(uri, file, _mapping(file, read_json(file)))
    names = {"Dense": ("config.json", "activation_function"), "WordEmbeddings": (WORDS, "tokenizer_class")}
    if kind in names and (file := folder / names[kind][0]).exists():
        name = _mapping(file, read_json(file)).get(names[kind][1])
        if not ((name is None and kind == "Dense") or _is_known(name)):
            _refuse(uri, file, f"{names[kind][1]} is {name!r}")


def _is_known(name: Any) -> bool:
    """Whether `name` is an activation of torch, or a tokenizer of Sentence-Transformers."""
    from torch import nn

    place, _, last = str(name).rpartition(".")
    if place in ("torch.nn", "torch.nn.modules.activation", "torch.nn.modules.linear"):
        activation = getattr(nn.modules.activation, last, None)
        return last == "Identity" or (isinstance(activation, type) and issubclass(activation, nn.Module))
    return bool(NAMESPACE.fullmatch(str(name))) and last in TOKENIZERS


def _check_transformer(uri: Any, file: Path, config: Mapping[str, Any]) -> None:
    """Check the configuration of a Transformer module: its entries, and the arguments they pass on to transformers."""
    for key, value in config.items():
        allowed = next((ARGUMENTS[key.removesuffix(end)] for end in ("_args", "_kwargs")
                        if key.endswith(end) and key.removesuffix(end) in ARGUMENTS), None)  # fmt: skip
        if allowed is None and key not in ENTRIES:
            _refuse(uri, file, f"{key!r} is not a known entry")
        if allowed is not None and (unknown := sorted(set(_mapping(file, value)) - allowed - {"trust_remote_code"})):
            _refuse(uri, file, f"{key} passes on {unknown[0]!r}")
    for modality, called in _mapping(file, config.get("modality_config") or {}).items():
        method = _mapping(file, called).get("method", "forward")
        if modality != "message" and not METHODS.fullmatch(str(method)):
            _refuse(uri, file, f"{modality} calls the network's method {method!r}")


def _check_type(uri: Any, file: Path) -> None:
    if (type_ := _mapping(file, read_json(file)).get("model_type")) in ELSEWHERE:
        _refuse(uri, file, f"the weights of a {type_} are not in its folder")


def _check_entry(uri: Any, file: Path, key: str, value: Any) -> None:
    values = value.values() if isinstance(value, dict) and "attn_implementation" in key else [value]
    if key in HARMLESS and not all(any(one is fine or one == fine for fine in HARMLESS[key]) for one in values):
        _refuse(uri, file, f"{key} is {_short(value)}")
    place = key in ARCHITECTURES and isinstance(value, str) and ":" in value
    if place or (key == "trust_remote_code" and value and file.name == OPEN_CLIP):
        _refuse(uri, file, f"{key} is {value!r}")


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key at every depth, with its value."""
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield from value.items()
        pending += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _mapping(file: Path, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{file}: not a configuration: a JSON object is expected, with JSON objects for arguments.")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _refuse(uri: Any, file: Path, reason: str) -> None:
    raise InputError(
        f"{uri}: {file}: {reason}, which can run or fetch code that is not isthmus's. Change it, or allow it with"
        " --trust-remote-code (trust_remote_code=True) if you trust whoever made this model."
    )
