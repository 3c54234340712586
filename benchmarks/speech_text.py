"""Speech ↔ text as a dual encoder: Czech or Dutch lines of Fish Fillets against the English text of the same lines.

    apt-get download fillets-ng-data fillets-ng-data-cs fillets-ng-data-nl     # Debian, GPL-2, 142 MB
    python benchmarks/speech_text.py DEBS OUT [--language cs] [--encoder URI] [--seconds 10] [--limit N]

Writes OUT/pairs-LANGUAGE.jsonl (audio, caption, speaker, lang, split), runs `isthmus embed`, `train` and `eval`, and
prints R@k with 95 % intervals. Three in ten lines are held out by their text: a test caption is in no other split.
The layer is chosen on the validation split; the test split is read once for each row printed.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from hashlib import blake2b
from pathlib import Path

import soundfile

from isthmus.cli import main as isthmus

LINE = re.compile(r'dialogId\("([^"]+)",\s*"([^"]*)",\s*"((?:[^"\\]|\\.)*)"\)')
TEXT = "wheel:minilm-l6"
RECIPES = ("cca", "linear")


def unpack(debs: Path, out: Path) -> Path:
    """The folder of the game's data."""
    if not (out / "usr").exists():
        out.mkdir(parents=True, exist_ok=True)
        for deb in sorted(debs.glob("fillets-ng-data*.deb")):
            subprocess.run(["dpkg-deb", "-x", str(deb), str(out)], check=True)
    return out / "usr/share/games/fillets-ng"


def part_of(text: str) -> str:
    """train, val or test by the text alone: 60, 10 and 30 of a hundred."""
    share = int.from_bytes(blake2b(text.lower().encode(), digest_size=4).digest(), "little") % 100
    return "test" if share < 30 else "val" if share < 40 else "train"


def write_pairs(game: Path, language: str, table: Path, seconds: float, limit: int | None) -> int:
    """A row for each recorded line of at most `seconds` that has English text, drawn by a hash where there is a limit.

    Of equal texts the first alone, since one answer would be right for all.
    """
    rows, seen = [], set()
    for script in sorted(game.glob("script/*/dialogs_en.lua")):
        for name, font, written in LINE.findall(script.read_text(encoding="utf-8")):
            sound = game / "sound" / script.parent.name / language / f"{name}.ogg"
            text = " ".join(written.replace('\\"', '"').split())
            if text and text.lower() not in seen and sound.exists() and soundfile.info(sound).duration <= seconds:
                seen.add(text.lower())
                rows.append({"id": f"{script.parent.name}/{name}", "audio": str(sound.resolve()), "caption": text,
                             "speaker": font, "lang": "en", "split": part_of(text)})  # fmt: skip
    rows.sort(key=lambda row: blake2b(row["id"].encode()).digest())
    del rows[limit:]
    table.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return len(rows)


def run(*arguments: object, allowed: tuple[int, ...] = (0,)) -> None:
    code = isthmus([str(one) for one in arguments])
    if code not in allowed:
        raise SystemExit(code)


def evaluated(out: Path, store: Path, uri: str, recipe: str, seed: int, split: str) -> dict:
    """The result of `eval retrieval` of a model of one view of the speech encoder."""
    name = re.sub(r"\W+", "-", f"{store.name}-{uri}-{recipe}-{seed}")
    model, result = out / "models" / name, out / "models" / f"{name}-{split}.json"
    if not model.exists():
        run("train", store, "--modalities", "audio", "text", "--image-encoder", uri, "--recipe", recipe,
            "--seed", seed, "--out", model)  # fmt: skip
    run("eval", model, "retrieval", store, "--split", split, "--json", result)
    return json.loads(result.read_text())


def shown(result: dict, name: str) -> str:
    low, high = result["ci95"][name]
    return f"{100 * result['metrics'][name]:.1f} ({100 * low:.1f}–{100 * high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("debs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--language", default="cs", choices=("cs", "nl"))
    parser.add_argument("--encoder", default="wheel:whisper-base")
    parser.add_argument(
        "--seconds", type=int, default=10, help="window of the speech encoder; longer lines are left out"
    )
    parser.add_argument("--limit", type=int, help="lines, drawn by a hash of their ids; default all")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    game, table = unpack(given.debs, given.out / "game"), given.out / f"pairs-{given.language}.jsonl"
    print(write_pairs(game, given.language, table, given.seconds, given.limit), "lines")
    store = given.out / f"store-{given.language}-{re.sub('[^a-z0-9]+', '-', given.encoder)}"
    backbone = f"{given.encoder}?seconds={given.seconds}"
    run("embed", table, "--encoder", f"{backbone}&layer=*&pool=mean", f"{backbone}&pool=mean", TEXT, "--out", store,
        "--max-skip", "0.05", allowed=(0, 3))  # fmt: skip
    uris = [
        one["uri"] for one in json.loads((store / "store.json").read_text())["encoders"] if one["modality"] == "audio"
    ]
    print("\nlayer of the speech encoder, CCA, validation split: mean R@5")
    scores = {uri: evaluated(given.out, store, uri, "cca", 0, "val")["metrics"]["mean_recall@5"] for uri in uris}
    for uri, score in sorted(scores.items()):
        print(f"  {uri:50} {100 * score:.1f}")
    best = max(scores, key=scores.__getitem__)
    last = f"{given.encoder}?pool=mean&seconds={given.seconds}"
    names = [f"{side}_retrieval_recall@{k}" for side in ("image", "text") for k in (1, 5, 10)]
    print("\n| encoder | recipe | seed | n | " + " | ".join(names) + " | median rank |")
    for uri in dict.fromkeys((last, best)):
        for recipe in RECIPES:
            for seed in range(given.seeds if recipe != "cca" else 1):
                result = evaluated(given.out, store, uri, recipe, seed, "test")
                cells = " | ".join(shown(result, name) for name in names)
                print(
                    f"| {uri} | {recipe} | {seed} | {result['n']} | {cells} | {result['metrics'].get('median_rank')} |"
                )


if __name__ == "__main__":
    main()
