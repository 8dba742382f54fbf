"""Scripts of web pages: none may ask, unless the operator names its origin.

Without this, any page that an operator visits could post to a server without a key on the operator's own machine.
"""

from collections.abc import Sequence

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request as HTTPRequest

from megatron_srp.generation.server.errors import APIError


def cross_origin(origins: Sequence[str]) -> list[Middleware]:
    """The middleware that answers browsers of these origins; none without any."""
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id"],
        )
    ]


def check_origin(http: HTTPRequest, origins: Sequence[str]) -> None:
    """Raises APIError for a request that a browser sends for another page."""
    origin = http.headers.get("origin")
    if origin is not None and origin not in origins and "*" not in origins:
        message = "requests of web pages are refused; ask the operator for --cors-origin with yours"
        raise APIError(403, message, "permission_error", "origin_not_allowed")
