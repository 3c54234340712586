"""The application: addresses, what stands before them, and how errors are told."""

from __future__ import annotations

import mimetypes
from collections.abc import Sequence
from importlib import resources

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from isthmus.errors import IsthmusError
from isthmus.serving import answers
from isthmus.serving.batching import QueueFull
from isthmus.serving.contract import RequestRefused
from isthmus.serving.security import FULL, BodyRoom, Guard, refusal
from isthmus.serving.served import ServedModel

MAX_BODY = 24 * 1024**2  # bytes of a request
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
PAGE = "index.html"

ROUTES = [
    Route("/health", answers.health),
    Route("/openapi.json", answers.openapi),
    Route("/v1/models", answers.models),
    Route("/v1/embeddings", answers.embeddings, methods=["POST"]),
    Route("/api/search", answers.search, methods=["POST"]),
    Route("/api/similar", answers.similar, methods=["POST"]),
    Route("/api/compare", answers.compare, methods=["POST"]),
    Route("/api/classify", answers.classify, methods=["POST"]),
    Route("/api/segment", answers.segment, methods=["POST"]),
    Route("/api/ask", answers.ask, methods=["POST"]),
    Route("/api/models/{model}/filters", answers.filters),
    Route("/api/models/{model}/pictures", answers.pictures),
    Route("/api/models/{model}/pictures/{row:int}", answers.picture),
]


def build_app(models: Sequence[ServedModel], *, token: str | None = None, hosts: Sequence[str] = ()) -> Starlette:
    """The page and the API over `models`, of which the first is meant where a request names none.

    token: that every request needs; None: none does. hosts: names under which it may be reached beside those of
    loopback.
    """
    app = Starlette(
        routes=[*ROUTES, *_page_routes()],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, *hosts], www_redirect=False),
            Middleware(Guard, token=token),
            Middleware(BodyRoom, most=MAX_BODY),
        ],
        exception_handlers={
            RequestRefused: _refused,
            IsthmusError: _told,
            QueueFull: _full,
            TimeoutError: _late,
            HTTPException: _http,
            Exception: _broken,
        },
        max_body_size=MAX_BODY,
    )
    app.state.models = {one.name: one for one in models}
    return app


def _page_routes() -> list[Route]:
    """The files of the page, each at an address of its own: no request names a path on disk."""
    files = resources.files("isthmus.serving").joinpath("page").iterdir()
    return [_file_route(file.name, file.read_bytes()) for file in files]


def _file_route(name: str, data: bytes) -> Route:
    async def answer(request: Request) -> Response:
        return Response(data, media_type=mimetypes.guess_type(name)[0])

    return Route("/" if name == PAGE else f"/{name}", answer, name=name)


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestRefused)
    return refusal(error.status, str(error), param=error.param)


def _told(request: Request, error: Exception) -> Response:
    return refusal(400, str(error))


def _full(request: Request, error: Exception) -> Response:
    return refusal(503, FULL, kind="overloaded_error")


def _late(request: Request, error: Exception) -> Response:
    return refusal(504, "this took too long and was given up", kind="timeout_error")


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return refusal(error.status_code, str(error.detail))


def _broken(request: Request, error: Exception) -> Response:
    return refusal(500, "an error in the server, which its terminal shows", kind="server_error")
