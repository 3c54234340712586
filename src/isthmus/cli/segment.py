"""Colour an image by the classes you name: open-vocabulary segmentation.

example:
  isthmus segment model/ photo.jpg cat tree house --out segmented.png
  isthmus segment model/ photo.jpg background cat tree --threshold 0.5 --size 448 --window 224
  isthmus segment model/ photo.jpg 'sky; clouds' 'tree; bush' --mask labels.png --templates 'a photo of a {}.'

Several names for one class are separated by ';'. The class 'background', with --threshold, is where no other is
probable. --mask writes the classes' numbers, from 0 in the order given, as a grey PNG.
"""

from __future__ import annotations

import argparse

from isthmus.cli import common

OVERLAY = "segmented.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument("classes", metavar="CLASS", nargs="+")
    parser.add_argument("--out", metavar="PNG", default=OVERLAY, help=f"image and overlay with legend ({OVERLAY})")
    parser.add_argument("--mask", metavar="PNG", help="also write the number of each pixel's class")
    common.add_templates_argument(parser)
    common.add_segmentation_arguments(parser)
    parser.add_argument("--json", metavar="FILE", help="also write the shares as JSON ('-': standard output)")
    common.add_encoder_arguments(parser)


def run(args: argparse.Namespace) -> int:
    common.check_paths(args.model, args.image)
    from tabulate import tabulate

    from isthmus.api import segment

    options = common.segmentation_options(args) | {"device": args.device, "trust_remote_code": args.trust_remote_code}
    templates = common.templates(args)
    found = segment(args.model, args.image, args.classes, templates=templates, out=args.out, mask=args.mask, **options)
    shown = [(name, f"{100 * share:.1f} %") for name, share in found.shares.items()]
    common.say(tabulate(shown, headers=["class", "share"]))
    common.say(f"overlay: {args.out}")
    if args.mask:
        common.say(f"mask: {args.mask}")
    rows = [{"class": name, "share": share} for name, share in found.shares.items()]
    common.write_result(args, {"image": args.image, "classes": rows, "overlay": args.out, "mask": args.mask})
    return 0
