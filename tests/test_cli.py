"""The command line: light help, exit codes, messages without tracebacks."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import isthmus as ist
from isthmus.cli import COMMANDS, main
from isthmus.training.contrastive.train import _split
from toys import pixel_encoder, word_encoder, write_pairs

HEAVY = ("torch", "transformers", "pyarrow", "sentence_transformers", "PIL", "matplotlib", "numpy")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    ist.embed(write_pairs(folder / "data"), pixel_encoder(), word_encoder(), out=folder / "store")
    return folder / "store"


def run(*arguments: str | Path, capsys: pytest.CaptureFixture) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS.names())])
def test_help_has_an_example_and_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom isthmus.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit as end: assert end.code == 0\n"
        f"print('HEAVY', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    out = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert out.strip().endswith("HEAVY []")
    assert arguments == ["--help"] or "example" in out


def test_train_eval_and_doctor_on_a_store(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = tmp_path / "model"
    code, out, _ = run("train", store, "--recipe", "cca", "--out", model, capsys=capsys)
    assert code == 0 and str(model) in out
    result = tmp_path / "result.json"
    code, out, _ = run("eval", model, "retrieval", store, "--split", "test", "--json", result, capsys=capsys)
    assert code == 0 and "mean_recall@10" in out
    written = json.loads(result.read_text())
    assert written["task"] == "zeroshot_retrieval" and written["ci95"]
    code, out, _ = run("doctor", store, capsys=capsys)
    assert code == 0 and "BAD" not in out


def test_a_dry_run_trains_nothing(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    code, out, _ = run("train", store, "--recipe", "linear", "--out", tmp_path / "m", "--dry-run", capsys=capsys)
    assert code == 0 and "parameters" in out and not (tmp_path / "m").exists()


def test_import_makes_a_store_of_arrays(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "arrays"
    folder.mkdir()
    rng = np.random.default_rng(0)
    np.save(folder / "image.npy", rng.standard_normal((30, 8)).astype(np.float32))
    np.save(folder / "text.npy", rng.standard_normal((30, 6)).astype(np.float32))
    code, out, _ = run("import", folder, "--out", tmp_path / "store", capsys=capsys)
    assert code == 0 and "30 images" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["eval", "nowhere", "retrieval", "STORE"], 1, "nowhere: no such file or folder"),
        (["train", "STORE", "--recipe", "defualt", "--out", "OUT"], 2, "Did you mean 'default'"),
        (["train", "STORE", "--set", "optim.lrr=1", "--out", "OUT"], 2, "Did you mean"),
        (["train", "nowhere", "--out", "OUT"], 1, "nowhere: no such file or folder"),
        (["train", "STORE", "--image-encoder", "callable:pixel", "--out", "OUT"], 2, "callable:pixels"),
        (["embed", "nowhere.csv", "--image-encoder", "wheel:x", "--text-encoder", "wheel:x", "--out", "OUT"], 1,
         "nowhere.csv: no such file"),
        (["doctor", "nowhere"], 1, "nowhere"),
        (["embed", "TABLE", "--image-encoder", "wheel:efficientnet-lite9", "--text-encoder", "wheel:minilm-l6",
          "--out", "OUT"], 2, "Did you mean 'efficientnet-lite"),
        (["embed", "TABLE", "--image-encoder", "whel:dinov2", "--text-encoder", "wheel:minilm-l6", "--out", "OUT"], 2,
         "Did you mean 'wheel'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_message_and_an_exit_code(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture, arguments: list[str], code: int, message: str
) -> None:
    places = {"STORE": store, "OUT": tmp_path / "out", "TABLE": store.parent / "data" / "pairs.jsonl"}
    got, _, err = run(*[places.get(argument, argument) for argument in arguments], capsys=capsys)
    assert (got, message in err, "Traceback" in err) == (code, True, False), err


def test_wrong_usage_exits_2() -> None:
    with pytest.raises(SystemExit) as end:
        main(["embed"])
    assert end.value.code == 2


def test_skipped_images_exit_3(tmp_path: Path) -> None:
    table = write_pairs(tmp_path / "data")
    (tmp_path / "data" / "0-000.png").write_bytes(b"")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import isthmus.embedding.networks as e, toys\n"
        "made = {'image': toys.pixel_encoder, 'text': toys.word_encoder}\n"
        "e.load_encoders = lambda uris, modality, **_: [made[modality]() for _ in uris]\n"
        "from isthmus.cli import main; sys.exit(main(sys.argv[2:]))"
    )
    arguments = [
        "embed",
        table,
        "--image-encoder",
        "callable:p",
        "--text-encoder",
        "callable:w",
        "--out",
        tmp_path / "s",
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, Path(__file__).parent, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "skipped 0-000.png: empty file" in done.stderr


def test_eval_takes_templates_and_only_some_ids(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Cached features need no encoder; a selection, here every second id, says which pairs count."""
    model = tmp_path / "model"
    run("train", store, "--recipe", "cca", "--out", model, capsys=capsys)
    ids = ist.open_store(store).images["id"].to_pylist()[::2]
    pq.write_table(pa.table({"id": ids, "score": [1.0] * len(ids)}), tmp_path / "selected.parquet")
    result = tmp_path / "result.json"
    arguments = ("retrieval", store, "--only", tmp_path / "selected.parquet", "--bootstrap", "0", "--json", result)
    assert run("eval", model, *arguments, capsys=capsys)[0] == 0
    assert json.loads(result.read_text())["n"]["images"] == len(ids)
    arguments = ("retrieval", store, "--split", "test", "--only", tmp_path / "selected.parquet", "--json", result)
    assert run("eval", model, *arguments, capsys=capsys)[0] == 0
    assert 0 < json.loads(result.read_text())["n"]["images"] < len(ids)


@pytest.mark.parametrize(
    ("given", "read"),
    [(None, "default"), (["clipart"], "clipart"), (["a {}"], ["a {}"]), (["a {}", "the {}"], ["a {}", "the {}"])],
)
def test_templates_are_prompts_or_the_name_of_a_set(given: list[str] | None, read: str | list[str]) -> None:
    from isthmus.cli.common import templates

    assert templates(Namespace(templates=given)) == read


def test_the_validation_split_stays_whole_when_few_pairs_are_trained_on(store: Path) -> None:
    some = ist.open_store(store).pairs(split="train").image_ids[:40]
    whole, narrowed = (_split(store, {"only": only}) for only in (None, some))
    assert len(narrowed[0]) == 40 < len(whole[0]) and narrowed[1].image_ids == whole[1].image_ids
    arrays = dataclasses.replace(whole[0], splits=["train"] * 60 + ["val"] * (len(whole[0]) - 60))
    assert len(_split(arrays, {"only": some})[0]) == 40
