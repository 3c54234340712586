"""A new process answers texts in an index by a graph of the model's text side: without torch, and the same."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import isthmus as ist
from isthmus.cli import main
from isthmus.exports import onnx_graphs
from isthmus.index.identity import model_fingerprint, saved_fingerprint
from isthmus.models.dual_encoder import DualEncoder
from isthmus.projectors import ConcatEnsemble, SumEnsemble, build_projector
from tiny_models import save_dual
from toys import write_pairs

QUERIES = [["a red dog"], ["two dogs in the park", "--plus", "red:0.5", "--minus", "a cat", "--label", "red"]]
HEAVY = ["torch", "transformers", "sentence_transformers", "sklearn", "scipy"]
NEW_PROCESS = f"""
import json, sys
from isthmus.cli import main
for number, query in enumerate({QUERIES}):
    options = ["--k", "5", "--out", "sheet.png", "--json", f"{{number}}.json"]
    assert main(["search", "model", "index", *query, *options]) == 0
print(json.dumps([name for name in {HEAVY} if name in sys.modules]))
"""


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that loads by its path, and the command's index of coloured squares."""
    home = tmp_path_factory.mktemp("home")
    save_dual(home)
    table = write_pairs(home / "pairs", copies=1)
    assert main(["index", str(home / "model"), str(table), "--out", str(home / "index")]) == 0
    return home


@pytest.fixture
def home(indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to work in."""
    shutil.copytree(indexed, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_a_new_process_answers_texts_without_torch_and_as_the_model_does(home: Path) -> None:
    run = subprocess.run([sys.executable, "-c", NEW_PROCESS], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == []
    live = ist.load_model("model")
    for number, (query, *mixed) in enumerate(QUERIES):
        found = json.loads(Path(f"{number}.json").read_text())["hits"]
        further: dict[str, Any] = {"plus": "red:0.5", "minus": "a cat", "label": "red"} if mixed else {}
        expected = ist.search(live, "index", query, k=5, **further).hits
        assert [hit["id"] for hit in found] == [hit["id"] for hit in expected]
        for name in ("score", "probability"):
            assert [hit[name] for hit in found] == pytest.approx([hit[name] for hit in expected], abs=1e-4)


@pytest.mark.slow
def test_where_the_graph_cannot_be_used_the_model_itself_answers(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    own = DualEncoder.from_pretrained.__func__  # type: ignore[attr-defined]

    def noted(cls: Any, path: str, **options: Any) -> DualEncoder:
        loaded.append(path)
        return own(cls, path, **options)

    monkeypatch.setattr(DualEncoder, "from_pretrained", classmethod(noted))
    quick = ist.search("model", "index", "a red dog").hits
    assert loaded == []
    ist.search("model", "index", next(Path("pairs").rglob("*.png")))
    assert loaded == ["model"]
    monkeypatch.setitem(sys.modules, "isthmus.exports.embed", None)  # as without onnxruntime
    slow = ist.search("model", "index", "a red dog").hits
    assert loaded == ["model", "model"]
    assert [hit["score"] for hit in slow] == pytest.approx([hit["score"] for hit in quick], abs=1e-5)


@pytest.mark.slow
def test_a_damaged_graph_is_refused_and_written_again(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [graph] = Path("index").glob("text-*/text.onnx")
    kept = shutil.copytree(graph.parent, "kept")
    copy = partial(shutil.copytree, kept, dirs_exist_ok=True)  # in place of an export, which takes seconds
    monkeypatch.setattr(onnx_graphs, "write_text_side", lambda model, folder: copy(folder))
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    assert main(["search", "model", "index", "a red dog"]) == 1
    assert str(graph) in capsys.readouterr().err
    assert main(["index", "model", "--out", "index"]) == 0
    assert main(["search", "model", "index", "a red dog"]) == 0
    assert main(["doctor", "index"]) == 0
    assert "without torch" in capsys.readouterr().out
    assert [one.name for one in Path("index").glob("text-*")] != [graph.parent.name]


@pytest.mark.parametrize("join", [None, ConcatEnsemble, SumEnsemble])
def test_a_saved_model_is_told_apart_without_loading_it(join: Any, tmp_path: Path) -> None:
    def head() -> Any:
        built = [build_projector("linear", [4], 6) for _ in range(2)]
        return built[0] if join is None else join(built, [0.5, 0.5])

    def saved(model: DualEncoder) -> str | None:
        return saved_fingerprint(model.save_pretrained(tmp_path / "model"))

    record: Any = {"modality": "image", "uri": "callable:some", "fingerprint": "f" * 64, "width": 4, "parts": [4]}
    with pytest.warns(UserWarning, match="Python functions"):
        whole = DualEncoder(head(), head(), scale=1.0, records={"image": [record], "text": [record]})
        assert saved(whole) == model_fingerprint(whole)
        short = whole.truncate(3)
        assert saved(short) == model_fingerprint(short) != model_fingerprint(whole)
        other = DualEncoder(head(), head(), scale=1.0, records=whole.records)
        assert saved(other) not in (None, model_fingerprint(whole))
    assert saved_fingerprint(tmp_path) is None
    (tmp_path / "model" / "model.safetensors").write_bytes(b"")
    assert saved_fingerprint(tmp_path / "model") is None
