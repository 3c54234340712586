"""Find the images that fit a text, or look like an image, and lay them out on a contact sheet.

example:
  isthmus search model/ photos/ "a red bicycle" --out bicycles.png
  isthmus search model/ photos/ cat.jpg --k 8
  isthmus search model/ store/ "a red bicycle"
  isthmus search model/ photos.index/ cat.jpg --plus red --minus "a sofa:0.5"

IMAGES is a folder of images, any table of pairs (captions are not needed), an index (`isthmus index`), which
answers at once, or a store, whose cached features are used; a store holds no pictures, so it gives a table
only. A QUERY that is the path of an image file searches by image. A model that joins other modalities
(`isthmus train --modalities`) is searched in the same way, by a text or a file, for items of the first of
them that is no text.
"""

from __future__ import annotations

import argparse
from typing import Any

from isthmus.cli import common
from isthmus.errors import UsageError

SHEET = "sheet.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("images", metavar="IMAGES")
    parser.add_argument("query", metavar="QUERY", help="a text, or the path of an image")
    parser.add_argument("--k", type=int, default=20, help="how many images (20)")
    mixed = "text or image, as often as wanted; a weight may follow, as in red:0.5"
    parser.add_argument("--plus", metavar="TERM", action="append", default=[], help=f"add to the query: a {mixed}")
    parser.add_argument("--minus", metavar="TERM", action="append", default=[], help="take from it, likewise")
    parser.add_argument("--label", help="only pictures with this label; of an index")
    parser.add_argument("--folder", metavar="DIR", help="only pictures in this folder of it, or below; of an index")
    parser.add_argument(
        "--least", type=float, default=0.5, metavar="P", help="say that nothing fits below this probability (0.5)"
    )
    parser.add_argument("--out", metavar="PNG", help=f"the contact sheet ({SHEET})")
    parser.add_argument("--json", metavar="FILE", help="also write the result as JSON ('-': standard output)")
    common.add_reading_arguments(parser)
    common.add_encoder_arguments(parser)


def run(args: argparse.Namespace) -> int:
    common.check_paths(args.model, args.images, args.image_folder)
    from isthmus.image_search import check_query, search

    check_query(args.query)
    images, printed = _read(args.images, common.reading(args))
    chosen = {name: getattr(args, name) for name in ("k", "plus", "minus", "label", "folder", "least", "out")}
    loading = {"device": args.device, "trust_remote_code": args.trust_remote_code}
    found = search(args.model, images, args.query, **chosen, **loading)
    sheet = args.out or (SHEET if found.pictures and found.hits else None)
    if sheet and not args.out:
        found.write_sheet(sheet)
    common.say(found)
    if sheet:
        common.say(f"contact sheet: {sheet}")
    common.print_notes(found.notes, printed)
    common.print_skipped(found.skipped)
    common.write_result(args, found.to_dict())
    return 3 if found.skipped else 0


def _read(images: str, reading: dict[str, Any]) -> tuple[Any, list[str]]:
    """Pairs, and the remarks on them that were printed; an index or a store as it is."""
    from isthmus.index import is_index

    what = "an index" if is_index(images) else ""
    if not what:
        from isthmus.store.opening import holds_features  # loads torch, which an index does without

        what = "a store, which holds features" if holds_features(images) else ""
    if not what:
        pairs = common.read_printing_notes(images, captions="optional", **reading)
        return pairs, pairs.notes
    if reading:
        raise UsageError(f"{images}: {what}: {', '.join(reading)} are for reading pairs.")
    return images, []
