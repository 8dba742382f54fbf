"""Errors as a client sees them: OpenAI's JSON, and nothing of the inside."""

import logging
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HTTPRequest
from starlette.responses import JSONResponse, Response

from megatron_srp.errors import SrpError
from megatron_srp.generation.server.api import UnsupportedField
from megatron_srp.generation.server.client_policy import PolicyTooWeak
from megatron_srp.generation.server.worker import Busy, Closing

_log = logging.getLogger(__name__)


class APIError(Exception):
    """An answer that is an error.

    Args:
        param: the field of the request that it concerns.
    """

    def __init__(
        self, status: int, message: str, kind: str, code: str | None = None, param: str | None = None, **headers: str
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.code, self.param = status, kind, code, param
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def response(self) -> Response:
        return JSONResponse(self.body(), self.status, self.headers)

    def body(self) -> dict[str, Any]:
        """OpenAI's form of an error."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}

    @classmethod
    def of(cls, error: Exception) -> "APIError":
        """An error as the client sees it; one that is not the client's is logged."""
        if isinstance(error, APIError):
            return error
        if isinstance(error, Busy):
            full = not isinstance(error, Closing)
            kind, code = ("rate_limit_error", "queue_full") if full else ("server_error", "closing")
            return cls(
                429 if full else 503, f"{error}; try again later", kind, code, Retry_After=str(error.retry_after)
            )
        if isinstance(error, PolicyTooWeak):
            return cls(403, str(error), "permission_error", "policy_too_weak")
        if isinstance(error, UnsupportedField):
            return cls(400, str(error), "invalid_request_error", "unsupported_parameter", error.param)
        if isinstance(error, SrpError):
            return cls(400, str(error), "invalid_request_error")
        if isinstance(error, HTTPException):
            return cls(error.status_code, error.detail, "invalid_request_error", **dict(error.headers or {}))
        _log.error("a request failed", exc_info=error)
        return cls(500, "internal error, see the server log", "server_error")


async def on_error(http: HTTPRequest, error: Exception) -> Response:
    """Starlette's handler of every error."""
    return APIError.of(error).response()


async def on_disconnect(http: HTTPRequest, error: Exception) -> Response:
    """Nobody reads it."""
    return Response(status_code=499)


HANDLERS: dict[Any, Any] = {
    **dict.fromkeys((APIError, Busy, PolicyTooWeak, SrpError, HTTPException, Exception), on_error),
    ClientDisconnect: on_disconnect,
}
