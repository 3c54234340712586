"""List where encoders come from, those that are packaged with licences, and what the cache holds.

example:
  isthmus encoders
  isthmus encoders --json -
"""

from __future__ import annotations

import argparse

from isthmus.cli import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", metavar="FILE", help="also write the list as JSON ('-': standard output)")


def run(args: argparse.Namespace) -> int:
    from tabulate import tabulate

    from isthmus.encoders.listing import list_encoders

    found = list_encoders()
    sources = [(f"{one.name}:", one.about if one.missing is None else f"needs {one.missing}") for one in found.sources]
    common.say(tabulate(sources, headers=["source", ""], maxcolwidths=[None, 66]))
    for title, listed in (("packaged", found.packaged), ("in the hub's cache", found.hub)):
        rows = [
            (one.uri, f"{one.bytes / 1e6:,.0f} MB", one.licence or "not said", "yes" if one.cached else "no")
            for one in listed
        ]
        common.say()
        if rows:
            common.say(tabulate(rows, headers=[title, "size", "licence", "here"], maxcolwidths=[36, None, 22, None]))
        else:
            common.say(f"{title}: none")
    common.say("\ncaches: " + "\n        ".join(found.caches))
    common.write_result(args, found.to_dict())
    return 0
