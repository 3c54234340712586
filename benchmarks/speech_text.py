"""Speech ↔ text as a dual encoder by the command alone: recorded lines against their text, unseen in training.

    apt-get download asterisk-core-sounds-en asterisk-core-sounds-en-wav     # Debian, CC-BY-SA-3.0: English, one voice
    apt-get download fillets-ng-data fillets-ng-data-cs fillets-ng-data-nl   # Debian, GPL-2: Czech and Dutch, acted
    apt-get download beneath-a-steel-sky     # Debian, free: English, acted, many voices; steel_sky.py says more
    python benchmarks/speech_text.py asterisk DEBS OUT --encoder wheel:whisper-tiny-en
    python benchmarks/speech_text.py fillets-cs DEBS OUT --encoder wheel:whisper-base
    python benchmarks/speech_text.py steel-sky DEBS OUT --encoder wheel:whisper-tiny-en
    python benchmarks/speech_text.py --render      # the section "Measured" of docs/guide/speech.md, from the JSON

Writes OUT/pairs.jsonl (audio, caption, speaker, lang, split), runs `isthmus embed`, `train` and `eval`, prints R@k with
95 % intervals and writes them to benchmarks/results/speech_text.json. Three in ten lines are held out by their text: a
test caption is in no other split. The layer is chosen on the validation split; the test split is read once for each
row. Czech and Dutch lines stand against the English text of the same line.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import subprocess
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import soundfile

from isthmus.cli import main as isthmus
from steel_sky import GAME, steel_sky

PAGE = Path(__file__).parent.parent / "docs" / "guide" / "speech.md"
RESULTS = Path(__file__).parent / "results" / "speech_text.json"
LINE = re.compile(r'dialogId\("([^"]+)",\s*"([^"]*)",\s*"((?:[^"\\]|\\.)*)"\)')
TEXT = "wheel:minilm-l6"
RECIPES = {"cca": 1, "linear": 3}  # seeds; a closed form has none
NAMES = [f"{side}_retrieval_recall@{k}" for side in ("image", "text") for k in (1, 5, 10)]
PACKAGES = {"asterisk": "asterisk-core", "steel-sky": "beneath-a-steel-sky"}  # else Fish Fillets
SpokenLine = tuple[str, Path, str, str]  # id, file, text, speaker


def asterisk(root: Path) -> Iterator[SpokenLine]:
    """The prompts that have words; what stands in brackets is a sound."""
    listed = root / "share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
    for line in gzip.decompress(listed.read_bytes()).decode("utf-8").splitlines():
        name, colon, text = line.partition(":")
        if colon and not line.startswith(";") and not text.strip().startswith("["):
            yield name, root / f"share/asterisk/sounds/en_US_f_Allison/{name}.wav", text, "Allison"


def fillets(root: Path, language: str) -> Iterator[SpokenLine]:
    """The lines of Fish Fillets, their English text."""
    game = root / "share/games/fillets-ng"
    for script in sorted(game.glob("script/*/dialogs_en.lua")):
        for name, font, text in LINE.findall(script.read_text(encoding="utf-8")):
            level = script.parent.name
            yield f"{level}/{name}", game / f"sound/{level}/{language}/{name}.ogg", text.replace('\\"', '"'), font


def extracted(data: str, debs: Path, out: Path) -> Path:
    """The folder `usr` of the packages of a data set."""
    if not (out / "usr").exists():
        out.mkdir(parents=True, exist_ok=True)
        for deb in sorted(debs.glob(f"{PACKAGES.get(data, 'fillets-ng-data')}*.deb")):
            subprocess.run(["dpkg-deb", "-x", str(deb), str(out)], check=True)
    return out / "usr"


def lines_of(data: str, debs: Path, out: Path) -> Iterator[SpokenLine]:
    root = extracted(data, debs, out)
    if data == "steel-sky":
        return steel_sky(root / GAME, out / "lines")
    return asterisk(root) if data == "asterisk" else fillets(root, data.partition("-")[2])


def part_of(text: str) -> str:
    """train, val or test by the text alone: 60, 10 and 30 of a hundred."""
    share = int.from_bytes(blake2b(text.lower().encode(), digest_size=4).digest(), "little") % 100
    return "test" if share < 30 else "val" if share < 40 else "train"


def write_pairs(lines: Iterator[SpokenLine], table: Path, seconds: float, limit: int | None) -> dict[str, Any]:
    """A row for each line of at most `seconds`; of equal texts the first alone, since one answer would do for all."""
    rows, seen = [], set()
    for name, sound, written, speaker in lines:
        text = " ".join(written.split())
        key = re.sub(r"\W+", " ", text.lower()).strip()
        if key and key not in seen and sound.exists() and soundfile.info(sound).duration <= seconds:
            seen.add(key)
            rows.append({"id": name, "audio": str(sound.resolve()), "caption": text, "speaker": speaker, "lang": "en",
                         "split": part_of(key)})  # fmt: skip
    rows.sort(key=lambda row: blake2b(row["id"].encode()).digest())
    rows = rows[:limit]
    table.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    counts = {split: sum(row["split"] == split for row in rows) for split in ("train", "val", "test")}
    return {"lines": counts, "minutes": round(sum(soundfile.info(row["audio"]).duration for row in rows) / 60, 1)}


def run(*arguments: object, allowed: tuple[int, ...] = (0,)) -> None:
    code = isthmus([str(one) for one in arguments])
    if code not in allowed:
        raise SystemExit(code)


def evaluated(out: Path, uri: str, recipe: str, seed: int, split: str) -> dict[str, Any]:
    """The result of `eval retrieval` of a model of one view of the speech encoder."""
    choosing = split == "val"  # by models that have not seen what they are chosen on
    name = re.sub(r"\W+", "-", f"{uri}-{recipe}-{seed}{'-choosing' if choosing else ''}")
    model, result = out / "models" / name, out / "models" / f"{name}-{split}.json"
    model.parent.mkdir(exist_ok=True)
    if not model.exists():
        run("train", out / "store", "--modalities", "audio", "text", "--image-encoder", uri, "--recipe", recipe,
            "--seed", seed, *(["--set", "stop.refit=false"] if choosing else []), "--out", model)  # fmt: skip
    run("eval", model, "retrieval", out / "store", "--split", split, "--json", result)
    return json.loads(result.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", choices=("asterisk", "fillets-cs", "fillets-nl", "steel-sky"))
    parser.add_argument("debs", nargs="?", type=Path)
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--encoder", default="wheel:whisper-base")
    parser.add_argument("--seconds", type=int, default=10, help="window of the encoder; longer lines are left out")
    parser.add_argument("--limit", type=int, help="lines, drawn by a hash of their ids; default all")
    given = parser.parse_args()
    if given.render:
        render(json.loads(RESULTS.read_text()))
    elif given.out is None:
        parser.error("name the data, the folder of the packages and a folder for the results")
    else:
        measure(given)


def measure(given: argparse.Namespace) -> None:
    given.out.mkdir(parents=True, exist_ok=True)
    table, backbone = given.out / "pairs.jsonl", f"{given.encoder}?seconds={given.seconds}"
    told = write_pairs(lines_of(given.data, given.debs, given.out / "data"), table, given.seconds, given.limit)
    print(told)
    run("embed", table, "--encoder", f"{backbone}&layer=*&pool=mean", f"{backbone}&pool=mean", TEXT, "--out",
        given.out / "store", "--max-skip", "0.05", allowed=(0, 3))  # fmt: skip
    listed = json.loads((given.out / "store" / "store.json").read_text())["encoders"]
    uris = [one["uri"] for one in listed if one["modality"] == "audio"]
    scores = {uri: evaluated(given.out, uri, "cca", 0, "val")["metrics"]["mean_recall@5"] for uri in uris}
    best = max(scores, key=scores.__getitem__)
    last = next(uri for uri in uris if "layer=" not in uri)
    rows = []
    for uri in dict.fromkeys((last, best)):
        for recipe, seeds in RECIPES.items():
            for seed in range(seeds):
                found = evaluated(given.out, uri, recipe, seed, "test")
                kept = {name: [found["metrics"][name], *found["ci95"][name]] for name in NAMES}
                rows.append({"encoder": uri, "recipe": recipe, "seed": seed, "n": found["n"], **kept})
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[f"{given.data}, {backbone}"] = {**told, "text": TEXT, "validation": scores, "test": rows}
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(table_of_results(rows))


def table_of_results(rows: list[dict[str, Any]]) -> str:
    """R@1, 5, 10 of text → speech, then of speech → text, in percent with 95 % intervals."""
    head = [
        "encoder",
        "recipe",
        "seed",
        *(name.replace("image", "speech").replace("_retrieval_recall", "") for name in NAMES),
    ]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        cells = [
            f"{100 * mid:.1f} ({100 * low:.1f}–{100 * high:.1f})" for mid, low, high in (row[name] for name in NAMES)
        ]
        lines.append([row["encoder"], row["recipe"], str(row["seed"]), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


KINDS = {
    "asterisk": (
        "English prompts, one voice",
        "Asterisk's English prompts: one person reads them, many are single words. Whisper learned from transcripts,\n"
        "so its last states are near to words already: this says little of other voices, and nothing of encoders that\n"
        "never saw text.",
    ),
    "fillets-cs": (
        "Czech lines, English text",
        "Lines of Fish Fillets in Czech, by two voices mostly, against the English text of the same line: the model\n"
        "must translate. Drawn by a hash.",
    ),
    "fillets-nl": ("Dutch lines, English text", "The same in Dutch."),
    "steel-sky": ("English lines, many voices", "Lines of Beneath a Steel Sky, acted, at 11 kHz."),
}
HEAD = """## Measured

`benchmarks/speech_text.py` runs the commands above on recorded lines from Debian's packages: Asterisk's prompts, Fish
Fillets, and Beneath a Steel Sky (`steel-sky`: English, acted by many voices, at 11 kHz). What has no row was not run.
Three in ten lines are held out by their text: no test caption is in training. The text encoder is `wheel:minilm-l6`.
The layer is the best of all on the validation split, by models that have not seen it. R@k in percent with 95 %
intervals, seed 0; all seeds and layers are in `benchmarks/results/speech_text.json`.

| lines | speech encoder | recipe | text → speech, R@1 | R@5 | speech → text, R@1 | R@5 |
|---|---|---|---|---|---|---|
"""


def render(results: dict[str, Any]) -> None:
    """Write the section of the page."""
    shown, notes = [NAMES[0], NAMES[1], NAMES[3], NAMES[4]], []
    section = HEAD
    for name, found in results.items():
        data, encoder = name.split(", ")
        for row in (one for one in found["test"] if not one["seed"]):
            layer = re.search(r"layer=(\d+)", row["encoder"])
            state = f"layer {layer[1]}" if layer else "last state"
            cells = [f"{100 * mid:.1f} ({100 * low:.1f}–{100 * high:.1f})" for mid, low, high in map(row.get, shown)]
            label = f"{encoder.partition(':')[2].partition('?')[0]}, {state}"
            section += f"| {' | '.join([KINDS[data][0], label, '`' + row['recipe'] + '`', *cells])} |\n"
        count, window = found["test"][0]["n"]["images"], encoder.rpartition("=")[2]
        lines = f"{sum(found['lines'].values())} recordings of at most {window} s, {found['minutes']} minutes"
        notes.append(
            f"{KINDS[data][1]}\n{lines}; {count} in the test, of which chance finds {100 / count:.1f} % at once."
        )
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.index("## Measured"), text.index("## A recogniser")
    PAGE.write_text(text[:before] + section + "\n" + "\n\n".join(notes) + "\n\n" + text[after:], encoding="utf-8")


if __name__ == "__main__":
    main()
