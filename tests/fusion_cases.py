"""Questions about small pictures, and a store of the layers of two tiny encoders: what the fusion tests build on."""

from __future__ import annotations

import json
from pathlib import Path

import transformers

from isthmus.embedding import embed
from tiny_encoders import WORDS, save_bert, save_dinov2
from toys import picture, png


def write_questions(folder: Path, count: int = 24) -> Path:
    """`questions.jsonl`: a picture each, whose colour is the answer; a third validates."""
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "questions.jsonl"
    with table.open("w", encoding="utf-8") as lines:
        for number in range(count):
            colour = ("red", "blue", "green")[number % 3]
            name = f"{number:03d}.png"
            (folder / name).write_bytes(png(picture(colour, "plain", "left", seed=number)))
            row = {"image": name, "question": f"the dog {WORDS[number % 9]} {WORDS[number % 7]}", "answer": colour}
            lines.write(json.dumps(row | {"split": "val" if number % 4 == 3 else "train"}) + "\n")
    return table


def save_encoders(folder: Path) -> dict[str, str]:
    """A ViT and a BERT of three layers, 32 wide, by side; "park" is the word that masks."""
    save_dinov2(folder / "vit")
    save_bert(folder / "bert")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "bert")
    tokenizer.add_special_tokens({"mask_token": "park"})
    tokenizer.save_pretrained(folder / "bert")
    return {"image": f"hf:{folder / 'vit'}", "text": f"hf:{folder / 'bert'}"}


def question_store(folder: Path, layers: str = "1,2,3", **options: object) -> Path:
    """A store of the states of both encoders on `write_questions`, in `folder`."""
    table, encoders = write_questions(folder / "data"), save_encoders(folder)
    image, text = (f"{encoders[side]}?layer={layers}&pool=states" for side in ("image", "text"))
    embed(table, image, text, out=folder / "store", **options)
    return folder / "store"


SMALL = [
    *("fusion.depth=2", "fusion.width=16", "fusion.heads=2", "fusion.grid=0", "heads.expand=1.0", "heads.contrast=8"),
    *("optim.batch=6", "optim.epochs=2", "optim.lr=1e-3", "optim.precision=float32", "stop.restore_best=false"),
]
EVERY = ["objectives.answers=1", "objectives.matching=1", "objectives.contrast=1", "objectives.words=1"]
