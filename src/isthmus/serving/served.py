"""A model that is served: what it can do, its index, and the thread that works for it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property, lru_cache, partial
from heapq import nlargest
from typing import Any

import numpy as np
from PIL import Image

from isthmus.data.feature_pairs import SIDES
from isthmus.data.images import decode
from isthmus.errors import IsthmusError, UsageError
from isthmus.evaluation.asking import check_answers
from isthmus.metrics.zeroshot import class_embeddings, load_templates
from isthmus.models.dual_encoder import DualEncoder
from isthmus.models.fusion_model import FusionModel
from isthmus.models.language_model import VisionLanguageModel
from isthmus.models.saved import told_kind
from isthmus.segmentation.dense import PatchTokens
from isthmus.segmentation.labels import Segmenter
from isthmus.serving.batching import Batcher
from isthmus.serving.contract import RequestRefused

WORK_SECONDS = 60.0  # that a client waits for its work, queueing included
CHOICES = 8  # of labels and folders, whose rows are remembered
MOST_NAMED = 500  # labels, and folders, that the page offers
SEGMENTED = 768  # pixels of the longer side of a picture that is segmented


class ServedModel:
    """A model under a name, with what answers its clients.

    model: a `DualEncoder`; or a `FusionModel` or a `VisionLanguageModel` with answers, which can `ask` alone. index: of
    pictures in the model's space; None: nothing to search. Raises `UsageError` for a model of other modalities, or one
    that answers nothing.
    """

    def __init__(self, name: str, model: Any, index: Any = None) -> None:
        fuses = isinstance(model, FusionModel | VisionLanguageModel)
        if fuses:
            check_answers(model, name)
        elif not hasattr(model, "modalities"):
            raise UsageError(
                f"{name}: {told_kind(model.kind)} is not served. Served are dual encoders of pictures and texts, and "
                "models that answer questions about pictures."
            )
        elif model.modalities != SIDES:
            raise UsageError(f"{name}: joins {' and '.join(model.modalities)}; served are pictures and texts.")
        self.name, self.model, self.index = name, model, index
        self.since, self.templates = int(time.time()), load_templates("default")
        self.batcher = Batcher(f"isthmus-{name}")
        self._rows_where = lru_cache(maxsize=CHOICES)(lambda where: index.rows_where(**dict(where)))
        searches = ["search"] if index is not None else []
        self.capabilities = ["ask"] if fuses else ["embed", "classify", *_segments(model), *searches]

    @property
    def listed(self) -> dict[str, Any]:
        """As `/v1/models` tells it."""
        told = {"id": self.name, "object": "model", "created": self.since, "owned_by": "isthmus"}
        pictures = 0 if self.index is None else len(self.index)
        return told | {
            "width": getattr(self.model, "width", None),
            "capabilities": self.capabilities,
            "pictures": pictures,
        }

    def need(self, capability: str) -> None:
        """Raise `RequestRefused` for something that this model cannot do."""
        if capability not in self.capabilities:
            what = {"search": "has no index of pictures", "segment": "gives no patches", "ask": "answers no questions"}
            raise RequestRefused(f"the model {self.name!r} {what.get(capability, f'cannot {capability}')}")

    async def embed_texts(self, texts: list[str]) -> list[np.ndarray]:
        """N texts to N rows float32 [d], L2-normalised."""
        self.need("embed")
        return await self._submit("text", self.model.encode_text, texts)

    async def embed_pictures(self, files: list[bytes], param: str = "image") -> list[np.ndarray]:
        """N files of pictures to N rows float32 [d]. Raises `RequestRefused` for the first that cannot be read."""
        self.need("embed")
        found = await self._submit("image", partial(_embed_pictures, self.model), files)
        for one in found:
            if isinstance(one, str):
                raise RequestRefused(one, param=param)
        return found

    async def nearest(self, query: np.ndarray, k: int, **where: str) -> list[tuple[int, float]]:
        """(row, cosine) of the k pictures nearest to a query float32 [d], best first."""
        self.need("search")
        kind = ("nearest", k, *sorted(where.items()))
        [found] = await self._submit(kind, partial(self._nearest, k, where), [query])
        return found

    def chosen(self, **where: str) -> np.ndarray | None:
        """The rows of these pictures, ascending; None for all. Raises `UsageError` where there are none."""
        return self._rows_where(tuple(sorted(where.items()))) if where else None

    @cached_property
    def filters(self) -> dict[str, list[dict[str, Any]]]:
        """The labels and folders of most pictures, by name, and how many they are of."""
        counted = {"labels": self.index.labels(), "folders": self.index.folders()}
        most = {what: sorted(nlargest(MOST_NAMED, counts.items(), key=_count)) for what, counts in counted.items()}
        return {what: [{"name": name, "pictures": n} for name, n in listed] for what, listed in most.items()}

    async def classify(self, file: bytes, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and softmax of the logits of one picture over C classes: float32 [C] each."""
        [picture] = await self.embed_pictures([file])
        [towards] = await self._submit(("classes", *classes), self._class_embeddings, [list(classes)])
        cosines = (picture[None] @ towards.T)[0]
        logits = self.model.logits(picture[None], towards)[0].astype(np.float64)
        weights = np.exp(logits - logits.max())
        return cosines, weights / weights.sum()

    async def segment(self, file: bytes, classes: Sequence[str], threshold: float | None) -> np.ndarray:
        """The number of each pixel's class, uint8 [H, W], of the picture at `SEGMENTED` pixels at most."""
        self.need("segment")
        [labels] = await self._submit(object(), partial(self._segment, classes, threshold), [file])
        return labels

    async def ask(self, file: bytes, question: str) -> np.ndarray:
        """The probability of each of the model's answers to a question about a picture, float32 [answers]."""
        self.need("ask")
        [found] = await self._submit(object(), lambda files: self.model.answer(decode(files[0]), [question]), [file])
        return found

    def _nearest(self, k: int, where: dict[str, str], queries: list[np.ndarray]) -> list[list[tuple[int, float]]]:
        scores, rows = self.index.search(np.stack(queries), k, where=self.chosen(**where))
        return [list(zip(*pair, strict=True)) for pair in zip(rows.tolist(), scores.tolist(), strict=True)]

    async def _submit(self, kind: Any, work: Any, items: list[Any]) -> list[Any]:
        return await self.batcher.submit(kind, work, items, seconds=WORK_SECONDS)

    def _class_embeddings(self, named: list[list[str]]) -> list[np.ndarray]:
        found = class_embeddings(self.model.encode_text, named[0], self.templates)
        return [found] * len(named)  # jobs of one kind name the same classes

    def _segment(self, classes: Sequence[str], threshold: float | None, files: list[bytes]) -> list[np.ndarray]:
        segmenter = Segmenter(self.model, classes, self.templates, threshold=threshold)
        return [segmenter(_shrunk(decode(data))) for data in files]


def _segments(model: DualEncoder) -> list[str]:
    """`segment`, if the image encoders give patches."""
    try:
        for encoder in model.encoders_of(SIDES[0]):
            PatchTokens(encoder)
    except (IsthmusError, AttributeError):
        return []
    return ["segment"]


def _embed_pictures(model: DualEncoder, files: list[bytes]) -> list[np.ndarray | str]:
    """A row for each file, or why there is none."""
    skipped: list[tuple[int, str]] = []
    emb, refused = model.encode_image(files, skipped=skipped), dict(skipped)
    return [refused.get(row, emb[row]) for row in range(len(files))]


def _count(named: tuple[str, int]) -> int:
    return named[1]


def _shrunk(picture: Image.Image) -> Image.Image:
    picture.thumbnail((SEGMENTED, SEGMENTED))
    return picture
