"""Verify everything in a store, a model or an index that can be verified.

example:
  isthmus doctor store/
"""

from __future__ import annotations

import argparse

from isthmus.cli import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="STORE|MODEL|INDEX")
    parser.add_argument(
        "--deep", action="store_true", help="read the weights of encoders again instead of trusting what is remembered"
    )
    common.add_encoder_arguments(parser)
    common.add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    common.check_paths(args.path)
    from isthmus.api import doctor

    findings = doctor(args.path, deep=args.deep, device=args.device, trust_remote_code=args.trust_remote_code)
    bad = [finding for finding in findings if not finding["ok"]]
    for finding in findings:
        remedy = "" if finding["ok"] else f" → {finding['remedy']}"
        common.say_folded(f"{'ok ' if finding['ok'] else 'BAD'} {finding['what']}{remedy}")
    common.write_result(args, {"path": args.path, "findings": findings})
    return 1 if bad else 0
