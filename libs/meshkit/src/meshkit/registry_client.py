"""Requests to the Schema Registry, retried while it is unreachable."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container
from typing import Self

import httpx

from meshkit.backoff import Backoff
from meshkit.errors import FailedPrecondition, Unavailable
from meshkit.settings import RegistrySettings
from meshkit.tls import client_ssl_context

_log = logging.getLogger(__name__)

REQUEST_SECONDS = 5.0
_NOT_FOUND_CODES = {40401, 40402, 40403}


class RegistryClient:
    """A client for the registry's Confluent-compatible API; usable from any thread.

    Every request raises Unavailable if the registry doesn't answer within the settings' waiting
    time, and FailedPrecondition if it rejects the caller or returns an unexpected answer.
    """

    def __init__(
        self,
        settings: RegistrySettings,
        *,
        request_seconds: float = REQUEST_SECONDS,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Create a client.

        `request_seconds` limits one attempt; `transport` and `sleep` are for tests.
        """
        self.url = settings.schema_registry_url
        self._wait_seconds = settings.schema_registry_wait_seconds
        self._sleep = sleep
        verify = client_ssl_context(settings)
        self._http = httpx.Client(
            base_url=self.url,
            timeout=request_seconds,
            verify=True if verify is None else verify,
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str) -> object | None:
        """Return the document at `path`; None if there is no such subject, version or id."""
        response = self.request("GET", path, accepted={404})
        if response.status_code == 404:
            if _is_missing(response):
                return None
            raise self._not_a_registry(response)
        return self._document(response)

    def request(
        self, method: str, path: str, body: object = None, *, accepted: Container[int] = ()
    ) -> httpx.Response:
        """Return a successful response, or one with a status among `accepted`."""
        backoff = Backoff(base=0.25, cap=5.0)
        deadline = time.monotonic() + self._wait_seconds
        while True:
            try:
                response = self._http.request(method, path, json=body)
                if response.is_success or response.status_code in accepted:
                    return response
                if response.status_code < 500:
                    raise self._not_a_registry(response)
                problem = f"status {response.status_code}"
            except httpx.TransportError as error:
                problem = str(error) or type(error).__name__
            if time.monotonic() >= deadline:
                raise Unavailable(
                    "REGISTRY_UNREACHABLE",
                    f"the registry at {self.url} doesn't answer ({problem}); start it, or correct "
                    "COINMESH_SCHEMA_REGISTRY_URL",
                )
            delay = next(backoff)
            _log.warning(
                "the registry at %s doesn't answer (%s); retrying in %.1f s",
                self.url,
                problem,
                delay,
            )
            self._sleep(delay)

    def _document(self, response: httpx.Response) -> object:
        try:
            return response.json()
        except ValueError as error:
            raise self._not_a_registry(response) from error

    def _not_a_registry(self, response: httpx.Response) -> FailedPrecondition:
        if response.status_code == 403:
            return FailedPrecondition(
                "REGISTRY_REFUSES",
                f"{response.url} refuses this service; its entry in access.toml needs "
                "http.registry",
            )
        return FailedPrecondition(
            "REGISTRY_ANSWER",
            f"{response.url} answered {response.status_code} ({response.text[:200]}) and no "
            f"registry document; is {self.url} the Confluent-compatible API (…/apis/ccompat/v7)?",
        )


def _is_missing(response: httpx.Response) -> bool:
    try:
        return response.json().get("error_code") in _NOT_FOUND_CODES
    except (ValueError, AttributeError):
        return False
