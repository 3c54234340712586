"""Ask a model about a picture: its answers, with their probabilities.

example:
  isthmus ask model/ scene.png "What colour is the cat?"
  isthmus ask model/ scene.png "Is the dog blurred?" --k 2 --json -

MODEL is one that fuses and was trained on answers (isthmus train STORE --recipe manager), which chooses among the
answers of its training; or a language model that sees (--recipe llava), which also answers in words of its own.
`isthmus eval MODEL vqa` measures either, beside what it says without looking.
"""

from __future__ import annotations

import argparse

from isthmus.cli import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("image", metavar="IMAGE", help="an image file")
    parser.add_argument("question", metavar="QUESTION", nargs="+", help="one or more, each in quotes")
    parser.add_argument("--k", type=int, default=5, help="how many answers to show (5)")
    parser.add_argument("--json", metavar="FILE", help="also write the result as JSON ('-': standard output)")
    common.add_encoder_arguments(parser)


def run(args: argparse.Namespace) -> int:
    common.check_paths(args.model, args.image)
    from isthmus.api import ask

    loading = {"device": args.device, "trust_remote_code": args.trust_remote_code}
    replies = ask(args.model, args.image, args.question, k=args.k, **loading)
    for reply in replies:
        if len(replies) > 1:
            common.say(reply.question)
        common.say(reply)
    found = [reply.to_dict() for reply in replies]
    common.write_result(args, found[0] if len(found) == 1 else found)
    return 0
