"""Write a model for other libraries: transformers and Sentence-Transformers, or ONNX.

example:
  isthmus export model/ --to hf --out exported/          # AutoModel, pipeline, SentenceTransformer; its code inside
  isthmus export model/ --to st-plain --out exported/    # SentenceTransformer without code, where that is exact
  isthmus export model/ --to onnx --int8 pairs.jsonl --out exported/
  isthmus export model/ --to llava --out exported/       # a language model that sees, for AutoModelForImageTextToText
  isthmus export model/ --to hf --out exported/ --push owner/name

The folder holds the encoders too: their licences stand in its card. What it computes is compared with the model before
anything is written; docs/export.md says which heads and encoders each target takes.
"""

from __future__ import annotations

import argparse

from isthmus.cli import common

TARGETS = ("hf", "st-plain", "onnx", "llava")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model's folder, or the URI of a pretrained dual encoder")
    parser.add_argument("--to", choices=TARGETS, default="hf", help="the format (hf)")
    parser.add_argument("--out", metavar="DIR", required=True)
    parser.add_argument("--int8", metavar="PAIRS", help="onnx: also weights of 8 bits; their recall on these pairs")
    parser.add_argument(
        "--allow-unknown-licence",
        action="store_true",
        help="copy encoders whose licence is not known; you vouch for it",
    )
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload the folder to this repository of the hub, private")
    parser.add_argument("--public", action="store_true", help="with --push: make a new repository public")
    parser.add_argument("--json", metavar="FILE", help="also write the report as JSON ('-': standard output)")
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="run code that an encoder brings with it; it is not copied"
    )


def run(args: argparse.Namespace) -> int:
    common.check_paths(args.model, args.int8)
    from isthmus.api import export

    options = {} if args.int8 is None else {"int8": args.int8}
    report = export(
        args.model,
        args.out,
        to=args.to,
        allow_unknown_licence=args.allow_unknown_licence,
        trust_remote_code=args.trust_remote_code,
        **options,
    )
    for uri, licence in report["licences"].items():
        common.say(f"encoder: {uri} ({licence})")
    for side, difference in report["differences"].items():
        what = side if args.to == "llava" else f"{side} embeddings"
        common.say(f"{what}: differ from the model's own by at most {difference:.1g}")
    for name, value in report.get("recall", {}).get("float32", {}).items():
        common.say(f"{name}: {value:.4f}, in int8 {report['recall']['int8'][name]:.4f}")
    common.say(f"exported: {args.out} ({report['bytes'] / 1e6:,.1f} MB); how to load it: {args.out}/README.md")
    if args.push:
        report["pushed"] = _push(args)
    common.write_result(args, report)
    return 0


def _push(args: argparse.Namespace) -> str:
    from pathlib import Path

    from isthmus.encoders.hub import upload

    address = upload(Path(args.out), args.push, private=not args.public)
    common.say(f"pushed: {address}")
    return address
