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
from pathlib import Path
from typing import TYPE_CHECKING

from isthmus.cli import common

if TYPE_CHECKING:
    from PIL import Image

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
    import numpy as np
    from PIL import Image
    from tabulate import tabulate

    from isthmus.files import write_atomic
    from isthmus.metrics.zeroshot import load_templates
    from isthmus.models.dual_encoder import DualEncoder
    from isthmus.segmentation import Segmenter
    from isthmus.segmentation.overlay import overlay

    _check(args)
    image = _opened(args.image)
    given = common.templates(args)
    prompts = load_templates(given) if isinstance(given, str) else given
    model = DualEncoder.from_pretrained(args.model, device=args.device, trust_remote_code=args.trust_remote_code)
    labels = Segmenter(model, args.classes, prompts, **common.segmentation_options(args))(image)
    shares = (np.bincount(labels.ravel(), minlength=len(args.classes)) / labels.size).tolist()
    rows = [{"class": name, "share": share} for name, share in zip(args.classes, shares, strict=True)]
    common.say(tabulate([(row["class"], f"{100 * row['share']:.1f} %") for row in rows], headers=["class", "share"]))
    write_atomic(args.out, overlay(image, labels, args.classes).save)
    common.say(f"overlay: {args.out}")
    if args.mask:
        write_atomic(args.mask, Image.fromarray(labels).save)
        common.say(f"mask: {args.mask}")
    common.write_result(args, {"image": args.image, "classes": rows, "overlay": args.out, "mask": args.mask})
    return 0


def _check(args: argparse.Namespace) -> None:
    """Say what cannot work before anything is loaded."""
    from PIL import Image

    from isthmus.errors import UsageError

    for path in filter(None, (args.out, args.mask)):
        if Path(path).suffix.lower() not in Image.registered_extensions():
            raise UsageError(f"{path}: not a name of an image file; try {Path(path).with_suffix('.png')}.")
    if args.mask and Path(args.mask).suffix.lower() != ".png":
        raise UsageError(f"--mask {args.mask}: write a PNG; other formats may change the numbers.")


def _opened(path: str) -> Image.Image:
    from isthmus.data.images import decode
    from isthmus.errors import InputError

    try:
        return decode(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
