"""Choose the pairs worth training on, by concept.

example:
  isthmus curate store/ --concepts classnames.txt --per-concept 200 --out curated/
  isthmus curate laion-embeddings/ --concepts photos-by-class/ --encoder open_clip:ViT-L-14@openai --out curated/
  isthmus curate store/ --dedup phash --against test.parquet --images captions.parquet --out cleaned/
  isthmus train store/ --only curated/selected.parquet --out model/

POOL is a store, a folder of embeddings (clip-retrieval's layout, or image.npy and text.npy), Parquet metadata with
captions (LAION's, img2dataset's) or pairs. --concepts is a text file with a name a line, labelled images (a table
with a `label` column, a folder of class folders, a store), auto:N (N clusters of the pool) or captions:N (the N most
frequent phrases of its captions); without it, all that cleaning leaves is chosen. Run it again to go on where it
stopped.
"""

from __future__ import annotations

import argparse
from typing import Any

from isthmus.cli import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pool", metavar="POOL")
    parser.add_argument("--concepts", metavar="FILE", help="names, labelled images, auto:N, captions:N")
    parser.add_argument("--out", metavar="DIR", required=True)
    parser.add_argument(
        "--encoder", metavar="URI", nargs="+", help="the encoder of the pool's features (a store knows its own)"
    )
    parser.add_argument("--modalities", nargs=2, metavar=("A", "B"), help="which two the pairs are of (image text)")
    parser.add_argument("--per-concept", type=int, default=2000, metavar="N", help="most pairs for one concept (2,000)")
    parser.add_argument("--keep", type=int, metavar="K", help="candidates kept for a concept (25 × N)")
    parser.add_argument(
        "--floor",
        type=_floor,
        default="auto",
        metavar="S|auto|none",
        help="least cosine of a pair to its concept (auto: what nine in ten concepts that are not there stay below)",
    )
    parser.add_argument(
        "--sides", choices=["caption", "image", "both"], help="which side is compared with the concepts"
    )
    parser.add_argument("--combine", choices=["min", "mean"], default="min", help="of both sides (min)")
    parser.add_argument("--rank", metavar="R|mean", help="judge how rare a concept is by its score at this rank (K)")
    common.add_templates_argument(parser)
    parser.add_argument("--shots", type=int, default=128, help="most labelled images for a concept (128)")
    parser.add_argument("--mix", metavar="NAME=FOLDER:N", action="append", default=[], help="add N pairs of a source")
    parser.add_argument("--images", metavar="PAIRS", help="pairs with the pictures, for cleaning and the report")
    parser.add_argument(
        "--engine", choices=["local", "ray"], default="local", help="ray: on a cluster (docs/cluster.md)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan: rows, concepts, memory")
    _add_cleaning_arguments(parser)
    common.add_reading_arguments(parser, images=None)
    common.add_encoder_arguments(parser)
    common.add_run_arguments(parser)


def _add_cleaning_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("cleaning before the choice, in this order; everything left out is listed")
    group.add_argument("--min-words", type=int, metavar="N", help="of a caption")
    group.add_argument("--max-words", type=int, metavar="N", help="of a caption")
    group.add_argument("--lang", metavar="TAG", help="leave out captions that are tagged with another language")
    group.add_argument("--min-side", type=int, metavar="PX", help="of a picture's shorter side")
    group.add_argument("--max-aspect", type=float, metavar="R", help="longer side over shorter")
    group.add_argument(
        "--against",
        metavar="PAIRS",
        nargs="+",
        default=[],
        help="leave out pairs that are also in these evaluation sets",
    )
    group.add_argument(
        "--keep-leaks", action="store_true", help="report pairs that are also in evaluation sets, but keep them"
    )
    group.add_argument(
        "--dedup",
        choices=["exact", "phash", "phash-loose", "embedding"],
        nargs="+",
        default=[],
        metavar="METHOD",
        help="keep one of each: exact, phash (keeps drawings that differ in some place apart), phash-loose (does not), "
        "embedding",
    )
    group.add_argument("--near", type=float, default=0.95, metavar="S", help="least cosine of near-duplicates (0.95)")
    group.add_argument(
        "--balance", metavar="FILE", help="metadata entries, one a line: thin the frequent ones (MetaCLIP)"
    )
    group.add_argument(
        "--t",
        type=int,
        metavar="N",
        help="an entry with at most so many captions keeps all of them (default: by MetaCLIP's tail of 6 %%)",
    )


def _floor(text: str) -> float | str | None:
    """A number, or one of two words."""
    return None if text == "none" else text if text == "auto" else float(text)


def run(args: argparse.Namespace) -> int:
    common.check_paths(args.pool, args.concepts, args.images, args.balance, *args.against)
    from isthmus.curation.run import curate, plan
    from isthmus.errors import UsageError

    options = {name: getattr(args, name) for name in ("encoder", "per_concept", "keep", "sides", "seed")}
    options |= {"device": args.device, "trust_remote_code": args.trust_remote_code}
    options |= {"templates": common.templates(args), "shots": args.shots} | common.reading(args)
    options |= {"modalities": tuple(args.modalities)} if args.modalities else {}
    if args.dry_run:
        if args.concepts is None:
            raise UsageError("--dry-run plans a choice by concept: name them (--concepts).")
        planned = plan(args.pool, args.concepts, **options)
        common.say_folded(common.lines(planned))
        common.write_result(args, planned)
        return 0
    result = curate(
        args.pool,
        args.concepts,
        out=args.out,
        floor=args.floor,
        rank=int(args.rank) if (args.rank or "").isdigit() else args.rank,
        combine=args.combine,
        mix=args.mix,
        images=args.images,
        cleaning=_cleaning(args),
        engine=args.engine,
        progress=common.progress_wanted(),
        **options,
    )
    common.say_folded(result)
    common.say(f"report: {args.out}/report.html")
    common.write_result(args, {"out": args.out, **result.manifest})
    skipped = result.manifest["skipped"]
    common.print_skipped(skipped, f"{args.out}/manifest.json")
    return 3 if skipped else 0


def _cleaning(args: argparse.Namespace) -> Any:
    from isthmus.curation.cleaning import Cleaning
    from isthmus.curation.filters import Filters

    limits = ("min_words", "max_words", "min_side", "max_aspect", "lang")
    others = ("dedup", "near", "against", "keep_leaks", "balance", "t")
    return Cleaning(
        Filters(**{name: getattr(args, name) for name in limits}), **{name: getattr(args, name) for name in others}
    )
