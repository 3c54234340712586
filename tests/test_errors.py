"""What is wrong is said in one message, at once, and never as a traceback of a library."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

import isthmus as ist
from isthmus.cli import main
from isthmus.data.matrix import check_varies
from isthmus.errors import InputError, UsageError, did_you_mean
from isthmus.image_search.query import looks_like_path
from isthmus.store.arrays import import_arrays

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 16)).astype(np.float32), RNG.normal(size=(60, 8)).astype(np.float32)


def test_tensors_are_features() -> None:
    image_of = torch.arange(60)
    plain = ist.train(ist.FeaturePairs.from_arrays(X, Y), recipe="cca")
    for kind in (torch.float32, torch.float64, torch.bfloat16):
        pairs = ist.FeaturePairs.from_arrays(torch.tensor(X, dtype=kind), torch.tensor(Y, dtype=kind), image_of)
        model = ist.train(pairs, recipe="cca")
        same = np.abs(model.project("image", torch.tensor(X)) - plain.project("image", X)).max()
        assert same < (0.2 if kind == torch.bfloat16 else 1e-4)


def test_tensors_can_be_imported_and_selected(tmp_path: Path) -> None:
    import_arrays(tmp_path / "store", image=torch.tensor(X).requires_grad_(), text=torch.tensor(Y))
    found = ist.open_store(tmp_path / "store").features("image").gather(np.arange(60))
    assert np.abs(found - X).max() < 0.01
    chosen = ist.select(image={"a": torch.tensor(X)}, text={"b": torch.tensor(Y)}, seeds=0, bootstrap=0)
    assert len(chosen.to_dict()["pairs"]) == 1


@pytest.mark.parametrize("value", [1e30, -1e30, 1e16])
@pytest.mark.parametrize("side", ["image", "text"])
def test_values_too_large_to_compute_with_are_refused(tmp_path: Path, value: float, side: str) -> None:
    given = {"image": X.copy(), "text": Y.copy()}
    given[side][7, 3] = value
    with pytest.raises(InputError, match=rf"{side} features: row 7 holds a value of 1e\+\d+, too large"):
        ist.FeaturePairs.from_arrays(**given)
    with pytest.raises(InputError, match=r"NaN or infinity \(or values beyond 1e\+15\)"):
        import_arrays(tmp_path / "store", **given)


@pytest.mark.parametrize("side", ["image", "text"])
@pytest.mark.parametrize("kind", ["same", "nearly", "tiny"])
@pytest.mark.parametrize("recipe", ["cca", "default"])
def test_a_side_that_does_not_vary_is_refused(side: str, kind: str, recipe: str) -> None:
    matrix = {"image": X, "text": Y}[side]
    flat = np.repeat(matrix[:1], 60, axis=0)
    flat = {"same": flat, "nearly": flat * (1 + 1e-8), "tiny": matrix * np.float32(1e-30)}[kind]
    given = {"image": X, "text": Y} | {side: flat.astype(np.float32)}
    with pytest.raises(InputError, match=rf"all 60 {side} features are the same"):
        ist.train(ist.FeaturePairs.from_arrays(**given), recipe=recipe)


def test_one_row_that_differs_is_enough() -> None:
    flat = np.ones((5000, 4), np.float32)
    flat[4321] = 2
    check_varies("image", flat)


SYNONYMS = {
    "learning_rate": "optim.lr",
    "optim.learning-rate": "optim.lr",
    "batch_size": "optim.batch",
    "num_epochs": "optim.epochs",
    "temperature": "loss.scale",
    "optimizer": "optim.name",
    "lr": "optim.lr",
}


@pytest.mark.parametrize("key", SYNONYMS)
def test_other_words_for_a_key_are_known(key: str) -> None:
    with pytest.raises(UsageError, match=rf"Did you mean '{SYNONYMS[key]}'"):
        ist.load_recipe("default", [f"{key}=1"])


def test_other_words_for_tasks_are_known() -> None:
    assert did_you_mean("zero-shot", ["zeroshot", "suite"]) == " Did you mean 'zeroshot'?"
    with pytest.raises(UsageError, match=r"Did you mean 'linear_probe'"):
        ist.evaluate("model", "logistic-regression", "data")


WRONG = [
    ["embed", "PATH", "--image-encoder", "hf:a", "--text-encoder", "hf:b", "--out", "o"],
    ["select", "PATH", "--out", "o"],
    ["curate", "PATH", "--out", "o"],
    ["train", "PATH", "--out", "o"],
    ["import", "PATH", "--out", "o"],
    ["doctor", "PATH"],
    ["eval", "PATH", "retrieval", "."],
    ["eval", ".", "retrieval", "PATH"],
    ["search", ".", "PATH", "a cat"],
    ["segment", ".", "PATH", "a", "--out", "o.png"],
]


@pytest.mark.parametrize("command", WRONG, ids=" ".join)
def test_a_wrong_path_is_said_before_anything_slow_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    (tmp_path / "captions.csv").write_text("")
    monkeypatch.chdir(tmp_path)
    command = ["captoins.csv" if part == "PATH" else part for part in command]
    code = (
        "import sys; from isthmus.cli import main; code = main(sys.argv[1:]); "
        "print(sorted({'torch', 'pyarrow', 'numpy', 'transformers'} & {*sys.modules})); sys.exit(code)"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, env=os.environ.copy())
    assert (done.returncode, done.stdout.strip()) == (1, "[]")
    assert "captoins.csv: no such file or folder. Did you mean 'captions.csv'?" in done.stderr
    assert time.monotonic() - began < 5  # 0.2 s where the machine has nothing else to do


@pytest.mark.parametrize(
    "query", ["cat.jpg", "my cat.HEIC", "photos/cat", "./a b", "~/x y", "/tmp/a b", "c:\\a", "cat.xyz"]
)
def test_a_query_that_looks_like_a_path_is_asked_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], query: str
) -> None:
    assert main(["search", str(tmp_path), str(tmp_path), query]) == 1
    assert "no such image, though it looks like a path" in capsys.readouterr().err


@pytest.mark.parametrize(
    "query", ["a red bicycle", "either / or", "version 2.0", " black/white", "Mr. Smith", "24 fps"]
)
def test_a_query_that_is_a_text_is_not(query: str) -> None:
    assert not looks_like_path(query)


@pytest.mark.parametrize(
    "error", [pa.ArrowInvalid("odd"), ImportError("no socksio"), UnicodeDecodeError("utf-8", b"x", 0, 1, "y")]
)
def test_no_exception_of_a_library_is_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("isthmus.api.doctor", fail)
    assert main(["doctor", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and type(error).__name__ in said and "Traceback" not in said
    with pytest.raises(type(error)):
        main(["doctor", str(tmp_path), "--debug"])
