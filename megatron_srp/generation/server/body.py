"""A request's body, if it comes in time and is not too large."""

import asyncio

from starlette.requests import Request as HTTPRequest

from megatron_srp.generation.server.errors import APIError

BODY_TIMEOUT_S = 30.0  # to send it in


async def read_body(http: HTTPRequest, most: int) -> bytes:
    """The body, of at most `most` bytes; raises APIError."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in http.stream():
                body += chunk
                if len(body) > most:
                    raise APIError(413, f"the request has more than {most:,} bytes", "invalid_request_error")
    except TimeoutError:
        raise APIError(408, f"the request took more than {BODY_TIMEOUT_S:.0f} s", "invalid_request_error") from None
    return bytes(body)
