"""Mutual TLS with certificates made here: who gets in, who may call what, and renewals."""

import asyncio
import ssl
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coinmesh_contracts.market.v1 import market_service_pb2 as market
from coinmesh_contracts.market.v1 import market_service_pb2_grpc as market_grpc
from coinmesh_contracts.market.v1.instrument_pb2 import Instrument
from meshkit import authz
from meshkit.authz import ROLES_HEADER, USER_HEADER, rules, user
from meshkit.calls import Call
from meshkit.errors import MeshError, error_info
from meshkit.kafka import client_config
from meshkit.peer import caller
from meshkit.redis_options import redis_options
from meshkit.resources import Resource
from meshkit.rotation import RotatingChannel
from meshkit.settings import (
    KafkaSettings,
    MeshSettings,
    RedisSettings,
    ServiceSettings,
    SettingsError,
)
from meshkit.tls import (
    CertificateFiles,
    FollowingContext,
    KeyPair,
    channel,
    client_ssl_context,
    is_loopback,
    kafka_client_config,
    peer_service,
    server_ssl_context,
)

PEM = serialization.Encoding.PEM


class Authority:
    """A certificate authority that writes `tls_dir`s as the mesh expects them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self.certificate = (
            self._builder(name, self.key.public_key())
            .issuer_name(name)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    def issue(self, service: str, directory: str | None = None, domain: str = "coinmesh") -> Path:
        """A new certificate for `spiffe://<domain>/svc/<service>`, published by one rename."""
        tls_dir = self.root / (directory or service)
        key = ec.generate_private_key(ec.SECP256R1())
        names = [
            x509.DNSName("localhost"),
            x509.UniformResourceIdentifier(f"spiffe://{domain}/svc/{service}"),
        ]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, service)])
        certificate = (
            self._builder(subject, key.public_key())
            .issuer_name(self.certificate.subject)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        version = tls_dir / f"v{certificate.serial_number}"
        version.mkdir(parents=True)
        (version / "tls.crt").write_bytes(certificate.public_bytes(PEM))
        (version / "ca.crt").write_bytes(self.certificate.public_bytes(PEM))
        private = key.private_bytes(
            PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (version / "tls.key").write_bytes(private)
        link = tls_dir / "next"
        link.symlink_to(version.name)
        link.rename(tls_dir / "current")
        return tls_dir

    def _builder(self, subject: x509.Name, key: Any) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=1))
            .not_valid_after(now + timedelta(hours=1))
        )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def client(tls_dir: Path | None) -> MeshSettings:
    return MeshSettings(tls_dir=tls_dir)


def server(tls_dir: Path, **values: Any) -> ServiceSettings:
    return ServiceSettings(tls_dir=tls_dir, drain_grace_seconds=0.1, **values)


class Market(market_grpc.MarketServiceServicer):
    """Answers with the caller's name, and the user's as the venue."""

    async def GetInstrument(self, request: Any, context: Any) -> Instrument:
        found = user(context)
        return Instrument(name=caller(context) or "nobody", venue=found.name if found else "")


MARKET = [(market_grpc.add_MarketServiceServicer_to_server, Market())]
REQUEST = market.GetInstrumentRequest()


def stated(*roles: str, name: str = "ann") -> tuple[tuple[str, str], ...]:
    """What Envoy states of a user."""
    return authz.stated(authz.User(name, roles, "free"))


VIEWER = stated("viewer")
TWICE = (*VIEWER, (ROLES_HEADER, stated("admin")[1][1]))
GARBLED = ((USER_HEADER, "ann"), (ROLES_HEADER, "%%%"))


def stub(to_it: grpc.aio.Channel) -> Any:
    return market_grpc.MarketServiceStub(to_it)


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def test_every_rpc_of_the_contract_has_a_rule():
    service = market.DESCRIPTOR.services_by_name["MarketService"]
    table = rules([service.full_name])
    assert set(table) == {f"/{service.full_name}/{method.name}" for method in service.methods}
    assert all(rule.callers for rule in table.values())


@pytest.mark.parametrize(
    ("name", "metadata"),
    [("alerting", VIEWER), ("envoy", VIEWER), ("envoy", stated("viewer", "admin"))],
)
async def test_the_contract_lets_its_callers_in(
    service: Any, authority: Authority, name: str, metadata: tuple[tuple[str, str], ...]
):
    settings = server(authority.issue("query-gateway"))
    async with (
        service(settings=settings, servicers=MARKET) as started,
        channel(target(started), client(authority.issue(name))) as to_it,
    ):
        answer = await stub(to_it).GetInstrument(REQUEST, metadata=metadata)
        assert answer.name == name
        # Only Envoy's word for a user counts.
        assert answer.venue == ("ann" if name == "envoy" else "")


@pytest.mark.parametrize(
    ("name", "metadata", "reason"),
    [
        ("envoy", (), "ROLE_NOT_SUFFICIENT"),
        ("envoy", stated("root"), "ROLE_NOT_SUFFICIENT"),
        ("envoy", TWICE, "ROLE_NOT_SUFFICIENT"),
        ("envoy", GARBLED, "ROLE_NOT_SUFFICIENT"),
        ("envoy", stated("viewer")[1:], "ROLE_NOT_SUFFICIENT"),
        ("intruder", stated("admin"), "CALLER_NOT_ALLOWED"),
        ("query-gateway", VIEWER, "CALLER_NOT_ALLOWED"),
    ],
)
async def test_everybody_else_is_denied_but_for_health(
    service: Any,
    authority: Authority,
    name: str,
    metadata: tuple[tuple[str, str], ...],
    reason: str,
):
    settings = server(authority.issue("query-gateway"))
    told: list[tuple[str, str]] = []

    class Denials(Resource):
        def on_denied(self, call: Call, denial: MeshError) -> None:
            told.append((call.name, denial.reason))

    async with service(settings=settings, servicers=MARKET, resources=[Denials()]) as started:
        peer = client(authority.issue(name, directory="peer"))
        async with channel(target(started), peer) as to_it:
            error = await failure(stub(to_it).GetInstrument(REQUEST, metadata=metadata))
            assert told == [("GetInstrument", reason)]
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED
            assert error_info(error).reason == reason
            check = health_pb2_grpc.HealthStub(to_it).Check
            await check(health_pb2.HealthCheckRequest())


async def test_a_certificate_of_another_trust_domain_is_nobody(service: Any, authority: Authority):
    settings = server(authority.issue("query-gateway"))
    stranger = client(authority.issue("envoy", directory="stranger", domain="other.example"))
    async with (
        service(settings=settings, servicers=MARKET) as started,
        channel(target(started), stranger) as to_it,
    ):
        error = await failure(stub(to_it).GetInstrument(REQUEST, metadata=VIEWER))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_an_rpc_without_a_rule_is_denied(service: Any, authority: Authority):
    async def unary(request: bytes, context: object) -> bytes:
        return b"open"

    settings = server(authority.issue("query-gateway"))
    async with service(unary=unary, settings=settings) as started:
        error = await failure(started.unary())
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED


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


async def test_a_renewed_server_certificate_is_served_to_new_connections(
    service: Any, authority: Authority
):
    tls_dir = authority.issue("query-gateway")
    peer = authority.issue("envoy")
    async with service(settings=server(tls_dir), servicers=MARKET) as started:
        port = started.running.grpc.port
        first = await served(port, client(peer))
        authority.issue("query-gateway")
        second = await served(port, client(peer))
        assert first.serial_number != second.serial_number
        assert second.serial_number == serial(tls_dir)
        # A half-written renewal must not take the service down.
        (tls_dir / "current" / "tls.key").unlink()
        (tls_dir / "current" / "tls.crt").touch()
        assert (await served(port, client(peer))).serial_number == second.serial_number


async def test_a_channel_follows_its_certificate_without_a_failed_call(
    service: Any, authority: Authority
):
    settings = server(authority.issue("query-gateway"))
    async with service(settings=settings, servicers=MARKET) as started:
        tls_dir = authority.issue("envoy")
        async with channel(target(started), client(tls_dir)) as to_it:
            assert isinstance(to_it, RotatingChannel)
            market_stub = stub(to_it)
            stop = asyncio.Event()
            answers = 0

            async def load() -> None:
                nonlocal answers
                while not stop.is_set():
                    await market_stub.GetInstrument(REQUEST, metadata=VIEWER)
                    answers += 1

            workers = [asyncio.create_task(load()) for _ in range(4)]
            assert not await to_it.rotate_if_renewed()
            for _ in range(5):
                before, channel_before = answers, to_it.current
                authority.issue("envoy")
                assert await to_it.rotate_if_renewed()
                assert to_it.current is not channel_before
                while answers < before + 20:
                    assert not any(worker.done() for worker in workers)
                    await asyncio.sleep(0)
            stop.set()
            await asyncio.gather(*workers)


async def test_connections_end_before_their_certificate_without_a_failed_call(
    service: Any, authority: Authority, monkeypatch: pytest.MonkeyPatch
):
    tls_dir = authority.issue("query-gateway")
    assert CertificateFiles(tls_dir).read().connection_seconds == 61 * 60 / 4
    monkeypatch.setattr(KeyPair, "connection_seconds", 0.3)
    peers = set[str]()

    class Noting(Market):
        async def GetInstrument(self, request: Any, context: Any) -> Instrument:
            peers.add(context.peer())
            return await super().GetInstrument(request, context)

    servicers = [(market_grpc.add_MarketServiceServicer_to_server, Noting())]
    async with (
        service(settings=server(tls_dir), servicers=servicers) as started,
        channel(target(started), client(authority.issue("envoy"))) as to_it,
    ):
        while len(peers) < 3:
            await stub(to_it).GetInstrument(REQUEST, metadata=VIEWER)


async def test_a_channel_keeps_its_certificate_until_the_new_one_works(
    service: Any, authority: Authority, tmp_path: Path, monkeypatch: Any
):
    monkeypatch.setattr("meshkit.rotation.READY_SECONDS", 0.2)
    settings = server(authority.issue("query-gateway"))
    async with service(settings=settings, servicers=MARKET) as started:
        tls_dir = authority.issue("envoy")
        async with channel(target(started), client(tls_dir)) as to_it:
            # The renewed files trust somebody else, so the server is refused.
            other = Authority(tmp_path / "other")
            authority.issue("envoy")
            (tls_dir / "current" / "ca.crt").write_bytes(other.certificate.public_bytes(PEM))
            with pytest.raises(TimeoutError):
                await to_it.rotate_if_renewed()
            answer = await stub(to_it).GetInstrument(REQUEST, metadata=VIEWER)
            assert answer.name == "envoy"
            authority.issue("envoy")
            assert await to_it.rotate_if_renewed()


async def test_streams_survive_the_stub_being_older_than_the_channel(
    service: Any, authority: Authority
):
    settings = server(authority.issue("query-gateway"))
    async with (
        service(settings=settings, servicers=MARKET) as started,
        channel(target(started), client(authority.issue("envoy"))) as to_it,
    ):
        health = health_pb2_grpc.HealthStub(to_it)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        authority.issue("envoy")
        assert await to_it.rotate_if_renewed()
        again = health.Watch(health_pb2.HealthCheckRequest())
        assert (await again.read()).status
        watch.cancel()
        again.cancel()


async def test_missing_files_name_the_setting(tmp_path: Path):
    with pytest.raises((SettingsError, OSError), match="current"):
        channel("localhost:1", client(tmp_path))


@pytest.mark.parametrize("host", ["10.0.0.5:50051", "dns:///gateway.mesh:50051", "0.0.0.0:1"])
async def test_plaintext_stays_on_the_loopback_interface(host: str):
    with pytest.raises(SettingsError, match="COINMESH_TLS_DIR"):
        channel(host, client(None))
    async with channel(host, MeshSettings(insecure=True)) as allowed:
        assert allowed.get_state() is grpc.ChannelConnectivity.IDLE


async def test_plaintext_listening_stays_on_the_loopback_interface(service: Any):
    settings = ServiceSettings(grpc_listen="0.0.0.0:0")
    with pytest.raises(SettingsError, match="refusing to listen on"):
        async with service(settings=settings, servicers=MARKET):
            pass


async def test_plaintext_metrics_stay_on_the_loopback_interface(service: Any):
    settings = ServiceSettings(metrics_listen="0.0.0.0:0")
    with pytest.raises(SettingsError, match="refusing to serve metrics on"):
        async with service(settings=settings, servicers=[]):
            pass


def test_plaintext_kafka_beyond_loopback_is_rejected() -> None:
    servers = "127.0.0.1:9092,kafka.example:9092"
    settings = KafkaSettings(kafka_bootstrap_servers=servers)
    with pytest.raises(SettingsError, match=r"refusing to connect to kafka\.example in plaintext"):
        client_config(settings, "test")
    assert client_config(settings.model_copy(update={"insecure": True}), "test")
    assert client_config(KafkaSettings(kafka_bootstrap_servers="[::1]:9092"), "test")


def test_plaintext_redis_beyond_loopback_is_rejected(tmp_path: Path) -> None:
    for url in ("redis://:word@redis.example:6379/0", "redis://10.0.0.1:6379/0"):
        with pytest.raises(SettingsError, match="refusing to connect to"):
            redis_options(RedisSettings(redis_url=url, tls_dir=tmp_path))
        assert redis_options(RedisSettings(redis_url=url, insecure=True)) == {}
    assert redis_options(RedisSettings(redis_url="redis://localhost:6379/0")) == {}


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("localhost", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost.example.org", False),
        ("0.0.0.0", False),
        ("", False),
    ],
)
def test_loopback_is_told_by_name(host: str, expected: bool):
    assert is_loopback(host) is expected


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


def target(started: Any) -> str:
    return f"localhost:{started.running.grpc.port}"


def serial(tls_dir: Path) -> int:
    text = (tls_dir / "current" / "tls.crt").read_bytes()
    return x509.load_pem_x509_certificate(text).serial_number


async def served(port: int, settings: MeshSettings) -> x509.Certificate:
    """The certificate that a new connection is shown."""
    context = client_ssl_context(settings)
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection("localhost", port, ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(shown)


def fetch(url: str, context: ssl.SSLContext) -> str:
    with urllib.request.urlopen(url, context=context, timeout=10) as response:
        return response.read().decode()
