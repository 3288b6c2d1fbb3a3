"""`GET /`: a page to try the models by hand, its script and its style; no build, nothing from elsewhere.

Behind the key like every route: a browser cannot send a Bearer header for a page, so it is asked for
the key as the password of HTTP Basic, and sends it along with all that the page asks. Nothing of the
page ever holds the key. Knows nothing of models.
"""

from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Response

from serve.state import State

WEB = Path(__file__).parent / "web"
KINDS = {
    "index.html": "text/html; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "sheet.js": "text/javascript; charset=utf-8",
    "client.js": "text/javascript; charset=utf-8",
    "chart.js": "text/javascript; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
"""The parts of the page, and what they are."""
POLICY = "; ".join(
    [
        "default-src 'none'",
        *(f"{what} 'self'" for what in ("script-src", "style-src", "img-src", "connect-src")),
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
"""What the page may load and ask: this origin alone, and no script or style inside the HTML."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def routes(_: State) -> APIRouter:
    """The page and its parts; no part of the API, so not in its document."""
    router = APIRouter(include_in_schema=False)
    router.add_api_route("/", _part("index.html"))
    for name in KINDS:
        if name != "index.html":
            router.add_api_route(f"/page/{name}", _part(name))
    return router


def _part(name: str) -> Callable[[], Awaitable[Response]]:
    async def part() -> Response:
        return Response(read(name), media_type=KINDS[name], headers=HEADERS)

    return part


@cache
def read(name: str) -> bytes:
    """A part of the page, read once."""
    return (WEB / name).read_bytes()
