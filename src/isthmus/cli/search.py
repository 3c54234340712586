"""Find the images that fit a text, or look like an image, and lay them out on a contact sheet.

example:
  isthmus search model/ photos/ "a red bicycle" --out bicycles.png
  isthmus search model/ photos/ cat.jpg --k 8
  isthmus search model/ store/ "a red bicycle"

IMAGES is a folder of images, any table of pairs (captions are not needed), or a store, whose cached features
are used; a store holds no pictures, so it gives a table only. A QUERY that is the path of an image file
searches by image.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isthmus.cli import common

if TYPE_CHECKING:
    import numpy as np

    from isthmus.data.pairs import Pairs
    from isthmus.model import DualEncoder

SHEET = "sheet.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("images", metavar="IMAGES")
    parser.add_argument("query", metavar="QUERY", help="a text, or the path of an image")
    parser.add_argument("--k", type=int, default=20, help="how many images (20)")
    parser.add_argument("--out", metavar="PNG", help=f"the contact sheet ({SHEET})")
    parser.add_argument("--json", metavar="FILE", help="also write the result as JSON ('-': standard output)")
    common.add_reading_arguments(parser)
    common.add_encoder_arguments(parser)


def run(args: argparse.Namespace) -> int:
    common.check_paths(args.model, args.images, args.image_folder)
    from tabulate import tabulate

    from isthmus.evaluation.nearest import top_k
    from isthmus.model import DualEncoder

    cached = (Path(args.images) / "store.json").is_file()
    _check(args, cached)
    model = DualEncoder.from_pretrained(args.model, device=args.device, trust_remote_code=args.trust_remote_code)
    query = _embed_query(model, args.query)
    found = _from_store(model, args.images) if cached else _from_images(model, args.images, common.reading(args))
    pairs, ids, embeddings, skipped = found
    scores, rows = (found[0].tolist() for found in top_k(query, embeddings, args.k))
    hits = [{"score": score, "id": ids[row]} for score, row in zip(scores, rows, strict=True)]
    common.say(tabulate(hits, headers="keys", floatfmt=".3f", disable_numparse=[1]))
    if pairs is not None:
        sheet = args.out or SHEET
        _write_sheet(sheet, pairs, hits, args.query)
        common.say(f"contact sheet: {sheet}")
    for id, reason in skipped:
        common.say(f"  skipped {id}: {reason}", error=True)
    common.write_result(args, {"query": args.query, "hits": hits, "skipped": dict(skipped)})
    return 3 if skipped else 0


def _check(args: argparse.Namespace, cached: bool) -> None:
    """Say what cannot work before anything is encoded."""
    from PIL import Image

    from isthmus.errors import InputError, UsageError

    if looks_like_path(args.query) and not Path(args.query).is_file():
        raise InputError(
            f"{args.query}: no such image, though it looks like a path. Name one that exists, or, if it is a text, "
            f"begin it with a space: {' ' + args.query!r}."
        )
    if args.k < 1:
        raise UsageError(f"--k {args.k}: ask for at least one image.")
    if args.out and cached:
        raise UsageError(f"--out {args.out}: {args.images} is a store, which holds no pictures; name their folder.")
    if args.out and Path(args.out).suffix.lower() not in Image.registered_extensions():
        raise UsageError(f"--out {args.out}: not a name of an image file; try {Path(args.out).with_suffix('.png')}.")


def _embed_query(model: DualEncoder, query: str) -> np.ndarray:
    """[1, d]: of the image file that `query` names, else of the text."""
    return model.encode_image([query]) if Path(query).is_file() else model.encode_text([query.strip()])


def looks_like_path(query: str) -> bool:
    """Whether a query was meant for a file: it begins like a path, or ends like a picture or, in one word, any file."""
    from isthmus.data.images import EXTENSIONS, FOREIGN

    if query[:1].isspace():
        return False
    begins = re.match(r"(~|\.{1,2})?[/\\]|[A-Za-z]:[/\\]|file:", query)
    one_word = re.fullmatch(r"\S*[^\s/]/\S*|\S*\w\.[A-Za-z][A-Za-z0-9]{1,4}", query)
    return bool(begins or one_word or query.lower().endswith((*EXTENSIONS, *FOREIGN)))


def _from_store(model: DualEncoder, path: str) -> tuple[None, list[str], np.ndarray, list[tuple[str, str]]]:
    """No pictures, the ids, embeddings [n, d] from cached features, nothing skipped."""
    from isthmus.store import open_store

    store = open_store(path)
    features = store.features("image", [record["fingerprint"] for record in model.records["image"]])
    return None, store.images["id"].to_pylist(), model.project("image", features), []


def _from_images(
    model: DualEncoder, path: str, reading: dict[str, Any]
) -> tuple[Pairs, list[str], np.ndarray, list[tuple[str, str]]]:
    """The pictures, the ids of the readable ones, their embeddings [n, d], and (id, reason) of the others."""
    from isthmus.evaluation.inputs import embed_for_evaluation

    pairs = common.read_told(path, captions="optional", **reading)
    embedded = embed_for_evaluation(model, pairs.having(pairs.images, pairs.captions.slice(0, 0)))
    common.tell(embedded.notes, pairs._notes)
    return pairs, embedded.image_ids, embedded.image, embedded.skipped


def _write_sheet(path: str, pairs: Pairs, hits: list[dict[str, Any]], title: str) -> None:
    from isthmus.contact_sheet import contact_sheet
    from isthmus.files import write_atomic

    row = {id: i for i, id in enumerate(pairs.images["id"].to_pylist())}
    sheet = contact_sheet(
        [pairs.decode(row[hit["id"]]) for hit in hits],
        [f"{hit['score']:.3f}\n{hit['id']}" for hit in hits],
        title,
    )
    write_atomic(path, sheet.save)
