"""A dual encoder as mteb takes models: `mteb.evaluate(MtebEncoder("model/"), tasks)`. Needs `pip install mteb`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction

from isthmus.models.dual_encoder import DualEncoder


class MtebEncoder(AbsEncoder):
    """Of images and texts, and of both together: then the sum of the two unit rows.

    model: a `DualEncoder`, its folder, or the URI of a pretrained one. name, revision: how mteb's results call it.
    options: of `DualEncoder.from_pretrained`.
    """

    def __init__(
        self, model: DualEncoder | str | Path, *, name: str = "isthmus/model", revision: str = "1", **options: Any
    ) -> None:
        loaded = model if isinstance(model, DualEncoder) else DualEncoder.from_pretrained(model, **options)
        self.model = loaded
        told = {
            "name": name,
            "revision": revision,
            "modalities": list(loaded.modalities),
            "embed_dim": loaded.width,
            "similarity_fn_name": ScoringFunction.COSINE,
        }
        self.mteb_model_meta = ModelMeta.create_empty(told)

    def encode(self, inputs: Any, **options: Any) -> np.ndarray:
        """Batches {"image": pictures of Pillow and/or "text": strings} to float32 [N, width].

        options: what mteb tells of the task; nothing of it matters here, as these models have no instructions.
        """
        return np.concatenate([self._encode_batch(batch) for batch in inputs])

    def _encode_batch(self, batch: Any) -> np.ndarray:
        encode: dict[str, Any] = {"image": self.model.encode_image, "text": self.model.encode_text}
        rows = [encode[side](list(batch[side])) for side in encode if batch.get(side) is not None]
        return np.asarray(sum(rows[1:], start=rows[0]))
