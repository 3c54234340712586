"""Say what pictures show, by a language model that sees.

example:
  isthmus caption model/ cat.jpg dog.jpg
  isthmus caption model/ cat.jpg --tokens 20 --json -

MODEL is a language model that sees, trained on captions (isthmus train STORE --recipe llava).
`isthmus eval MODEL captions` measures it.
"""

from __future__ import annotations

import argparse

from isthmus.cli import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files")
    parser.add_argument("--tokens", type=int, default=48, help="at most so many of a caption (48)")
    parser.add_argument("--json", metavar="FILE", help="also write the result as JSON ('-': standard output)")
    common.add_encoder_arguments(parser)


def run(args: argparse.Namespace) -> int:
    common.check_paths(args.model, *args.images)
    from isthmus.api import caption

    loading = {"device": args.device, "trust_remote_code": args.trust_remote_code}
    found = caption(args.model, args.images, tokens=args.tokens, **loading)
    for image, text in zip(args.images, found, strict=True):
        common.say_folded(f"{image}: {text}")
    common.write_result(args, [{"image": image, "caption": one} for image, one in zip(args.images, found, strict=True)])
    return 0
