"""Say what pictures show, by a language model that sees.

example:
  isthmus caption model/ cat.jpg dog.jpg
  isthmus caption model/ cat.jpg --tokens 20 --json -

MODEL is a language model that sees, trained on captions (isthmus train STORE --recipe llava).
`isthmus eval MODEL captions` measures it.
"""

from __future__ import annotations

import argparse
from typing import Any

from isthmus.cli import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files")
    parser.add_argument("--tokens", type=int, default=48, help="at most so many of a caption (48)")
    parser.add_argument("--json", metavar="FILE", help="also write the result as JSON ('-': standard output)")
    common.add_encoder_arguments(parser)


def run(args: argparse.Namespace) -> int:
    common.check_paths(args.model, *args.images)
    from isthmus.errors import InputError
    from isthmus.evaluation.asking import opened_speaker
    from isthmus.evaluation.inputs import Saved

    model, _ = opened_speaker(Saved(args.model, args.device, args.trust_remote_code), "captioning")
    bad: list[tuple[str, str]] = []
    found = _captions(model, args.images, args.tokens, bad)
    for image, text in found:
        common.say_folded(f"{image}: {text}")
    common.print_skipped(bad)
    if not found:
        raise InputError(f"none of the {len(bad)} pictures could be captioned.")
    common.write_result(args, [{"image": image, "caption": text} for image, text in found])
    return 3 if bad else 0


def _captions(model: Any, images: list[str], tokens: int, bad: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """(image, caption), all at once; if that fails, one by one, and those that cannot be read are added to `bad`."""
    from isthmus.api import caption
    from isthmus.errors import InputError

    try:
        return list(zip(images, caption(model, images, tokens=tokens), strict=True))
    except InputError:
        if len(images) == 1:
            raise
    found = []
    for image in images:
        try:
            [text] = caption(model, [image], tokens=tokens)
            found.append((image, text))
        except InputError as error:
            bad.append((image, str(error).removeprefix(f"{image}: ")))
    return found
