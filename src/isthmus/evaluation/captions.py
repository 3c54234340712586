"""Captions that a language model writes: how well each finds its own picture's captions among those of all."""

from __future__ import annotations

from typing import Any

import numpy as np

from isthmus.data.columns import Columns
from isthmus.data.groups import whole_groups
from isthmus.data.pairs import Pairs, read_pairs
from isthmus.encoders import Encoder, load_encoder
from isthmus.errors import InputError
from isthmus.evaluation.asking import encoded_pictures, opened_speaker
from isthmus.evaluation.exposure import Exposure
from isthmus.evaluation.inputs import Saved, named
from isthmus.evaluation.tasks import task
from isthmus.metrics.results import Result, result
from isthmus.metrics.retrieval import retrieval as rank
from isthmus.models.language_model import VisionLanguageModel

DEFINITION = (
    "text_retrieval_recall@k = share of pictures of whose own captions the best is among the k that the judge, a text "
    "encoder, finds nearest (cosine) to the caption the model wrote; image_retrieval_recall@k = share of the data's "
    "captions for which the caption written of their picture is among the k nearest; mean_recall@k = mean of both. "
    "exact_match = share of written captions that are one of the picture's own, to the letter but for a last full stop."
)
COLUMNS = ("mean_recall@1", "mean_recall@5", "mean_recall@10", "exact_match")


@task(primary="mean_recall@1", columns=COLUMNS)
def captions(
    model: VisionLanguageModel | Saved | str,
    data: Any,
    *,
    judge: str = "st:sentence-transformers/all-MiniLM-L6-v2",
    split: str | None = None,
    columns: str | Columns | None = None,
    tokens: int = 48,
    unseen: bool = False,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Result:
    """Captions that a language model writes, by whether they find their picture's own (R@k).

    Args:
        judge: a text encoder that compares captions (st:sentence-transformers/all-MiniLM-L6-v2).
        tokens: at most so many of a caption (48).
    """
    loaded, name = opened_speaker(model, "captioning")
    compare = load_encoder(judge, modality="text")
    pairs = data if isinstance(data, Pairs) else read_pairs(data, columns=columns)
    pairs = pairs if split is None else pairs.filter(split=split)
    exposure, skipped = Exposure(loaded, named(pairs), unseen, captions=False), list(pairs.skipped)
    written: dict[str, str] = {}
    for ids, states in encoded_pictures(loaded, pairs, exposure, skipped):
        written |= dict(zip(ids, loaded.caption(states, tokens=tokens), strict=True))
    exposure.check(len(written))
    scores = judged(written, pairs, compare, bootstrap, seed)
    scores |= exposure.report() | {"skipped": skipped, "definition": DEFINITION, "judge": str(compare.uri)}
    decoding = f"greedy, up to {tokens} tokens"
    scores |= {"prompt": loaded.asked([loaded.prompting["caption"]]), "decoding": decoding}
    return result(scores, dataset=named(pairs), model=name, task="captioning")


def judged(written: dict[str, str], pairs: Pairs, judge: Encoder, bootstrap: int, seed: int) -> dict[str, Any]:
    """Recalls of captions, by the pictures' ids, among the pairs' own. Raises `InputError` where there are none."""
    rows = {id: row for row, id in enumerate(written)}
    table = [row for row in pairs.captions.select(["id", "caption"]).to_pylist() if row["id"] in rows]
    if not table:
        raise InputError(f"{named(pairs)}: no picture that could be read has a caption to compare with.")
    own: dict[str, set[str]] = {}
    for row in table:
        own.setdefault(row["id"], set()).add(row["caption"].removesuffix("."))
    groups = dict(zip(pairs.images["id"].to_pylist(), pairs.images["group"].to_pylist(), strict=True))
    found = rank(
        judge.encode(list(written.values())),
        judge.encode([row["caption"] for row in table]),
        np.array([rows[row["id"]] for row in table]),
        groups=whole_groups([groups[id] for id in written], np.arange(len(written))),
        bootstrap=bootstrap,
        seed=seed,
    )
    exact = [written[id].removesuffix(".") in texts for id, texts in own.items()]
    found["metrics"]["exact_match"] = float(np.mean(exact))
    return found
