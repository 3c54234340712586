"""Hostile configurations of encoders and models: a message within seconds and a small part of memory."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentence_transformers  # noqa: F401 — what is measured here is not its import
import torch
from test_attack_bounds import saved_model

import isthmus as ist
from bounded import cost
from isthmus.cli import main
from isthmus.data.encoder_record import MAX_ENCODERS
from isthmus.encoders import load_encoder
from isthmus.encoders.limits import check_limits
from isthmus.errors import InputError, caught
from isthmus.files import read_sealed, write_sealed
from isthmus.store import open_store
from store_cases import record, write
from tiny_encoders import edit_json, save_bert, save_dinov2, save_processor, save_sentence_pipeline

SECONDS, MIB = 10, 2048
pytestmark = pytest.mark.timeout(60)
HUGE = int("9" * 3000)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sound")
    made = {"bert": save_bert(root / "bert"), "dino": save_processor(save_dinov2(root / "dino"))}
    made["pipeline"] = save_sentence_pipeline(root / "st")
    for uri in (f"hf:{made['bert']}", f"hf:{made['dino']}", f"st:{made['pipeline']}"):
        load_encoder(uri)
    return made


def refused(load: Callable[[], Any], *words: str) -> None:
    spent = cost(load)
    assert spent.error and all(word in spent.error for word in words), spent
    assert spent.seconds < SECONDS and spent.mib < MIB and len(spent.error) < 2000


ENTRIES = {
    "layers": ("num_hidden_layers", 200_000),
    "layers without end": ("num_hidden_layers", HUGE),
    "3,000 digits": ("hidden_size", HUGE),
    "a list for a number": ("hidden_size", [1, 2]),
    "a text for a number": ("num_attention_heads", "x"),
    "nothing for a number": ("num_attention_heads", None),
    "no heads": ("num_attention_heads", 0),
    "heads below zero": ("num_attention_heads", -1),
    "no width": ("hidden_size", 0),
    "a width without end": ("hidden_size", 10**30),
    "a wide network": ("hidden_size", 10**9),
    "a wider network": ("hidden_size", 200_000),
    "deep": ("id2label", json.loads("[" * 500 + "]" * 500)),
    "many numbers": ("out_indices", list(range(100_000))),
}


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("model", ["bert", "dino"])
def test_a_network_s_configuration(sound: dict[str, Path], tmp_path: Path, model: str, name: str) -> None:
    folder = Path(shutil.copytree(sound[model], tmp_path / "model"))
    key, value = ENTRIES[name]
    edit_json(folder / "config.json", **{key: value})
    refused(lambda: load_encoder(f"hf:{folder}"), str(folder))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"a": ' + "9" * 5000 + "}", "[]", "1", '"x"', ""])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_files_that_break_parsers(sound: dict[str, Path], tmp_path: Path, name: str, text: str) -> None:
    folder = Path(shutil.copytree(sound["bert"], tmp_path / "model"))
    (folder / name).write_text(text)
    refused(lambda: load_encoder(f"hf:{folder}"), str(folder))


def test_a_processor_that_makes_huge_pictures(sound: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sound["dino"], tmp_path / "model"))
    edit_json(folder / "preprocessor_config.json", crop_size={"height": 10**6, "width": 10**6})
    refused(lambda: load_encoder(f"hf:{folder}"), "1,000,000 pixels a side")


def test_a_pipeline_of_ten_thousand_modules(sound: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sound["pipeline"], tmp_path / "model"))
    listed = json.loads((folder / "modules.json").read_text())
    extra = [{"idx": i, "name": str(i), "path": f"{i}_N", "type": listed[-1]["type"]} for i in range(3, 10_000)]
    (folder / "modules.json").write_text(json.dumps([*listed, *extra]))
    refused(lambda: load_encoder(f"st:{folder}"), "more than 100 modules")


def test_ten_thousand_records(tmp_path: Path) -> None:
    model = saved_model(tmp_path)
    config = read_sealed(model / "config.json")
    config["encoders"]["image"] *= 10_000
    write_sealed(model / "config.json", config)
    refused(lambda: ist.DualEncoder.from_pretrained(model), "10,000 encoders")
    write(tmp_path / "store", ["a"])
    described = read_sealed(tmp_path / "store" / "store.json")
    described["encoders"] = [record("image", str(i), 3) for i in range(10_000)]
    write_sealed(tmp_path / "store" / "store.json", described)
    refused(lambda: open_store(tmp_path / "store"), "10,000 encoders", f"{MAX_ENCODERS:,}")


HEADS = {
    "depth": {"kind": "mlp", "parts": [6], "width": 4, "depth": 200_000, "hidden": 8},
    "digits": {"kind": "linear", "parts": [6], "width": HUGE},
    "a list": {"kind": "linear", "parts": [6], "width": [4]},
    "parts": {"kind": "linear", "parts": [1] * 100_000, "width": 4},
    "nested": json.loads('{"kind": "ensemble", "members": [' * 200 + "]}" * 200),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_of_absurd_size(tmp_path: Path, name: str) -> None:
    model = saved_model(tmp_path)
    config = read_sealed(model / "config.json")
    config["projectors"]["image"] = HEADS[name]
    write_sealed(model / "config.json", config)
    refused(lambda: ist.DualEncoder.from_pretrained(model, load=False), "config.json")


def test_what_published_configurations_say_is_allowed(tmp_path: Path) -> None:
    ordinary = {
        "model_max_length": 10**30,
        "depths": [3, 3, 27, 3],
        "vocab_size": 256_000,
        "layer_types": ["full"] * 120,
        "id2label": {str(i): f"class {i}" for i in range(21_841)},
        "label_names": [f"class {i}" for i in range(21_841)],
        "size": {"shortest_edge": 65_536, "longest_edge": 16_777_216},
        "crop_size": {"height": 518, "width": 518},
    }
    check_limits(tmp_path / "config.json", ordinary)


class Panic(BaseException):
    pass


Panic.__name__ = "PanicException"  # as pyo3 names what Rust code raises


@pytest.mark.parametrize("error", [pickle.UnpicklingError("x"), Panic("x"), MemoryError(), ZeroDivisionError("x")])
def test_whatever_a_library_raises_is_told_in_a_line(error: BaseException) -> None:
    with pytest.raises(InputError, match=r"hf:a: cannot be loaded: (x|MemoryError)"), caught("hf:a"):
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), InputError("ours")])
def test_interrupts_and_our_own_errors_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as found, caught("hf:a"):
        raise error
    assert found.value is error


def test_a_panic_ends_a_command_with_a_message(monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path) -> None:
    def broken(*_: object) -> None:
        raise Panic("index out of bounds")

    monkeypatch.setattr("isthmus.cli.doctor.run", broken)
    assert main(["doctor", str(tmp_path)]) == 1
    assert "index out of bounds" in capsys.readouterr().err


def test_pickled_weights_under_a_safe_name(sound: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sound["bert"], tmp_path / "model"))
    torch.save({"a": torch.ones(1)}, folder / "model.safetensors")
    refused(lambda: load_encoder(f"hf:{folder}"), str(folder))
