"""`serve`: a page and an HTTP API over models and indexes, until it is interrupted."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

from isthmus.errors import UsageError
from isthmus.serving.addresses import AT_ONCE, address, is_loopback, listening, own_names
from isthmus.serving.finding import find_models

PORT = 8765
TOKEN = "ISTHMUS_TOKEN"  # environment variable: a token of one's own, also for loopback


def serve(
    models: str | Path | Sequence[str | Path],
    *,
    index: str | Path | Sequence[str | Path] = (),
    host: str = "127.0.0.1",
    port: int = PORT,
    names: Sequence[str] = (),
    device: str | None = None,
    trust_remote_code: bool = False,
    log: Callable[[str], None] = print,
) -> None:
    """Serve a page to search, label and segment pictures by, and the same as an HTTP API, until Ctrl-C.

    Use this when people, or programs in other languages, are to use a model. In Python, `search`, `classify` and
    `segment` do the same.

        >>> ist.serve("out/demo")  # doctest: +SKIP

    Args:
        models: a model's folder or URI, or several; a folder of results with a `model` and an `index` in it stands for
            both. A request that names none means the first.
        index: of the pictures to search, one for each model that is to search (`isthmus index`).
        host: address to listen on. Beyond this machine (`0.0.0.0`) every request needs the token that is logged once,
            or is in the environment as ISTHMUS_TOKEN.
        port: 0 takes a free one.
        names: under which the machine may be reached, beside `host`: requests for other names are refused.
        device, trust_remote_code: for loading models.
        log: called with the lines that say what is served, and where.

    Raises:
        UsageError: a port in use, no model there, an index of no model that is served; or the extra `serve` is missing.
        InputError: a model or an index that cannot be used.
    """
    try:
        import uvicorn

        from isthmus.serving.app import build_app
        from isthmus.serving.loading import load_served
    except ImportError as error:
        needed = "starlette, uvicorn and jsonschema: pip install 'isthmus[serve]'"
        raise UsageError(f"serve needs {needed} ({error}).") from None
    given = [models] if isinstance(models, str | Path) else list(models)
    named = find_models(given)
    token = os.environ.get(TOKEN) or (None if is_loopback(host) else secrets.token_urlsafe(32))
    with listening(host, port) as listener:
        served = load_served(named, index, {"device": device, "trust_remote_code": trust_remote_code})
        app = build_app(served, token=token, hosts=[*names, *own_names(host)])
        for one in served:
            pictures = f" among {one.index.count:,} pictures" if one.index is not None else ""
            log(f"{one.name}: {', '.join(one.capabilities)}{pictures}")
        log(f"serving at {address(host, listener.getsockname()[1])}{f'?token={token}' if token else ''}")
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=AT_ONCE,
            timeout_graceful_shutdown=5,
        )
        try:
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            for one in served:
                one.batcher.close()
