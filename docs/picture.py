"""Draw docs/demo.png, the picture in the README: top results of free-text queries by the demo's model.

python docs/picture.py          # after `make demo`
"""

from __future__ import annotations

import argparse
from pathlib import Path

import isthmus as ist
import isthmus_demo
from isthmus.evaluation.inputs import embed_for_evaluation
from isthmus.metrics.nearest import top_k
from isthmus.report.contact_sheet import contact_sheet

QUERIES = (
    "a musical instrument with strings",
    "an insect that makes honey",
    "decorations for Christmas",
    "danger ahead",
)
COLUMNS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("out/demo"))
    demo = parser.parse_args().demo
    model = ist.DualEncoder.from_pretrained(demo / "model")
    test = embed_for_evaluation(model, demo / "store", split="test")
    pairs = ist.read_pairs(isthmus_demo.PAIRS)
    row = {name: number for number, name in enumerate(pairs.images["id"].to_pylist())}
    scores, found = top_k(model.encode_text(QUERIES), test.image, COLUMNS)
    pictures = [pairs.decode(row[test.image_ids[one]]) for hits in found for one in hits]
    lines = [f"{query}\n{score:.2f}" for query, line in zip(QUERIES, scores, strict=True) for score in line]
    sheet = contact_sheet(pictures, lines, columns=COLUMNS, size=132)
    sheet.save(Path(__file__).with_name("demo.png"), optimize=True)


if __name__ == "__main__":
    main()
