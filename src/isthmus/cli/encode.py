"""Write the embeddings of images, or of texts, with the id of each row beside them.

example:
  isthmus encode model/ photos/ --out photos.parquet
  isthmus encode model/ captions.parquet --captions --out captions.npy
  isthmus encode model/ queries.txt --out queries.npy

Images are a folder, one image, or any table of pairs; texts a .txt file with one a line, or with --captions the
captions of a table. A .parquet file holds id and embedding (of texts also text); beside a .npy file stands a .csv
with the ids of its rows. What cannot be read has no row and is listed in a .skipped.csv.
"""

from __future__ import annotations

import argparse

from isthmus.cli import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("data", metavar="IMAGES|TEXTS")
    parser.add_argument("--out", metavar="FILE", required=True, help="*.npy or *.parquet")
    parser.add_argument("--captions", action="store_true", help="those of a table in place of its images")
    parser.add_argument("--json", metavar="FILE", help="also write what was done as JSON ('-': standard output)")
    common.add_reading_arguments(parser)
    common.add_encoder_arguments(parser)


def run(args: argparse.Namespace) -> int:
    common.check_paths(args.model, args.data, args.image_folder)
    from isthmus.api import encode
    from isthmus.inference.encode import check_out, is_texts, picture_pairs

    check_out(args.out)
    data, printed = args.data, []
    if not is_texts(data):
        rule = "required" if args.captions else "optional"
        data = picture_pairs(data, captions=rule, **common.reading(args))
        printed = data.notes
        common.print_notes(printed)
    found = encode(
        args.model, data, captions=args.captions, device=args.device, trust_remote_code=args.trust_remote_code
    )
    rows, width = found.embeddings.shape
    written = [str(path) for path in found.save(args.out)]
    common.say_folded(f"{rows:,} rows of {width} dimensions, float32 of length 1: {', '.join(written)}")
    common.print_notes(found.notes, printed)
    common.print_skipped(found.skipped, written[-1])
    common.write_result(args, {"rows": rows, "width": width, "files": written, "skipped": dict(found.skipped)})
    return 3 if found.skipped else 0
