"""Run the whole way on packaged real data: embed, train five recipes, evaluate, and write a page of pictures.

example:
  isthmus fetch demo
  isthmus demo --out out/demo
  isthmus demo --limit 800 --out out/small
  isthmus demo questions --out out/questions
  isthmus demo speech --out out/speech

A first look comes within two minutes: OUT/first-look.png, and a search to try in OUT/first, a model of some
800 pictures. Then the whole: OUT/store, OUT/models, OUT/model (of the recipe `default`), OUT/index for
`isthmus serve OUT`, OUT/results.json and OUT/report.html. Run again, it computes only what has changed.

`questions` trains a manager over layers of both encoders instead, on scenes composed of the drawings, and asks
it about scenes of other drawings: OUT/model, for `isthmus ask`, OUT/scenes/unseen.csv, OUT/layers.html.

`speech` trains a recogniser on lines with rendered faces, first on sound, then on faces, then on both, and has it
read unseen lines in babble: OUT/model, OUT/results.json, OUT/report.html. It needs `isthmus fetch speech`, on a
system with apt-get and a C compiler.
"""

from __future__ import annotations

import argparse
import shlex

from isthmus.cli import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = "pictures and captions (the default), questions, or speech"
    parser.add_argument("what", nargs="?", choices=(*DEMOS,), default="pictures", help=what)
    parser.add_argument("--out", metavar="DIR", help="folder for all results (out/demo, out/questions, out/speech)")
    limit = "at most N pictures, in whole groups; questions: N scenes to train on (500); speech: N sentences (300)"
    parser.add_argument("--limit", metavar="N", type=int, help=limit)
    common.add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    args.out = args.out or f"out/{DEMOS[args.what][0]}"
    return DEMOS[args.what][1](args)


def _pictures(args: argparse.Namespace) -> int:
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


def _questions(args: argparse.Namespace) -> int:
    from tabulate import tabulate

    from isthmus.metrics.results import details, table
    from isthmus_demo.question_run import SCENES, run_questions, trial_rows

    scenes = SCENES if args.limit is None else args.limit
    found = run_questions(args.out, scenes=scenes, seed=args.seed, log=common.say, progress=common.progress_wanted())
    common.say(f"\n{table([found.result], ['accuracy', 'shuffled_accuracy', 'blind_accuracy'])}")
    common.say(f"\n{details([found.result])}\n")
    heads = ["question about an unseen scene", "answer", "", "right would be"]
    common.say(tabulate(trial_rows(found.trials), headers=heads, disable_numparse=True))
    right, blind = (sum(getattr(one, name) for one in found.trials) for name in ("right", "blindly_right"))
    common.say(f"\n{right} of {len(found.trials)} right; of a plain grey picture {blind}.\n")
    first = found.trials[0].asked
    common.say(f"model: {args.out}/model\nlayers: {args.out}/layers.html\nresults: {args.out}/results.json")
    common.say(f"ask: isthmus ask {args.out}/model {args.out}/scenes/{first.image} {shlex.quote(first.question)}")
    common.write_result(args, {"result": dict(found.result), "stages": dict(found.stages)})
    return 3 if found.result.get("skipped") else 0


def _speech(args: argparse.Namespace) -> int:
    from tabulate import tabulate

    from isthmus_demo.speech_run import SENTENCES, run_speech, table_rows

    sentences = SENTENCES if args.limit is None else args.limit
    demo = run_speech(args.out, sentences=sentences, seed=args.seed, log=common.say, progress=common.progress_wanted())
    common.say("\nwrong characters in percent, by the loudness of speech over babble in dB\n")
    common.say(tabulate(table_rows(demo), headers=["read from", *demo.noises], stralign="right", colalign=("left",)))
    common.say(f"\nmodel: {args.out}/model\nresults: {args.out}/results.json\nlines to look at: {args.out}/report.html")
    common.say(f"read a recording: isthmus transcribe {args.out}/model {args.out}/pack/sound/test-0000.wav")
    common.write_result(args, {"results": [dict(one) for one in demo.results], "stages": dict(demo.stages)})
    return 3 if dict(demo.results[0]).get("skipped") else 0


def _command(args: argparse.Namespace) -> str:
    """The command as the report quotes it."""
    limit = ["--limit", str(args.limit)] if args.limit is not None else []
    return shlex.join(["isthmus", "demo", *limit, "--seed", str(args.seed), "--out", args.out])


DEMOS = {
    "pictures": ("demo", _pictures),
    "questions": ("questions", _questions),
    "speech": ("speech", _speech),
}
