"""Exports load where isthmus is not, offline, from a copied folder and after each consumer's own re-save."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

import export_table
import isthmus as ist
from export_cases import CASES, build, make_encoders
from isthmus.cli import main
from isthmus.encoders.callables import from_callable
from isthmus.errors import InputError, UsageError
from isthmus.exports import hf, parity
from isthmus.exports.assembly import MODELING
from isthmus.models.dual_encoder import DualEncoder
from tiny_encoders import TEXTS, edit_json, pictures
from toys import write_pairs

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoders(tmp_path_factory.mktemp("encoders"))


def exported(model: DualEncoder, out: Path, **options: Any) -> dict[str, Any]:
    return ist.export(model, out, allow_unknown_licence=True, **options)


def consume(how: str, folder: Path, work: Path, *, path: str = "", saved: Path | None = None) -> dict[str, np.ndarray]:
    """What a consumer makes of an export, in a process that cannot import isthmus, offline."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(work / "modules")}
    environment["PYTHONPATH"] = os.pathsep.join([*([path] if path else []), environment.get("PYTHONPATH", "")])
    command = [sys.executable, str(HERE / "consumer.py"), how, str(folder), str(work / "out.npz")]
    run = subprocess.run([*command, *([str(saved)] if saved else [])], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]
    return dict(np.load(work / "out.npz"))


def expected(model: DualEncoder) -> dict[str, np.ndarray]:
    image, text = model.encode_image(pictures()), model.encode_text(TEXTS)
    logits = model.logits(image, text)
    return {"image": image, "text": text, "scores": torch.tensor(logits).softmax(-1).numpy(), "logits": logits}


def check_consumer(how: str, model: DualEncoder, folder: Path, work: Path) -> None:
    """The same from a copied folder, and from what the consumer saved of it."""
    own, copied, saved = expected(model), work / "copied", work / "saved"
    shutil.copytree(folder, copied)
    folder.rename(work / "gone")
    found = consume(how, copied, work, saved=saved)
    again = consume(how, saved, work)
    (work / "gone").rename(folder)
    for name, value in found.items():
        np.testing.assert_allclose(value, own[name], atol=1e-5, err_msg=name)
        np.testing.assert_array_equal(value, again[name])


@pytest.mark.slow
@pytest.mark.parametrize("how", ["auto", "pipeline", "sentence"])
def test_one_folder_is_read_by_three_consumers_without_isthmus(how: str, encoders: Path, tmp_path: Path) -> None:
    model = build("default recipe", encoders)
    exported(model, tmp_path / "out")
    check_consumer(how, model, tmp_path / "out", tmp_path)


@pytest.mark.slow
def test_several_encoders_of_different_preprocessing_are_read_without_isthmus(encoders: Path, tmp_path: Path) -> None:
    model = build("several encoders", encoders)
    exported(model, tmp_path / "out")
    check_consumer("sentence", model, tmp_path / "out", tmp_path)


@pytest.mark.slow
def test_plain_modules_are_read_without_code(encoders: Path, tmp_path: Path) -> None:
    model = build("parallel", encoders)
    exported(model, tmp_path / "out", to="st-plain")
    assert not list((tmp_path / "out").rglob("*.py"))
    own, saved = expected(model), tmp_path / "saved"
    found = consume("plain", tmp_path / "out", tmp_path, saved=saved)
    for name in ("image", "text"):
        np.testing.assert_allclose(found[name], own[name], atol=1e-5)
        np.testing.assert_array_equal(consume("plain", saved, tmp_path)[name], found[name])


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.targets["hf"]])
def test_every_head_and_encoder_has_its_form_for_transformers(name: str, encoders: Path, tmp_path: Path) -> None:
    model = build(name, encoders)
    found = exported(model, tmp_path / "out")
    assert max(found["differences"].values()) <= parity.TOLERANCE
    image, _ = hf.reading(tmp_path / "out")
    np.testing.assert_allclose(image(pictures()), model.encode_image(pictures()), atol=1e-5)


@pytest.mark.parametrize("name", list(CASES))
def test_plain_modules_say_the_same_or_the_export_says_why_not(name: str, encoders: Path, tmp_path: Path) -> None:
    model, reason = build(name, encoders), CASES[name].targets["st-plain"]
    if reason is True:
        assert max(exported(model, tmp_path / "out", to="st-plain")["differences"].values()) <= parity.TOLERANCE
        return
    with pytest.raises(UsageError, match=str(reason)):
        exported(model, tmp_path / "out", to="st-plain")
    assert not list((tmp_path / "out").glob("*"))


def test_nothing_is_written_where_embeddings_differ(
    encoders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build("linear", encoders)
    exported(model, tmp_path / "out")
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir() if file.is_file()}
    own = DualEncoder.encode_text
    monkeypatch.setattr(DualEncoder, "encode_text", lambda self, texts: own(self, texts) + 2e-5)
    with pytest.raises(InputError, match=r"text embeddings of the export differ .* by up to 2e-05"):
        exported(model, tmp_path / "out")
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir() if file.is_file()} == before


def test_stored_embeddings_are_compared_when_an_export_is_loaded(encoders: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    out = tmp_path / "out"
    exported(build("linear", encoders), out)
    weights = {name: tensor.clone() for name, tensor in load_file(out / "model.safetensors").items()}
    weights["text.head.blocks.0.linear.bias"][0] += 1
    save_file(weights, out / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="text side gives other embeddings"):
        hf.reading(out)


@pytest.mark.parametrize("part", ["image", "text"])
def test_changed_preprocessing_is_noticed(part: str, encoders: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    exported(build("linear", encoders), out)
    if part == "image":
        settings = json.loads((out / "preprocessor_config.json").read_text())
        settings["processors"][0]["settings"]["resample"] = 0
        edit_json(out / "preprocessor_config.json", **settings)
    else:
        settings = json.loads((out / "tokenizer_config.json").read_text())
        settings["isthmus"][0]["prompt"] = "blue "
        edit_json(out / "tokenizer_config.json", **settings)
    with pytest.raises(ValueError, match="than when the model was exported"):
        hf.reading(out)


def test_pictures_are_prepared_as_isthmus_prepares_them(encoders: Path, tmp_path: Path) -> None:
    model = build("linear", encoders)
    exported(model, tmp_path / "out")
    image, _ = hf.reading(tmp_path / "out")
    clear = Image.new("RGBA", (60, 50), (200, 10, 10, 100))
    deep = Image.fromarray(np.linspace(0, 65535, 3000).astype(np.uint16).reshape(50, 60))
    palette = pictures()[0].convert("P")
    turned = pictures()[1].copy()
    turned.getexif()[0x0112] = 6
    for one in (clear, deep, palette, turned, clear.convert("LA"), pictures()[0].convert("CMYK")):
        np.testing.assert_allclose(image([one]), model.encode_image([one]), atol=1e-5, err_msg=one.mode)


def test_the_written_code_needs_torch_and_transformers_alone(encoders: Path, tmp_path: Path) -> None:
    exported(build("linear", encoders), tmp_path / "out")
    code = (tmp_path / "out" / MODELING).read_text(encoding="utf-8")
    assert "import isthmus" not in code and "from isthmus" not in code
    listed = "\n".join(file.read_text() for file in (tmp_path / "out").glob("*.json"))
    assert str(encoders) not in listed.replace(json.dumps(str(tmp_path)), "")


def test_the_card_says_first_what_it_needs_and_shows_both_sides(encoders: Path, tmp_path: Path) -> None:
    exported(build("linear", encoders), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    body = card.partition("\n# ")[2]
    assert body.index("trust_remote_code") < body.index("## Use")
    for word in ("encode([Image.open", 'encode(["a cat"', "similarity(image, text)", "pipeline(", "AutoModel"):
        assert word in card
    assert card.startswith("---\nlicense: other\nlicense_name:") and "| unknown |" in card


def test_an_unknown_licence_is_refused_unless_told(encoders: Path, tmp_path: Path) -> None:
    model = build("linear", encoders)
    with pytest.raises(InputError, match=r"licence is not known.*--allow-unknown-licence"):
        ist.export(model, tmp_path / "out")
    for encoder in (one for listed in model.encoders.values() for one in listed):
        encoder.licence = "apache-2.0"
    found = ist.export(model, tmp_path / "out")
    assert set(found["licences"].values()) == {"apache-2.0"}
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: apache-2.0\n") and "| apache-2.0 |" in card


def test_what_cannot_be_exported_is_refused_by_name(encoders: Path, tmp_path: Path) -> None:
    model = build("linear", encoders)
    words = from_callable(lambda texts: np.ones((len(texts), 32), np.float32), "text", "ones", name="ones", width=32)
    records = {**model.records, "text": [words.record()]}
    parts = {"records": records, "encoders": {**model.encoders, "text": [words]}}
    called = DualEncoder(model.image_projector, model.text_projector, scale=1.0, **parts)
    with pytest.raises(UsageError, match="callable encoders run with their own library alone"):
        exported(called, tmp_path / "out")
    sound = {**model.records, "image": [{**model.records["image"][0], "modality": "audio"}]}
    heard = DualEncoder(model.image_projector, model.text_projector, scale=1.0, records=sound)
    with pytest.raises(InputError, match=r"joins audio and text; only those of images and texts"):
        exported(heard, tmp_path / "out")
    bare = DualEncoder(model.image_projector, model.text_projector, scale=1.0, records=model.records)
    with pytest.raises(InputError, match="loaded without its image encoder"):
        exported(bare, tmp_path / "out")
    with pytest.raises(UsageError, match=r"no export target .onx..*onnx"):
        exported(model, tmp_path / "out", to="onx")
    with pytest.raises(UsageError, match="--to hf has no option 'int8'"):
        exported(model, tmp_path / "out", int8="pairs.jsonl")
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="holds a model that isthmus wrote"):
        exported(model, tmp_path / "model")


def test_the_command_exports_and_reports(encoders: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    build("linear", encoders).save_pretrained(tmp_path / "model")
    command = [
        "export",
        str(tmp_path / "model"),
        "--out",
        str(tmp_path / "out"),
        "--json",
        str(tmp_path / "report.json"),
    ]
    assert main(command) == 1
    assert "--allow-unknown-licence" in capsys.readouterr().err and not (tmp_path / "out" / "config.json").exists()
    assert main([*command, "--allow-unknown-licence"]) == 0
    assert "differ from the model's own by at most" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["to"] == "hf" and max(report["differences"].values()) <= 1e-5
    assert main([*command, "--allow-unknown-licence", "--to", "st-plain"]) == 2
    assert "cannot be said" in capsys.readouterr().err


class Hub(BaseHTTPRequestHandler):
    """What of the hub an upload speaks to; keeps what it was sent."""

    asked: ClassVar[list[tuple[str, bytes]]] = []
    refuses: ClassVar[bool] = False

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.asked.append((self.path, body))
        home = f"http://{self.headers['Host']}/owner/name"
        answer: dict[str, Any] = {"url": home, "commitUrl": f"{home}/commit/{'0' * 40}", "commitOid": "0" * 40}
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            answer = {"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]}
        self.reply(403 if self.refuses else 200, answer)

    def do_GET(self) -> None:
        self.reply(404, {"error": "not found"})

    def reply(self, code: int, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(Hub, "asked", [])
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def pushed(folder: Path, endpoint: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys; from isthmus.cli import main; sys.exit(main(sys.argv[1:]))", "export"]
    command += [str(folder / "model"), "--out", str(folder / "out"), "--allow-unknown-licence", "--push", "owner/name"]
    own = {
        "HF_ENDPOINT": endpoint,
        "HF_TOKEN": "hf_none",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        **environment,
    }
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **own})


@pytest.mark.slow
def test_an_export_is_pushed_with_its_card_when_that_is_asked_for(hub: str, encoders: Path, tmp_path: Path) -> None:
    build("linear", encoders).save_pretrained(tmp_path / "model")
    run = pushed(tmp_path, hub)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "pushed: " in run.stdout
    created, commit = (next(b for p, b in Hub.asked if part in p) for part in ("/repos/create", "/commit/"))
    told = json.loads(created)  # as versions of huggingface_hub say it
    assert told.get("visibility") == "private" or told.get("private") is True
    sent = {one["value"]["path"] for one in map(json.loads, commit.splitlines()) if one["key"] == "file"}
    assert {"README.md", "modeling_isthmus.py", "model.safetensors", "config.json", "tokenizer.json"} <= sent


@pytest.mark.slow
def test_a_push_that_is_refused_or_offline_leaves_the_export_whole(
    hub: str, encoders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build("linear", encoders).save_pretrained(tmp_path / "model")
    run = pushed(tmp_path, hub, ISTHMUS_OFFLINE="1")
    assert run.returncode == 1 and "nothing is pushed while" in run.stderr and not Hub.asked
    monkeypatch.setattr(Hub, "refuses", True)
    run = pushed(tmp_path, hub)
    assert run.returncode == 1 and "the hub refused" in run.stderr and "Traceback" not in run.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()


needs_onnx = pytest.mark.skipif(find_spec("onnxruntime") is None, reason="needs onnxruntime")


@pytest.mark.slow
@needs_onnx
def test_graphs_embed_without_torch_and_int8_says_what_it_loses(encoders: Path, tmp_path: Path) -> None:
    model, pairs = build("layers", encoders), write_pairs(tmp_path / "pairs", copies=1)
    found = exported(model, tmp_path / "out", to="onnx", int8=pairs)
    assert max(found["differences"].values()) <= parity.TOLERANCE
    assert 0.999 <= min(found["cosines"].values()) < 1 - 1e-7  # they are other weights
    with pytest.raises(InputError, match=r"image embeddings in int8 .* only 0\.99000 .* less than 0\.999"):
        parity.check_cosine({"image": 0.99, "text": 1.0})
    assert set(found["recall"]["int8"]) == {"mean_recall@1", "mean_recall@5", "mean_recall@10"}
    assert f"| {found['recall']['int8']['mean_recall@10']:.4f} |" in (tmp_path / "out" / "README.md").read_text()
    shutil.copytree(tmp_path / "out", tmp_path / "copied")
    own, given = expected(model), consume("onnx", tmp_path / "copied", tmp_path)
    for name in ("image", "text"):  # of other batches and lengths than the graphs were made with
        np.testing.assert_allclose(given[name], own[name], atol=1e-5)


@pytest.mark.slow
@needs_onnx
@pytest.mark.parametrize("name", ["default recipe", "tokens", "several encoders"])
def test_graphs_of_other_heads(name: str, encoders: Path, tmp_path: Path) -> None:
    found = exported(build(name, encoders), tmp_path / "out", to="onnx")
    assert max(found["differences"].values()) <= parity.TOLERANCE


def test_the_page_has_the_table_that_the_cases_gave() -> None:
    results, page = export_table.load(), export_table.PAGE.read_text(encoding="utf-8")
    assert list(results) == list(CASES) and page == export_table.rendered(page, results)
    for name, case in CASES.items():
        for target, expected_outcome in case.targets.items():
            found = results[name][target]
            exact = expected_outcome is True
            assert found["difference"] <= parity.TOLERANCE if exact else re.search(expected_outcome, found["reason"])
