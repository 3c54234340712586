"""What each address of the HTTP API answers."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from isthmus.models.outputs import shorten
from isthmus.segmentation.overlay import colours
from isthmus.serving.contract import RequestRefused, contract, read_body
from isthmus.serving.pictures import kind_of_picture, picture_bytes, png_uri
from isthmus.serving.served import ServedModel

FILTERS = ("label", "folder")
OTHERS = ("minus", "image", "row", "file")  # parts of a query beside a text
SHOWN = 8  # answers to a question
SAMPLE = 40  # pictures that the page begins with


async def health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def openapi(request: Request) -> Response:
    return JSONResponse(contract())


async def models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": [one.listed for one in request.app.state.models.values()]})


async def embeddings(request: Request) -> Response:
    """OpenAI's shape: floats, or base64 of little-endian float32."""
    body = await read_body(request, "Embeddings")
    served = chosen(request, body["model"])
    inputs = [body["input"]] if isinstance(body["input"], str) else body["input"]
    width = body.get("dimensions")
    if width is not None and width > served.model.width:
        raise RequestRefused(f"{served.name} has {served.model.width} dimensions", param="dimensions")
    if body["modality"] == "image":
        files = [await run_in_threadpool(picture_bytes, one, "input") for one in inputs]
        rows = await served.embed_pictures(files, "input")
    else:
        rows = await served.embed_texts(inputs)
    packed = body["encoding_format"] == "base64"
    listed = [
        {"object": "embedding", "index": i, "embedding": _base64(row) if packed else row.tolist()}
        for i, row in enumerate(shorten(np.stack(rows), width))
    ]
    usage = {"prompt_tokens": 0, "total_tokens": 0}  # not counted: nothing is charged
    return JSONResponse({"object": "list", "data": listed, "model": served.name, "usage": usage})


async def search(request: Request) -> Response:
    body = await read_body(request, "Search")
    return JSONResponse(await found(chosen(request, body.get("model")), body))


async def similar(request: Request) -> Response:
    body = await read_body(request, "Similar")
    return JSONResponse(await found(chosen(request, body.get("model")), body))


async def compare(request: Request) -> Response:
    """The same query for two models; a row is the first one's, whose small picture the second sees."""
    body = await read_body(request, "Compare")
    first, second = (chosen(request, name) for name in body["models"])
    other = body
    if "row" in body:
        other = {name: value for name, value in body.items() if name != "row"} | {"file": small(first, body["row"])}
    return JSONResponse({"results": await asyncio.gather(found(first, body), found(second, other))})


async def classify(request: Request) -> Response:
    body = await read_body(request, "Classify")
    served = chosen(request, body.get("model"))
    classes = list(dict.fromkeys(body["classes"]))
    cosines, shares = await served.classify(await one_picture(served, body), classes)
    rows = zip(classes, shares.tolist(), cosines.tolist(), strict=True)
    listed = [{"name": name, "probability": share, "score": cosine} for name, share, cosine in rows]
    return JSONResponse({"model": served.name, "classes": sorted(listed, key=lambda one: -one["probability"])})


async def segment(request: Request) -> Response:
    body = await read_body(request, "Segment")
    served = chosen(request, body.get("model"))
    classes = list(dict.fromkeys(body["classes"]))
    labels = await served.segment(await one_picture(served, body), classes, body.get("threshold"))
    shares = np.bincount(labels.ravel(), minlength=len(classes)) / labels.size
    listed = [
        {"name": name, "share": share, "colour": "#" + bytes(colour).hex()}
        for name, share, colour in zip(classes, shares.tolist(), colours(classes).tolist(), strict=True)
    ]
    height, width = labels.shape
    told = {"model": served.name, "width": width, "height": height, "labels": png_uri(labels), "classes": listed}
    return JSONResponse(told)


async def ask(request: Request) -> Response:
    """The most probable answers to a question about a picture."""
    body = await read_body(request, "Ask")
    served = chosen(request, body.get("model"))
    found = await served.ask(await one_picture(served, body), body["question"])
    best = np.argsort(-found, kind="stable")[:SHOWN].tolist()
    listed = [{"name": served.model.answers[i], "probability": float(found[i])} for i in best]
    return JSONResponse({"model": served.name, "answers": listed})


async def pictures(request: Request) -> Response:
    """Some pictures of the index, or of a label or a folder, evenly spread over it."""
    served = chosen(request, request.path_params["model"])
    served.need("search")
    where = {name: request.query_params[name] for name in FILTERS if request.query_params.get(name)}
    rows = await run_in_threadpool(served.chosen, **where)
    count = len(served.index if rows is None else rows)
    places = np.unique(np.linspace(0, count - 1, min(SAMPLE, count)).round().astype(int))
    rows = places if rows is None else rows[places]
    return JSONResponse({"model": served.name, "fits": None, "hits": [hit(served, row) for row in rows.tolist()]})


async def filters(request: Request) -> Response:
    """By what the pictures of the index can be chosen."""
    served = chosen(request, request.path_params["model"])
    served.need("search")
    return JSONResponse({"model": served.name, **await run_in_threadpool(lambda: served.filters)})


async def picture(request: Request) -> Response:
    """The small picture of a row, as the index made it."""
    data = small(chosen(request, request.path_params["model"]), request.path_params["row"])
    headers = {"Cache-Control": "private, max-age=3600"}
    return Response(data, media_type=kind_of_picture(data), headers=headers)


def chosen(request: Request, name: str | None) -> ServedModel:
    """The model of that name, or the first. Raises `RequestRefused` for one that is not served."""
    served: dict[str, ServedModel] = request.app.state.models
    if name is None:
        return next(iter(served.values()))
    if name not in served:
        raise RequestRefused(f"no model {name!r} here; GET /v1/models lists them", status=404, param="model")
    return served[name]


async def found(served: ServedModel, body: dict[str, Any]) -> dict[str, Any]:
    """The pictures that a query finds. The probability of each is known where the query is a text alone."""
    served.need("search")
    query, own = await embed_query(served, body), body.get("row")
    k = min(body["k"] + (own is not None), len(served.index))
    where = {name: body[name] for name in FILTERS if name in body}
    rows = [(row, score) for row, score in await served.nearest(query, k, **where) if row != own][: body["k"]]
    text_alone = "text" in body and not set(body) & set(OTHERS)
    among = await run_in_threadpool(served.chosen, **where)
    scores = np.array([score for _, score in rows])
    known = served.index.probability(scores, None if among is None else len(among)) if text_alone else None
    sure = [None] * len(rows) if known is None else known.tolist()
    hits = [hit(served, row, score, p) for (row, score), p in zip(rows, sure, strict=True)]
    least = body.get("least", 0.0)
    return {"model": served.name, "fits": None if known is None else max(sure, default=0.0) >= least, "hits": hits}


async def embed_query(served: ServedModel, body: dict[str, Any]) -> np.ndarray:
    """float32 [d]: the sum of the parts of a query, each of length 1, less the text of `minus`; normalised."""
    texts = [body[name].strip() for name in ("text", "minus") if body.get(name, "").strip()]
    rows = await served.embed_texts(texts) if texts else []
    parts = [-row if "minus" in body and i == len(rows) - 1 else row for i, row in enumerate(rows)]
    if "row" in body:
        parts.append(np.asarray(served.index.embedding(known_row(served, body["row"])), np.float32))
    files = [await run_in_threadpool(picture_bytes, body["image"])] if "image" in body else []
    if files := files + ([body["file"]] if "file" in body else []):
        parts += await served.embed_pictures(files)
    total = np.sum([part / np.linalg.norm(part) for part in parts], axis=0) if parts else np.zeros(1)
    length = np.linalg.norm(total)
    if not length > 1e-6:
        raise RequestRefused("a query needs a text, a picture or a row")
    return (total / length).astype(np.float32)


async def one_picture(served: ServedModel, body: dict[str, Any]) -> bytes:
    """The file of the picture that a request is about: its own, or the small one of a row."""
    if ("image" in body) == ("row" in body):
        raise RequestRefused("name one picture: an image or a row")
    return await run_in_threadpool(picture_bytes, body["image"]) if "image" in body else small(served, body["row"])


def hit(served: ServedModel, row: int, score: float | None = None, probability: float | None = None) -> dict[str, Any]:
    """A picture of the index, as answers tell it."""
    record = served.index.record(row)
    told = {name: record.get(name) for name in ("id", "caption", "label", "width", "height")}
    address = f"/api/models/{served.name}/pictures/{row}"
    return {"row": row, "score": score, "probability": probability, **told, "picture": address}


def known_row(served: ServedModel, row: int) -> int:
    """`row`. Raises `RequestRefused` for one that the index does not have."""
    served.need("search")
    if not 0 <= row < len(served.index):
        raise RequestRefused(f"the index has rows 0 to {len(served.index) - 1}", status=404, param="row")
    return row


def small(served: ServedModel, row: int) -> bytes:
    """The small picture of a row. Raises `RequestRefused` where there is none."""
    known = known_row(served, row)
    data = served.index.thumbnail(known)
    if data is None or kind_of_picture(data) is None:
        raise RequestRefused("the index holds no picture of this row", status=404, param="row")
    return bytes(data)


def _base64(row: np.ndarray) -> str:
    return base64.b64encode(row.astype("<f4").tobytes()).decode()
