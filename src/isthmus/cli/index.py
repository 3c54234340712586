"""Encode pictures once into an index, which `isthmus search` answers from at once; or bring one up to date.

example:
  isthmus index model/ photos/ scans.csv --out photos.index/
  isthmus search model/ photos.index/ "a red bicycle"
  isthmus index model/ --out photos.index/

Run it again when pictures have changed; without IMAGES it looks at those of the last time. Files are read if
they are new or changed, and encoded if their content is: moved and renamed ones are not. Pictures that are gone
stay in the index, as on a disk that is not plugged in, until --remove-missing. A killed run goes on where it was.
--to qdrant sends the index to a Qdrant cluster by its own client (docs/guide/search.md).
"""

from __future__ import annotations

import argparse

from isthmus.cli import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument(
        "images", metavar="IMAGES", nargs="*", help="folders or tables; default: those of the last time"
    )
    parser.add_argument("--out", metavar="INDEX", required=True, help="the index's folder")
    parser.add_argument(
        "--remove-missing", action="store_true", help="remove pictures that are gone, up to a tenth of them"
    )
    parser.add_argument("--remove-many", action="store_true", help="with --remove-missing: however many they are")
    parser.add_argument("--compact", action="store_true", help="write the index anew as one block")
    parser.add_argument(
        "--thumbnails",
        type=int,
        default=192,
        metavar="PX",
        help="longer side of the small pictures kept (192; 0: none)",
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="pictures per forward pass")
    parser.add_argument("--precision", choices=("auto", "float32", "bf16"), default="auto", help="as of embed (auto)")
    parser.add_argument(
        "--max-skip", type=float, default=0.01, metavar="X", help="largest share of bad pictures (0.01)"
    )
    parser.add_argument("--to", choices=("qdrant",), help="send the index on; without IMAGES it is not looked through")
    parser.add_argument("--url", default="http://localhost:6333", help="of the cluster (http://localhost:6333)")
    parser.add_argument("--collection", metavar="NAME", help="there; default: the name of the index's folder")
    parser.add_argument("--json", metavar="FILE", help="also write the result as JSON ('-': standard output)")
    common.add_reading_arguments(parser)
    common.add_encoder_arguments(parser)


def run(args: argparse.Namespace) -> int:
    common.check_paths(args.model, *args.images, args.image_folder)
    if args.to and not args.images:
        return _send(args)
    from isthmus.index import build_index

    reading = common.reading(args)
    image_folder = reading.pop("images", None)
    report = build_index(
        args.model,
        args.images,
        out=args.out,
        thumbnails=args.thumbnails,
        remove_missing=args.remove_missing,
        remove_many=args.remove_many,
        compact=args.compact,
        text_graph=True,
        batch_size=args.batch_size,
        precision=args.precision,
        max_skip=args.max_skip,
        device=args.device,
        trust_remote_code=args.trust_remote_code,
        progress=common.progress_wanted(),
        image_folder=image_folder,
        **reading,
    ).report
    common.say(report)
    common.print_notes(report.notes)
    common.print_skipped(report.skipped)
    common.write_result(args, report.to_dict())
    if args.to:
        _send(args)
    return 3 if report.skipped else 0


def _send(args: argparse.Namespace) -> int:
    """Send the index as it is."""
    from pathlib import Path

    from isthmus.index import open_index
    from isthmus.index.qdrant import send_to_qdrant

    collection = args.collection or Path(args.out).resolve().stem
    sent = send_to_qdrant(open_index(args.out), args.url, collection)
    common.say(f"{args.url}: {sent:,} pictures sent to the collection {collection}.")
    return 0
