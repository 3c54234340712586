"""The dual encoder: frozen encoders by reference, two trained projectors and a temperature."""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from isthmus.data.encoder_record import EncoderRecord, modalities_of
from isthmus.data.feature_pairs import SIDES
from isthmus.data.matrix import Computed, Matrix, rows, rows_at_once
from isthmus.data.records import MAX_NAME
from isthmus.encoders import Encoder
from isthmus.encoders.pictures import encode_each, reason
from isthmus.errors import InputError, UsageError, did_you_mean
from isthmus.files import locate
from isthmus.modality import Modality
from isthmus.models.card import write_card
from isthmus.models.outputs import quantize, shorten
from isthmus.models.pretrained import is_uri, pretrained_parts
from isthmus.models.reading import decode_item, listed_items, read_item
from isthmus.models.saved import (
    DUAL,
    WEIGHTS,
    Records,
    check_encoders,
    empty_projectors,
    load_encoders_of,
    read_config,
    read_weights,
    saved_seen,
    saved_width,
    take_number,
    write_model,
)
from isthmus.models.seen import SeenItems
from isthmus.projectors import Head
from isthmus.projectors.projector import project


class DualEncoder(nn.Module):
    """A CLIP-like model over frozen encoders.

    Args:
        image_projector, text_projector: map [N, sum of the encoders' widths] to [N, d].
        scale: the inverse temperature at the end of training (> 0).
        bias: the sigmoid loss's bias, or None.
        records: `{"image": [...], "text": [...]}`, one record per encoder (uri, fingerprint, width, ...);
            several encoders of one modality stand side by side, in this order.
        encoders: the loaded encoders in the same order, or None for a model over cached features alone.
        lazy: load encoders that are not given when they are first needed; or the options with which to load them.
        summary: what the training run reported; kept in `config.json` and shown in the model card.
        width: keep only so many dimensions, the first ones; None: all (see `truncate`).
        seen: the items that trained and validated it, saved with it; None: it does not remember them.
    """

    kind: ClassVar[str] = DUAL

    def __init__(
        self,
        image_projector: Head,
        text_projector: Head,
        *,
        scale: float,
        bias: float | None = None,
        records: dict[str, list[EncoderRecord]],
        encoders: dict[str, list[Encoder]] | None = None,
        summary: dict[str, Any] | None = None,
        width: int | None = None,
        lazy: bool | dict[str, Any] = False,
        seen: SeenItems | None = None,
    ) -> None:
        super().__init__()
        self.image_projector, self.text_projector = image_projector.eval(), text_projector.eval()
        self.scale, self.bias = float(scale), bias
        self.records, self.summary = records, summary or {}
        self.encoders, self.lazy, self.seen = encoders or {}, lazy, seen
        if width is not None and not 1 <= width <= image_projector.width:
            raise UsageError(f"width={width}: this model has 1 to {image_projector.width} dimensions.")
        self._width = width
        for modality, loaded in self.encoders.items():
            check_encoders(loaded, records[modality])

    @property
    def width(self) -> int:
        """Width d of the joint space."""
        return self._width or self.image_projector.width

    def truncate(self, width: int) -> DualEncoder:
        """This model with the first `width` dimensions alone, L2-normalised again; weights and encoders are shared.

        Made for models trained with `loss.matryoshka`; docs/outputs.md measures the loss for other models.
        Raises `UsageError` for a width that is not within 1 … d.
        """
        if not 1 <= width <= self.width:
            raise UsageError(f"width={width}: this model has 1 to {self.width} dimensions.")
        return DualEncoder(
            self.image_projector,
            self.text_projector,
            scale=self.scale,
            bias=self.bias,
            records=self.records,
            encoders=self.encoders,
            summary=self.summary,
            width=width,
            lazy=self.lazy,
            seen=self.seen,
        )

    def with_encoders(self, **encoders: Encoder | Sequence[Encoder]) -> DualEncoder:
        """This model with these encoders, `image=` and `text=`, one or several side by side: Python functions
        (`isthmus.encoders.from_callable`) have to be given again. Weights are shared.

        Raises `InputError` for encoders other than those it was trained on, `UsageError` for a side there is not.
        """
        for side in encoders:
            self.projector(side)
        given = {side: [one] if isinstance(one, Encoder) else list(one) for side, one in encoders.items()}
        for side, loaded in given.items():
            check_encoders(loaded, self.records[side])
        model = copy(self)
        model.encoders = self.encoders | given
        return model

    def encode_image(
        self,
        images: Any,
        *,
        batch_size: int = 32,
        as_tensor: bool = False,
        width: int | None = None,
        precision: str = "float32",
        skipped: list[tuple[int, str]] | None = None,
    ) -> Any:
        """Paths, PIL images, encoded bytes, arrays [H, W, 3] or tensors [3, H, W] to [N, d] float32, L2-normalised.

            >>> skipped = []
            >>> emb = model.encode_image(paths, skipped=skipped)  # a row for every path; those of `skipped` are NaN

        Of a model whose first modality is another one: paths, bytes or decoded items of it (see `encode`).

        width: the first so many dimensions alone, normalised again. precision: "int8" or "binary" for fewer bytes
        (`isthmus.models.outputs.quantize`, which also says how to compare them). skipped: a list, to which (row,
        reason) of every image that cannot be used is added; its row is NaN, and 0 in fewer bytes.

        Raises `InputError` for the first image that cannot be used, and names it, unless there is `skipped`;
        `UsageError` for a width or precision that does not exist.
        """
        modality = self._taken_by(SIDES[0])
        items = listed_items(modality, images)
        self.encoders_of(SIDES[0])
        out = np.full((len(items), self.width), np.nan, np.float32)
        refused: list[tuple[int, str]] = []

        def refuse(row: int, error: Exception) -> None:
            if skipped is None:
                raise InputError(f"{_place(items, row)}{reason(error)}") from error
            refused.append((row, reason(error)))

        some = encode_each(
            len(items),
            lambda row: decode_item(modality, items[row]),
            lambda pictures: self._encode(SIDES[0], pictures, batch_size),
            refuse,
            batch_size,
        )
        for places, embedded in some:
            out[places] = embedded
        if skipped is not None:
            skipped += sorted(refused)
        return _finished(out, width, precision, as_tensor)

    def encode_text(
        self,
        texts: str | Sequence[str],
        *,
        batch_size: int = 64,
        as_tensor: bool = False,
        width: int | None = None,
        precision: str = "float32",
    ) -> Any:
        """Strings to [N, d] float32, L2-normalised; width and precision as in `encode_image`."""
        modality = self._taken_by(SIDES[1])
        items = [read_item(modality, item) for item in listed_items(modality, texts)]
        return _finished(self._encode(SIDES[1], items, batch_size), width, precision, as_tensor)

    def encode(self, modality: Modality, items: Any, **options: Any) -> Any:
        """Items of one of the two modalities that the model joins to [N, d]; options as of `encode_image`.

        Raises `UsageError` for a modality that it does not take.
        """
        return getattr(self, f"encode_{self.side_of(modality)}")(items, **options)

    @property
    def modalities(self) -> tuple[Modality, Modality]:
        """What the first side, called image here, and the second, called text, take."""
        first, second = modalities_of({side: self.records[side] for side in SIDES})
        return first, second

    def side_of(self, modality: Modality) -> str:
        """The side that takes a modality. Raises `UsageError` where none does."""
        if modality not in self.modalities:
            raise UsageError(
                f"no side for {modality}: this model joins {' and '.join(self.modalities)}."
                + did_you_mean(modality, self.modalities)
            )
        return SIDES[self.modalities.index(modality)]

    def _taken_by(self, side: str) -> Modality:
        return self.modalities[SIDES.index(side)]

    def _encode(self, modality: str, items: list[Any], batch_size: int) -> np.ndarray:
        encoders, out = self.encoders_of(modality), np.empty((len(items), self.width), np.float32)
        some = 4 * rows_at_once(sum(encoder.width for encoder in encoders))  # tokens of all would not fit
        for start in range(0, len(items), some):
            chosen = items[start : start + some]
            features = [encoder.encode(chosen, batch_size=batch_size) for encoder in encoders]
            out[start : start + some] = self.project(modality, np.concatenate(features, axis=1))
        return out

    def encoders_of(self, modality: str) -> list[Encoder]:
        """The encoders of a side, loaded if they may be. Raises `InputError` where there is none, or none to be had."""
        if modality not in self.encoders:
            if not self.records[modality]:
                raise InputError(f"This model was trained on arrays and has no {modality} encoder: use project().")
            if self.lazy is False:
                raise InputError(
                    f"This model was loaded without its {modality} encoder: load it with "
                    "DualEncoder.from_pretrained(path), or project cached features with project()."
                )
            options = self.lazy if isinstance(self.lazy, dict) else {}
            loaded = load_encoders_of({modality: self.records[modality]}, **options)[modality]
            check_encoders(loaded, self.records[modality])
            self.encoders[modality] = loaded
        return self.encoders[modality]

    def project(self, modality: str, features: Any, *, batch_size: int = 8192, as_tensor: bool = False) -> Any:
        """Cached encoder features [N, D] to the joint space: [N, d] float32, L2-normalised in fp32."""
        projector = self.projector(modality)
        width = sum(projector.parts)
        if features.shape[1] != width:
            raise InputError(f"{modality} features are {features.shape[1]} wide, this model takes {width}.")
        device = next(projector.parameters()).device
        out = project(projector, features, device, width=self.width, batch_size=batch_size)
        return out if as_tensor else out.numpy()

    def projected(self, modality: str, features: Matrix) -> Computed:
        """Cached encoder features [n, D] in the joint space, [n, d], projected on demand."""
        shape = (features.shape[0], self.width)
        return Computed(shape, lambda index: self.project(modality, rows(features, index)))

    def projector(self, modality: str) -> Head:
        """The head of a side. Raises `UsageError` for an unknown side."""
        if modality not in SIDES:
            raise UsageError(f"no side {modality!r} of a dual encoder." + did_you_mean(modality, SIDES))
        head: Head = getattr(self, f"{modality}_projector")
        return head

    def similarity(self, image_emb: Any, text_emb: Any) -> Any:
        """Cosine similarities [N, M] of embeddings that `encode_*` returned (NumPy or torch alike)."""
        return image_emb @ text_emb.T

    def logits(self, image_emb: Any, text_emb: Any) -> Any:
        """scale · cosine + bias: [N, M], as the training loss saw them."""
        return self.scale * self.similarity(image_emb, text_emb) + (self.bias or 0.0)

    # --- saving and loading -------------------------------------------------------------------------------

    def save_pretrained(self, path: str | Path) -> Path:
        """Write `config.json`, `model.safetensors` (projectors and temperature only), `README.md`, `seen.safetensors`.

        They replace a model that is there all at once. The encoders are referenced by URI, revision and
        fingerprint, never copied. Raises `InputError` for a full disk or a read-only folder.
        """
        own: dict[str, Any] = {"projectors": {m: self.projector(m).config() for m in SIDES}}
        if self._width is not None:
            own["width"] = self._width
        return write_model(
            Path(path),
            self.kind,
            records=self.records,
            weights=self._weights(),
            summary=self.summary,
            own=own,
            card=self._write_card,
            seen=self.seen,
        )

    def _write_card(self, file: Path) -> None:
        write_card(
            file,
            records=self.records,
            heads=self,
            width=self.width,
            scale=self.scale,
            bias=self.bias,
            summary=self.summary,
            seen=self.seen,
        )

    def __repr__(self) -> str:
        """What is joined, how wide, and how it was trained; the modules are `image_projector` and `text_projector`."""
        rows = [
            f"{side}: {', '.join(one['uri'] for one in listed) or 'arrays'} "
            f"({sum(self.projector(side).parts):,} → {self.width:,})"
            for side, listed in self.records.items()
        ]
        told = self.summary.get("recipe", {}).get("name") if isinstance(self.summary.get("recipe"), dict) else None
        counted = self.summary["refit"] if isinstance(self.summary.get("refit"), dict) else self.summary
        rows += [f"trained by the recipe {told!r} on {counted.get('pairs', 0):,} pairs"] if told else []
        rows.append(f"scale {self.scale:.3g}" + ("" if self.bias is None else f", bias {self.bias:.3g}"))
        return "DualEncoder\n  " + "\n  ".join(rows)

    def describe(self) -> str:
        """A description in one line."""
        return f"projectors to {self.width} dimensions, scale {self.scale:.3g}"

    def _weights(self) -> dict[str, Tensor]:
        weights = {name: tensor.detach().cpu() for name, tensor in self.state_dict().items()}
        weights["scale"] = torch.tensor(self.scale)
        if self.bias is not None:
            weights["bias"] = torch.tensor(self.bias)
        return weights

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        load: bool = True,
        encoders: dict[str, list[Encoder]] | None = None,
        device: str | None = None,
        trust_remote_code: bool = False,
    ) -> DualEncoder:
        """Load a saved model.

        Args:
            path: folder that `save_pretrained` (or `isthmus train`) wrote; or the URI of a pretrained dual encoder,
                such as `hf:openai/clip-vit-base-patch32` (see `isthmus.models.pretrained`).
            load: False leaves the encoders unloaded, for work on cached features.
            encoders: `{"image": [...], "text": [...]}`, if they are loaded already, or are callables; a side that is
                not named is loaded when it is first needed.
            device: where encoders and projectors run; default the GPU when there is one.
            trust_remote_code: run code that comes with the encoders. A saved model does not carry this permission, even
                if it was given for training.

        Raises:
            InputError: a file is missing, foreign, truncated or damaged, or an encoder is not the one the
                model was trained on; the message says which part differs.
        """
        if is_uri(path):
            parts = pretrained_parts(str(path), device=device, trust_remote_code=trust_remote_code)
            return cls(**parts).to(parts["encoders"]["image"][0].device)
        path = Path(path)
        config = read_config(path, cls.kind, ["projectors"], SIDES)
        weights = read_weights(locate(path, WEIGHTS), config["weights"])
        projectors = empty_projectors(path, config["projectors"])
        scale, bias = (take_number(weights, name, path / WEIGHTS) for name in ("scale", "bias"))
        if scale is None:
            raise InputError(f"{path / WEIGHTS}: no scale. Copy or train the model again.")
        records: Records = {m: config["encoders"][m] for m in SIDES}
        if load and encoders is None:
            encoders = load_encoders_of(records, device=device, trust_remote_code=trust_remote_code)
        model = cls(
            projectors["image"],
            projectors["text"],
            scale=scale,
            bias=bias,
            records=records,
            encoders=encoders,
            summary=config.get("summary"),
            width=saved_width(path, config, projectors["image"].width),
            lazy={"device": device, "trust_remote_code": trust_remote_code} if load else False,
            seen=saved_seen(path, config),
        )
        model._load_strictly(weights, path / WEIGHTS)
        return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def _load_strictly(self, weights: dict[str, Tensor], path: Path) -> None:
        try:
            self.load_state_dict(weights, strict=True, assign=True)
        except RuntimeError as error:
            raise InputError(f"{path}: does not fit config.json: {error}") from None


def _finished(emb: np.ndarray, width: int | None, precision: str, as_tensor: bool) -> Any:
    emb = shorten(emb, width)
    codes = quantize(emb if precision == "float32" else np.nan_to_num(emb), precision)
    return torch.from_numpy(codes) if as_tensor else codes


def _place(items: list[Any], row: int) -> str:
    """How a message about an image begins: with its path, or its number if there are several."""
    item = items[row]
    if isinstance(item, str | os.PathLike) and len(str(item)) < MAX_NAME:
        return f"{item}: "
    return f"image {row}: " if len(items) > 1 else ""
