"""Write the features of image-caption pairs by frozen encoders into a store.

example:
  isthmus embed captions.parquet --image-encoder 'hf:facebook/dinov2-large?pool=cls+mean' \\
                --text-encoder st:sentence-transformers/all-roberta-large-v1 --out store/ --test 0.2

With `?layer=4,8,12&pool=states` the states of these layers are stored, sequences of tokens.
Run it again to go on where it stopped. PAIRS is a Parquet, CSV or JSONL table with `image` and `caption` columns, a
folder of images with same-stem .txt files, WebDataset tars, a saved Hugging Face dataset, COCO's captions, Karpathy's
splits, or another of the formats in docs/formats.md.
"""

from __future__ import annotations

import argparse

from isthmus.cli import common

PRECISION = "of the forward pass; auto: bf16 where the processor has it and features keep a cosine of 0.999"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pairs", metavar="PAIRS")
    parser.add_argument("--image-encoder", "--image", metavar="URI", nargs="+", action="extend")
    parser.add_argument("--text-encoder", metavar="URI", nargs="+", action="extend")
    parser.add_argument("--encoder", metavar="URI", nargs="+", action="extend", default=[], help="for its own modality")
    parser.add_argument("--out", metavar="STORE", required=True)
    parser.add_argument("--only", metavar="PARQUET", help="embed only the ids in this file")
    parser.add_argument(
        "--test",
        type=float,
        metavar="SHARE",
        help="hold out this share as split test, in whole groups",
    )
    parser.add_argument("--batch-size", type=int, help="items per forward pass (default: what the device does fast)")
    parser.add_argument("--max-skip", type=float, default=0.01, help="largest share of unreadable images (0.01)")
    parser.add_argument("--max-pixels", type=int, default=100_000_000, help="skip larger images (100 million)")
    parser.add_argument("--precision", choices=["auto", "float32", "bf16"], default="auto", help=PRECISION)
    parser.add_argument(
        "--states-dtype", choices=["float16", "int8"], default="float16", help="how layer=…&pool=states is stored"
    )
    parser.add_argument(
        "--engine", choices=["local", "ray"], default="local", help="ray: on a Ray cluster (docs/cluster.md)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the plan, for float32: counts, bytes, memory, time"
    )
    common.add_reading_arguments(parser)
    common.add_encoder_arguments(parser)
    common.add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    common.check_paths(args.pairs, args.only, args.image_folder)
    from isthmus.embedding import embed, plan

    pairs = common.read_printing_notes(args.pairs, max_pixels=args.max_pixels, **common.reading(args))
    options = {"device": args.device, "trust_remote_code": args.trust_remote_code}
    options |= {"encoders": args.encoder, "states_dtype": args.states_dtype}
    if args.dry_run:
        options |= {"only": args.only, "batch_size": args.batch_size}
        planned = plan(pairs, args.image_encoder, args.text_encoder, **options)
        common.say_folded(planned)
        common.print_notes(planned.notes)
        common.write_result(args, asdict(planned))
        return 0
    printed = pairs.notes
    report = embed(
        pairs,
        args.image_encoder,
        args.text_encoder,
        out=args.out,
        only=args.only,
        batch_size=args.batch_size,
        max_skip=args.max_skip,
        max_pixels=args.max_pixels,
        precision=args.precision,
        engine=args.engine,
        test=args.test,
        seed=args.seed,
        progress=True,
        **options,
    )
    common.say_folded(report)
    common.print_notes(report.notes, printed)
    common.print_skipped(report.skipped, f"{report.store}/skipped.parquet")
    common.write_result(args, asdict(report))
    return 3 if report.skipped else 0
