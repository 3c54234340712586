"""Changes to the last block of a frozen transformer that make its patches more local, as SAIL's evaluation has them.

The encoder's weights and code stay as they are: hooks change the activations inside a context.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from isthmus.encoders import Encoder
from isthmus.encoders.base import find_blocks
from isthmus.errors import UsageError

ATTENTIONS = ("qk", "qq")
QUERIES_AND_KEYS = (("q_proj", "k_proj"), ("query", "key"))  # names of the two projections in transformers
LAYER_SCALES = ("layer_scale1", "ls1")
SECOND_NORMS = ("norm2", "layernorm_after", "layer_norm2")  # modules between the first residual and the MLP
Alone = Literal["attention", "residual"]


@contextmanager
def last_block(encoder: Encoder, attention: str = "qk", *, alone: Alone | None = None) -> Iterator[None]:
    """Inside this context, change the block after which this view's tokens are read. Not thread-safe.

    attention: "qk" is the network's own; "qq" lets each token attend to those with similar queries, itself first
        (SCLIP: Wang et al. 2023, arXiv 2312.01597).
    alone: "attention" keeps only the attention's output, without both residuals and the MLP (ClearCLIP: Lan et al.
        2024, arXiv 2407.12442); "residual" what SAIL's code keeps under that name: the normalised sum of the
        attention and its residual, without the MLP and the second residual.

    Raises `UsageError` for an unknown attention or part, and for a network without blocks, separable queries and
    keys, or, for "residual", a norm before the MLP.
    """
    if attention not in ATTENTIONS:
        raise UsageError(f"no attention {attention!r}: there are {', '.join(ATTENTIONS)}.")
    if alone not in (None, "attention", "residual"):
        raise UsageError(f"alone {alone!r}: is attention (ClearCLIP's) or residual (SAIL's).")
    handles = []
    try:
        if attention == "qq" or alone:
            block = _block(encoder)
            child, module = _attention(encoder, block)
            if attention == "qq":
                handles.append(_compare_queries(module))
            if alone == "attention":
                handles += _leave_attention_alone(block, child)
            elif alone == "residual":
                handles += _leave_residual_alone(encoder, block)
        yield
    finally:
        for handle in handles:
            handle.remove()


def _block(encoder: Encoder) -> nn.Module:
    blocks = find_blocks(encoder.network, encoder.depth)
    layer = encoder.depth if encoder.layer is None else encoder.layer
    if not blocks or layer == 0:
        raise UsageError(
            f"{encoder.uri}: has no transformer block in front of these tokens whose attention could change."
        )
    return blocks[layer - 1]


def _attention(encoder: Encoder, block: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The attention module of the block, and the module in it with the projections."""
    for child in block.children():
        for module in child.modules():
            if hasattr(module, "qkv") or any(hasattr(module, q) and hasattr(module, k) for q, k in QUERIES_AND_KEYS):
                return child, module
    raise UsageError(
        f"{encoder.uri}: the attention of {type(block).__name__} has no separate projections of queries and keys; "
        "use attention qk."
    )


def _compare_queries(attention: Any) -> Any:
    """Use the queries in place of the keys."""
    if hasattr(attention, "qkv"):

        def fused(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            query, _, value = output.chunk(3, dim=-1)
            return torch.cat([query, query, value], dim=-1)

        return attention.qkv.register_forward_hook(fused)
    q, k = next((q, k) for q, k in QUERIES_AND_KEYS if hasattr(attention, q))
    query = getattr(attention, q)
    return getattr(attention, k).register_forward_hook(lambda _module, inputs, _output: query(*inputs))


def _leave_attention_alone(block: nn.Module, attention: nn.Module) -> list[Any]:
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        seen[:] = [output if isinstance(output, Tensor) else output[0]]

    def replace(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        scale = next((getattr(block, name) for name in LAYER_SCALES if hasattr(block, name)), nn.Identity())
        changed = scale(seen.pop())
        return changed if isinstance(output, Tensor) else (changed, *output[1:])

    return [attention.register_forward_hook(keep), block.register_forward_hook(replace)]


def _leave_residual_alone(encoder: Encoder, block: nn.Module) -> list[Any]:
    norm = next((getattr(block, name) for name in SECOND_NORMS if hasattr(block, name)), None)
    if norm is None:
        raise UsageError(
            f"{encoder.uri}: {type(block).__name__} has no norm before its MLP ({', '.join(SECOND_NORMS)})."
        )
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        seen[:] = [output]

    def replace(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        changed = seen.pop()
        return changed if isinstance(output, Tensor) else (changed, *output[1:])

    return [norm.register_forward_hook(keep), block.register_forward_hook(replace)]
