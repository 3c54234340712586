"""The dual encoder: frozen encoders by reference, two trained projectors and a temperature."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from isthmus import __version__
from isthmus.card import write_card
from isthmus.data.feature_pairs import rows, rows_at_once
from isthmus.data.images import decode
from isthmus.data.sources import cell_bytes
from isthmus.encoders import Encoder, load_recorded
from isthmus.encoders.base import Modality
from isthmus.errors import InputError, UsageError
from isthmus.files import file_digest, locate, read_sealed, replaced_together, write_sealed
from isthmus.outputs import quantize, shorten
from isthmus.projectors import Head, from_config
from isthmus.weights import read_tensors, write_tensors

FORMAT = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
DIGEST_BYTES = 32
MODALITIES: tuple[Modality, ...] = ("image", "text")


class DualEncoder(nn.Module):
    """A CLIP-like model over frozen encoders.

    Args:
        image_projector, text_projector: map [N, sum of the encoders' widths] to [N, d].
        scale: the inverse temperature that training ended with (> 0).
        bias: the sigmoid loss's bias, or None.
        records: `{"image": [...], "text": [...]}`, one record per encoder (uri, fingerprint, width, ...);
            several encoders of one modality stand side by side, in this order.
        encoders: the loaded encoders in the same order, or None for a model over cached features alone.
        summary: what the training run reported; kept in `config.json` and shown in the model card.
        width: keep only so many dimensions, the first ones; None: all (see `truncate`).
    """

    def __init__(
        self,
        image_projector: Head,
        text_projector: Head,
        *,
        scale: float,
        bias: float | None = None,
        records: dict[str, list[dict[str, Any]]],
        encoders: dict[str, list[Encoder]] | None = None,
        summary: dict[str, Any] | None = None,
        width: int | None = None,
    ) -> None:
        super().__init__()
        self.image_projector, self.text_projector = image_projector.eval(), text_projector.eval()
        self.scale, self.bias = float(scale), bias
        self.records, self.summary = records, summary or {}
        self.encoders = encoders or {}
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

        Made for models trained with `loss.matryoshka`; docs/outputs.md measures what it costs others.
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
        )

    def encode_image(
        self,
        images: Any,
        *,
        batch_size: int = 32,
        as_tensor: bool = False,
        width: int | None = None,
        precision: str = "float32",
    ) -> Any:
        """Paths, PIL images, encoded bytes, arrays [H, W, 3] or tensors [3, H, W] to [N, d] float32, L2-normalised.

        width: the first so many dimensions alone, normalised again. precision: "int8" or "binary" for fewer bytes
        (`isthmus.outputs.quantize`, which also says how to compare them).

        Raises `InputError` for an image that cannot be read (and names it), `UsageError` for a width or precision
        that does not exist.
        """
        items = [_open_image(item) for item in _as_list(images)]
        return _finished(self._encode("image", items, batch_size), width, precision, as_tensor)

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
        return _finished(self._encode("text", _as_list(texts), batch_size), width, precision, as_tensor)

    def _encode(self, modality: str, items: list[Any], batch_size: int) -> np.ndarray:
        if modality not in self.encoders:
            raise InputError(
                f"This model was loaded without its {modality} encoder: load it with "
                "DualEncoder.from_pretrained(path), or project cached features with project()."
            )
        encoders, out = self.encoders[modality], np.empty((len(items), self.width), np.float32)
        some = 4 * rows_at_once(sum(encoder.width for encoder in encoders))  # tokens of all items would not fit
        for start in range(0, len(items), some):
            chosen = items[start : start + some]
            features = [encoder.encode(chosen, batch_size=batch_size) for encoder in encoders]
            out[start : start + some] = self.project(modality, np.concatenate(features, axis=1))
        return out

    @torch.inference_mode()
    def project(self, modality: str, features: Any, *, batch_size: int = 8192, as_tensor: bool = False) -> Any:
        """Cached encoder features [N, D] to the joint space: [N, d] float32, L2-normalised in fp32."""
        projector = self._projector(modality)
        width = sum(projector.parts)
        if features.shape[1] != width:
            raise InputError(f"{modality} features are {features.shape[1]} wide, this model takes {width}.")
        device = next(projector.parameters()).device
        out = torch.empty(len(features), self.width)
        batch_size = min(batch_size, rows_at_once(width))
        for start in range(0, len(features), batch_size):
            index = np.arange(start, min(start + batch_size, len(features)))
            batch = torch.from_numpy(rows(features, index)).to(device)
            out[start : start + batch_size] = nn.functional.normalize(
                projector(batch).float()[:, : self.width], dim=-1
            ).cpu()
        return out if as_tensor else out.numpy()

    def _projector(self, modality: str) -> Head:
        return self.image_projector if modality == "image" else self.text_projector

    def similarity(self, image_emb: Any, text_emb: Any) -> Any:
        """Cosine similarities [N, M] of embeddings that `encode_*` returned (NumPy or torch alike)."""
        return image_emb @ text_emb.T

    def logits(self, image_emb: Any, text_emb: Any) -> Any:
        """scale · cosine + bias: [N, M], as the training loss saw them."""
        return self.scale * self.similarity(image_emb, text_emb) + (self.bias or 0.0)

    # --- saving and loading -------------------------------------------------------------------------------

    def save_pretrained(self, path: str | Path) -> Path:
        """Write `config.json`, `model.safetensors` (projectors and temperature only) and `README.md`.

        They replace a model that is there all at once. The encoders are referenced by URI, revision and
        fingerprint, never copied. Raises `InputError` for a full disk or a read-only folder.
        """
        path = Path(path)
        with replaced_together(path) as aside:
            write_tensors(aside / WEIGHTS, self._weights())
            config = {
                "format": FORMAT,
                "isthmus": __version__,
                "encoders": self.records,
                "projectors": {m: self._projector(m).config() for m in MODALITIES},
                "weights": file_digest(aside / WEIGHTS, DIGEST_BYTES),
                "summary": self.summary,
            }
            if self._width is not None:
                config["width"] = self._width
            write_sealed(aside / CONFIG, config)
            write_card(self, aside / "README.md")
        return path

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
            path: folder that `save_pretrained` (or `isthmus train`) wrote; or the URI of a ready dual encoder, such
                as `hf:openai/clip-vit-base-patch32` (see `isthmus.ready`).
            load: False leaves the encoders unloaded, for work on cached features.
            encoders: `{"image": [...], "text": [...]}`, where they are loaded already, or are callables.
            device: where encoders and projectors run; default the GPU when there is one.
            trust_remote_code: run code that comes with the encoders. A saved model does not bring this permission
                with it, whoever allowed it when it was trained.

        Raises:
            InputError: a file is missing, foreign, truncated or damaged, or an encoder is not the one the
                model was trained on; the message says which part differs.
        """
        from isthmus.ready import is_ready, load_ready  # it makes a DualEncoder

        if is_ready(path):
            return load_ready(str(path), device=device, trust_remote_code=trust_remote_code)
        path = Path(path)
        config = _read_config(path)
        weights = _read_weights(locate(path, WEIGHTS), config["weights"])
        projectors = _empty_projectors(path, config["projectors"])
        scale, bias = weights.pop("scale"), weights.pop("bias", None)
        records = config["encoders"]
        if load and encoders is None:
            encoders = {
                m: load_recorded(
                    [r["uri"] for r in records[m]],
                    modality=m,
                    device=device,
                    trust_remote_code=trust_remote_code,
                )
                for m in MODALITIES
            }
        model = cls(
            projectors["image"],
            projectors["text"],
            scale=scale.item(),
            bias=None if bias is None else bias.item(),
            records=records,
            encoders=encoders,
            summary=config.get("summary"),
            width=_width(path, config, projectors["image"].width),
        )
        model._load_strictly(weights, path / WEIGHTS)
        return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def _load_strictly(self, weights: dict[str, Tensor], path: Path) -> None:
        try:
            self.load_state_dict(weights, strict=True, assign=True)
        except RuntimeError as error:
            raise InputError(f"{path}: does not fit config.json: {error}") from None


def check_encoders(loaded: Sequence[Encoder], records: Sequence[dict[str, Any]]) -> None:
    """Refuse encoders other than the ones a model or store was made with, and say which part differs."""
    if len(loaded) != len(records):
        raise InputError(f"The model takes {len(records)} encoder(s) side by side, {len(loaded)} were given.")
    for encoder, record in zip(loaded, records, strict=True):
        if encoder.fingerprint == record["fingerprint"]:
            continue
        raise InputError(
            f"{encoder.uri} is not the encoder this was made with ({record['uri']}); what differs: "
            f"{', '.join(_differences(encoder.record(), record))}. "
            f"Fingerprint {encoder.fingerprint[:12]} instead of {record['fingerprint'][:12]}."
        )


def _differences(now: dict[str, Any], then: dict[str, Any]) -> list[str]:
    """The parts of two encoder records that differ, those of the preprocessing by name."""
    flat = [{**record, **record.get("preprocessing", {})} for record in (now, then)]
    ignored = ("fingerprint", "backbone_key", "preprocessing", "compute_dtype", "bfloat16_cosine", "licence", "parts")
    names = [name for name in dict.fromkeys((*flat[0], *flat[1])) if name not in ignored]
    return [name for name in names if flat[0].get(name) != flat[1].get(name)] or ["weights"]


def _read_config(path: Path) -> dict[str, Any]:
    """`config.json`, its format and the fields that loading needs checked."""
    file = locate(path, CONFIG)
    if not file.is_file():
        raise InputError(f"{path}: not an isthmus model (no {CONFIG}). `isthmus train` writes one.")
    config = read_sealed(file)
    needed = {"format", "encoders", "projectors", "weights"}
    missing = needed - set(config) if isinstance(config, dict) else needed
    if missing:
        raise InputError(f"{file}: not an isthmus model ({', '.join(sorted(missing))} missing).")
    if config["format"] != FORMAT:
        raise InputError(
            f"{file}: format {config['format']!r}, written by isthmus {config.get('isthmus')!r}; this version reads "
            f"format {FORMAT}. Upgrade isthmus."
        )
    for modality in MODALITIES:
        if not _are_records(config["encoders"], modality):
            raise InputError(f"{file}: no list of {modality} encoders with uri, fingerprint and width.")
    return config


def _width(path: Path, config: dict[str, Any], whole: int) -> int | None:
    """The dimensions that are kept, where they are not all."""
    width = config.get("width")
    if width is not None and not (type(width) is int and 1 <= width <= whole):
        raise InputError(f"{path / CONFIG}: width {width!r} is not within 1 … {whole}.")
    return width


def _are_records(encoders: Any, modality: str) -> bool:
    records = encoders.get(modality) if isinstance(encoders, dict) else None
    wanted = {"uri": str, "fingerprint": str, "width": int}
    return isinstance(records, list) and all(
        isinstance(record, dict) and all(isinstance(record.get(name), kind) for name, kind in wanted.items())
        for record in records
    )


def _empty_projectors(path: Path, configs: Any) -> dict[str, Head]:
    """The projectors without their weights: a size in the configuration allocates nothing, the weights decide."""
    try:
        with torch.device("meta"):
            return {m: from_config(configs[m]) for m in MODALITIES}
    except (UsageError, KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise InputError(f"{path / CONFIG}: its projectors cannot be made ({error}).") from None


def _read_weights(path: Path, digest: Any) -> dict[str, Tensor]:
    """The tensors, float32, `scale` and perhaps `bias` among them."""
    try:
        weights = read_tensors(path, str(digest))
    except InputError as error:
        raise InputError(f"{error} Copy or train the model again.") from None
    for name, tensor in weights.items():
        if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            raise InputError(f"{path}: {name} is not made of finite numbers. Train the model again.")
    single = [name for name in ("scale", "bias") if name in weights and weights[name].numel() != 1]
    if "scale" not in weights or single:
        raise InputError(f"{path}: no scale, or not a single number. Copy or train the model again.")
    return {name: tensor.float() for name, tensor in weights.items()}


def _finished(emb: np.ndarray, width: int | None, precision: str, as_tensor: bool) -> Any:
    codes = quantize(shorten(emb, width), precision)
    return torch.from_numpy(codes) if as_tensor else codes


def _as_list(items: Any) -> list[Any]:
    single = isinstance(items, (str, bytes, bytearray, os.PathLike, Image.Image, dict))
    if single or getattr(items, "ndim", 0) in (2, 3):  # an array or tensor of one picture
        return [items]
    return list(items)


def _open_image(item: Any) -> Any:
    """Paths and encoded bytes are decoded as pairs are; PIL images, arrays and tensors pass as they are."""
    if isinstance(item, Image.Image) or hasattr(item, "ndim"):
        return item
    try:
        return decode(cell_bytes(item))
    except InputError as error:
        named = isinstance(item, str | os.PathLike) and str(item) not in str(error)
        raise InputError(f"{item}: {error}" if named else str(error)) from None
