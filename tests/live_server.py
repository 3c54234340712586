"""A small index of coloured squares behind a server in this process, on a free port of loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import uvicorn
from starlette.applications import Starlette

from colour_model import COLOURS, colour_model
from isthmus.encoders.callables import from_callable
from isthmus.index import build_index
from isthmus.models.dual_encoder import DualEncoder
from isthmus.serving.app import build_app
from isthmus.serving.served import ServedModel
from toys import write_pairs


def colour_words(texts: list[str]) -> np.ndarray:
    """The colour that a text names, seen from grey; of another text, nearly white, as no picture is."""
    out = []
    for text in texts:
        named = [np.array(colour) / 255 - 0.5 for name, colour in COLOURS.items() if name in text.lower()]
        white = 1 + np.random.default_rng(sum(map(ord, text))).normal(0, 0.2, 3)
        out.append(sum(named) if named else white)
    return np.array(out, np.float32)


def colours() -> DualEncoder:
    model = colour_model(text=from_callable(colour_words, "text", "colour-words", name="words", width=3))
    torch.nn.init.constant_(model.image_projector.get_submodule("blocks.0.linear").bias, -0.5)
    return model


def served_models(folder: Path) -> list[ServedModel]:
    """Two models with an index of the same 64 pictures, and one without an index."""
    table = write_pairs(folder / "pairs", copies=1)
    names = ("first", "second")
    found = [ServedModel(name, colours(), build_index(colours(), table, out=folder / name)) for name in names]
    return [*found, ServedModel("bare", colours())]


@contextlib.contextmanager
def listening(app: Starlette) -> Iterator[str]:
    """The address of `app`, which answers there until the end."""
    server = uvicorn.Server(uvicorn.Config(app, http="h11", ws="none", log_level="warning", access_log=False))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=10)


@contextlib.contextmanager
def live(models: Sequence[ServedModel], token: str | None = None) -> Iterator[str]:
    with listening(build_app(models, token=token)) as address:
        yield address
