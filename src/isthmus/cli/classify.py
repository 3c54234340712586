"""Label images with the classes you name, as CSV with probabilities.

example:
  isthmus classify model/ photos/ cat dog car --out labels.csv
  isthmus classify model/ photos/ --classes classnames.txt --all > labels.csv
  isthmus classify model/ cat.jpg cat dog --templates 'a drawing of a {}.'

IMAGES is a folder of images, one image, or any table of pairs. A probability is a softmax over the classes you
name: they add up to 1, also where none of them fits. Without --out the CSV goes to standard output.
"""

from __future__ import annotations

import argparse

from isthmus.cli import common
from isthmus.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("images", metavar="IMAGES")
    parser.add_argument("names", metavar="CLASS", nargs="*")
    parser.add_argument("--classes", metavar="FILE", help="more classes, a name a line")
    parser.add_argument("--out", metavar="CSV", help="id, label and probability of each image")
    parser.add_argument("--all", action="store_true", help="a column for the probability of each class too")
    common.add_templates_argument(parser)
    parser.add_argument("--json", metavar="FILE", help="also write the result as JSON ('-': standard output)")
    common.add_reading_arguments(parser)
    common.add_encoder_arguments(parser)


def run(args: argparse.Namespace) -> int:
    common.check_paths(args.model, args.images, args.classes, args.image_folder)
    from isthmus.api import classify
    from isthmus.data.labels import class_names
    from isthmus.inference.encode import picture_pairs

    if args.json == "-" and not args.out:
        raise UsageError("--json - and the CSV would both go to standard output: name a file for one of them.")
    pairs = picture_pairs(args.images, captions="optional", **common.reading(args))
    printed = pairs.notes
    common.print_notes(printed)
    found = classify(
        args.model,
        pairs,
        [*args.names, *class_names(args.classes)],
        templates=common.templates(args),
        device=args.device,
        trust_remote_code=args.trust_remote_code,
    )
    if args.out:
        found.write_csv(args.out, every=args.all)
        common.say(found)
        common.say(f"labels: {args.out}")
    else:
        common.say(found.to_csv(every=args.all).rstrip("\n"))
    common.print_notes(found.notes, printed)
    common.print_skipped(found.skipped)
    common.write_result(args, found.to_dict())
    return 3 if found.skipped else 0
