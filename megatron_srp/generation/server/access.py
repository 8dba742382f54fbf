"""Who asks: API keys, and the client that each belongs to."""

from collections.abc import Mapping
from hashlib import sha256

from starlette.requests import Request as HTTPRequest

from megatron_srp.generation.server.errors import APIError
from megatron_srp.generation.server.settings import Client


class Access:
    """Finds the client of a request.

    Keys are compared by their hashes, so that the time it takes says nothing about a key.

    Args:
        by_key: the clients with keys; without any, everybody is `anyone`.
    """

    def __init__(self, by_key: Mapping[str, Client], anyone: Client) -> None:
        self._anyone = anyone
        self.replace(by_key)

    def replace(self, by_key: Mapping[str, Client]) -> None:
        """From now on, these are the clients with keys."""
        self._by_hash = {_hash(key.encode()): client for key, client in by_key.items()}

    @property
    def open(self) -> bool:
        """Whether no key is wanted."""
        return not self._by_hash

    def client(self, http: HTTPRequest) -> Client:
        """Raises APIError where a key is wanted and there is none, or another."""
        if self.open:
            return self._anyone
        scheme, _, key = http.headers.get("authorization", "").partition(" ")
        # Starlette reads headers as Latin-1, which keeps every byte: a key may be of any characters in UTF-8.
        client = self._by_hash.get(_hash(key.strip().encode("latin-1"))) if scheme.lower() == "bearer" else None
        if client is None:
            message = "missing or invalid API key; send it as a Bearer token"
            raise APIError(401, message, "authentication_error", "invalid_api_key", WWW_Authenticate="Bearer")
        return client


def _hash(key: bytes) -> bytes:
    return sha256(key).digest()
