"""The HTTP API: what it answers, what it refuses, and what several clients at once get."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import isthmus as ist
from isthmus.errors import UsageError
from isthmus.serving.app import MAX_BODY, ROUTES, build_app
from isthmus.serving.batching import Batcher, QueueFull
from isthmus.serving.contract import contract
from isthmus.serving.finding import find_models
from isthmus.serving.served import ServedModel
from live_server import colours, live, served_models
from toy_fusion import toy_model
from toys import COLOURS, png

SAME = "http://127.0.0.1"


def data_uri(picture: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(png(picture)).decode()


RED = data_uri(Image.new("RGB", (40, 30), "red"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[ServedModel]:
    return served_models(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def client(models: list[ServedModel]) -> Iterator[TestClient]:
    with TestClient(build_app(models), base_url=SAME) as found:
        yield found


def post(client: TestClient, path: str, **body: Any) -> dict[str, Any]:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_text_finds_pictures_with_score_and_probability(client: TestClient, models: list[ServedModel]) -> None:
    found = post(client, "/api/search", text="a red square", k=4)
    assert found["model"] == "first"
    assert {hit["label"] for hit in found["hits"]} == {"red"}
    index = models[0].index
    scores, rows = index.search(colours().encode_text("a red square"), 4)
    assert [hit["row"] for hit in found["hits"]] == rows[0].tolist()
    assert [hit["score"] for hit in found["hits"]] == pytest.approx(scores[0].tolist())
    assert [hit["probability"] for hit in found["hits"]] == pytest.approx(index.probability(scores[0]).tolist())
    first = found["hits"][0]
    assert (first["id"], first["caption"]) == tuple(index.record(first["row"])[name] for name in ("id", "caption"))
    small = client.get(first["picture"])
    assert small.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(small.content)).size == (24, 24)


def test_nothing_fits_a_text_that_no_picture_comes_near(client: TestClient) -> None:
    assert post(client, "/api/search", text="red", least=0.5)["fits"] is True
    assert post(client, "/api/search", text="quarterly report", least=0.9)["fits"] is False


def test_a_picture_a_row_and_a_mix_find_what_they_look_like(client: TestClient) -> None:
    by_picture = post(client, "/api/search", image=RED, k=4)
    assert {hit["label"] for hit in by_picture["hits"]} == {"red"}
    assert by_picture["fits"] is None
    row = by_picture["hits"][0]["row"]
    alike = post(client, "/api/similar", row=row, k=4)
    assert row not in {hit["row"] for hit in alike["hits"]}
    assert {hit["label"] for hit in alike["hits"]} == {"red"}
    mixed = post(client, "/api/search", image=RED, text="blue", minus="red", k=4)
    assert {hit["label"] for hit in mixed["hits"]} == {"blue"}


def test_filters_leave_the_rest_out(client: TestClient) -> None:
    assert {hit["label"] for hit in post(client, "/api/search", text="red", label="blue")["hits"]} == {"blue"}
    refused = client.post("/api/search", json={"text": "red", "label": "bleu"})
    assert refused.status_code == 400
    assert "'blue'" in refused.json()["error"]["message"]
    offered = client.get("/api/models/first/filters").json()
    assert [one["name"] for one in offered["labels"]] == sorted(COLOURS)
    assert sum(one["pictures"] for one in offered["labels"]) == 64
    some = client.get("/api/models/first/pictures", params={"label": "blue"}).json()["hits"]
    assert {hit["label"] for hit in some} == {"blue"}
    assert client.get("/api/models/first/pictures", params={"folder": "../.."}).status_code == 400


def test_two_models_answer_one_query(client: TestClient) -> None:
    for query in ({"text": "green"}, {"image": RED}, {"row": 3}):
        first, second = post(client, "/api/compare", models=["first", "second"], k=5, **query)["results"]
        assert (first["model"], second["model"]) == ("first", "second")
        assert len(first["hits"]) == len(second["hits"]) == 5


def test_a_picture_gets_the_probabilities_of_the_names(client: TestClient) -> None:
    found = post(client, "/api/classify", image=RED, classes=["blue", "red", "blue"])["classes"]
    own = ist.classify(colours(), [Image.new("RGB", (40, 30), "red")], ["blue", "red"])
    assert [one["name"] for one in found] == ["red", "blue"]
    assert [one["probability"] for one in found] == pytest.approx(own.probabilities[0][::-1].tolist(), abs=1e-6)


def test_every_pixel_gets_a_name(client: TestClient) -> None:
    flag = Image.new("RGB", (64, 32), "red")
    flag.paste("blue", (32, 0, 64, 32))
    found = post(client, "/api/segment", image=data_uri(flag), classes=["red", "blue"])
    labels = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["labels"].partition(",")[2]))))
    assert np.array_equal(labels, ist.segment(colours(), flag, ["red", "blue"]).labels)
    assert [one["share"] for one in found["classes"]] == pytest.approx([0.5, 0.5])


def test_models_say_what_they_can(client: TestClient) -> None:
    listed = {one["id"]: one for one in client.get("/v1/models").json()["data"]}
    assert list(listed) == ["first", "second", "bare"]
    assert listed["first"]["capabilities"] == ["embed", "classify", "segment", "search"]
    assert "search" not in listed["bare"]["capabilities"]
    refused = client.post("/api/search", json={"model": "bare", "text": "red"})
    assert (refused.status_code, refused.json()["error"]["message"]) == (
        400,
        "the model 'bare' has no index of pictures",
    )


def test_a_model_that_fuses_answers_questions_and_nothing_else(tmp_path: Path) -> None:
    model = toy_model(tmp_path)
    client = TestClient(build_app([ServedModel("asked", model)]), base_url=SAME)
    found = post(client, "/api/ask", image=RED, question="a red photo")["answers"]
    alone = ist.ask(model, Image.new("RGB", (40, 30), "red"), "a red photo", k=8)
    assert [(one["name"], pytest.approx(one["probability"])) for one in found] == alone.ranked
    assert client.get("/v1/models").json()["data"][0]["capabilities"] == ["ask"]
    refused = client.post("/v1/embeddings", json={"model": "asked", "input": "red"})
    assert (refused.status_code, refused.json()["error"]["message"]) == (400, "the model 'asked' cannot embed")


def test_every_address_is_in_the_openapi_document_and_the_other_way_round(client: TestClient) -> None:
    assert client.get("/openapi.json").json() == contract()
    told = {path.replace("{row}", "{row:int}") for path in contract()["paths"]}
    assert {route.path for route in ROUTES} == told


def test_the_openai_client_gets_the_embeddings_of_the_model(models: list[ServedModel]) -> None:
    openai = pytest.importorskip("openai")
    with live(models, token="secret") as address:
        asked = openai.OpenAI(base_url=f"{address}/v1", api_key="secret", max_retries=0)
        found = asked.embeddings.create(model="first", input=["red", "a green tree"])
        assert np.array([one.embedding for one in found.data]) == pytest.approx(
            colours().encode_text(["red", "a green tree"])
        )
        short = asked.embeddings.create(model="first", input="red", dimensions=2, encoding_format="float")
        assert np.array(short.data[0].embedding) == pytest.approx(colours().encode_text("red", width=2)[0])
        pictures = asked.embeddings.create(model="first", input=[RED], extra_body={"modality": "image"})
        assert np.array(pictures.data[0].embedding) == pytest.approx(
            colours().encode_image(Image.new("RGB", (40, 30), "red"))[0]
        )
        assert [one.id for one in asked.models.list()] == ["first", "second", "bare"]
        with pytest.raises(openai.NotFoundError, match="no model 'third'"):
            asked.embeddings.create(model="third", input="red")
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{address}/v1", api_key="guess", max_retries=0).models.list()


def hostile() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """A hundred requests that must be refused: method, address and options of httpx."""
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    pictures = [
        "http://127.0.0.1/x.png", "https://example.org/a.png", "file:///etc/passwd", "/etc/passwd", "../x.png", "",
        "data:text/html;base64,PGI+", "data:image/png,abc", "data:image/png;base64,%%%", "data:image/png;base64,",
        "data:image/svg+xml;base64," + base64.b64encode(b"<svg onload='alert(1)'/>").decode(),
        "data:image/png;base64," + base64.b64encode(bomb.getvalue()).decode(),
        "data:image/png;base64," + base64.b64encode(png(Image.new("RGB", (9, 9)))[:40]).decode(),
        "data:image/gif;base64," + base64.b64encode(b"GIF89a").decode(),
        "data:image/png;base64," + base64.b64encode(b"#!/bin/sh\nid").decode(),
    ]  # fmt: skip
    for picture in pictures:
        yield "POST", "/api/search", {"json": {"image": picture}}
        yield "POST", "/api/classify", {"json": {"image": picture, "classes": ["a", "b"]}}
        yield "POST", "/v1/embeddings", {"json": {"model": "first", "input": [picture], "modality": "image"}}
    bodies = [
        {}, {"text": ""}, {"text": " "}, {"text": 1}, {"text": ["a"]}, {"text": None}, {"text": "a" * 20_000},
        {"text": "\ud800"}, {"text": "a", "k": 0}, {"text": "a", "k": 10**9}, {"text": "a", "k": "5"},
        {"text": "a", "k": 1.5}, {"text": "a", "k": True}, {"text": "a", "least": 2}, {"text": "a", "paths": "/"},
        {"row": -1}, {"row": 10**6}, {"row": 10**30}, {"row": "0"}, {"text": "a", "model": "../first"},
        {"text": "a", "folder": "../.."}, {"text": "a", "label": "none"}, [], "text", None, 3,
    ]  # fmt: skip
    for body in bodies:
        yield "POST", "/api/search", {"content": json.dumps(body), "headers": {"content-type": "application/json"}}
    for raw in (
        b"",
        b"{",
        b"[" * 100_000,
        b'{"text": NaN}',
        b'{"text": "a"}\0',
        b"\xff\xfe",
        b'{"text":"a"' + b" " * 99,
    ):
        yield "POST", "/api/search", {"content": raw, "headers": {"content-type": "application/json"}}
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        yield "POST", "/api/search", {"content": b'{"text": "a"}', "headers": {"content-type": kind}}
    for headers in (
        {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:99"},
        {"host": "evil.example"}, {"host": "127.0.0.1.evil.example"}, {"host": ""},
        {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"},
    ):  # fmt: skip
        yield "POST", "/api/search", {"json": {"text": "red"}, "headers": headers}
    for path in ("/../../etc/passwd", "/page/index.html", "/%2e%2e/%2e%2e/etc/passwd", "/api/models/first/pictures/-1",
                 "/api/models/first/pictures/999999", "/api/models/bare/pictures/0", "/api/models/no/pictures/0",
                 "/api/models/first/pictures/..%2f..%2fetc%2fpasswd", "/api/search", "/main.js/x"):  # fmt: skip
        yield "GET", path, {}
    yield "POST", "/api/search", {"content": b" " * (MAX_BODY + 1), "headers": {"content-type": "application/json"}}
    yield "PUT", "/api/search", {"json": {"text": "red"}}
    yield "POST", "/api/segment", {"json": {"image": RED, "classes": ["a"] * 300}}
    yield "POST", "/v1/embeddings", {"json": {"model": "first", "input": [[1, 2, 3]]}}
    yield "POST", "/v1/embeddings", {"json": {"model": "first", "input": ["a"] * 600}}
    yield "POST", "/v1/embeddings", {"json": {"model": "first", "input": "a", "dimensions": 4}}


def test_a_hundred_hostile_requests_are_refused_without_a_trace(client: TestClient) -> None:
    requests = list(hostile())
    assert len(requests) >= 100
    for method, path, options in requests:
        answer = client.request(method, path, **options)
        assert 400 <= answer.status_code < 500, (answer.status_code, path, str(options)[:200])
        assert len(answer.content) < 1000
        assert "Traceback" not in answer.text
    assert post(client, "/api/search", text="red")["hits"]  # it goes on as if nothing had been


def test_a_token_opens_once_for_a_browser_and_always_as_a_bearer(models: list[ServedModel]) -> None:
    client = TestClient(build_app(models, token="right"), base_url=SAME, follow_redirects=False)
    for path in ("/", "/v1/models", "/main.js", "/?token=wrong", "/v1/models?token=right"):
        assert client.get(path).status_code == 401
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/v1/models", headers={"authorization": "Bearer right"}).status_code == 200
    opened = client.get("/?token=right")
    assert (opened.status_code, opened.headers["location"]) == (303, "/")
    assert "HttpOnly" in opened.headers["set-cookie"]
    assert client.get("/").status_code == 200  # by the cookie


def test_the_page_loads_nothing_but_its_own_files(client: TestClient) -> None:
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert "http://" not in page.text + client.get("/main.js").text
    assert "access-control-allow-origin" not in page.headers


def test_jobs_of_one_kind_that_wait_are_done_together_and_in_order() -> None:
    seen: list[list[int]] = []
    free = threading.Event()

    def double(items: list[int]) -> list[int]:
        free.wait(5)
        seen.append(items)
        return [2 * item for item in items]

    async def many() -> list[list[int]]:
        batcher = Batcher("test", most=8)
        asked = [asyncio.create_task(batcher.submit("double", double, [i, i + 100])) for i in range(6)]
        await asyncio.sleep(0.05)
        free.set()
        found = await asyncio.gather(*asked)
        batcher.close()
        return found

    assert asyncio.run(many()) == [[2 * i, 2 * i + 200] for i in range(6)]
    assert len(seen) < 6
    assert max(map(len, seen)) <= 8


def test_a_job_that_fails_spoils_no_other_and_a_full_queue_is_said() -> None:
    def work(items: list[int]) -> list[int]:
        if 3 in items:
            raise ValueError("three")
        return items

    async def many() -> list[Any]:
        batcher = Batcher("test", waiting=5, window=0.05)
        asked = [batcher.submit("work", work, [i]) for i in range(8)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        batcher.close()
        return found

    found = asyncio.run(many())
    assert found[:3] == [[0], [1], [2]]
    assert isinstance(found[3], ValueError)
    assert all(isinstance(one, QueueFull) for one in found[5:])


def test_a_full_server_says_when_to_come_again(models: list[ServedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*args: Any, **options: Any) -> None:
        raise QueueFull

    monkeypatch.setattr(models[0].batcher, "submit", full)
    answer = TestClient(build_app(models), base_url=SAME).post("/api/search", json={"text": "red"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_a_folder_of_results_stands_for_its_models_and_indexes(tmp_path: Path) -> None:
    for name in ("model", "models/cca", "models/linear", "other", "other/model"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    for name in ("index", "index-cca"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "index.json").write_text("{}")
    found = find_models([tmp_path, tmp_path / "other", "hf:openai/clip-vit-base-patch32"])
    assert [one.name for one in found] == [tmp_path.name, "cca", "other", "clip-vit-base-patch32"]
    assert [one.index and one.index.name for one in found] == ["index", "index-cca", None, None]
    with pytest.raises(UsageError, match="neither a model"):
        find_models([tmp_path / "models"])
