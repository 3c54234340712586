"""mteb and CLIP_benchmark themselves, on a saved model: their scores are those of `isthmus eval`."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import isthmus as ist
from export_cases import build, make_encoders

pytestmark = pytest.mark.peers
WORDS = ["a cat", "two dogs running", "the red photo", "a blue park", "dogs in the park", "a photo of the cat"]
WORDS += ["a red cat", "the blue dog", "a park", "two cats", "a red dog running", "photo of a park in blue"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    build("several encoders", make_encoders(folder / "encoders")).save_pretrained(folder / "model")
    return folder / "model"


def noise(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(5)
    return [Image.fromarray(rng.integers(0, 256, (50 + i, 70 - i, 3), np.uint8)) for i in range(count)]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Pictures with captions, as CLIP_benchmark reads them, and so does isthmus."""
    folder = tmp_path / "set"
    (folder / "test").mkdir(parents=True)
    (folder / "test" / "nshards.txt").write_text("1")
    (folder / "dataset_type.txt").write_text("retrieval")
    with tarfile.open(folder / "test" / "0.tar", "w") as tar:
        for number, (picture, caption) in enumerate(zip(noise(len(WORDS)), WORDS, strict=True)):
            data = io.BytesIO()
            picture.save(data, "PNG")
            for suffix, content in (("png", data.getvalue()), ("txt", caption.encode())):
                entry = tarfile.TarInfo(f"s{number:03d}.{suffix}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return folder


def test_clip_benchmark_scores_a_model_as_isthmus_eval_does(model: Path, shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "isthmus.adapters.clip_benchmark", "eval", "--pretrained", str(model)]
    command += ["--dataset", "wds/set", "--dataset_root", str(shards), "--task", "zeroshot_retrieval"]
    command += ["--output", str(out), "--recall_k", "1", "3", "5", "--num_workers", "0", "--batch_size", "4"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    theirs = json.loads(out.read_text())["metrics"]
    ours = ist.evaluate(model, "retrieval", shards / "test", bootstrap=0)["metrics"]
    for direction in ("image", "text"):
        for k in (1, 5):
            name = f"{direction}_retrieval_recall@{k}"
            assert theirs[name] == pytest.approx(ours[name], abs=1e-7)
    assert 0 < theirs["image_retrieval_recall@5"] < 1


def test_mteb_scores_a_model_as_isthmus_eval_does(model: Path, shards: Path) -> None:
    import mteb
    from datasets import Dataset
    from mteb.mocks.mock_tasks.retrieval import MockAny2AnyRetrievalT2ITask

    from isthmus.adapters.mteb import MtebEncoder

    class Task(MockAny2AnyRetrievalT2ITask):
        def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
            super().load_data()
            data = self.dataset["default"]["test"]
            names = [f"i{i}" for i in range(len(WORDS))]
            data["queries"] = Dataset.from_dict({"id": [f"q{name}" for name in names], "text": WORDS})
            data["corpus"] = Dataset.from_dict({"id": names, "image": noise(len(WORDS))})
            data["relevant_docs"] = {f"q{name}": {name: 1} for name in names}

    encoder = MtebEncoder(model)
    assert encoder.mteb_model_meta.embed_dim == 16
    found = mteb.evaluate(encoder, Task(), cache=None).task_results[0].scores["test"][0]
    ours = ist.evaluate(model, "retrieval", shards / "test", bootstrap=0)["metrics"]
    for k in (1, 5, 10):
        assert found[f"recall_at_{k}"] == pytest.approx(ours[f"image_retrieval_recall@{k}"], abs=5e-6)
    both = encoder.encode([{"text": WORDS[:2], "image": noise(2)}])
    dual = encoder.model
    np.testing.assert_allclose(both, dual.encode_image(noise(2)) + dual.encode_text(WORDS[:2]), atol=1e-6)


@pytest.mark.parametrize("how", ["auto", "pipeline", "sentence"])
def test_pictures_are_prepared_alike_where_torchvision_is(how: str, tmp_path: Path) -> None:
    """Other image processors would be chosen there, whose pixels differ by up to a grey level."""
    import torchvision  # noqa: F401

    from test_export import check_consumer, exported

    dual = build("default recipe", make_encoders(tmp_path / "encoders"))
    exported(dual, tmp_path / "out")
    check_consumer(how, dual, tmp_path / "out", tmp_path)


def test_plain_modules_prepare_pictures_alike_where_torchvision_is(tmp_path: Path) -> None:
    from test_export import consume, expected, exported

    dual = build("parallel", make_encoders(tmp_path / "encoders"))
    exported(dual, tmp_path / "out", to="st-plain")
    found = consume("plain", tmp_path / "out", tmp_path)
    np.testing.assert_allclose(found["image"], expected(dual)["image"], atol=1e-5)
