"""What a request must be, before anything reads it: from this page or no page at all, and with the token."""

from __future__ import annotations

import secrets
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "isthmus"
FULL = "too much is waiting: come again in a second"
BODIES = 256 * 1024**2  # bytes of all bodies that are worked on
OPEN = ("/health",)  # answers without a token, and tells nothing
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """Refuses what comes from another page, or without the token; adds the headers of `HEADERS` to every answer.

    token: None where everyone who reaches the address may ask. It is given as `Authorization: Bearer`, or once as
    `/?token=…`, which a cookie then remembers.
    """

    def __init__(self, app: ASGIApp, token: str | None = None) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        if scope["type"] != "http":
            return None  # a WebSocket that nobody accepts is closed
        answer = self._answer(scope, Headers(scope=scope))
        return await (answer or self.app)(scope, receive, send_guarded)

    def _answer(self, scope: Scope, headers: Headers) -> Response | None:
        """What is answered in place of the page or the result; None where nothing stands against it."""
        first = scope["method"] == "GET" and scope["path"] == "/"
        if foreign(headers, opening=first):
            return refusal(403, "requests of other pages are refused")
        if self.token is None or scope["path"] in OPEN:
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0] if first else ""
        if self._fits(given):
            answer = RedirectResponse("/", 303)
            answer.set_cookie(COOKIE, given, httponly=True, samesite="lax")
            return answer
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        cookie = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        if self._fits(cookie) or (scheme.lower() == "bearer" and self._fits(bearer.strip())):
            return None
        return refusal(401, "open the address that `isthmus serve` printed, or send its token as a bearer")

    def _fits(self, given: str) -> bool:
        return self.token is not None and secrets.compare_digest(given.encode(), self.token.encode())


class BodyRoom:
    """Bodies that are read or worked on share so much memory: a request beyond it is to come again later.

    most: bytes of one body, which one of unknown length counts as.
    """

    def __init__(self, app: ASGIApp, most: int, room: int = BODIES) -> None:
        self.app, self.most, self.room, self.taken = app, most, room, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = 0
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD"):
            told = Headers(scope=scope).get("content-length", "")
            size = min(int(told), self.most) if told.isdecimal() else self.most
        if self.taken and self.taken + size > self.room:
            return await refusal(503, FULL, kind="overloaded_error")(scope, receive, send)
        self.taken += size
        try:
            await self.app(scope, receive, send)
        finally:
            self.taken -= size


def foreign(headers: Headers, *, opening: bool) -> bool:
    """Whether a browser sends this for another page than ours. opening: whether the page itself is asked for."""
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
        return True
    navigated = opening and headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return headers.get("sec-fetch-site") in ("cross-site", "same-site") and not navigated


def refusal(status: int, message: str, *, param: str | None = None, kind: str = "invalid_request_error") -> Response:
    """An error in OpenAI's shape."""
    headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "1"}}.get(status)
    error = {"message": message, "type": kind, "param": param, "code": None}
    return JSONResponse({"error": error}, status, headers)
