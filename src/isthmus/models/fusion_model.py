"""The fusion model: layers of two frozen encoders by reference, and the trained network that joins them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from isthmus.data.encoder_record import EncoderRecord
from isthmus.data.feature_pairs import SIDES
from isthmus.encoders import Encoder
from isthmus.encoders.modality import spec_of
from isthmus.encoders.unfrozen import last_blocks
from isthmus.errors import InputError, UsageError
from isthmus.files import locate, write_atomic
from isthmus.fusion import Fused, FusionNetwork, FusionPlan, SideStates, side_states
from isthmus.fusion.sides import joined
from isthmus.models.card import card_fields
from isthmus.models.reading import listed_items, read_item
from isthmus.models.saved import (
    CONFIG,
    WEIGHTS,
    Records,
    check_encoders,
    load_encoders_of,
    read_config,
    read_weights,
    saved_seen,
    write_model,
)
from isthmus.models.seen import SeenItems

BLOCKS = "blocks."  # prefix of weights of encoders in a model's file
CARD = """\
---
library_name: isthmus
tags: [vision-language, visual-question-answering]
---
# A fusion model joined by isthmus {version}

Frozen encoders, and a trained network over several of their layers: {parameters:,} parameters, aggregator
`{aggregator}`. The encoders are loaded from where they come from, and checked by fingerprint.

```python
import isthmus as ist
model = ist.load_model("path/to/this/folder")
{example}
```

## Encoders
| modality | encoder | width | fingerprint | licence |
|---|---|---|---|---|
{encoders}

The licences of the encoders apply to the model as a whole.

## Training
{training}

## What it has seen
{seen}

## Compute and bytes
{ledger}
"""


class FusionModel:
    """Questions about pictures, and whether a text fits a picture, from the layers of two frozen encoders.

    Args:
        network: what was trained, with weights.
        records: `{"image": [...], "text": [...]}`, a record of states for each layer, bottom first.
        answers: what the answers' head can say, in its order; [] without one.
        loss: how answers were trained: "soft" (each by itself), "one" (one of them is right).
        blocks: by side, the weights of the encoder's last blocks, where training changed them.
        encoders: the loaded views in the same order, or None for a model over cached states alone.
        lazy: load encoders that are not given when they are first needed.
        summary: what the training run reported. seen: the items that trained it.
    """

    kind: ClassVar[str] = "fusion"

    def __init__(
        self,
        network: FusionNetwork,
        *,
        records: Records,
        answers: Sequence[str] = (),
        loss: Literal["soft", "one"] = "soft",
        blocks: Mapping[str, Mapping[str, Tensor]] | None = None,
        encoders: dict[str, list[Encoder]] | None = None,
        lazy: bool = False,
        summary: dict[str, Any] | None = None,
        seen: SeenItems | None = None,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.records, self.answers, self.loss = records, list(answers), loss
        self.encoders, self.lazy = encoders or {}, lazy
        self.summary, self.seen = summary or {}, seen
        self.blocks = {side: dict(weights) for side, weights in (blocks or {}).items()}
        for side, loaded in self.encoders.items():
            self._fit(side, loaded)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def with_encoders(self, **encoders: Sequence[Encoder]) -> FusionModel:
        """This model with these loaded views, `image=` and `text=`, one for each layer; weights are shared.

        Raises `InputError` for encoders other than those it was trained on.
        """
        for side, loaded in encoders.items():
            self._fit(side, loaded)
        model = copy(self)
        model.encoders = self.encoders | {side: list(loaded) for side, loaded in encoders.items()}
        return model

    # --- states --------------------------------------------------------------------------------------------

    def states(self, pictures: Any, texts: Any, *, batch_size: int = 32) -> dict[str, SideStates]:
        """States of pictures and of as many texts, live from the encoders; one picture goes with all texts.

        pictures: paths, PIL images, encoded bytes, arrays [H, W, 3]; or `SideStates` from `side`. texts: strings.
        Raises `InputError` for a picture that cannot be used, `UsageError` for other numbers of both.
        """
        found = {
            side: items if isinstance(items, SideStates) else self.side(side, items, batch_size=batch_size)
            for side, items in zip(SIDES, (pictures, texts), strict=True)
        }
        counts = {len(states) for states in found.values()}
        if len(counts) > 1 and len(found["image"]) != 1:
            raise UsageError(f"{len(found['image'])} pictures and {len(found['text'])} texts: give as many of both.")
        if len(counts) > 1:
            every = torch.zeros(len(found["text"]), dtype=torch.int64, device=self.device)
            found["image"] = found["image"].take(every)
        return found

    @torch.no_grad()
    def side(self, side: str, items: Any, *, batch_size: int = 32) -> SideStates:
        """States of the items of one side, "image" or "text", on the model's device."""
        views = self.encoders_of(side)
        modality = views[0].modality
        listed = listed_items(modality, items)
        if not listed:
            raise UsageError(f"no {modality} is given.")
        parts = []
        for start in range(0, len(listed), batch_size):
            some = [read_item(modality, item) for item in listed[start : start + batch_size]]
            found = views[0].states(some, [view.layer for view in views])
            parts.append(self.prepared(side, found.values, found.mask))
        return joined(parts)

    def prepared(self, side: str, values: Any, mask: Any) -> SideStates:
        """Raw states of the model's layers, live or from `Store.states`, as the network takes them."""
        return prepare_states(self.records[side], self.network.plan.options.grid, values, mask).ready(self.device)

    def encoders_of(self, side: str) -> list[Encoder]:
        """The views of a side, loaded if they may be. Raises `InputError` where there is none to be had."""
        if side not in self.encoders:
            if not self.lazy:
                raise InputError(f"This model was loaded without its {side} encoder: load it with load=True.")
            loaded = load_encoders_of({side: self.records[side]}, device=str(self.device))[side]
            self._fit(side, loaded)
            self.encoders[side] = loaded
        return self.encoders[side]

    def _fit(self, side: str, loaded: Sequence[Encoder]) -> None:
        """Check the encoders of a side, and put the blocks that were trained into their network."""
        check_encoders(loaded, self.records[side])
        if weights := self.blocks.get(side):
            count = 1 + max(int(name.partition(".")[0]) for name in weights)
            last_blocks(loaded[0], count).load_state_dict(dict(weights))

    # --- what it is asked ----------------------------------------------------------------------------------

    @torch.no_grad()
    def fuse(self, states: Mapping[str, SideStates], *, inputs: bool = False) -> Fused:
        """Fused states of both halves, with the mixing weights of every cross-modal layer (`Fused.weights`)."""
        return self.network(states, inputs=inputs)

    def answer(self, pictures: Any, questions: Any, *, batch_size: int = 32) -> np.ndarray:
        """Probabilities float32 [B, answers] of `model.answers`; of "soft" answers each by itself, else sum 1.

        pictures, questions: as for `states`; one picture goes with all questions.
        Raises `UsageError` for a model without answers, and as `states`.
        """

        def told(fused: Fused) -> Tensor:
            logits = self.network.answer_logits(fused)
            return logits.sigmoid() if self.loss == "soft" else logits.softmax(-1)

        return self._each(self.states(pictures, questions, batch_size=batch_size), told, batch_size)

    def match(self, pictures: Any, texts: Any, *, batch_size: int = 32) -> np.ndarray:
        """The probability float32 [B] that a text belongs to its picture. Raises as `answer`."""
        states = self.states(pictures, texts, batch_size=batch_size)
        return self._each(states, lambda fused: self.network.match_logits(fused).sigmoid(), batch_size)

    @torch.no_grad()
    def _each(self, states: Mapping[str, SideStates], told: Any, batch_size: int) -> np.ndarray:
        count = len(states["text"])
        rows = torch.arange(count, device=self.device).split(batch_size)
        parts = ({side: one.take(some).trimmed() for side, one in states.items()} for some in rows)
        found = [told(self.network(part, pooled_only=True)) for part in parts]
        return torch.cat(found).float().cpu().numpy()

    def encode_image(self, images: Any, **options: Any) -> np.ndarray:
        """Pictures to unit vectors float32 [N, d], before anything is joined. `UsageError` without that objective."""
        return self.end(SIDES[0], self.side(SIDES[0], images, **options))

    def encode_text(self, texts: Any, **options: Any) -> np.ndarray:
        """Strings to unit vectors float32 [N, d]; see `encode_image`."""
        return self.end(SIDES[1], self.side(SIDES[1], texts, **options))

    @torch.no_grad()
    def end(self, side: str, states: SideStates) -> np.ndarray:
        """The unit vectors of states of one side."""
        return self.network.ends({side: states})[side].cpu().numpy()

    # --- saving and loading --------------------------------------------------------------------------------

    def describe(self) -> str:
        """A description in one line."""
        plan = self.network.plan
        heads = [f"{len(self.answers)} answers"] * bool(self.answers)
        heads += [name for name in ("matching", "contrast") if getattr(plan, name)]
        layers = " and ".join(f"{len(widths)} {side} layers" for side, widths in plan.widths.items())
        return f"{plan.options.aggregator} over {layers}, {plan.options.depth} × {plan.options.width}; " + (
            ", ".join(heads) or "no heads"
        )

    def __repr__(self) -> str:
        return f"FusionModel({self.describe()})"

    def save_pretrained(self, path: str | Path) -> Path:
        """Write `config.json`, `model.safetensors`, `README.md`, `seen.safetensors`, all at once.

        The encoders are referenced by URI, revision and fingerprint, never copied. Raises `InputError` for a full disk
        or a read-only folder.
        """
        own = {"fusion": self.network.plan.to_dict(), "answers": self.answers, "loss": self.loss}
        weights = {name: tensor.detach().cpu() for name, tensor in self.network.state_dict().items()}
        for side, changed in self.blocks.items():
            weights |= {f"{BLOCKS}{side}.{name}": tensor.detach().cpu() for name, tensor in changed.items()}
        shared: dict[str, Any] = {"records": self.records, "summary": self.summary, "own": own, "seen": self.seen}
        return write_model(Path(path), self.kind, weights=weights, card=self._write_card, **shared)

    save = save_pretrained

    def _write_card(self, file: Path) -> None:
        parameters = list(self.network.parameters())
        example = 'model.answer("cat.jpg", ["What is it?"])' if self.answers else 'model.match("cat.jpg", ["a cat"])'
        text = CARD.format(
            **card_fields(self.records, self.summary, self.seen, parameters),
            aggregator=self.network.plan.options.aggregator,
            example=example,
        )
        write_atomic(file, lambda aside: aside.write_text(text, encoding="utf-8"))

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        load: bool = True,
        encoders: dict[str, list[Encoder]] | None = None,
        device: str | None = None,
        trust_remote_code: bool = False,
    ) -> FusionModel:
        """Load a saved model; arguments as for `DualEncoder.from_pretrained`.

        Raises `InputError` for a file that is missing, foreign or damaged, or an encoder that is not the one it was
        trained on.
        """
        path = Path(path)
        config = read_config(path, cls.kind, ["fusion", "answers", "loss"], SIDES)
        weights = read_weights(locate(path, WEIGHTS), config["weights"])
        blocks = _taken_blocks(weights)
        network = _empty_network(path, config)
        try:
            network.load_state_dict(weights, strict=True, assign=True)
        except RuntimeError as error:
            raise InputError(f"{path / WEIGHTS}: does not fit config.json: {error}") from None
        records: Records = {side: config["encoders"][side] for side in SIDES}
        if load and encoders is None:
            encoders = load_encoders_of(records, device=device, trust_remote_code=trust_remote_code)
        return cls(
            network.to(device or ("cuda" if torch.cuda.is_available() else "cpu")),
            records=records,
            answers=config["answers"],
            loss=config["loss"],
            blocks=blocks,
            encoders=encoders,
            lazy=load,
            summary=config.get("summary"),
            seen=saved_seen(path, config),
        )


def _taken_blocks(weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Remove the encoders' blocks from a model's weights; by side and name."""
    found: dict[str, dict[str, Tensor]] = {}
    for name in [name for name in weights if name.startswith(BLOCKS)]:
        side, _, rest = name.removeprefix(BLOCKS).partition(".")
        found.setdefault(side, {})[rest] = weights.pop(name)
    return found


def _empty_network(path: Path, config: dict[str, Any]) -> FusionNetwork:
    """The network without its weights, so that sizes in the configuration allocate no memory."""
    answers = config["answers"]
    try:
        plan = FusionPlan.from_dict(config["fusion"])
        if not isinstance(answers, list) or len(answers) != plan.answers or config["loss"] not in ("soft", "one"):
            raise ValueError("its answers are not those of its head")
        for side in SIDES:
            if plan.widths[side] != [record["width"] for record in config["encoders"][side]]:
                raise ValueError(f"its {side} encoders are not as wide as it takes")
        with torch.device("meta"):
            return FusionNetwork(plan)
    except (UsageError, KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise InputError(f"{path / CONFIG}: its network cannot be made ({error}).") from None


def prepare_states(records: Sequence[EncoderRecord], grid: int, values: Any, mask: Any) -> SideStates:
    """States of the layers that `records` name, as tensors or arrays, with patches on their grid.

    grid: see `FusionOptions`. Raises `UsageError` for layers that cannot be joined.
    """
    modality = str(records[0].get("modality"))
    prefix = None if spec_of(modality).padded else int(records[0].get("prefix") or 0)
    listed = isinstance(values, list)
    states = [torch.as_tensor(one) for one in values] if listed else torch.as_tensor(values)
    masks = [torch.as_tensor(one) for one in mask] if isinstance(mask, list) else torch.as_tensor(mask)
    return side_states(states, masks, prefix, grid)
