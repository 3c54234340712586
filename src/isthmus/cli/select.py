"""Rank pairs of image and text encoders before anything is trained.

example:
  isthmus select captions.parquet --out choice/ \\
                 --image-encoders 'hf:facebook/dinov2-base?layer=*&pool=cls+mean' timm:convnext_base.fb_in22k \\
                 --text-encoders st:sentence-transformers/all-MiniLM-L6-v2 st:sentence-transformers/all-mpnet-base-v2
  isthmus train choice/ --out model/        # its first choice

PAIRS is what `isthmus embed` takes, or a store, of which all encoders are compared unless some are named. Run it
again to go on where it stopped. Test pairs are never looked at. Writes select.json and report.html.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import Any

from isthmus.cli import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="PAIRS|STORE")
    parser.add_argument("--image-encoders", "--image", metavar="URI", nargs="+", action="extend", default=[])
    parser.add_argument("--text-encoders", metavar="URI", nargs="+", action="extend", default=[])
    parser.add_argument(
        "--modalities", nargs=2, metavar=("A", "B"), help="encoders of which two: A's by --image-encoders (image text)"
    )
    parser.add_argument("--out", metavar="DIR", required=True)
    parser.add_argument("--only", metavar="PARQUET", help="use only the ids in this file")
    parser.add_argument("--limit", type=int, help="use at most N pairs, chosen by hash")
    parser.add_argument("--seeds", type=int, default=3, help="probes trained per pair (3); 0: none, rank by CCA")
    parser.add_argument(
        "--bootstrap", type=int, default=1000, help="bootstrap resamples for the intervals (1000); 0: none"
    )
    parser.add_argument("--sample", type=int, default=5000, help="images for training-free scores, at most (5000)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done: encoders, pairs, time")
    common.add_reading_arguments(parser)
    common.add_encoder_arguments(parser)
    common.add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    common.check_paths(args.data, args.only, args.image_folder)
    from isthmus.selection.run import plan, select
    from isthmus.store.opening import holds_features

    named: dict[str, Any] = {}
    if holds_features(args.data):
        named = common.reading(args)  # refused by name
    else:
        args.data = common.read_printing_notes(args.data, **common.reading(args))
    named |= {"image": args.image_encoders, "text": args.text_encoders, "only": args.only, "limit": args.limit}
    named |= {"seed": args.seed, "device": args.device, "trust_remote_code": args.trust_remote_code}
    named |= {"modalities": tuple(args.modalities)} if args.modalities else {}
    if args.dry_run:
        planned = plan(args.data, seeds=args.seeds, **named)
        common.say_folded(common.lines(planned))
        common.write_result(args, planned)
        return 0
    found = select(
        args.data,
        out=args.out,
        seeds=args.seeds,
        bootstrap=args.bootstrap,
        sample=args.sample,
        progress=common.progress_wanted(),
        log=lambda line: common.say(line, error=True),
        command=shlex.join(["isthmus", *sys.argv[1:]]),
        **named,
    )
    common.say(found)
    common.say_folded(f"report: {args.out}/report.html; the first choice: isthmus train {args.out} --out MODEL")
    common.write_result(args, found.to_dict())
    return 3 if found.failed or found.candidates.skipped else 0
