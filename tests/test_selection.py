"""`select` from arrays, stores and pairs: ranking, failures, files, the command line."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import isthmus as ist
from isthmus.cli import main
from isthmus.encoders.callables import from_callable
from isthmus.errors import InputError, UsageError
from isthmus.selection.cost import count_cost
from isthmus.selection.ranking import correlation, pareto, ranked, tied_with_first
from isthmus.selection.scoring import DEFINITIONS, FALLBACK, LABELS, PROBE
from tiny_encoders import pictures, save_dinov2
from toys import pixel_encoder, word_encoder, write_pairs

N = 320


def arrays(seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A good and a poor view of a latent vector as image features, one as text features."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(N, 8))

    def view(width: int, noise: float) -> np.ndarray:
        return (shared @ rng.normal(size=(8, width)) + noise * rng.normal(size=(N, width))).astype(np.float32)

    return {"poor": view(24, 6), "good": view(24, 0.5)}, {"text": view(16, 0.5)}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("select"))


def broken_encoder(after: int) -> Any:
    """Fails once it has seen so many images."""
    seen = 0

    def fn(images: list[Any]) -> np.ndarray:
        nonlocal seen
        seen += len(images)
        if seen > after:
            raise RuntimeError("out of order")
        return np.ones((len(images), 3), np.float32)

    return from_callable(fn, "image", "broken-1", name="broken", width=3)


def test_without_the_packages_of_the_page_the_ranking_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    image, text = arrays()
    with pytest.warns(UserWarning, match=r"No report was written.*isthmus\[report\]"):
        ist.select(image=image, text=text, seeds=0, bootstrap=0, out=tmp_path)
    assert (tmp_path / "select.json").is_file() and not (tmp_path / "report.html").exists()


# --- ranking ----------------------------------------------------------------------------------------------------


def test_scores_that_are_all_negative_still_have_a_best() -> None:
    assert ranked([-0.3, -0.1, -0.2]) == [1, 2, 0]


def test_ties_are_told_by_paired_draws() -> None:
    rng = np.random.default_rng(0)
    common = rng.normal(size=500)
    first, close, worse = (
        common,
        common - 0.01 + 0.05 * rng.normal(size=500),
        common - 0.5 + 0.05 * rng.normal(size=500),
    )
    assert tied_with_first([first, close, worse]) == [True, True, False]
    assert tied_with_first([np.empty(0), np.empty(0)]) == [True, False]


def test_the_pareto_front_is_what_nothing_beats() -> None:
    assert pareto([3, 2, 2, 1, 3], [9, 4, 5, 1, 9]) == [True, True, False, True, True]


def test_correlation_knows_order_and_families() -> None:
    x = np.arange(12.0)
    found = correlation(x, x**3, [np.arange(12) // 3, ["t"] * 12])
    assert found["spearman"] == pytest.approx(1) and 0.85 < found["pearson"] < 1
    assert found["families"] == [4, 1] and found["pearson_ci95"] is not None
    few = correlation(x, x, [np.arange(12) // 6])
    assert few["pearson"] == pytest.approx(1) and few["pearson_ci95"] is None
    assert correlation(x, np.ones(12), [x])["pearson"] is None


def test_families_that_agree_inside_but_not_between_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    family = np.repeat(np.arange(5), 20)
    x = rng.normal(size=5)[family] + 0.01 * rng.normal(size=100)
    y = rng.normal(size=5)[family] + 0.01 * rng.normal(size=100)
    by_family, by_point = (correlation(x, y, [names])["pearson_ci95"] for names in (family, np.arange(100)))
    assert np.ptp(by_family) > 2 * np.ptp(by_point)


# --- arrays -----------------------------------------------------------------------------------------------------


def test_arrays_are_ranked_by_what_they_share(tmp_path: Path) -> None:
    image, text = arrays()
    found = ist.select(image=image, text=text, out=tmp_path, seeds=2, bootstrap=200)
    assert (found.best["image"], found.best["text"]) == ("good", "text")
    assert set(found.best["scores"]) == set(DEFINITIONS) == set(LABELS)
    for score in found.best["scores"].values():
        assert score["ci95"][0] <= score["value"] <= score["ci95"][1]
        assert score["value"] > score["floor"]
    assert not found.pairs[1]["tied_with_first"]
    model = ist.train(found.feature_pairs(), recipe="cca")
    assert model.width > 0


def test_default_arguments_run_and_without_probe_cca_ranks() -> None:
    image, text = arrays()
    assert ist.select(image=image, text=text).facts["ranked_by"] == PROBE
    found = ist.select(image=image, text=text, seeds=0, bootstrap=0)
    assert found.facts["ranked_by"] == FALLBACK and found.agreement == {}
    assert found.best["scores"]["cka"]["ci95"] is None


def test_unrelated_features_score_around_zero_and_chance() -> None:
    rng = np.random.default_rng(0)
    found = ist.select(image={"x": rng.normal(size=(N, 30))}, text={"y": rng.normal(size=(N, 20))}, bootstrap=0)
    scores = found.best["scores"]
    for name in ("cka", "rbf_cka"):
        assert abs(scores[name]["value"]) < 4 * scores[name]["null"]["sd"]
    assert scores["cka_biased"]["value"] == pytest.approx(scores["cka_biased"]["null"]["mean"], abs=0.02)
    for name in (PROBE, "cca_recall@10", "asif_recall@10"):
        assert abs(scores[name]["value"] - scores[name]["floor"]) < 0.15


def test_labels_bring_unimodal_scores_and_without_them_they_are_told_to_be_left_out() -> None:
    image, text = arrays()
    labels = np.where(image["good"] @ np.ones(24) > 0, "p", "q").tolist()
    found = ist.select(image=image, text=text, labels=labels, seeds=0, bootstrap=50)
    by_name = {row["name"]: row["unimodal"] for row in found.encoders["image"]}
    assert by_name["good"]["linear"]["value"] > 0.85
    assert {"knn@10", "knn@20", "knn@100", "knn@200", "linear", "n"} == set(by_name["good"])
    found = ist.select(image=image, text=text, labels=[None] * N, seeds=0, bootstrap=0)
    assert all(row["unimodal"] is None for row in found.encoders["image"])
    assert "left out" in str(found)


def test_constant_features_do_not_lose_the_others() -> None:
    image, text = arrays()
    found = ist.select(image=image | {"still": np.ones((N, 4))}, text=text, seeds=0, bootstrap=0)
    assert len(found.pairs) == 2
    assert "constant" in found.failed[0]["reason"] and found.failed[0]["encoder"] == "still"
    with pytest.raises(InputError, match=r"No image encoder can be used. still: .*constant"):
        ist.select(image={"still": np.ones((N, 4))}, text=text)


def test_several_captions_per_image_are_averaged_for_training_free_scores() -> None:
    image, text = arrays()
    twice = {"text": np.repeat(text["text"], 2, axis=0) + np.tile([[0.1], [-0.1]], (N, 1))}
    one = ist.select(image=image, text=text, seeds=0, bootstrap=0)
    two = ist.select(image=image, text=twice, image_of=np.repeat(np.arange(N), 2), seeds=0, bootstrap=0)
    assert two.best["scores"]["cka"]["value"] == pytest.approx(one.best["scores"]["cka"]["value"], abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"image": {}, "text": {"t": np.ones((9, 2))}}, UsageError, "image features as a dictionary"),
        ({"image": {"a": np.ones((9, 2))}, "text": {"t": np.ones((8, 2))}}, InputError, "9 images but 8 captions"),
        ({"image": {"a": np.ones((9, 2))}, "text": {"t": np.ones((9, 2))}, "seeds": -1}, UsageError, "seeds = -1"),
    ],
)
def test_bad_arrays_are_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ist.select(**arguments)


# --- pairs and stores -------------------------------------------------------------------------------------------


def test_operations_are_counted_and_do_not_depend_on_the_machine(tmp_path: Path) -> None:
    encoder = ist.load_encoder(f"hf:{save_dinov2(tmp_path)}", modality="image")
    cost = count_cost(encoder, pictures(3))
    assert cost == count_cost(encoder, pictures(3), batch_size=1)
    assert cost.operations > cost.parameters > 0  # weights are used once a token


def test_pairs_to_report_to_training(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    encoders = [pixel_encoder(), pixel_encoder("pixels-2")], [word_encoder()]
    found = ist.select(table, *encoders, out=tmp_path, seeds=1, bootstrap=50)
    told = json.loads((tmp_path / "select.json").read_text())
    prints = {pixel_encoder(name).fingerprint[:12] for name in ("pixels-1", "pixels-2")}  # one URI, two encoders
    assert {row["image"] for row in told["pairs"]} == prints and told["first_choice"]["text"] == "callable:words"
    assert ist.train(tmp_path, recipe="cca").width > 0
    assert told["store"] == "store" and told["n"]["train_images"] + told["n"]["val_images"] == 128
    assert told["encoders"]["image"][0]["cost"]["operations"] is None  # a function: nothing to count
    assert not found.failed
    page = (tmp_path / "report.html").read_text()
    assert told["first_choice"]["image"] in page and not re.search(r"(src|href)=\"https?:", page)


def test_a_second_run_computes_nothing_again(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ist.select(table, pixel_encoder(), word_encoder(), out=tmp_path, seeds=1, bootstrap=50)

    def refuse(*_args: Any) -> Any:
        raise AssertionError("computed again")

    monkeypatch.setattr("isthmus.selection.scoring.PairScorer.pair", refuse)
    monkeypatch.setattr("isthmus.selection.scoring.PairScorer.unimodal", refuse)
    again = ist.select(table, pixel_encoder(), word_encoder(), out=tmp_path, seeds=1, bootstrap=50)
    assert again.pairs[0]["scores"] == first.pairs[0]["scores"]


def test_train_takes_the_first_choice(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    ist.select(table, pixel_encoder(), word_encoder(), out=tmp_path / "choice", seeds=0, bootstrap=0)
    assert main(["train", str(tmp_path / "choice"), "--recipe", "cca", "--out", str(tmp_path / "model")]) == 0
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert "callable:pixels" in json.dumps(config)


def test_a_selection_among_arrays_says_how_to_train(tmp_path: Path) -> None:
    image, text = arrays()
    ist.select(image=image, text=text, out=tmp_path, seeds=0, bootstrap=0)
    with pytest.raises(InputError, match="feature_pairs"):
        ist.train(tmp_path)


@pytest.mark.parametrize("after", [0, 60])
def test_an_encoder_that_fails_does_not_lose_the_others(table: Path, tmp_path: Path, after: int) -> None:
    encoders = [broken_encoder(after), pixel_encoder()]
    found = ist.select(table, encoders, word_encoder(), out=tmp_path, seeds=0, bootstrap=0)
    assert [row["image"] for row in found.pairs] == ["callable:pixels"]
    assert found.failed == [{"encoder": "callable:broken", "modality": "image", "reason": "RuntimeError: out of order"}]


def test_where_every_encoder_fails_the_reason_is_told(table: Path, tmp_path: Path) -> None:
    with pytest.raises((InputError, RuntimeError), match="out of order"):
        ist.select(table, broken_encoder(0), word_encoder(), out=tmp_path)


def test_the_test_split_is_never_looked_at(table: Path, tmp_path: Path) -> None:
    ist.select(table, pixel_encoder(), word_encoder(), out=tmp_path, seeds=0, bootstrap=0)
    assert "test" not in ist.open_store(tmp_path / "store").images["split"].to_pylist()


def test_fewer_pairs_and_another_encoder_in_the_same_folder(table: Path, tmp_path: Path) -> None:
    ist.select(table, pixel_encoder(), word_encoder(), out=tmp_path, seeds=0, bootstrap=0)
    encoders = [pixel_encoder(), pixel_encoder("pixels-2")]  # the second is embedded for 60 pairs only
    found = ist.select(table, encoders, word_encoder(), out=tmp_path, limit=60, seeds=0, bootstrap=0)
    assert len(found.pairs) == 2 and not found.failed
    whole = ist.select(tmp_path / "store", seeds=0, bootstrap=0)
    assert len(whole.pairs) == 1 and "missing" in whole.failed[0]["reason"]


def test_limit_and_only_narrow_a_store(table: Path, tmp_path: Path) -> None:
    store = ist.embed(table, pixel_encoder(), word_encoder(), out=tmp_path / "s")
    found = ist.select(store, limit=60, seeds=0, bootstrap=0)
    assert found.facts["n"]["train_images"] + found.facts["n"]["val_images"] == 60
    ids = [i for i, s in zip(*(store.images[c].to_pylist() for c in ("id", "split")), strict=True) if s == "train"]
    found = ist.select(store, only=ids[:50], seeds=0, bootstrap=0)
    assert found.facts["n"]["train_images"] + found.facts["n"]["val_images"] == 50


def test_the_command_line_end_to_end(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "s"
    ist.embed(table, pixel_encoder(), word_encoder(), out=store)
    out = tmp_path / "o"
    arguments = ["select", str(store), "--out", str(out), "--seeds", "1", "--bootstrap", "20"]
    assert main([*arguments, "--json", str(tmp_path / "j.json")]) == 0
    printed = capsys.readouterr().out
    assert "callable:pixels" in printed and "probe R@10" in printed
    assert json.loads((tmp_path / "j.json").read_text())["first_choice"]["text"] == "callable:words"
    assert main([*arguments, "--dry-run"]) == 0
    assert "probes: 1" in capsys.readouterr().out
    assert main([*arguments, "--image-encoders", "callable:pixel"]) == 2
    assert "callable:pixels" in capsys.readouterr().err


@pytest.mark.slow
def test_layers_of_packaged_encoders_on_the_demo_pictures(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    import isthmus_demo

    arguments = ["select", str(isthmus_demo.PAIRS), "--out", str(tmp_path), "--limit", "150", "--seeds", "1"]
    arguments += ["--image-encoders", "wheel:efficientnet-lite0?layer=*&pool=mean", "hf:/no/such/model"]
    arguments += ["--text-encoders", "wheel:minilm-l6", "wheel:wordllama", "--bootstrap", "50"]
    assert main(arguments) == 3  # one encoder cannot be loaded; the others are ranked
    told = json.loads((tmp_path / "select.json").read_text())
    assert len(told["pairs"]) == 16 and told["failed"][0]["encoder"] == "hf:/no/such/model"
    assert {row["layer"] for row in told["encoders"]["image"]} == set(range(8))
    assert told["encoders"]["image"][0]["unimodal"]["knn@10"]["value"] > 0
    assert main(["train", str(tmp_path), "--recipe", "cca", "--out", str(tmp_path / "model")]) == 0
