"""Bodies of requests, checked against the schemas of `openapi.json`, which clients read too."""

from __future__ import annotations

import asyncio
import json
import re
from functools import cache
from importlib import resources
from typing import Any, NoReturn

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

BODY_SECONDS = 30.0  # that a client may take to send a body
SMALL = 4096  # bytes of a body that is checked sooner than a thread takes it over
SMALL = 4096  # bytes of a body that is checked sooner than a thread takes it over
SHOWN = 200  # characters of a message that may quote the request
SURROGATE = re.compile("[\ud800-\udfff]")


class RequestRefused(Exception):
    """A request that cannot be answered: an HTTP status, what is wrong, and with which field."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param = status, param


@cache
def contract() -> dict[str, Any]:
    """The OpenAPI document."""
    file = resources.files("isthmus.serving").joinpath("openapi.json")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


@cache
def _validator(name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": contract()["components"]})


async def read_body(request: Request, schema: str) -> dict[str, Any]:
    """The JSON body of a request, with the defaults of the schema of that name. Raises `RequestRefused`."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestRefused("the body has to be application/json", status=415)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            raw = await request.body()
    except TimeoutError:
        raise RequestRefused("the body did not arrive in time", status=408) from None
    return checked(raw, schema) if len(raw) <= SMALL else await run_in_threadpool(checked, raw, schema)


def checked(raw: bytes, schema: str) -> dict[str, Any]:
    """A body with the defaults of a schema. Raises `RequestRefused` where it is not JSON that follows it."""
    try:
        body = json.loads(raw, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise RequestRefused("the body is not JSON") from None
    if error := best_match(_validator(schema).iter_errors(body)):
        where = ".".join(map(str, error.absolute_path))
        what = _told(error) if len(error.message) > SHOWN else error.message
        raise RequestRefused(f"{where or 'the body'}: {what}", param=where or None)
    properties = contract()["components"]["schemas"][schema]["properties"]
    defaults = {name: one["default"] for name, one in properties.items() if "default" in one}
    _refuse_surrogates(body)
    return defaults | body


def _told(error: Any) -> str:
    """What is wrong with a value that is too long to be shown."""
    return f"does not have {error.validator} {json.dumps(error.validator_value)[:SHOWN]}"


def _refuse_surrogates(value: Any) -> None:
    """Halves of characters are no text, and no answer could quote them."""
    for one in value if isinstance(value, list) else value.values() if isinstance(value, dict) else ():
        _refuse_surrogates(one)
    if isinstance(value, str) and SURROGATE.search(value):
        raise RequestRefused("half of a surrogate pair is no text")


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)
