"""One HTTP request: its id, which clients may choose and every response names, and who asks."""

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request as HTTPRequest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Exchange:
    """What the log says of a request."""

    request_id: str
    client: str
    path: str

    @classmethod
    def of(cls, http: HTTPRequest, client: str) -> "Exchange":
        return cls(http.scope["srp_request_id"], client, http.url.path)


class RequestIds:
    """ASGI middleware: gives each request an id, and counts it when its status is known.

    Args:
        count: called with the path of the route, or `other`, and the status.
    """

    def __init__(self, app: ASGIApp, count: Callable[[str, int], None]) -> None:
        self._app, self._count = app, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        scope["srp_request_id"] = given if _ID.fullmatch(given) else uuid.uuid4().hex

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-Id"] = scope["srp_request_id"]
                route = scope.get("route")
                self._count(route.path if route else "other", message["status"])
            await send(message)

        await self._app(scope, receive, named)
