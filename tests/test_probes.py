"""k-NN, linear probe and few shots on frozen and projected features: any data, the same numbers as by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.preprocessing import normalize

from isthmus import FeaturePairs, evaluate
from isthmus.cli import main
from isthmus.errors import InputError
from isthmus.metrics.results import details, table
from isthmus.models.dual_encoder import DualEncoder
from isthmus.projectors import build_projector
from test_suite import toy_model, write_tar
from toys import COLOURS, PLACES, SHADES, picture, png

WIDTH = 12


def pairs(seed: int = 0, n: int = 240, noise: float = 1.2) -> FeaturePairs:
    """Three classes around three centres; the last third is the test split; every group has two images."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=n)
    image = rng.standard_normal((3, WIDTH))[labels] + noise * rng.standard_normal((n, WIDTH))
    splits = ["train"] * (n * 2 // 3) + ["test"] * (n - n * 2 // 3)
    return FeaturePairs.from_arrays(
        image.astype(np.float32),
        rng.standard_normal((n, 5)).astype(np.float32),
        labels=[f"kind {label}" for label in labels],
        groups=[str(row // 2) for row in range(n)],
        splits=splits,
    )


def model(width: int = 2) -> DualEncoder:
    """A projector that keeps `width` random directions: less than the frozen features know."""
    torch.manual_seed(0)
    heads = [build_projector("linear", [inputs], width, norm="none") for inputs in (WIDTH, 5)]
    return DualEncoder(*heads, scale=1.0, records={"image": [], "text": []})


def sides(data: FeaturePairs) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    test = np.array(data.splits) == "test"
    labels = np.array(data.labels)
    return data.image[~test], labels[~test], data.image[test], labels[test]


def test_k_nearest_neighbours_are_scikit_learn_s_with_their_weights() -> None:
    data = pairs()
    frozen, projected = evaluate(model(), "knn", data, bootstrap=0)
    x, y, u, v = (
        part / np.linalg.norm(part, axis=1, keepdims=True) if part.ndim == 2 else part for part in sides(data)
    )

    def weight(distance: np.ndarray) -> np.ndarray:
        return np.exp((1 - distance) / 0.07)

    for k in (10, 20, 100):
        peer = KNeighborsClassifier(k, metric="cosine", weights=weight).fit(x, y)
        assert frozen["metrics"][f"knn_acc1@{k}"] == pytest.approx(peer.score(u, v))
    assert (frozen["features"], projected["features"]) == ("frozen", "projected")
    assert frozen["n"] == {"train": 160, "test": 80, "classes": 3}
    assert projected["metrics"]["knn_acc1@10"] < frozen["metrics"]["knn_acc1@10"]


def test_few_shots_take_so_many_of_each_class_and_average_draws() -> None:
    data = pairs()
    frozen, projected = evaluate(model(), "fewshot", data, shots=(2, 1000), bootstrap=0)
    x, y, u, v = sides(data)
    x, u = normalize(x), normalize(u)
    peer = NearestCentroid().fit(x, y)
    peer.centroids_ = normalize(peer.centroids_)
    assert frozen["metrics"]["fewshot_acc1@1000"] == pytest.approx(peer.score(u, v))
    assert frozen["metrics"]["fewshot_acc1@2"] < frozen["metrics"]["fewshot_acc1@1000"]
    few = frozen["metrics"]["fewshot_acc1@2"] * 80 * 3
    assert few == pytest.approx(round(few)), "a mean over three draws of 80 answers"
    alone = evaluate(model(), "fewshot", data, shots=(2,), bootstrap=0)[0]["metrics"]
    assert alone == pytest.approx({"fewshot_acc1@2": frozen["metrics"]["fewshot_acc1@2"]})
    assert projected["metrics"]["fewshot_acc1@1000"] < frozen["metrics"]["fewshot_acc1@1000"]


def test_the_difference_is_paired_over_groups_and_a_tie_is_called_one() -> None:
    found = evaluate(model(), "linear_probe", pairs(), bootstrap=200)
    delta = found[1]["projected_minus_frozen"]["lp_acc1"]
    assert delta["difference"] == pytest.approx(found[1]["metrics"]["lp_acc1"] - found[0]["metrics"]["lp_acc1"])
    assert delta["n"]["groups"] == 40
    assert delta["ci95"][1] < 0
    assert "a tie" not in details(found)
    whole = model(WIDTH)
    with torch.no_grad():
        whole.image_projector.blocks[0].linear.weight.copy_(torch.eye(WIDTH))
    easy = evaluate(whole, "knn", pairs(noise=0.1), bootstrap=200)
    assert "knn_acc1@10 +0.0 [+0.0, +0.0], a tie" in details(easy)
    lines = table(found, ["lp_acc1"]).splitlines()
    assert [line.split()[1] for line in (lines[0], *lines[2:])] == ["features", "frozen", "projected"]


def write_set(folder: Path) -> Path:
    """Squares by colour, in CLIP_benchmark's layout, with a training split."""
    for number, split in enumerate(("train", "test")):
        chosen = [(c, s, p) for c in range(4) for s in SHADES[number::2] for p in PLACES]
        samples = [{"png": png(picture(list(COLOURS)[c], s, p)), "cls": str(c).encode()} for c, s, p in chosen]
        write_tar(folder / split / "0.tar", samples)
    (folder / "classnames.txt").write_text("\n".join(COLOURS))
    return folder


def test_a_data_set_of_the_suite_and_a_table_of_pairs_are_probed(tmp_path: Path, capsys, monkeypatch) -> None:
    folder = write_set(tmp_path / "wds_squares")
    frozen, _ = evaluate(toy_model(), "linear_probe", folder, out=tmp_path / "out", bootstrap=0)
    assert frozen["n"] == {"train": 32, "test": 32, "classes": 4}
    assert frozen["metrics"]["lp_acc1"] > 0.6
    assert (tmp_path / "out" / "features" / "squares" / "store.json").exists()
    lines = ["image,label,split,caption"]
    for number in range(24):
        (tmp_path / f"{number}.png").write_bytes(png(picture(list(COLOURS)[number % 2], "plain", "top", seed=number)))
        lines.append(f"{number}.png,{number % 2},{'train' if number < 16 else 'test'},never encoded {number}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    found = evaluate(toy_model(), "knn", tmp_path / "pairs.csv", bootstrap=0)
    assert found[0]["metrics"] == {"knn_acc1@10": 1.0}
    monkeypatch.setattr("isthmus.models.dual_encoder.DualEncoder.from_pretrained", lambda *a, **k: toy_model())
    assert main(["eval", ".", "fewshot", str(folder), "--bootstrap", "20"]) == 0
    assert "projected minus frozen: fewshot_acc1@1" in " ".join(capsys.readouterr().out.split())  # it is wrapped


def test_data_without_labels_or_training_split_are_refused(tmp_path: Path) -> None:
    features = [np.eye(WIDTH, size, dtype=np.float32) for size in (WIDTH, 5)]
    with pytest.raises(InputError, match="None of the images has a label"):
        evaluate(model(), "knn", FeaturePairs.from_arrays(*features, splits=["train", "test"] * 6))
    only_test = FeaturePairs.from_arrays(*features, splits=["test"] * 12, labels=["a"] * 12)
    with pytest.raises(InputError, match="needs the split train and another"):
        evaluate(model(), "knn", only_test)
    folder = write_set(tmp_path / "wds_squares")
    with pytest.raises(InputError, match=r"holds several data sets; a probe takes one of them: wds_squares"):
        evaluate(toy_model(), "knn", tmp_path)
    (folder / "train").rename(folder / "test2")
    with pytest.raises(InputError, match="has test, but no train"):
        evaluate(toy_model(), "knn", folder)
