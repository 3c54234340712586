"""`eval MODEL diagnose`: what it finds in toy data with known faults, from the command line too."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import isthmus as ist
from isthmus.cli import main
from isthmus.data.contents import items_of_hashes
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.data.images import content_hash
from isthmus.errors import InputError, UsageError
from isthmus.models.dual_encoder import DualEncoder
from isthmus.projectors import build_projector
from toys import pixel_encoder, word_encoder, write_pairs


def identity_model(width: int, *, scale: float = 10.0, bias: float | None = None, loaded: bool = False) -> DualEncoder:
    """Features are embeddings."""
    projectors = [build_projector("linear", [width], width, norm="none") for _ in range(2)]
    for projector in projectors:
        projector.blocks[0].load_linear(torch.eye(width), torch.zeros(width))
    record = {"uri": "array:toy", "fingerprint": "0" * 64, "width": width}
    return DualEncoder(*projectors, scale=scale, bias=bias, records={"image": [record], "text": [record]})


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DualEncoder, Path]:
    """Pairs, a model trained on them whose encoders are loaded, and their store."""
    folder = tmp_path_factory.mktemp("diagnose")
    pairs = write_pairs(folder / "pairs")
    encoders = {"image": [pixel_encoder()], "text": [word_encoder()]}
    store = ist.embed(pairs, *encoders["image"], *encoders["text"], out=folder / "store")
    model = ist.train(store, recipe="linear", overrides=["optim.epochs=3", "head.width=8"])
    model.encoders = encoders
    return pairs, model, folder / "store"


def test_a_gap_put_there_is_found_and_moves_nothing_else() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 8)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    aside = np.concatenate([x, np.zeros((200, 1), np.float32)], axis=1)
    apart = aside + np.eye(9, dtype=np.float32)[8]
    model = identity_model(9)
    near = ist.evaluate(model, "diagnose", FeaturePairs.from_arrays(aside, aside), bootstrap=20)
    far = ist.evaluate(model, "diagnose", FeaturePairs.from_arrays(aside, apart), bootstrap=20)
    assert near["metrics"]["gap"] == pytest.approx(0, abs=1e-6)
    assert far["metrics"]["gap"] > 0.6
    assert near["metrics"]["alignment"] == pytest.approx(0, abs=1e-6)
    for name in ("image_retrieval_accuracy", "text_retrieval_accuracy"):
        assert near["metrics"][name] == far["metrics"][name] == 1
    assert near["n"] == {"images": 200, "texts": 200, "groups": 200}


def test_a_model_with_a_bias_is_judged_by_its_sigmoid() -> None:
    data = FeaturePairs.from_arrays(np.eye(4), np.eye(4))
    found = ist.evaluate(identity_model(4, scale=10, bias=-8), "diagnose", data, bootstrap=0)
    assert found["metrics"]["image_retrieval_confidence"] == pytest.approx(1 / (1 + np.exp(-2)), rel=1e-5)
    softmax = ist.evaluate(identity_model(4, scale=10), "diagnose", data, bootstrap=0)
    assert softmax["metrics"]["image_retrieval_confidence"] == pytest.approx(1 / (1 + 3 * np.exp(-10)), rel=1e-5)


def test_copies_of_training_images_are_found_and_set_apart(toy: tuple[Path, DualEncoder, Path], tmp_path: Path) -> None:
    pairs, model, _ = toy
    lines = [json.loads(line) for line in pairs.read_text().splitlines()]
    half = len(lines) // 2
    parts = {"train": lines[:half], "test": lines[half - 3 :]}  # three of them are in both
    for name, part in parts.items():
        rows = [json.dumps({key: value for key, value in line.items() if key != "split"}) for line in part]
        (pairs.parent / f"{name}.jsonl").write_text("\n".join(rows))
    train, test = (pairs.parent / f"{name}.jsonl" for name in parts)
    found = ist.evaluate(model, "diagnose", test, against=train, near=1.0, bootstrap=20, report=tmp_path / "page.html")
    assert model.seen is not None
    both = [line["image"] for line in lines[half - 3 : half]]
    items = items_of_hashes([content_hash((pairs.parent / name).read_bytes()) for name in both])
    trained = {name for name, role in zip(both, model.seen.roles("image", items).tolist(), strict=True) if role == 1}
    assert trained == {one["id"] for one in found["seen"]["pairs"] if one["how"] == "exact"} != set()
    seen = {one["id"] for one in found["seen"]["pairs"]}
    assert found["metrics"]["seen_share"] == pytest.approx(len(seen) / len(parts["test"]))
    assert found["seen"]["n"]["images"] == len(parts["test"])
    assert found["metrics"]["zeroshot_accuracy"] >= 0  # labels, as the encoders are loaded
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 4
    assert "data:image/webp" in page
    assert 'src="http' not in page


def test_the_task_runs_on_a_store_from_the_command_line(
    toy: tuple[Path, DualEncoder, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, model, store = toy
    model.save_pretrained(tmp_path / "model")
    found, page = str(tmp_path / "found.json"), str(tmp_path / "page.html")
    task = ["eval", str(tmp_path / "model"), "diagnose", str(store), "--against", str(store)]
    code = main([*task, "--bootstrap", "10", "--json", found, "--report", page])
    assert code == 0
    out = capsys.readouterr().out
    assert "image_hub_skewness" in out
    written = json.loads(Path(found).read_text())
    assert written["task"] == "diagnose"
    assert written["seen"]["n"]["train_images"] == 103  # the train split without what was held out of it to validate
    assert "Diagnosis" in Path(page).read_text()


def test_what_cannot_be_diagnosed_is_told(toy: tuple[Path, DualEncoder, Path]) -> None:
    _, model, store = toy
    arrays = FeaturePairs.from_arrays(np.eye(4), np.eye(4))
    with pytest.raises(UsageError, match="ids"):
        ist.evaluate(identity_model(4), "diagnose", arrays, against=arrays, bootstrap=0)
    with pytest.raises(UsageError, match="precision=0"):
        ist.evaluate(model, "diagnose", store, precision=0)
    with pytest.raises(UsageError, match="diagnose takes no 'folds'"):
        ist.evaluate(model, "diagnose", store, folds=3)
    with pytest.raises(InputError, match="nowhere: no such"):
        ist.evaluate(model, "diagnose", store, against="nowhere")
    with pytest.raises(InputError, match="at least two"):
        ist.evaluate(identity_model(4), "diagnose", FeaturePairs.from_arrays(np.eye(4)[:1], np.eye(4)[:1]))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_square_of_the_pairs() -> None:
    """One matrix of 16,000 × 16,000 scores would take 1 GB, and a diagnosis needs several."""
    import resource

    rng = np.random.default_rng(0)
    x = rng.normal(size=(16_000, 16)).astype(np.float32)
    data = FeaturePairs.from_arrays(x, x + 0.1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = ist.evaluate(identity_model(16), "diagnose", data, bootstrap=0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 0.6 * 2**20  # KiB
    assert found["metrics"]["image_retrieval_accuracy"] > 0.9
