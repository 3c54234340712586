"""`--to st-plain`: a Router of Sentence-Transformers' own modules, without code, where they say the same exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from isthmus.data.feature_pairs import SIDES
from isthmus.encoders import Encoder
from isthmus.encoders.portable import POOLINGS, Portable
from isthmus.errors import UsageError
from isthmus.exports.hf import edit_json
from isthmus.exports.modeling_isthmus import make_transformer
from isthmus.exports.parity import check_close, differences
from isthmus.files import write_json
from isthmus.models.dual_encoder import DualEncoder
from isthmus.projectors import Head

REASON = "cannot be said in Sentence-Transformers' own modules (--to hf can)"
PILLOW = {"backend": "pil"}  # where torchvision is, transformers would resize with it, and differently
REQUIRED = {"sentence-transformers": ">=5.7"}  # for a Dense with use_residual


def write(model: DualEncoder, folder: Path) -> dict[str, Any]:
    """Write all but the card into `folder`; the largest difference for each side.

    Raises `UsageError` for what has no exact form, `InputError` for an export that differs.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Router

    with TemporaryDirectory() as beside:
        routes = {side: _route(model, side, Path(beside) / side) for side in SIDES}
        mappings: Any = {(None, side): side for side in SIDES}
        router = Router(routes, default_route="text", route_mappings=mappings)
        built = SentenceTransformer(modules=[router, Normalize()], device="cpu", similarity_fn_name="cosine")
        built.save_pretrained(str(folder), create_model_card=False)
    edit_json(folder / "config_sentence_transformers.json", requirements=REQUIRED)
    edit_json(folder / "image_0_Transformer" / "sentence_bert_config.json", processor_kwargs=PILLOW)
    loaded = SentenceTransformer(str(folder), device="cpu")
    found = differences(model, loaded.encode, loaded.encode, plain=True)
    check_close(found)
    return {"differences": found}


def _route(model: DualEncoder, side: str, folder: Path) -> list[Any]:
    """Transformer, pooling and the head of one side."""
    encoders = model.encoders[side]
    if len(encoders) > 1:
        raise UsageError(f"{len(encoders)} {side} encoders side by side {REASON}.")
    encoder = encoders[0]
    shipped = encoder.portable()
    if shipped.network["kind"] not in SIDES:
        raise UsageError(f"{encoder.uri}: its network is none of transformers, which {REASON}.")
    save = _save_image if side == "image" else _save_text
    head = head_modules(model.projector(side), model.width)
    return [*save(encoder, shipped, folder), *head]


def _save_image(encoder: Encoder, shipped: Portable, folder: Path) -> list[Any]:
    """The image's Transformer, and its Pooling where it gives tokens."""
    view, network = encoder.view(), shipped.network
    pooled = network["pooled"] if view["pool"] is None else None
    if view["pool"] not in (None, "cls") and (view["prefix"] or "+" in view["pool"] or view["pool"] != "mean"):
        raise UsageError(f"pool={view['pool']} of images {REASON}.")
    if network["noise"] or (network["pooled_first"] and not pooled):
        raise UsageError(f"{encoder.uri}: how its network is called {REASON}.")
    assert shipped.processor is not None
    name = shipped.processor["class"].removesuffix("Pil")
    _save_network(shipped, folder)
    write_json(folder / "preprocessor_config.json", {**shipped.processor["settings"], "image_processor_type": name})
    return _transformer(folder, "image", pooled or _output(view["layer"]), view["pool"], PILLOW)


def _save_text(encoder: Encoder, shipped: Portable, folder: Path) -> list[Any]:
    """The text's Transformer, its Pooling, and what its own pipeline has behind it."""
    view, network, how = encoder.view(), shipped.network, shipped.tokenizer
    assert how is not None
    if how["prompt"] or how["full"] or network["time_first"]:
        raise UsageError(f"{encoder.uri}: a prompt, or padding to full length, {REASON}.")
    pool = view["pool"] or network["pool"]
    pooled = network["pooled"] if pool is None else None
    if pool is not None and set(pool.split("+")) - set(POOLINGS.values()):
        raise UsageError(f"pool={pool} of texts {REASON}.")
    _save_network(shipped, folder)
    _save_tokenizer(how, network["inputs"], folder)
    modules = _transformer(folder, "text", pooled or _output(view["layer"]), pool, {})
    own = view["pool"] is None and len(network["modules"]) > 0
    return [*modules, *(list(encoder.network)[2:] if own else [])]  # type: ignore[call-overload]


def _output(layer: int | None) -> Any:
    return "last_hidden_state" if layer is None else ["hidden_states", layer]


def _save_network(shipped: Portable, folder: Path) -> None:
    network = make_transformer(shipped.network)
    state = {name.removeprefix("network."): one for name, one in shipped.state.items() if name.startswith("network.")}
    network.load_state_dict(state)
    network.save_pretrained(folder)


def _save_tokenizer(how: dict[str, Any], inputs: Sequence[str], folder: Path) -> None:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(how["json"])
    pad = {"pad_token": backend.id_to_token(how["pad"]), "padding_side": "left" if how["left"] else "right"}
    limit = how["max_tokens"] or int(1e30)
    PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=limit, model_input_names=list(inputs), **pad
    ).save_pretrained(folder)


def _transformer(folder: Path, side: str, output: Any, pool: str | None, processor: dict[str, Any]) -> list[Any]:
    """The Transformer in `folder`, and the Pooling of its tokens unless its `output` is pooled."""
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    tokens = pool is not None
    method = {"method": "forward", "method_output_name": output}
    transformer = Transformer(
        str(folder),
        processor_kwargs=processor,
        modality_config={side: method},
        module_output_name="token_embeddings" if tokens else "sentence_embedding",
    )
    if pool is None:
        return [transformer]
    names = {ours: theirs for theirs, ours in POOLINGS.items()}
    modes = tuple(names[part] for part in pool.split("+"))
    width = transformer.auto_model.config.hidden_size
    return [transformer, Pooling(width, pooling_mode=modes if len(modes) > 1 else modes[0])]


# --- the head


def head_modules(head: Head, width: int) -> list[Any]:
    """LayerNorm and Dense modules that are the head. `UsageError` for one that they cannot be."""
    config = head.config()
    if "members" in config:
        raise UsageError(f"A head that joins several ({config['kind']}, as the default recipe's does) {REASON}.")
    if ":" in config["kind"] or "glu" in config["kind"].split("+"):
        raise UsageError(f"A head of kind {config['kind']!r} {REASON}.")
    if config["norm"] == "layer" and len(config["parts"]) > 1:
        raise UsageError(f"A norm of its own for each of {len(config['parts'])} parts {REASON}.")
    modules = [] if config["norm"] == "none" else [_layer_norm(head.norm.norms[0])]  # type: ignore[union-attr, index]
    for name, block in zip(config["kind"].split("+"), head.blocks, strict=True):  # type: ignore[arg-type]
        if name not in BLOCKS:
            raise UsageError(f"A head of kind {config['kind']!r} {REASON}.")
        modules += BLOCKS[name](block)
    if width < config["width"]:
        modules.append(_dense(torch.eye(config["width"])[:width]))
    return modules


def _linear(block: Any) -> list[Any]:
    return [_dense(block.linear.weight, block.linear.bias)]


def _mlp(block: Any) -> list[Any]:
    return [_dense(block.up.weight, block.up.bias, nn.GELU()), _dense(block.down.weight, block.down.bias)]


def _parallel(block: Any) -> list[Any]:
    """x to [GELU(B x); x], then [C A]."""
    up = torch.block_diag(*(one.weight for one in block.up))
    beside = _beside(up, torch.cat([one.bias for one in block.up]))
    matrix = torch.cat([one.weight for one in (*block.down, *block.linear)], dim=1)
    return [beside, _dense(matrix, sum(one.bias for one in (*block.down, *block.linear)))]


def _residual(block: Any) -> list[Any]:
    """p, then [GELU(p); p], then [M I], then LayerNorm."""
    eye = torch.eye(len(block.linear.bias))
    joined = _dense(torch.cat([block.inner.weight, eye], dim=1), block.inner.bias)
    return [_dense(block.linear.weight, block.linear.bias), _beside(eye, None), joined, _layer_norm(block.norm)]


BLOCKS = {"linear": _linear, "mlp": _mlp, "parallel": _parallel, "residual": _residual}


def _beside(up: Tensor, bias: Tensor | None) -> Any:
    """x [N, D] to [GELU(up x + bias); x], by a Dense with a residual: GELU(0) is 0."""
    hidden, inputs = up.shape
    offset = torch.cat([torch.zeros(hidden) if bias is None else bias, torch.zeros(inputs)])
    module = _dense(torch.cat([up, torch.zeros(inputs, inputs)]), offset, nn.GELU(), use_residual=True)
    with torch.no_grad():
        module.residual.weight.copy_(torch.cat([torch.zeros(hidden, inputs), torch.eye(inputs)]))
    return module


def _dense(weight: Tensor, bias: Tensor | None = None, activation: nn.Module | None = None, **options: Any) -> Any:
    from sentence_transformers.sentence_transformer.modules import Dense

    return Dense(
        weight.shape[1],
        weight.shape[0],
        bias=bias is not None,
        activation_function=activation or nn.Identity(),
        init_weight=weight.detach().clone(),
        init_bias=None if bias is None else bias.detach().clone(),
        **options,
    )


def _layer_norm(norm: Any) -> Any:
    from sentence_transformers.sentence_transformer.modules import LayerNorm

    module = LayerNorm(len(norm.weight))
    module.norm.load_state_dict(norm.state_dict())
    return module
