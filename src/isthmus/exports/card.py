"""The card of an export: first what it needs, then how it is used, then what it is made of."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from isthmus.exports.licences import joint_licence
from isthmus.models.card import encoder_rows, summary_rows
from isthmus.models.dual_encoder import DualEncoder
from isthmus.version import __version__

PACKAGES = ("torch", "transformers", "sentence-transformers")
HERE = "path/to/this/folder"

HF_NEEDS = """\
**Needs `trust_remote_code=True`**, also from a folder: what runs is `modeling_isthmus.py` in this folder, which imports
torch and transformers alone. Read it first if you do not trust where you have it from. Without that option
`SentenceTransformer` and `AutoModel` refuse to load. isthmus itself is not needed."""

HF_USE = """\
With Sentence-Transformers, pictures and texts:

```python
from PIL import Image
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{here}", trust_remote_code=True)
image = model.encode([Image.open("cat.jpg")])
text = model.encode(["a cat", "a dog"])
print(model.similarity(image, text))
```

With transformers:

```python
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor, pipeline

classify = pipeline("zero-shot-image-classification", "{here}", trust_remote_code=True)
print(classify("cat.jpg", candidate_labels=["cat", "dog"]))

model = AutoModel.from_pretrained("{here}", trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained("{here}", trust_remote_code=True)
inputs = processor(text=["a cat", "a dog"], images=[Image.open("cat.jpg")], padding=True, return_tensors="pt")
with torch.no_grad():
    outputs = model(**inputs)
print(outputs.image_embeds @ outputs.text_embeds.T)  # cosines; outputs.logits_per_image: scaled, as in training
```

Pictures are prepared with Pillow, whatever else is installed, and texts are cut to what the encoder reads. Loading
compares embeddings, pixels and token ids with those stored at export, and fails where they differ."""

PLAIN_NEEDS = """\
Needs Sentence-Transformers 5.7 or later and no code of its own: no `trust_remote_code`."""

PLAIN_USE = """\
```python
from PIL import Image
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{here}")
image = model.encode([Image.open("cat.jpg").convert("RGB")])
text = model.encode(["a cat", "a dog"])
print(model.similarity(image, text))
```

Pictures are prepared with Pillow, whatever else is installed. Lay transparent ones on white first, as training did."""

ONNX_NEEDS = """\
Needs onnxruntime, tokenizers, numpy and pillow; no torch, no transformers, and no code but `embed.py` in this folder,
which you may read, copy or replace."""

ONNX_USE = """\
```python
import sys
from PIL import Image

sys.path.insert(0, "{here}")
from embed import Embedder

model = Embedder("{here}")
image = model.encode_image([Image.open("cat.jpg")])
text = model.encode_text(["a cat", "a dog"])
print(image @ text.T)
```

`image.onnx` takes pixel_values and gives image_embeds, `text.onnx` takes input_ids and attention_mask and gives
text_embeds: unit rows, the head and the norm inside. Any number of pictures or texts, texts of any length up to the
limit; height and width of pictures are fixed. `preprocessing.json` says how both are prepared."""

STRINGS = """\
`encode` of Sentence-Transformers opens a string that names a picture's file, and fetches one that looks like a
picture's address, in place of reading it as a text. Never hand it texts from strangers. Pictures and texts go in
separate calls."""

USES = {
    "hf": (HF_NEEDS, f"{HF_USE}\n\n{STRINGS}"),
    "st-plain": (PLAIN_NEEDS, f"{PLAIN_USE}\n\n{STRINGS}"),
    "onnx": (ONNX_NEEDS, ONNX_USE),
}
LIBRARIES = {"hf": "sentence-transformers", "st-plain": "sentence-transformers", "onnx": "onnx"}


def write_card(path: Path, to: str, model: DualEncoder, licences: dict[str, str], report: dict[str, Any]) -> None:
    """Write `README.md` of an export to `to`; every number in it is from `report` or the model."""
    needs, use = USES[to]
    parts = [
        _front(to, licences),
        f"# A dual encoder of images and texts, joined by isthmus {__version__}\n\n{needs}",
        f"## Use\n{use.format(here=HERE)}",
        f"## What is in it\n{_contents(model, report)}",
        "## Encoders, whose weights are copied here\n" + "\n".join(encoder_table(model, licences)),
        "## Training\n" + ("\n".join(summary_rows(model.summary)) or "No summary was recorded."),
    ]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _front(to: str, licences: dict[str, str]) -> str:
    licence = joint_licence(licences)
    named = [f"license: {licence}", *(["license_name: that-of-each-encoder"] if licence == "other" else [])]
    task = "zero-shot-image-classification"
    tags = "[clip, dual-encoder, image-text-retrieval, isthmus]"
    return "\n".join(["---", *named, f"library_name: {LIBRARIES[to]}", f"pipeline_tag: {task}", f"tags: {tags}", "---"])


def _contents(model: DualEncoder, report: dict[str, Any]) -> str:
    bias = "" if model.bias is None else f", bias {model.bias:.2f}"
    lines = [f"Embeddings of {model.width} dimensions, of length 1; scale {model.scale:.2f}{bias}."]
    largest = max(report["differences"].values())
    lines.append(f"On probes of every sort they differ from isthmus' own by at most {largest:.1g} in any component.")
    lines.append("Written with " + ", ".join(f"{name} {version(name)}" for name in PACKAGES) + ".")
    if "recall" in report:
        lines.append(_int8(report))
    return "\n".join(lines)


def _int8(report: dict[str, Any]) -> str:
    on, rows = report["measured_on"], ["| | float32 | int8 |", "|---|---:|---:|"]
    for name, value in report["recall"]["float32"].items():
        rows.append(f"| {name} | {value:.4f} | {report['recall']['int8'][name]:.4f} |")
    least = min(report["cosines"].values())
    told = f"The int8 graphs (`Embedder(folder, int8=True)`): least cosine with float32 {least:.5f}"
    return "\n".join([f"\n{told}; on {on['images']:,} images of `{on['pairs']}`:\n", *rows])


def encoder_table(model: DualEncoder, licences: dict[str, str]) -> list[str]:
    """The encoders with their licences, and what these mean for the whole."""
    records = {
        side: [{**record, "licence": licences[str(encoder.uri.backbone())]} for record, encoder in pairs]
        for side, pairs in (
            (side, zip(model.records[side], model.encoders[side], strict=True)) for side in model.records
        )
    }
    rows = ["| modality | encoder | width | fingerprint | licence |", "|---|---|---|---|---|"]
    rows += encoder_rows(records)  # type: ignore[arg-type]
    told = "This folder holds copies of their weights: every one of these licences applies to it."
    unknown = "unknown" in licences.values()
    return [*rows, "", told + (" Where it is unknown, whoever exported this vouched for it." if unknown else "")]
