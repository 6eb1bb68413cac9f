"""Mutual TLS with certificates made here: who gets in, and contexts that follow renewals."""

import asyncio
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from tls_harness import (
    MARKET,
    REQUEST,
    VIEWER,
    Authority,
    client,
    failure,
    fetch,
    serial,
    served,
    server,
    stub,
    target,
)

from meshkit.settings import (
    SettingsError,
)
from meshkit.tls import (
    CertificateFiles,
    FollowingContext,
    channel,
    client_ssl_context,
    kafka_client_config,
    peer_service,
    server_ssl_context,
)


async def test_nobody_gets_in_without_a_certificate_of_our_authority(
    service: Any, authority: Authority, tmp_path: Path
):
    tls_dir = authority.issue("query-gateway")
    forged = Authority(tmp_path / "forged").issue("envoy")
    roots = (tls_dir / "current" / "ca.crt").read_bytes()
    (forged / "current" / "ca.crt").write_bytes(roots)
    async with service(settings=server(tls_dir), servicers=MARKET) as started:
        without = grpc.aio.secure_channel(target(started), grpc.ssl_channel_credentials(roots))
        for to_it in (without, channel(target(started), client(forged))):
            async with to_it:
                call = stub(to_it).GetInstrument(REQUEST, metadata=VIEWER, timeout=10)
                assert (await failure(call)).code() is grpc.StatusCode.UNAVAILABLE


async def test_missing_files_name_the_setting(tmp_path: Path):
    with pytest.raises((SettingsError, OSError), match="current"):
        channel("localhost:1", client(tmp_path))


async def test_metrics_are_served_over_mutual_tls_and_follow_renewals(
    service: Any, authority: Authority, until: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("meshkit.rotation.CHECK_SECONDS", 0.01)
    tls_dir = authority.issue("query-gateway")
    settings = server(tls_dir, metrics_listen="localhost:0")
    async with service(settings=settings, servicers=MARKET) as started:
        url = f"https://{started.running.metrics}/metrics"
        scraper = client(authority.issue("prometheus"))
        assert "coinmesh_ready" in await asyncio.to_thread(fetch, url, client_ssl_context(scraper))
        port = started.running.metrics.port
        assert (await served(port, scraper)).serial_number == serial(tls_dir)

        authority.issue("query-gateway")

        async def is_renewed() -> bool:
            return (await served(port, scraper)).serial_number == serial(tls_dir)

        await until(is_renewed)
        not_after = (await served(port, scraper)).not_valid_after_utc
        expiry = started.metrics.value("coinmesh_certificate_not_after_seconds")
        assert expiry == not_after.timestamp()

        roots = str(tls_dir / "current" / "ca.crt")
        stranger = ssl.create_default_context(cafile=roots)
        with pytest.raises(OSError, match=r"(?i)certificate required|reset|EOF|closed|handshake"):
            await asyncio.to_thread(fetch, url, stranger)
        wrong = client_ssl_context(client(authority.issue("envoy")))
        with pytest.raises(urllib.error.HTTPError, match="403"):
            await asyncio.to_thread(fetch, url, wrong)


async def test_a_scrape_that_fails_is_one_line_of_the_log(
    service: Any, authority: Authority, until: Any, caplog: Any, capfd: Any
):
    settings = server(authority.issue("query-gateway"), metrics_listen="localhost:0")
    async with service(settings=settings, servicers=MARKET) as started:
        started.metrics.read_gauge("broken", "Can't be read", (), lambda: {(): 1 / 0})
        url = f"https://{started.running.metrics}/metrics"
        scraper = client_ssl_context(client(authority.issue("prometheus")))
        with pytest.raises(urllib.error.HTTPError, match="500"):
            await asyncio.to_thread(fetch, url, scraper)

        async def is_told() -> bool:
            return "a scrape failed: ZeroDivisionError: division by zero" in caplog.text

        await until(is_told)
    assert "Traceback" not in capfd.readouterr().err


async def test_a_context_made_once_shows_each_connection_the_certificate_of_then(
    authority: Authority,
):
    ours, theirs = authority.issue("redis"), authority.issue("query-gateway")
    seen: list[tuple[str | None, str]] = []

    async def note(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peercert")
        seen.append((peer_service(peer), peer["serialNumber"]))
        writer.close()

    listening = server_ssl_context(CertificateFiles(ours))
    connecting = client_ssl_context(client(theirs))
    async with await asyncio.start_server(note, "localhost", 0, ssl=listening) as listener:
        port = listener.sockets[0].getsockname()[1]
        for _ in range(2):
            reader, writer = await asyncio.open_connection("localhost", port, ssl=connecting)
            shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            assert x509.load_der_x509_certificate(shown).serial_number == serial(ours)
            assert await reader.read() == b""
            writer.close()
            assert seen[-1] == ("query-gateway", f"{serial(theirs):X}".zfill(len(seen[-1][1])))
            authority.issue("redis")
            authority.issue("query-gateway")
        (ours / "current" / "tls.crt").write_text("half a certificate")
        reader, writer = await asyncio.open_connection("localhost", port, ssl=connecting)
        assert await reader.read() == b""
        writer.close()
    assert len({number for _, number in seen}) == 3


async def test_following_context_trusts_only_the_ca_in_the_file(
    authority: Authority, tmp_path: Path
):
    ca = tmp_path / "vault-ca.crt"
    other = Authority(tmp_path / "other")
    issuers = (authority, other)
    for issuer in issuers:
        issuer.issue("query-gateway")
    roots = [i.root / "query-gateway" / "current" / "ca.crt" for i in issuers]
    ca.write_bytes(roots[0].read_bytes())
    context = FollowingContext(ca)
    context.set_alpn_protocols(["http/1.1"])

    async def connects(issuer: Authority) -> bool:
        files = CertificateFiles(issuer.root / "query-gateway")
        serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        serving.load_cert_chain(files.chain, files.key)
        listening = await asyncio.start_server(
            lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=serving
        )
        port = listening.sockets[0].getsockname()[1]
        async with listening:
            try:
                _, writer = await asyncio.open_connection("localhost", port, ssl=context)
            except ssl.SSLCertVerificationError:
                return False
            writer.close()
            return True

    assert [await connects(issuer) for issuer in issuers] == [True, False]
    ca.write_bytes(roots[1].read_bytes())
    assert [await connects(issuer) for issuer in issuers] == [False, True]
    ca.write_text("half a certificate")
    assert [await connects(issuer) for issuer in issuers] == [False, True]


def test_other_clients_get_their_files(authority: Authority):
    tls_dir = authority.issue("collector-binance")
    config = kafka_client_config(client(tls_dir))
    assert config["security.protocol"] == "ssl"
    assert Path(str(config["ssl.key.location"])).is_file()
    assert kafka_client_config(client(None)) == {}
    assert client_ssl_context(client(None)) is None
