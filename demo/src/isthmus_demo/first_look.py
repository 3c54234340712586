"""A first look while the demo goes on: a closed form of a slice of the pictures, and what it finds among the others."""

from __future__ import annotations

import shlex
from pathlib import Path

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.data.pairs import Pairs
from isthmus.files import write_atomic
from isthmus.models.dual_encoder import DualEncoder
from isthmus.report.contact_sheet import contact_sheet
from isthmus_demo.measure import TextFeatures, best_images

PICTURES = 800  # of the slice
RECIPE = "cca"  # a second or two
QUERY, HITS = "a flower", 10
NEXT = "a musical instrument"  # to try oneself: like the former, of the slice's common subjects
SHEET = "first-look.png"


def show(out: Path, model: DualEncoder, pairs: Pairs, unseen: FeaturePairs, features: TextFeatures) -> str:
    """Write the sheet of one search among pictures that did not train the model; what to look at and to try, in words.

    model: saved in `out`/first. unseen: the pictures that are searched, of `pairs`.
    """
    found = best_images(model.project("text", features([QUERY])), model.project("image", unseen.image), HITS)[0]
    row = {id: i for i, id in enumerate(pairs.images["id"].to_pylist())}
    hits = [(unseen.image_ids[number], score) for number, score in found]
    pictures = [pairs.decode(row[id]) for id, _ in hits]
    labels = [f"{score:.3f}\n{id.rpartition('/')[2]}" for id, score in hits]
    write_atomic(out / SHEET, contact_sheet(pictures, labels, QUERY).save)
    trained = (model.summary.get("refit") or model.summary)["pairs"]
    command = shlex.join(["isthmus", "search", str(out / "first"), str(out / "store"), NEXT, "--k", "5"])
    return (
        f"           a first look, trained on {trained:,} pairs: {out / SHEET} shows the best\n"
        f'           of {len(unseen):,} other pictures for "{QUERY}". Try, in another terminal:\n'
        f"             {command}"
    )
