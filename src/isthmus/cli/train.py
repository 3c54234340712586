"""Train a model on the encoders of a store: a dual encoder, one that fuses layers, a language model, a recogniser.

example:
  isthmus train store/ --recipe default --out model/
  isthmus train store/ --init model/ --freeze text --image-encoder wheel:efficientnet-lite0 --out joined/
  isthmus train store/ --recipe linear --set optim.lr=3e-4 --set optim.epochs=40 --out model/
  torchrun --nproc-per-node 2 -m isthmus train store/ --out model/      # batches over two processes
  isthmus train small/ --recipe default --folds 5 --out model/
  isthmus train questions/ --recipe manager --out model/         # a store of states, and answers
  isthmus train questions/ --recipe llava --out model/           # the same, into a language model
  isthmus train lines/ --recipe avsr-small --recordings lines.jsonl --noise voices/ --out model/
  isthmus train store/ --recipe sail --tune 20 --out model/      # trials first, for 20 minutes

Run it again to go on where it stopped, bit for bit. Recipes: default, cca, linear, freeze-align,
freeze-align-pooled, sail; over layers: manager, managertower, bridgetower, meter; into a language model: llava,
llava-manager; speech: avsr, avsr-small; or a TOML file.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from isthmus.cli import common
from isthmus.errors import UsageError

SMALL = 1_000  # pairs: below, a test split is too small to say much
NOT_OF_FOLDS = ("init", "freeze", "pixels", "audio", "video", "recordings", "noise")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", help="a store, or what `isthmus select` wrote: its first choice")
    parser.add_argument("--recipe", default="default", help="a recipe's name or TOML file (default)")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="override a recipe value")
    parser.add_argument("--image-encoder", metavar="URI", nargs="+", help="which of the store's; several: side by side")
    parser.add_argument("--text-encoder", metavar="URI", nargs="+", help="which of the store's")
    parser.add_argument(
        "--modalities", nargs=2, metavar=("A", "B"), help="which two of the store's are joined (image text)"
    )
    parser.add_argument(
        "--pixels",
        metavar="PAIRS",
        help="encode the images of these pairs while training (--set data.augment=crop, picture.grids=[[1,2],[2,1]])",
    )
    parser.add_argument("--recordings", metavar="PAIRS", help="speech: the recordings of the store's lines")
    parser.add_argument("--noise", metavar="PATH", help="speech: a recording, or several that babble, mixed with them")
    parser.add_argument("--audio-encoder", dest="audio", metavar="URI", help="speech: which of the store's")
    parser.add_argument("--video-encoder", dest="video", metavar="URI", help="speech: which of the store's")
    parser.add_argument("--only", metavar="PARQUET", help="train only on the ids in this file")
    parser.add_argument("--init", metavar="MODEL", help="a trained model; its --freeze side stays unchanged")
    parser.add_argument(
        "--freeze", metavar="SIDE", help="the side to keep, image or text; the other side's encoder is trained to match"
    )
    parser.add_argument("--folds", type=int, metavar="K", help="cross-validate first: for fewer than about 1,000 pairs")
    parser.add_argument("--forget-items", action="store_true", help="keep no hashes of what trained it in the model")
    parser.add_argument("--out", metavar="MODEL", required=True)
    parser.add_argument("--tune", metavar="MINUTES", type=float, help="try the recipe's [tune] values so long before")
    parser.add_argument("--max-seconds", type=float, help="stop after this time")
    parser.add_argument("--log", choices=["tensorboard", "wandb"], help="also log there (needs the extra of that name)")
    parser.add_argument("--dry-run", action="store_true", help="print the effective recipe, sizes and steps")
    parser.add_argument("--verbose", action="store_true", help="print what the model card says of the training too")
    common.add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    named = (args.only, args.pixels, args.init, args.recordings, args.noise)
    common.check_paths(args.store, *named, *common.file_names(args.recipe))
    from isthmus.api import train, training_plan
    from isthmus.training.processes import Processes

    options = {
        **{"recipe": args.recipe, "overrides": args.set},
        **{"image": args.image_encoder, "text": args.text_encoder},
        "only": args.only,
        "pixels": args.pixels,
        "init": args.init,
        "freeze": args.freeze,
        "modalities": args.modalities and tuple(args.modalities),
        **{name: getattr(args, name) for name in ("audio", "video", "recordings", "noise")},
        "seed": args.seed,
    }
    if args.dry_run:
        plan = training_plan(args.store, **options)
        common.say_folded(common.lines(plan))
        common.write_result(args, plan)
        return 0
    if args.folds and args.tune is not None:
        raise UsageError("--folds estimates the recipe as it is: it does not go with --tune.")
    if args.folds:
        _cross_validate(args, {name: value for name, value in options.items() if name not in NOT_OF_FOLDS})
    before = _weights(args.out)
    model = train(
        args.store,
        out=args.out,
        remember=not args.forget_items,
        max_seconds=args.max_seconds,
        tune=args.tune,
        log=[args.log] if args.log else [],
        progress=True,
        **options,
    )
    if Processes().first:
        _say_end(args, model, before)
        common.write_result(args, {"model": args.out, **model.summary})
    return 0


def _say_end(args: argparse.Namespace, model: Any, before: str | None) -> None:
    """The result, where the model is and what to run now. before: the digest of the weights that were there."""
    if args.tune is not None:
        _say_trials(Path(args.out) / "tune")
    if args.verbose:
        common.say_folded(common.lines(model.summary))
    same = before and before == _weights(args.out)
    note = "  (already done: the same as before)" if same else _again(model.summary)
    common.say(f"{_result(model.summary)}\nmodel: {args.out}{note}\nnext: {_next(args, model)}")
    _say_few(args, model)


def _say_trials(folder: Path) -> None:
    from isthmus.files import read_json
    from isthmus.report.trials import table

    found, plot = read_json(folder / "tune.json"), folder / "tune.png"
    common.say(table(found["trials"], found["best"]))
    common.say(f"trials: {folder / 'tune.json'}" + (f"\nplot: {plot}\n" if plot.exists() else "\n"))


def _say_few(args: argparse.Namespace, model: Any) -> None:
    """Name --folds for a small table, where it can be used."""
    from isthmus.models.saved import DUAL

    pairs = model.summary.get("pairs", SMALL)
    if pairs < SMALL and model.kind == DUAL and not (args.folds or args.init or args.pixels):
        few = f"  note: {pairs:,} pairs train this, fewer than {SMALL:,}: a test split of so few says little. "
        common.say_folded(f"{few}--folds 5 tests every pair by models that never saw it.", error=True)


def _weights(out: str) -> str | None:
    """The digest of the weights of the model in a folder."""
    from isthmus.files import read_cached
    from isthmus.models.saved import CONFIG

    return (read_cached(Path(out) / CONFIG) or {}).get("weights")


def _result(summary: dict[str, Any]) -> str:
    """What held-out data say, beside chance; on them the best epoch was chosen."""
    metrics, chance = summary.get("validation") or {}, summary.get("chance") or {}
    if not metrics:
        return "result: not known, since nothing is held out to judge it by"
    shown = [
        f"{name.removeprefix('val_').replace('_', ' ')} {100 * metrics[name]:.1f} % (chance {100 * chance[name]:.1f} %)"
        for name in dict.fromkeys([*chance][:1] + [*chance][-1:])
    ]
    others = [
        f"{name.removeprefix('val_').replace('_', ' ')} {100 * value:.1f} %" if name.startswith("val_cer")
        else f"{name.replace('_', ' ')} {value:.4g}"
        for name, value in metrics.items()
        if name != "epoch"
    ]  # fmt: skip
    return f"validation: {', '.join(shown or others)}"


def _again(summary: dict[str, Any]) -> str:
    """What a second fit took in, if there was one."""
    again = summary.get("refit")
    return f"  (fitted again on all {again['pairs']:,} pairs, validation included)" if again else ""


def _next(args: argparse.Namespace, trained: Any) -> str:
    """What to run now: the evaluation where there is a test split, else a search."""
    from isthmus.models.saved import DUAL
    from isthmus.store import open_store
    from isthmus.store.opening import first_choice

    if getattr(trained, "answers", []):
        return f'isthmus ask {shlex.quote(args.out)} IMAGE "question"'
    if trained.kind == "language":
        return f"isthmus caption {shlex.quote(args.out)} IMAGE"
    if trained.kind == "speech":
        hears = "audio" in trained.networks
        return (
            f"isthmus {'transcribe' if hears else 'eval'} {shlex.quote(args.out)} {'FILE' if hears else 'speech LINES'}"
        )
    if trained.kind != DUAL:
        return "isthmus eval --help"
    store = open_store(first_choice(args.store, {})[0])
    model, pairs = shlex.quote(args.out), shlex.quote(str(store.path))
    if "test" in store.images["split"].to_pylist():
        return f"isthmus eval {model} retrieval {pairs} --split test"
    return f'isthmus search {model} {pairs} "what you look for"'


def _cross_validate(args: argparse.Namespace, options: dict[str, Any]) -> None:
    """Print and save the estimate; the model that is trained afterwards sees all pairs."""
    from isthmus.api import cross_validate
    from isthmus.evaluation.retrieval import COLUMNS
    from isthmus.files import write_json
    from isthmus.metrics.results import table

    if args.init:
        raise UsageError("--folds trains both sides: it does not go with --init.")
    if args.pixels:
        raise UsageError("--folds takes stored features: it does not go with --pixels.")
    found = cross_validate(args.store, folds=args.folds, max_seconds=args.max_seconds, **options)
    write_json(Path(args.out) / "folds.json", found)
    common.say(table([found], COLUMNS))
    candidates = found["n"]["candidates"]
    common.say_folded(
        f"{args.folds} folds, every pair tested once, among {candidates:,.0f} images of its fold on average."
    )
