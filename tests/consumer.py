"""Run as a program, beside no isthmus: consumer.py HOW FOLDER OUT [SAVED]; loads an export as its users do.

HOW: auto, pipeline, sentence, plain (Sentence-Transformers without code) or onnx. OUT: an .npz of image [N, d],
text [M, d] and scores. SAVED: where the consumer saves what it loaded, by its own means.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np


class Absent:
    """Nothing of isthmus can be imported, whatever is installed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] in ("isthmus", "isthmus_demo"):
            raise ModuleNotFoundError(f"No module named {name!r}")


def auto(folder: str, saved: str | None) -> dict[str, Any]:
    import torch
    from transformers import AutoModel, AutoProcessor

    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    inputs = processor(text=TEXTS, images=PICTURES, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        found = model(**inputs)
    if saved:
        model.save_pretrained(saved)
        processor.save_pretrained(saved)
    logits = found.logits_per_image
    return {"image": found.image_embeds, "text": found.text_embeds, "logits": logits, "scores": logits.softmax(-1)}


def pipeline(folder: str, saved: str | None) -> dict[str, Any]:
    from transformers import pipeline as build

    classify = build("zero-shot-image-classification", folder, trust_remote_code=True)
    if saved:
        classify.save_pretrained(saved)
    labels = list(dict.fromkeys(TEXTS))
    found = classify(PICTURES, candidate_labels=labels, hypothesis_template="{}")
    rows = [{one["label"]: one["score"] for one in row} for row in found]
    return {"scores": [[row[label] for label in TEXTS] for row in rows]}


def sentence(folder: str, saved: str | None, trust: bool = True) -> dict[str, Any]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu", trust_remote_code=trust)
    if saved:
        model.save_pretrained(saved)
    return {"image": model.encode(PICTURES), "text": model.encode(TEXTS)}


def plain(folder: str, saved: str | None) -> dict[str, Any]:
    return sentence(folder, saved, trust=False)


def onnx(folder: str, saved: str | None) -> dict[str, Any]:
    sys.path.insert(0, folder)
    from embed import Embedder  # beside the graphs

    model = Embedder(folder)
    return {"image": model.encode_image(PICTURES), "text": model.encode_text(TEXTS)}


if __name__ == "__main__":
    sys.meta_path.insert(0, Absent())
    try:
        import isthmus  # noqa: F401
    except ModuleNotFoundError:
        pass
    else:
        sys.exit("isthmus can be imported")
    from tiny_encoders import TEXTS, pictures

    PICTURES = pictures()
    how, folder, out, *saved = sys.argv[1:]
    np.savez(Path(out), **globals()[how](folder, saved[0] if saved else None))
