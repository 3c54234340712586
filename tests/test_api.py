"""`import isthmus as ist`: the verbs are functions, also when every module has been imported."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import isthmus as ist
from isthmus.errors import UsageError
from toys import pixel_encoder, word_encoder, write_pairs

EXTRAS = (
    "isthmus.encoders.timm_models",
    "isthmus.encoders.openclip",
    "isthmus.adapters.mteb",
)  # they import what only an extra brings


def submodules() -> list[str]:
    names = [module.name for module in pkgutil.walk_packages(ist.__path__, "isthmus.")]
    return [name for name in names if not name.endswith("__main__") and name not in EXTRAS]


def test_no_module_hides_a_verb(tmp_path: Path) -> None:
    for name in submodules():
        importlib.import_module(name)
    table = write_pairs(tmp_path / "data", copies=3)
    image, text = pixel_encoder(), word_encoder()
    store = ist.embed(table, image, text, out=tmp_path / "store")
    model = ist.train(store, recipe="cca", out=tmp_path / "model")
    result = ist.evaluate(model, "retrieval", tmp_path / "store", split="test", bootstrap=0)
    assert result["metrics"]["mean_recall@10"] > 0.5
    assert ist.evaluate(model, "retrieval", store, split="test", bootstrap=0)["metrics"] == result["metrics"]
    assert all(finding["ok"] for finding in ist.doctor(tmp_path / "store"))
    assert len(ist.read_pairs(table)) == len(ist.open_store(tmp_path / "store")) == 192
    assert ist.load_recipe("cca").optim.epochs == 0
    assert callable(ist.load_encoder)


def test_everything_that_is_exported_exists() -> None:
    for name in ist.__all__:
        assert getattr(ist, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ist.nothing


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, isthmus; print([m for m in ('torch', 'transformers', 'pyarrow', 'PIL') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_arrays_need_no_encoder() -> None:
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((600, 8)).astype(np.float32)
    x, y = (latent @ rng.standard_normal((8, d)).astype(np.float32) for d in (24, 16))
    train, test = (ist.FeaturePairs.from_arrays(x[part], y[part]) for part in (slice(500), slice(500, None)))
    model = ist.train(train, recipe="cca")
    result = ist.evaluate(model, "retrieval", test, bootstrap=0)
    assert result["metrics"]["mean_recall@1"] > 0.9


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(UsageError, match=r"retreival.*Did you mean 'retrieval'"):
        ist.evaluate("model", "retreival", "data")


def test_an_option_that_the_task_does_not_take_is_named() -> None:
    with pytest.raises(UsageError, match=r"no 'classes': it takes split, only, .*, protocol, unseen, bootstrap, seed"):
        ist.evaluate("model", "retrieval", "data", classes=["cat"])
