"""The ledger of a model's cost: items, seconds, bytes and floating-point operations of features and heads.

`embed` appends the cost of each pass to `ledger.jsonl` in the store; `train` sums it up for its encoders and adds its
own cost. The encoders' own pretraining is not included.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from isthmus.data.encoder_record import EncoderRecord
from isthmus.errors import InputError
from isthmus.files import writing
from isthmus.owned import regular
from isthmus.store.shards import shard_folder, shard_paths

if TYPE_CHECKING:
    from isthmus.encoders import Encoder

LEDGER = "ledger.jsonl"
MAX_LEDGER = 2**26  # bytes
ROWS = 2  # rows of ones, on which a head's operations are counted


# --- features ---------------------------------------------------------------------------------------------------------


def encoder_cost(views: Sequence[Encoder], items: Sequence[Any]) -> dict[str, Any]:
    """Parameters of one network, and its operations per item: torch's count of products and convolutions in a forward
    pass over each of `items` (two per multiply-add), so that captions count at the length they have, without padding.
    Nothing for a callable.
    """
    network = views[0].network
    parameters = sum(p.numel() for p in network.parameters())
    if not parameters or not items:
        return {"parameters": parameters or None, "flops_per_item": None}
    from isthmus.encoders import encode_views

    with FlopCounterMode(display=False) as counter:
        for item in items:
            encode_views(list(views), views[0].prepare([item]))
    return {"parameters": parameters, "flops_per_item": counter.get_total_flops() // len(items) or None}


@contextmanager
def timed(store: Path, entry: dict[str, Any], device: str) -> Iterator[dict[str, Any]]:
    """Append `entry` to the store's ledger when the block ends, also by an error, with its seconds.

    The block sets `entry["items"]`. A pass that encoded nothing leaves no line.
    """
    began = monotonic()
    try:
        yield entry
    finally:
        if entry.get("items"):
            entry |= {"seconds": round(monotonic() - began, 2), "device": device, "threads": torch.get_num_threads()}
            with writing(store), open(store / LEDGER, "a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")


def entries(store: Path) -> list[dict[str, Any]]:
    """The lines of a store's ledger; unreadable ones are left out, because nothing depends on them."""
    try:
        lines = regular(store / LEDGER, MAX_LEDGER).read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, InputError):
        return []
    found = []
    for line in lines:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and _usable(entry):
            found.append(entry)
    return found


def _usable(entry: dict[str, Any]) -> bool:
    encoders = entry.get("encoders")
    counted = all(isinstance(entry.get(name), int | float) for name in ("items", "seconds"))
    return counted and isinstance(encoders, list) and all(isinstance(one, dict) for one in encoders)


def features_cost(store: Path | None, record: EncoderRecord) -> dict[str, Any]:
    """The cost of one encoder's features: items, seconds, flops and bytes, each None if unknown.

    Encoders whose passes ran side by side share their seconds. bytes: of the shards on disk.
    """
    found: dict[str, Any] = dict.fromkeys(("items", "seconds", "flops", "bytes"))
    found = {"uri": record.get("uri"), "parameters": None, **found}
    fingerprint = record.get("fingerprint")
    if store is None or fingerprint is None:
        return found
    shards = shard_paths(shard_folder(store, str(record.get("modality")), fingerprint))
    found["bytes"] = sum(path.stat().st_size for path in shards) or None
    for entry in entries(store):
        mine = next((one for one in entry["encoders"] if one.get("fingerprint") == fingerprint), None)
        if mine is None:
            continue
        found["parameters"] = mine.get("parameters")
        found["items"] = (found["items"] or 0) + entry["items"]
        found["seconds"] = round((found["seconds"] or 0) + entry["seconds"], 2)
        if mine.get("flops_per_item"):
            found["flops"] = (found["flops"] or 0) + mine["flops_per_item"] * entry["items"]
    return found


# --- heads ------------------------------------------------------------------------------------------------------------


def head_flops(image: nn.Module, text: nn.Module) -> int:
    """Operations of one pair in a training step, forward and backward through both heads, as torch counts them.

    Token heads as if every text were of the full length: ones, since tokens of zeros are padding.
    """
    heads = [head for head in (image, text) if any(p.requires_grad for p in head.parameters())]
    total = 0
    for head in heads:
        device = next(head.parameters()).device
        with torch.enable_grad(), FlopCounterMode(display=False) as counter:
            gradients = head(torch.ones(ROWS, sum(head.parts), device=device)).float().sum()  # type: ignore[arg-type]
            torch.autograd.grad(gradients, [p for p in head.parameters() if p.requires_grad], allow_unused=True)
        total += counter.get_total_flops() // ROWS
    return total


def training_cost(
    image: nn.Module, text: nn.Module, *, pairs_seen: int, batch: int, widths: Sequence[int], seconds: float
) -> dict[str, Any]:
    """The cost of the heads' training: pairs seen, seconds, flops. widths: of the embeddings in the products of the
    loss.

    flops = pairs seen · (both heads, forward and backward + 6 · batch · width for the products of the loss). Closed
    forms and evaluation are not in it.
    """
    flops = pairs_seen * (head_flops(image, text) + 6 * batch * sum(widths)) if pairs_seen else 0
    return {"pairs_seen": pairs_seen, "seconds": round(seconds, 2), "flops": flops}


def model_ledger(
    store: Path | None, records: dict[str, list[EncoderRecord]], training: dict[str, Any]
) -> dict[str, Any]:
    """The ledger of a trained model: {"features": {"image": […], "text": […]}, "training": {…}}."""
    features = {side: [features_cost(store, one) for one in listed] for side, listed in records.items()}
    return {"features": features, "training": training}


def rows(ledger: dict[str, Any], projector_bytes: int) -> list[str]:
    """The ledger as lines of a Markdown table, for the model card."""
    lines = ["| | items | seconds | bytes | FLOPs |", "|---|---:|---:|---:|---:|"]
    for side, listed in ledger["features"].items():
        for one in listed:
            values = (_number(one["items"]), _seconds(one["seconds"]), _number(one["bytes"]), _scientific(one["flops"]))
            lines.append(f"| {side} features, `{one['uri']}` | " + " | ".join(values) + " |")
    one = ledger["training"]
    seen = f"{one['pairs_seen']:,} pairs seen"
    values = (seen, _seconds(one["seconds"]), _number(projector_bytes), _scientific(one["flops"]))
    lines.append("| training of the heads | " + " | ".join(values) + " |")
    return lines


def _number(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.1f}"


def _scientific(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"
