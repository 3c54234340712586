"""The model card: a README written from the facts of the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from isthmus.data.encoder_record import EncoderRecord, modalities_of
from isthmus.data.feature_pairs import SIDES
from isthmus.files import write_atomic
from isthmus.models.ledger import rows as ledger_rows
from isthmus.models.seen import SEEN, SeenItems
from isthmus.version import __version__

TEMPLATE = """\
---
library_name: isthmus
tags: [clip, dual-encoder, zero-shot, retrieval]
---
# A dual encoder joined by isthmus {version}

Frozen encoders, trained projectors: only the projectors and the temperature are in this folder. The encoders
are loaded from where they come from, and checked by fingerprint.

```python
import isthmus as ist
model = ist.DualEncoder.from_pretrained("path/to/this/folder")
{example}
```

## Encoders
| modality | encoder | width | fingerprint | licence |
|---|---|---|---|---|
{encoders}

The licences of the encoders apply to the model as a whole.

## Projectors
Joint space: {width} dimensions; {parameters:,} trained parameters; scale {scale:.2f}{bias}.

## Training
{training}

## What it has seen
{seen}

## Compute and bytes
{ledger}
"""


def write_card(
    path: Path,
    *,
    records: dict[str, list[EncoderRecord]],
    heads: nn.Module,
    width: int,
    scale: float,
    bias: float | None,
    summary: dict[str, Any],
    seen: SeenItems | None = None,
) -> None:
    """Write `README.md` for a model; all numbers come from the model and its training summary.

    records: of the encoders, by modality. heads: what was trained. The others as in `DualEncoder`.
    """
    text = TEMPLATE.format(
        **card_fields(records, summary, seen, list(heads.parameters())),
        example=_example(modalities_of(records)),
        width=width,
        scale=scale,
        bias="" if bias is None else f", bias {bias:.2f}",
    )
    write_atomic(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def _example(modalities: tuple[str, ...]) -> str:
    """How the model is called: items of ours as they look, of other modalities by a file's name."""
    items = {"image": "cat.jpg", "text": "a cat"}
    if modalities == SIDES:
        return "; ".join(f'model.encode_{side}(["{items[side]}"])' for side in SIDES)
    named = [(one, items.get(one, f"file of {one}")) for one in modalities]
    return "; ".join(f'model.encode("{modality}", ["{item}"])' for modality, item in named)


def encoder_rows(records: dict[str, list[EncoderRecord]]) -> list[str]:
    """One row per encoder, of the table with modality, encoder, width, fingerprint and licence."""
    return [
        f"| {modality} | `{r['uri']}` | {r['width']} | `{r['fingerprint'][:12]}` | {r.get('licence') or 'unknown'} |"
        for modality, listed in zip(modalities_of(records), records.values(), strict=True)
        for r in listed
    ]


NOTE = """
Items, seconds and operations of features are those of the passes that wrote the whole store, of which training may have
used a part; encoders that ran side by side share their seconds. Operations are torch's count of products and
convolutions, two per multiply-add. Not in it: the encoders' own pretraining, closed forms, evaluation."""


REMEMBERED = """
`{file}` holds eight bytes of the hash of each of these, so that evaluation says which of its items are new. No picture
and no caption can be read from it; but who has a picture, or guesses a caption letter for letter, can ask whether it
was there. `isthmus train --forget-items` leaves the file out. What trained the frozen encoders is not in it."""


def _remarks(summary: dict[str, Any]) -> str:
    """What a reader of the numbers has to know about where they come from."""
    tuned, said = summary.get("tuned"), _refit(summary.get("refit"))
    if isinstance(tuned, dict) and "trials" in tuned:
        said += (
            f"\n\nThe settings are the best of {tuned['trials']} trials on the validation pairs, so that the "
            "validation numbers flatter the model: judge it by others."
        )
    return said


def _refit(facts: Any) -> str:
    """What the numbers above are of, where the weights are of a second fit."""
    if not isinstance(facts, dict) or "pairs" not in facts:
        return ""
    return (
        f"\n\nThese weights are of a second fit, on all {facts['pairs']:,} pairs: training and validation together, "
        "with what had been chosen on the validation pairs and as many steps. The validation numbers are of the fit "
        "before, which had not seen them."
    )


def card_fields(
    records: dict[str, list[EncoderRecord]],
    summary: dict[str, Any],
    seen: SeenItems | None,
    trained: Sequence[Tensor],
) -> dict[str, Any]:
    """What the cards of all kinds of models say alike. trained: the tensors that are the model's own."""
    return {
        "version": __version__,
        "parameters": sum(one.numel() for one in trained),
        "encoders": "\n".join(encoder_rows(records)),
        "training": "\n".join(summary_rows(summary)) + _remarks(summary) or "No summary was recorded.",
        "seen": seen_rows(seen),
        "ledger": ledger_table(summary.get("ledger"), sum(one.nbytes for one in trained)),
    }


def seen_rows(seen: SeenItems | None) -> str:
    """The counts of what a model remembers, and what that is."""
    if seen is None:
        return "The model does not remember which items trained it."
    roles = {"train": "trained it", "val": "validated it"}
    rows = [f"| {modality} | {role} | {n:,} |" for r, role in roles.items() for modality, n in seen.counts()[r].items()]
    return "\n".join(["| items of | which | distinct |", "|---|---|---|", *rows, REMEMBERED.format(file=SEEN)])


def ledger_table(ledger: Any, weight_bytes: int) -> str:
    """The costs of a model's ledger as a table."""
    if not isinstance(ledger, dict) or "features" not in ledger:
        return "No ledger was recorded."
    return "\n".join(ledger_rows(ledger, weight_bytes)) + "\n" + NOTE


def summary_rows(summary: dict[str, Any]) -> list[str]:
    """One row per fact, except the ledger's; nested facts (the recipe's sections) as `section.key`."""
    rows = ["| | |", "|---|---|"]
    for name, value in _flat({name: value for name, value in summary.items() if name != "ledger"}):
        rows.append(f"| {name} | {value:.4g} |" if isinstance(value, float) else f"| {name} | {value} |")
    return rows if len(rows) > 2 else []


def _flat(summary: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in summary.items():
        flat += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return flat
