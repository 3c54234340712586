"""Does what is seen help what is heard? Recognisers of sound, video and both through noise, with controls and 3 seeds.

    python benchmarks/speech_study.py lines LINES STORE OUT --train-noise VOICES --test-noise OTHERS [--seeds 3]
    python benchmarks/speech_study.py faces DEMO OUT [--seeds 3]         # what `isthmus demo speech --out DEMO` made
    python benchmarks/speech_study.py asterisk DEBS OUT [--seeds 3]      # sound alone: recorded prompts of Debian
    python benchmarks/speech_study.py steel-sky DEBS OUT [--seeds 3]     # sound alone: acted lines of many voices
    python benchmarks/speech_study.py --render                           # docs/speech.md, from the JSON
    python benchmarks/speech_study.py --published STORE                  # one step of `avsr` at full size, both senses

LINES: pairs with `audio`, `video` if any, `caption`, `split`; STORE: their states by `isthmus embed`. Stopped, it goes
on where it was. Every row is of all test lines, as edits and characters by line, so that rows are compared by line:
benchmarks/results/speech_study.json. Debian's packages for `asterisk`: asterisk-core-sounds-en,
asterisk-core-sounds-en-wav (CC-BY-SA-3.0) for the lines, fillets-ng-data, fillets-ng-data-cs (GPL-2) for the babble.
For `steel-sky`: beneath-a-steel-sky (free to distribute and modify) and the same babble; steel_sky.py says what else.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch

import isthmus as ist
import self_supervised
import speech_text
from isthmus.cli import main as isthmus
from isthmus.data.pairs import read_pairs
from isthmus.evaluation.exposure import Exposure
from isthmus.evaluation.speaking import LinesAtOnce, Readings, spoken_lines
from isthmus.models.speech_model import SpeechModel
from isthmus.speech.recordings import NoiseSource
from line_errors import interval, rate

RATIOS = (None, 10.0, 5.0, 0.0, -5.0, -10.0)
RESULTS = Path(__file__).parent / "results" / "speech_study.json"
PAGE = Path(__file__).parent.parent / "docs" / "speech.md"
SHIFT = 8  # frames of 25 a second: 320 ms
VARIANTS = {  # what differs in the last stage
    "gated": "",
    "concat": 'speech.join = "concat"\nspeech.drop = 0.0\nspeech.mute = 0.0\n',  # as published
    "blind": "speech.blind = true\n",
}
LAYERS = {  # on clean speech alone
    "last layer, clean": (),
    "layers mixed (saum), clean": ("speech.front=saum", "speech.layers=0"),
}
ENCODER = "wheel:whisper-tiny-en?seconds=6"
VOICES = 12
SMALL = Path(str(resources.files("isthmus.training").joinpath("recipes/avsr-small.toml")))
DEMO = Path(str(resources.files("isthmus_demo").joinpath("speech.toml")))
RECIPES = {SMALL: "`avsr-small`", DEMO: "that of `isthmus demo speech`"}
RETIMED = "gated, video timed by another voice"
RECORDED = {"asterisk": "recorded prompts", "steel-sky": "acted lines"}
Table = dict[str, Any]  # of a data set: seeds → row → ratio → [edits, characters] of each line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("lines", "faces", *RECORDED))
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--name", default="rendered faces")
    parser.add_argument("--train-noise", type=Path)
    parser.add_argument("--test-noise", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="override a recipe value")
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--published", type=Path)
    given = parser.parse_args()
    if given.render:
        PAGE.write_text(page(json.loads(RESULTS.read_text()) if RESULTS.exists() else {}), encoding="utf-8")
    elif given.published:
        published(given.published)
    elif given.what in RECORDED:
        debs, out = given.paths
        study(RECORDED[given.what], *prepare(given.what, debs, out), out, given)
    elif given.what == "faces":
        demo, out = given.paths
        study(given.name, *of_demo(demo), out, given, retimed=demo / "pack" / "retimed.jsonl", recipe=DEMO)
    else:
        lines, store, out = given.paths
        study(given.name, lines, store, given.train_noise, given.test_noise, out, given)


def of_demo(demo: Path) -> tuple[Path, Path, Path, Path]:
    """Rendered faces: one table of all splits, the store of those that train, and the demo's babble."""
    pack = demo / "pack"
    table = pack / "every.jsonl"
    table.write_text("".join((pack / f"{name}.jsonl").read_text() for name in ("lines", "test")))
    return table, demo / "store", pack / "babble.jsonl", pack / "unseen.jsonl"


def prepare(data: str, debs: Path, out: Path) -> tuple[Path, Path, Path, Path]:
    """Recorded lines and their states; one actor of Fish Fillets babbles in training, another in the test."""
    out.mkdir(parents=True, exist_ok=True)
    table, store = out / "lines.jsonl", out / "store"
    speech_text.write_pairs(speech_text.lines_of(data, debs, out / "data"), table, 6, None)
    told = ["embed", table, "--encoder", f"{ENCODER}&layer=*&pool=states", "--out", store, "--max-skip", "0.05"]
    if isthmus([str(one) for one in told]) not in (0, 3):
        raise SystemExit(1)
    game, noises = list(speech_text.lines_of("fillets-cs", debs, out / "babble")), list[Path]()
    for actor in ("font_small", "font_big"):
        rows = [{"id": name, "audio": str(file), "caption": text, "speaker": who}
                for name, file, text, who in game if who == actor and text.strip() and file.exists()]  # fmt: skip
        noises.append(out / f"{actor}.jsonl")
        noises[-1].write_text("\n".join(map(json.dumps, rows[:300])) + "\n")
    return table, store, noises[0], noises[1]


def study(
    name: str,
    lines: Path,
    store: Path,
    train_noise: Path,
    test_noise: Path,
    out: Path,
    given: Any,
    retimed: Path | None = None,
    recipe: Path = SMALL,
) -> None:
    """Add the rows that are missing. retimed: the test lines with films that another voice of the same text times."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    table: Table = results.setdefault(name, {"seeds": {}})
    table["about"] = facts(store, lines) | {"settings": given.set, "recipe": RECIPES[recipe]}
    heard: list[LinesAtOnce] = []
    both = "video" in table["about"]["encoders"]
    for seed in range(given.seeds):
        rows = table["seeds"].setdefault(str(seed), {})
        for variant in VARIANTS if both else ("gated",):
            trained = train(store, lines, train_noise, out / f"seed-{seed}", variant, seed, given.set, recipe)
            if not heard:
                heard = list(encoded(trained, lines, test_noise))
            for row, read in readings(trained, variant):
                if row not in rows:
                    rows[row] = scored(heard, read, noisy=row != "video alone")
                    tell(results, name, seed, row)
            if retimed and variant == "gated" and RETIMED not in rows:
                rows[RETIMED] = scored(seen_in(retimed, heard, trained), by(trained, "av"), noisy=True)
                tell(results, name, seed, RETIMED)
    for seed in range(0 if both else given.seeds):
        rows = table["seeds"][str(seed)]
        for row, settings in LAYERS.items():
            if row not in rows:
                chosen = [*given.set, *settings]
                folder = out / f"seed-{seed}" / row.replace(" ", "-")
                model: Any = ist.train(store, recipe="avsr-small", overrides=chosen, seed=seed, out=folder)
                rows[row] = scored(stored(store, model), by(model, "audio"), noisy=False)
                tell(results, name, seed, row)


def tell(results: dict[str, Any], name: str, seed: int, row: str) -> None:
    """Print a row and keep all."""
    counts = results[name]["seeds"][str(seed)][row]
    print(name, seed, row, {ratio: f"{100 * rate(one):.1f}" for ratio, one in counts.items()}, flush=True)
    RESULTS.write_text(json.dumps(results) + "\n", encoding="utf-8")


def facts(store: Path, lines: Path) -> dict[str, Any]:
    opened, pairs = ist.open_store(store), read_pairs(lines)
    splits = pairs.side("audio").images["split"].to_pylist()
    encoders = {one["modality"]: one["uri"].partition("?")[0] for one in opened.encoders}
    return {"lines": {name: splits.count(name) for name in ("train", "val", "test")}, "encoders": encoders}


def train(
    store: Path, lines: Path, noise: Path, out: Path, variant: str, seed: int, settings: list[str], shipped: Path
) -> SpeechModel:
    """A model whose stages before the last one are those of the other variants: their checkpoints are copied."""
    folder = out / variant
    if not (folder / "config.json").exists():
        if variant != "gated" and not folder.exists():
            shutil.copytree(out / "gated", folder, ignore=shutil.ignore_patterns("both", "config.json"))
        elif out.name != "seed-0" and not folder.exists():
            first = out.parent / "seed-0" / "gated" / "heard"
            # the noise of every seed is that of the first: what differs is the order, the weights and the masks
            shutil.copytree(first, folder / "heard", dirs_exist_ok=True)
        recipe = out / f"{variant}.toml"
        before, last = shipped.read_text(encoding="utf-8").rsplit('speech.senses = "av"\n', 1)
        recipe.parent.mkdir(parents=True, exist_ok=True)
        recipe.write_text(f'{before}speech.senses = "av"\n{VARIANTS[variant]}{last}', encoding="utf-8")
        ist.train(store, recipe=str(recipe), overrides=settings, out=folder, seed=seed, recordings=lines, noise=noise,
                  progress=True)  # fmt: skip
    model: SpeechModel = ist.load_model(folder)
    return model


def seen_in(table: Path, heard: list[LinesAtOnce], model: SpeechModel) -> list[LinesAtOnce]:
    """Lines as they are heard, with the films of another table of the same lines."""
    exposure = Exposure(model, "test", captions=False)
    films = list(spoken_lines(model, read_pairs(table), ["av"], [None], None, exposure, []))
    if [one.ids for one in films] != [one.ids for one in heard]:
        raise SystemExit(f"{table}: not the lines of the test.")
    return [replace(one, seen=other.seen) for one, other in zip(heard, films, strict=True)]


def encoded(model: SpeechModel, lines: Path, noise: Path) -> Iterator[LinesAtOnce]:
    """The test lines through every ratio of babble that no training line was heard through, in half precision."""
    pairs = read_pairs(lines, split="test")
    source = NoiseSource.open(noise, voices=VOICES)
    senses = [one for one in ("av", "audio") if one in model.networks][:1]
    for some in spoken_lines(model, pairs, senses, RATIOS, source, Exposure(model, "test", captions=False), []):
        some.heard = {ratio: (states.half(), frames) for ratio, (states, frames) in some.heard.items()}
        yield some


def stored(store: Path, model: SpeechModel) -> list[LinesAtOnce]:
    """The clean test lines of a store, of all layers that the model takes."""
    from isthmus.speech.vocabulary import plain
    from isthmus.training.speech.data import split_lines

    lines = split_lines(store, layers=len(model.records["audio"]))["test"]
    found = []
    for rows in np.array_split(np.arange(len(lines)), -(-len(lines) // 8)):
        texts = [plain(lines.texts[row], model.symbols.spelling) for row in rows]
        found.append(LinesAtOnce([lines.ids[row] for row in rows], texts, {None: lines.take("audio", rows)}))
    return [one for one in found if all(one.texts)]


def by(model: SpeechModel, senses: str, change: Any = None, **options: Any) -> Any:
    """What reads some lines at a ratio. change: of the states by sense."""

    def read(one: LinesAtOnce, ratio: float | None) -> list[str]:
        states = one.states(ratio, senses)
        if "audio" in states:
            states["audio"] = (states["audio"][0].float(), states["audio"][1])
        return model.texts(states if change is None else change(states), senses, **options)

    return read


def readings(model: SpeechModel, variant: str) -> Iterator[tuple[str, Any]]:
    """(name of a row, what reads some lines at a ratio)."""
    if variant == "gated" and "audio" in model.networks:
        yield "sound alone", by(model, "audio")
        if model.decoding.beam:
            yield "sound alone, greedy", by(model, "audio", beam=0)
    if "av" not in model.networks:
        return
    if variant == "blind":
        yield "gated, trained without video", by(model, "av", unseen)
        return
    yield variant, by(model, "av")
    yield f"{variant}, another line's video", by(model, "av", others)
    yield f"{variant}, video 320 ms late", by(model, "av", late)
    if variant == "gated":
        yield "video alone", by(model, "video")
        if model.decoding.beam:
            yield "gated, greedy", by(model, "av", beam=0)
        yield "gated, no video", by(model, "av", unseen)


def unseen(states: dict[str, Any]) -> dict[str, Any]:
    """Without the video."""
    return {"audio": states["audio"]}


def others(states: dict[str, Any]) -> dict[str, Any]:
    """Each line with the video of the line before it, as long as its own."""
    values, frames = states["video"]
    return {**states, "video": (values.roll(1, 0), torch.minimum(frames.roll(1, 0), frames))}


def late(states: dict[str, Any]) -> dict[str, Any]:
    """The first frame held for 320 ms."""
    values, frames = states["video"]
    held = torch.cat([values[:, :1].expand(-1, SHIFT, -1), values[:, :-SHIFT]], 1)
    return {**states, "video": (held, frames)}


def scored(heard: list[LinesAtOnce], read: Any, *, noisy: bool) -> dict[str, list[list[int]]]:
    """[edits, characters] of each line, by ratio."""
    found = {}
    for ratio in RATIOS if noisy else (None,):
        all_lines = Readings()
        for one in heard:
            all_lines.right += one.texts
            all_lines.found += read(one, ratio)
        found["clean" if ratio is None else f"{ratio:g}"] = all_lines.counts()[:, :2].tolist()
    return found


# --- the page -------------------------------------------------------------------------------------------------


HEAD = """# Speech: what the study says

Written by `benchmarks/speech_study.py --render` from `benchmarks/results/speech_study.json`; do not edit.

Characters that are wrong, in percent of those said (CER), on lines of which neither the
text nor the babble is in training; the mean of the seeds, in brackets 95 % intervals by a bootstrap over lines, each
drawn with all its seeds. The speech encoder is Whisper's, unless a section says otherwise: it was **supervised on
transcripts**. Where characters are as often wrong as here, words nearly always are: CER is the
measure.
"""


def page(results: dict[str, Any]) -> str:
    rows = "".join(section(name, table) for name, table in results.items())
    return (
        HEAD
        + (rows or "\nIt has not been run to the end of a row yet: there are no numbers here.\n")
        + self_supervised.section()
        + MISSING
        + unrun(results)
    )


MISSING = """
## What is not here

- A corpus of real talking faces: none is at hand. Rendered faces are timed by an alignment that knows the text.
- A large self-supervised speech encoder, such as wav2vec 2.0: `hf:` loads them, and none is at hand.
- The recipe `avsr` as published: `benchmarks/speech_study.py --published STORE` builds it at full size and takes one
  step. The rest of its schedule was not run.
"""


def unrun(results: dict[str, Any]) -> str:
    """What this script can run and has not, one line each."""
    lines = [
        f"- {name[0].upper() + name[1:]}: not run."
        for name in ("rendered faces", *RECORDED.values())
        if name not in results
    ]
    if not self_supervised.RESULTS.exists():
        lines.append("- A small self-supervised encoder, which `benchmarks/self_supervised.py` trains: not run.")
    return "".join(f"{line}\n" for line in lines)


def section(name: str, table: Table) -> str:
    told, seeds = table["about"], table["seeds"]
    ratios = ["clean" if one is None else f"{one:g}" for one in RATIOS]
    counts = told["lines"]
    encoders = " and ".join(f"`{one}`" for one in told["encoders"].values())
    text = f"\n## {name[0].upper() + name[1:]}\n\n{counts['train']} lines for training, {counts['test']} in the test, "
    text += f"{len(seeds)} seed{'s'[: len(seeds) - 1]}; {encoders}."
    text += f" The recipe is {told['recipe']}. dB: of the line above {VOICES} voices at once."
    text += f" Settings: {', '.join(f'`{one}`' for one in told['settings'])}.\n\n" if told["settings"] else "\n\n"
    text += "| read from | " + " | ".join(f"{one} dB" if one != "clean" else one for one in ratios) + " |\n"
    text += "|---" * (len(ratios) + 1) + "|\n"
    rows = list(dict.fromkeys(row for one in seeds.values() for row in one))
    for row in rows:
        held = [one[row] for one in seeds.values() if row in one]
        cells = [
            interval([one[ratio] for one in held]) if all(ratio in one for one in held) else "" for ratio in ratios
        ]
        text += f"| {row} | {' | '.join(cells)} |\n"
    return text + differences(seeds, ratios)


PAIRS = (  # the question, the row, the row it is compared with
    ("Q1, vision against the same stage trained without", "gated", "gated, trained without video"),
    ("Q1, vision against sound alone", "gated", "sound alone"),
    ("Q3, gated against video alone", "gated", "video alone"),
    ("Q4, another line's video against sound alone", "gated, another line's video", "sound alone"),
    ("Q4, no video against sound alone", "gated, no video", "sound alone"),
    ("Films timed by another voice against sound alone", RETIMED, "sound alone"),
    ("Q7, beam against greedy, sound", "sound alone", "sound alone, greedy"),
    ("Q7, beam against greedy, both", "gated", "gated, greedy"),
    ("concat against sound alone", "concat", "sound alone"),
    ("layers mixed against the last", "layers mixed (saum), clean", "last layer, clean"),
)


def differences(seeds: dict[str, Any], ratios: list[str]) -> str:
    """Points of CER between two rows on the same draws of lines; below 0 the first is better."""
    text = "\nDifferences in points, by line; below 0 the first is better.\n\n"
    text += "| question | " + " | ".join(ratios) + " |\n" + "|---" * (len(ratios) + 1) + "|\n"
    for question, first, second in PAIRS:
        held = [one for one in seeds.values() if first in one and second in one]
        if not held:
            continue
        cells = []
        for ratio in ratios:
            a = [one[first].get(ratio) for one in held]
            b = [one[second].get(ratio, one[second].get("clean") if second == "video alone" else None) for one in held]
            cells.append("" if None in a or None in b else interval(a, b))
        text += f"| {question} | {' | '.join(cells)} |\n"
    return text


def published(store: Path) -> None:
    """One step of `avsr` for each sense at full size: parameters, loss and CPU seconds."""
    from isthmus.training.fit import Fitting, fit
    from isthmus.training.recipe import load_recipe
    from isthmus.training.speech.data import split_lines
    from isthmus.training.speech.objective import SpeechObjective
    from isthmus.training.speech.train import _symbols, fitting

    lines, recipe = split_lines(store, layers=1), load_recipe("avsr", ["optim.batch=4"])
    symbols = _symbols(lines["train"], recipe)
    for stage in fitting(recipe, lines, symbols).stages:
        chosen = recipe.at(stage)
        if chosen.speech.senses == "words":
            continue
        began = time.process_time()
        objective = SpeechObjective(lines["train"], None, symbols, chosen.speech.senses)
        run = fit(objective, replace(chosen, stages=()), Fitting(max_epochs=1e-6))
        parameters, loss = sum(one.numel() for one in run.module.parameters()), run.history.records[-1]["loss"]
        print(stage.name, f"{parameters:,} parameters, loss {loss:.2f} in {run.state.step} step,",
              f"{time.process_time() - began:.0f} CPU s")  # fmt: skip


if __name__ == "__main__":
    main()
