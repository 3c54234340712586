"""Serve a page and an HTTP API: search, labels, segmentation, embeddings.

example:
  isthmus serve out/demo
  isthmus serve model/ --index photos.index/
  isthmus serve first/ second/ --index first.index/ second.index/ --port 8080

MODEL is a model, or a folder of results with a `model` and an `index` in it. The page and the API are at the
address that is printed, for this machine alone. With --host 0.0.0.0 others reach it too, by a token that is
printed once, or is in the environment as ISTHMUS_TOKEN. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse

from isthmus.cli import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", metavar="MODEL", nargs="+")
    parser.add_argument("--index", metavar="INDEX", nargs="+", default=[], help="pictures to search, as `index` wrote")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8765, help="0 takes a free one (8765)")
    parser.add_argument(
        "--name", metavar="NAME", nargs="+", default=[], help="further names of this machine, as in a browser"
    )
    common.add_encoder_arguments(parser)


def run(args: argparse.Namespace) -> int:
    common.check_paths(*args.models, *args.index)
    from isthmus.api import serve

    try:
        serve(
            args.models,
            index=args.index,
            host=args.host,
            port=args.port,
            names=args.name,
            device=args.device,
            trust_remote_code=args.trust_remote_code,
            log=common.say,
        )
    except KeyboardInterrupt:
        common.say("stopped.")
        return 130
    return 0
