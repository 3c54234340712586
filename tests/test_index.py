"""An index of pictures: built, brought up to date and searched by the commands, on pictures that need no weights."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import shutil
import threading
import uuid
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

import isthmus as ist
import toys
from faults import kill, names, struck
from isthmus.cli import main
from isthmus.encoders import Encoder
from isthmus.encoders.callables import from_callable
from isthmus.errors import InputError, UsageError
from isthmus.files import read_sealed, write_sealed
from isthmus.index import build_index, calibration, candidates, exact, open_index, reader
from isthmus.index.exact import exact_top
from isthmus.index.segments import PICTURE_SCHEMA, Part, Segment, write_segment
from isthmus.metrics.nearest import top_k
from isthmus.models.dual_encoder import DualEncoder
from isthmus.projectors import build_projector
from isthmus.projectors.blocks import set_linear

NAMES = ("red", "green", "blue", "yellow")
ENCODED: list[int] = []  # how many pictures each call of the encoder got


def mean_colour(pictures: list[Image.Image]) -> np.ndarray:
    ENCODED.append(len(pictures))
    return np.array([np.asarray(one.resize((4, 4)), np.float32).mean(axis=(0, 1)) / 255 - 0.5 for one in pictures])


def colour_words(texts: list[str]) -> np.ndarray:
    """The colour that a text names; of another text, one that its letters decide."""
    out = []
    for text in texts:
        named = [np.array(toys.COLOURS[name]) / 255 - 0.5 for name in NAMES if name in text.split()]
        out.append(sum(named) if named else np.random.default_rng(sum(map(ord, text))).normal(size=3))
    return np.array(out, np.float32)


def encoders() -> dict[str, list[Encoder]]:
    image = from_callable(mean_colour, "image", "colour-1", name="colour", width=3)
    text = from_callable(colour_words, "text", "words-1", name="words", width=3)
    return {"image": [image], "text": [text]}


def dual(scale: float = 1.0) -> DualEncoder:
    loaded = encoders()
    heads = {}
    for side in loaded:
        heads[side] = build_projector("linear", [3], 3, norm="none")
        set_linear(heads[side].blocks[0].get_submodule("linear"), scale * torch.eye(3), torch.zeros(3))
    records = {side: [one.record() for one in listed] for side, listed in loaded.items()}
    return DualEncoder(heads["image"], heads["text"], scale=1.0, records=records, encoders=loaded)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A model whose encoders are functions, which only Python can give."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    monkeypatch.setattr(DualEncoder, "from_pretrained", classmethod(lambda cls, path, **options: dual()))
    ENCODED.clear()
    return "model"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, (colour, shade) in enumerate((c, s) for c in NAMES for s in toys.SHADES):
        folder = tmp_path / "photos" / colour
        folder.mkdir(parents=True, exist_ok=True)
        toys.picture(colour, shade, "left", seed=number).resize((240, 180)).save(folder / f"{shade}.png")
    return tmp_path / "photos"


def index(*words: object) -> tuple[int, dict[str, Any]]:
    """The exit code of `isthmus index`, and what it reports."""
    Path("report.json").unlink(missing_ok=True)
    code = main(["index", *map(str, words), "--json", "report.json", "--debug"])
    return code, json.loads(Path("report.json").read_text()) if Path("report.json").exists() else {}


def search(*words: object) -> tuple[int, dict[str, Any]]:
    code = main(["search", *map(str, words), "--json", "found.json"])
    return code, json.loads(Path("found.json").read_text())


def test_a_folder_is_indexed_and_answers_by_text_and_picture(model, photos, capsys) -> None:
    code, report = index(model, photos, "--out", "p.index")
    assert (code, report["pictures"], report["distinct"], report["encoded"]) == (0, 16, 16, 16)
    assert "16 pictures, 16 of them distinct, 16 newly encoded" in capsys.readouterr().out
    ENCODED.clear()
    code, found = search(model, "p.index", "something green", "--k", 4)
    assert code == 0 and ENCODED == []
    assert {hit["label"] for hit in found["hits"]} == {"green"}
    first = found["hits"][0]
    assert Path(first["path"]).is_file() and (first["width"], first["height"]) == (240, 180)
    told = capsys.readouterr().out
    assert "green" in told and "contact sheet: sheet.png" in told
    assert search(model, "p.index", photos / "blue" / "plain.png", "--k", 1)[1]["hits"][0]["id"] == "blue/plain.png"
    assert ENCODED == [1]
    with Image.open("sheet.png") as sheet:
        assert sheet.width > 380  # the picture that was searched by, and the one that was found


def test_what_was_moved_is_not_encoded_again_and_what_is_missing_stays(model, photos, capsys) -> None:
    index(model, photos, "--out", "p.index")
    ENCODED.clear()
    (photos / "blue" / "dark.png").rename(photos / "blue" / "night.png")
    (photos / "red" / "pale.png").unlink()
    shutil.copy(photos / "green" / "plain.png", photos / "green" / "copy.png")
    toys.picture("red", "plain", "top", seed=99).save(photos / "red" / "new.png")
    code, report = index(model, "--out", "p.index")  # the sources of the last time
    assert code == 0 and sum(ENCODED) == report["encoded"] == 1
    assert (report["moved"], report["missing"], report["removed"]) == (1, 1, 0)
    found = search(model, "p.index", "red", "--label", "red", "--k", 9)[1]["hits"]
    assert {hit["id"]: hit["missing"] for hit in found}["red/pale.png"] is True
    assert {"red/new.png"} < {hit["id"] for hit in found}
    assert "red/pale.png (missing)" in capsys.readouterr().out
    blue = search(model, "p.index", "blue", "--folder", "blue", "--k", 9)[1]["hits"]
    assert {hit["id"] for hit in blue} == {f"blue/{name}.png" for name in ("night", "pale", "plain", "bright")}
    green = search(model, "p.index", "green", "--folder", "green")[1]["hits"]
    assert sorted([hit["id"], *hit["also"]] for hit in green if hit["also"]) == [["green/copy.png", "green/plain.png"]]
    code, report = index(model, photos, "--out", "p.index", "--remove-missing")
    assert (code, report["removed"], report["distinct"]) == (0, 1, 16)
    assert "red/pale.png" not in [hit["id"] for hit in search(model, "p.index", "red", "--k", 99)[1]["hits"]]


def test_many_are_removed_only_when_told_to(model, photos, capsys) -> None:
    index(model, photos, "--out", "p.index")
    shutil.rmtree(photos / "green")
    before = {path: path.read_bytes() for path in Path("p.index").rglob("*") if path.is_file()}
    assert main(["index", model, str(photos), "--out", "p.index", "--remove-missing"]) == 1
    told = capsys.readouterr().err
    assert "4 of 16" in told and "--remove-many" in told
    after = {path: path.read_bytes() for path in Path("p.index").rglob("*") if path.is_file()}
    assert {path: data for path, data in after.items() if "work" not in path.parts} == before
    code, report = index(model, photos, "--out", "p.index", "--remove-missing", "--remove-many")
    assert (code, report["removed"], report["distinct"]) == (0, 4, 12)
    index(model, photos, "--out", "p.index", "--compact")
    assert len(open_index("p.index")) == 12
    photos.rename("elsewhere")
    assert main(["index", model, str(photos), "--out", "p.index", "--remove-missing"]) == 1  # an unplugged disk


def test_an_interrupted_run_encodes_no_unit_twice(model, photos, monkeypatch) -> None:
    from isthmus.embedding import work_plan

    monkeypatch.setattr(work_plan, "LEAST_ITEMS", 4)
    killed = mean_colour

    def fails(pictures: list[Image.Image]) -> np.ndarray:
        if sum(ENCODED) >= 8:
            raise KeyboardInterrupt
        return killed(pictures)

    monkeypatch.setitem(globals(), "mean_colour", fails)
    with pytest.raises(KeyboardInterrupt):
        build_index(dual(), photos, out="p.index", batch_size=4)
    assert sum(ENCODED) == 8
    with pytest.raises(InputError, match="unfinished index; run the same"):
        ist.search(dual(), "p.index", "red")
    monkeypatch.setitem(globals(), "mean_colour", killed)
    opened: list[str] = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: opened.append(self.name) or read(self))
    found = build_index(dual(), photos, out="p.index", batch_size=4)
    assert sum(ENCODED) == 16 and found.report.encoded == 8
    assert sum(name.endswith(".png") for name in opened) == 8  # what was hashed and encoded is not read again
    whole = build_index(dual(), photos, out="whole.index")
    assert set(map(bytes, np.concatenate(found.embeddings))) == set(map(bytes, np.concatenate(whole.embeddings)))
    assert not (Path("p.index") / "work").exists()


def contents(path: str | Path) -> dict[str, tuple[bytes, bytes | None, str | None]]:
    """Of each picture its embedding, its small picture and its file."""
    found = open_index(path, verify=True)
    return {
        id: (found.embedding(row).tobytes(), found.thumbnail(row), found.record(row)["path"])
        for row, id in zip(*(found.items[name].to_pylist() for name in ("row", "id")), strict=True)
    }


def test_a_run_killed_again_and_again_goes_on_and_makes_the_same_index(model, photos, monkeypatch) -> None:
    from isthmus.embedding import work_plan

    monkeypatch.setattr(work_plan, "LEAST_ITEMS", 4)
    build_index(dual(), photos, out="whole.index", batch_size=4)
    own, log = mean_colour, Path("encoded")
    log.touch()

    def logged(pictures: list[Image.Image]) -> np.ndarray:
        with log.open("a") as file:  # by processes that are killed
            file.write("x" * len(pictures))
        return own(pictures)

    monkeypatch.setitem(globals(), "mean_colour", logged)

    def build(out: Path) -> None:
        build_index(dual(), photos, out=out, batch_size=4)

    path, kills = Path("there/p.index"), 0
    path.parent.mkdir()
    for step in np.random.default_rng(0).integers(3, 60, 10).tolist():
        kills += struck(build, path, step, kill) == "killed"
        with contextlib.suppress(InputError):  # unfinished; what is finished is whole
            assert contents(path) == contents("whole.index")
    build(path)
    assert contents(path) == contents("whole.index")
    assert kills >= 5
    assert 16 <= log.stat().st_size <= 16 + 4 * kills  # a unit is lost to a kill at most
    assert log.stat().st_size < 16 * 3  # nor does every run begin anew
    assert {name.split("-")[0] for name in names(path)} == {name.split("-")[0] for name in names(Path("whole.index"))}


def test_an_index_of_another_model_or_a_damaged_one_is_refused(model, photos, monkeypatch, capsys) -> None:
    index(model, photos, "--out", "p.index")
    assert main(["doctor", "p.index"]) == 0
    with pytest.raises(InputError, match="another model"):
        build_index(dual(2.0), photos, out="p.index")
    with pytest.raises(InputError, match="another model"):
        ist.search(dual(2.0), "p.index", "red")
    with pytest.raises(InputError, match="not an index"):
        build_index(dual(), photos, out=photos)
    told = read_sealed(Path("p.index/index.json"))
    shutil.copytree("p.index", "foreign.index")
    write_sealed("foreign.index/index.json", told | {"items": told["items"] | {"name": "../photos/red/plain.png"}})
    with pytest.raises(InputError, match="no file of an index"):
        open_index("foreign.index")
    file = next(Path("p.index").rglob("embeddings.npy"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    open_index("p.index")
    assert main(["doctor", "p.index"]) == 1 and "embeddings.npy: missing, damaged" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"embeddings\.npy: missing, damaged"):
        open_index("p.index", verify=True)
    file.write_bytes(data[:-2])
    assert main(["search", model, "p.index", "red"]) == 1
    assert "Restore it from a copy" in capsys.readouterr().err


def test_tables_bring_captions_and_labels_and_stand_beside_folders(model, photos, tmp_path) -> None:
    table = toys.write_pairs(tmp_path / "squares", copies=1)
    found = build_index(dual(), [photos, table], out="p.index")
    assert found.report.pictures == 16 + 64 and len(found.sources) == 2
    hit = ist.search(dual(), found, "yellow", k=1, label="yellow").hits[0]
    assert "yellow" in (hit["caption"] or hit["id"])
    one = found.record(int(found.rows_where(label="blue")[-1]))
    assert one["caption"] is not None and one["caption"].endswith("take 0")
    ENCODED.clear()
    again = build_index(dual(), table, out="p.index")  # the folder is not named, and left as it is
    assert again.report.pictures == 80 and not ENCODED
    with pytest.raises(UsageError, match="Did you mean 'blue'"):
        found.rows_where(label="bleu")
    with pytest.raises(UsageError, match="folder 'nowhere'"):
        ist.search(dual(), found, "red", folder="nowhere")


def test_bad_pictures_are_listed_and_shift_nothing(model, photos, capsys) -> None:
    (photos / "blue" / "aaa.png").write_bytes(b"no picture")
    code, report = index(model, photos, "--out", "p.index", "--max-skip", "0.5")
    assert code == 3 and list(report["skipped"]) == ["blue/aaa.png"]
    found = open_index("p.index")
    for row in range(len(found)):
        (own,) = dual().encode_image([found.record(row)["path"]])
        assert found.embedding(row) == pytest.approx(own, abs=1e-3)
    assert main(["index", model, str(photos), "--out", "p.index"]) == 1  # more than a hundredth
    assert "--max-skip" in capsys.readouterr().err


def test_thumbnails_are_small_and_hold_nothing_but_pixels(model, tmp_path) -> None:
    (tmp_path / "one").mkdir()
    Image.new("RGB", (800, 400), (250, 10, 10)).save(tmp_path / "one" / "a.jpg", comment=b"secret", exif=Image.Exif())
    found = build_index(dual(), tmp_path / "one", out="p.index", thumbnails=64)
    small = found.thumbnail(0)
    assert small is not None and b"secret" not in small
    with Image.open(io.BytesIO(small)) as image:
        assert (image.format, image.size) == ("JPEG", (64, 32))
    none = build_index(dual(), tmp_path / "one", out="q.index", thumbnails=0)
    assert none.thumbnail(0) is None
    assert ist.search(dual(), none, "red").contact_sheet().width > 180  # the file itself


def test_mixes_add_and_take_away_by_weight(model, photos, capsys) -> None:
    found = build_index(dual(), photos, out="p.index")
    red, blue = (np.array(toys.COLOURS[name]) / 255 - 0.5 for name in ("red", "blue"))
    unit = [one / np.linalg.norm(one) for one in (red, blue)]
    for weight in (0.2, 3.0):
        wanted = unit[0] + weight * unit[1]
        expected = found.search(wanted / np.linalg.norm(wanted), 3)[1][0]
        code, told = search(model, "p.index", "red", "--plus", f"blue:{weight}", "--k", 3)
        assert code == 0 and [hit["row"] for hit in told["hits"]] == expected.tolist()
        assert told["hits"][0]["probability"] is None and told["fits"] is None  # a mix is not calibrated
    assert "for a text alone" in capsys.readouterr().err
    search(model, "p.index", "red")
    assert "for a text alone" not in capsys.readouterr().err
    less = search(model, "p.index", "red", "--minus", photos / "red" / "plain.png", "--k", 1)[1]
    assert less["hits"][0]["label"] != "red"
    with pytest.raises(UsageError, match="cancels out"):
        ist.search(dual(), found, "red", minus="red")
    with pytest.raises(UsageError, match="above 0"):
        ist.search(dual(), found, "red", minus=[("red", -1.0)])
    with pytest.raises(UsageError, match="Only an index"):
        ist.search(dual(), photos, "red", label="red")
    assert main(["search", model, "p.index", "red", "--minus", "nowhere.png"]) == 1
    assert main(["search", model, "p.index", "red", "--split", "test"]) == 2
    with pytest.raises(UsageError, match="an index: split are for reading"):
        ist.search(dual(), found, "red", split="test")
    assert main(["index", model, "--out", "new.index"]) == 2
    assert main(["index", model, str(photos), "--out", "new.index", "--thumbnails", "-1"]) == 2
    assert not Path("new.index").exists()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("by", ["torch", "numpy"])
def test_exact_search_is_that_of_its_twin_whatever_the_blocks(dtype, by, monkeypatch) -> None:
    monkeypatch.setattr(exact, "_best_by_torch", getattr(exact, f"_best_by_{by}"))
    rng = np.random.default_rng(0)
    emb = rng.standard_normal((500, 16)).astype(np.float32)
    emb /= np.linalg.norm(emb, axis=1, keepdims=True)
    kept, queries = emb.astype(dtype), emb[:7]
    scores, rows = exact_top(queries, [kept[:13], kept[13:14], kept[14:]], 9)
    expected = top_k(queries, kept, 9)
    assert np.array_equal(rows, expected[1])
    assert scores == pytest.approx(expected[0], abs=2e-3)
    allowed = rng.random(500) < 0.1
    few = exact_top(queries, [kept[:100], kept[100:]], 5, allowed)[1]
    assert np.array_equal(few, np.flatnonzero(allowed)[top_k(queries, kept[allowed], 5)[1]])
    assert exact_top(queries, [kept], 3, np.arange(500) == 8)[1].tolist() == [[8, -1, -1]] * 7


def clustered(rows: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pictures in clusters, and texts that lie apart from all of them: float32, L2-normalised."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((rows // 50, width))
    pictures = centres[rng.integers(0, len(centres), rows)] + 0.7 * rng.standard_normal((rows, width))
    texts = centres[rng.integers(0, len(centres), 64)] + rng.standard_normal((64, width)) + 2
    return tuple((one / np.linalg.norm(one, axis=1, keepdims=True)).astype(np.float32) for one in (pictures, texts))  # type: ignore[return-value]


def written(root: Path, embeddings: np.ndarray) -> Segment:
    """A segment of embeddings without pictures."""
    keys = np.random.default_rng(1).integers(0, 256, (len(embeddings), 16), np.uint8)
    nothing = pa.table([[1] * len(keys), [1] * len(keys), [None] * len(keys)], schema=PICTURE_SCHEMA)
    parts = [Part(keys, embeddings.astype(np.float16), nothing)]
    return Segment(root, write_segment(root, len(keys), embeddings.shape[1], parts), embeddings.shape[1])


@pytest.mark.parametrize("kind", ["SQ8", candidates.BITS])
def test_candidates_find_what_texts_are_near_to_and_their_scores_are_exact(kind, tmp_path, monkeypatch) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(candidates, "BITS_ROWS", 0 if kind == candidates.BITS else 10**9)
    pictures, texts = clustered(4000, 32)
    segment = written(tmp_path, pictures)
    candidates.write_candidates(tmp_path, segment)
    told = candidates.calibrate_probes(tmp_path, segment, texts[:32], pictures[:32])
    assert segment.record.candidates is not None and segment.record.candidates["kind"] == kind
    assert told["recall@10"]["text"] >= candidates.AIM
    lists = candidates.InvertedLists(tmp_path, segment.record)
    scores, rows = lists.top(texts[32:], segment.embeddings, 10)
    expected = exact_top(texts[32:], [segment.embeddings], 10)
    assert candidates.shared(rows, expected[1]) > 0.9
    same = rows == expected[1]
    assert scores[same] == pytest.approx(expected[0][same], abs=1e-6)
    allowed = np.arange(4000) % 4 == 0
    few = lists.top(texts[32:], segment.embeddings, 10, allowed)[1]
    assert (few % 4 == 0).all()
    assert candidates.shared(few, exact_top(texts[32:], [segment.embeddings], 10, allowed)[1]) > 0.9
    segment.record.candidates["probes"] = 1
    assert candidates.shared(lists.top(texts[32:], segment.embeddings, 10)[1], expected[1]) < 0.9  # it would be seen


def test_a_large_index_says_what_it_finds_and_small_segments_are_joined(model, photos, monkeypatch, capsys) -> None:
    pytest.importorskip("faiss")
    for module in (candidates, reader):
        monkeypatch.setattr(module, "EXACT_VALUES", 3 * 20)
    table = toys.write_pairs(photos.parent / "squares", copies=1)
    index(model, photos, "--out", "p.index")
    code, _ = index(model, table, "--out", "p.index")
    told = capsys.readouterr().out
    assert code == 0 and "lists (SQ8)" in told and "recall@10" in told and "for texts" in told
    found = open_index("p.index")
    assert [len(block) for block in found.embeddings] == [16, 64]  # the second is large
    query = dual().encode_text(["red"])
    expected = exact_top(query, found.embeddings, 5)
    assert found.search(query, 5)[0] == pytest.approx(expected[0], abs=1e-6)
    toys.picture("green", "plain", "top", seed=7).resize((90, 90)).save(photos / "green" / "new.png")
    for number in range(5):
        toys.picture("blue", "plain", "top", seed=70 + number).save(photos / "blue" / f"n{number}.png")
    index(model, photos, "--out", "p.index")
    assert [len(block) for block in open_index("p.index").embeddings] == [64, 22]  # 16 and 6, joined, are large too
    index(model, photos, "--out", "p.index", "--compact")
    assert [len(block) for block in open_index("p.index").embeddings] == [86]
    monkeypatch.setattr(calibration, "available", lambda: False)
    index(model, photos, "--out", "q.index")
    assert "isthmus[index]" in capsys.readouterr().err


class StandIn(http.server.BaseHTTPRequestHandler):
    """Answers as Qdrant does, and keeps what it was asked."""

    asked: ClassVar[list[tuple[str, str, Any]]] = []

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.asked.append((self.command, self.path, json.loads(body) if body else None))
        exists = any(path == "/collections/p" and command == "PUT" for command, path, _ in self.asked)
        if self.path.endswith("/exists"):
            result: Any = {"exists": exists}
        elif self.command == "GET":
            result = {"status": "green", "optimizer_status": "ok", "segments_count": 1, "payload_schema": {}} | CONFIG
        else:
            result = {"operation_id": 0, "status": "acknowledged"} if "points" in self.path else True
        data = json.dumps({"time": 0.0, "status": "ok", "result": result}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = answer

    def log_message(self, *_: Any) -> None: ...


CONFIG = {
    "config": {
        "params": {"vectors": {"size": 3, "distance": "Cosine"}, "shard_number": 1},
        "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000},
        "optimizer_config": {"deleted_threshold": 0.2, "vacuum_min_vector_number": 1000, "default_segment_number": 0,
                             "flush_interval_sec": 5},
    }
}  # fmt: skip


def test_an_index_goes_to_qdrant_as_its_client_asks(model, photos, monkeypatch, capsys) -> None:
    """Against recorded requests: nothing here is a Qdrant server."""
    pytest.importorskip("qdrant_client")
    monkeypatch.setattr(StandIn, "asked", [])
    monkeypatch.setattr("isthmus.index.qdrant.BATCH", 10)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), StandIn) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        send = ["--to", "qdrant", "--url", f"http://127.0.0.1:{server.server_port}"]
        assert index(model, photos, "--out", "p.index", *send)[0] == 0
        assert "16 pictures sent to the collection p" in capsys.readouterr().out
        first = list(StandIn.asked)
        (photos / "red" / "pale.png").unlink()
        index(model, photos, "--out", "p.index", "--remove-missing")
        assert main(["index", model, "--out", "p.index", *send]) == 0
        server.shutdown()
    ((_, _, made),) = [one for one in first if one[:2] == ("PUT", "/collections/p")]
    assert made["vectors"] == {"size": 3, "distance": "Cosine", "on_disk": True, "datatype": "float16"}
    sent = [point for _, path, body in first if "/points" in path for point in body["points"]]
    found = open_index("p.index")
    assert len({point["id"] for point in sent}) == 16 and uuid.UUID(sent[0]["id"]).version == 5
    assert sent[0]["vector"] == pytest.approx(found.embedding(0).tolist())
    assert sent[0]["payload"]["id"] == found.record(0)["id"] and sent[0]["payload"]["label"] == "blue"
    again = StandIn.asked[len(first) :]
    assert not [one for one in again if one[:2] == ("PUT", "/collections/p")]  # it is there
    (gone,) = [body["points"] for _, path, body in again if "points/delete" in path]
    (pale,) = [point["id"] for point in sent if point["payload"]["id"] == "red/pale.png"]
    assert gone == [pale]
    assert {p["id"] for _, path, b in again if path.endswith("points?wait=false") for p in b["points"]} == {
        point["id"] for point in sent
    } - {pale}
