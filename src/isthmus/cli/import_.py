"""Make a store from features computed elsewhere: the clip-retrieval layout, or .npy arrays.

example:
  isthmus import laion-embeddings/ --model open_clip:ViT-L-14 --out store/

FOLDER holds img_emb/, text_emb/ and metadata/ as clip-retrieval writes them, or image.npy and text.npy with
optional ids.txt and captions.txt.
"""

from __future__ import annotations

import argparse

from isthmus.cli import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER")
    parser.add_argument("--model", help="the model that made the features: their identity in the store")
    parser.add_argument("--out", metavar="STORE", required=True)
    common.add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    common.check_paths(args.folder)
    from isthmus.store import import_folder, open_store

    skipped = import_folder(args.folder, args.out, model=args.model)
    store = open_store(args.out)
    common.say_folded(store)
    counts = {"images": len(store), "captions": store.captions.num_rows}
    common.write_result(args, {"store": args.out, **counts, "skipped": skipped})
    common.print_skipped(skipped, f"{args.out}/skipped.parquet")
    return 3 if skipped else 0
