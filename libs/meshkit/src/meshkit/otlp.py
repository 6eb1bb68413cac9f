"""Exports spans over OTLP/gRPC, following certificate renewals; drops spans rather than block.

The SDK's own exporter can't change its certificate and retries for seconds, also at shutdown. Here
a batch that can't be sent is dropped and counted, and the collector is not contacted for a while.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import cast

import grpc
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from meshkit.settings import MeshSettings, SettingsError
from meshkit.tls import certificate_files, require_plaintext_allowed

_log = logging.getLogger(__name__)
Call = Callable[..., object]

EXPORT_SECONDS = 3.0
REST_SECONDS = 5.0
"""Time after a failure without attempts to reach the collector."""
_OPTIONS = (("grpc.max_reconnect_backoff_ms", 5_000), ("grpc.keepalive_time_ms", 30_000))


class OtlpExporter(SpanExporter):
    """Exports to `endpoint` (http(s)://host:port); `sent` and `lost` count spans."""

    def __init__(self, endpoint: str, settings: MeshSettings) -> None:
        self._target = endpoint.rpartition("//")[2]
        self._settings = settings
        self._files = certificate_files(settings)
        if self._files is None:
            require_plaintext_allowed(self._target.rpartition(":")[0], settings, "send traces to")
        self._version: object = None
        self._channel: grpc.Channel | None = None
        self._export: Call | None = None
        self._resting_until = 0.0
        self._closed = False
        self.sent = 0
        self.lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch, or drop it."""
        if self._closed or time.monotonic() < self._resting_until:
            self.lost += len(spans)
            return SpanExportResult.FAILURE
        try:
            self._connected()(encode_spans(spans), timeout=EXPORT_SECONDS)
        except (grpc.RpcError, SettingsError, OSError) as error:
            if not self._resting_until:
                _log.warning("traces can't be sent to %s: %s", self._target, _reason(error))
            self._resting_until = time.monotonic() + REST_SECONDS
            self.lost += len(spans)
            return SpanExportResult.FAILURE
        if self._resting_until:
            _log.info("traces go to %s", self._target)
        self._resting_until = 0.0
        self.sent += len(spans)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Close the connection; later batches are dropped."""
        self._closed = True
        if self._channel is not None:
            self._channel.close()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Return True: no spans are buffered here."""
        del timeout_millis
        return True

    def _connected(self) -> Call:
        """Return the export call, on a new channel if the certificate has been renewed."""
        version = self._files.version() if self._files is not None else None
        if self._export is None or version != self._version:
            if self._channel is not None:
                self._channel.close()
            self._channel = self._connect()
            self._export = cast(Call, TraceServiceStub(self._channel).Export)
            self._version = version
        return self._export

    def _connect(self) -> grpc.Channel:
        if self._files is None:
            return grpc.insecure_channel(self._target, _OPTIONS)
        pair = self._files.read()
        credentials = grpc.ssl_channel_credentials(pair.roots, pair.key, pair.chain)
        return grpc.secure_channel(self._target, credentials, _OPTIONS)


def _reason(error: Exception) -> str:
    if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call):
        return f"{error.code().name}: {error.details()}"
    return str(error)
