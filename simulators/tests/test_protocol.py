"""The WebSocket side keeps the venue's rules."""

import json
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from aiohttp import WSMsgType
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from coinmesh_simulators.exchange.limits import Limits


async def ask(ws, message: object) -> dict:
    """The answer to a control message; data frames in between are passed over."""
    await ws.send_str(message if isinstance(message, str) else json.dumps(message))
    while True:
        answer = json.loads((await ws.receive()).data)
        if answer.keys() & {"result", "error", "code"}:
            return answer


async def test_subscriptions_are_acknowledged_listed_and_ended(local):
    sim = await local(symbols="BTCUSDT,ETHUSDT", rate=500, messages_per_second=100)
    async with sim.connect("/stream") as ws:
        names = ["btcusdt@trade", "ethusdt@bookTicker", "btcusdt@depth@1000ms"]
        answer = await ask(ws, {"method": "SUBSCRIBE", "params": names, "id": "first"})
        assert answer == {"result": None, "id": "first"}
        answer = await ask(ws, {"method": "LIST_SUBSCRIPTIONS", "id": 2})
        assert answer == {
            "result": ["btcusdt@trade", "ethusdt@bookTicker", "btcusdt@depth"],
            "id": 2,
        }
        gone = ["btcusdt@trade", "btcusdt@depth"]
        answer = await ask(ws, {"method": "UNSUBSCRIBE", "params": gone, "id": None})
        assert answer == {"result": None, "id": None}
        for _ in range(20):
            frame = await ws.receive_json()
            assert frame["stream"] == "ethusdt@bookTicker"
            assert frame["data"].keys() == {"u", "s", "b", "B", "a", "A"}


async def test_the_combined_property_changes_the_envelope(local):
    sim = await local(symbols="BTCUSDT", rate=500, messages_per_second=100)
    async with sim.connect("/ws/btcusdt@bookTicker") as ws:
        assert "u" in await ws.receive_json()
        get = {"method": "GET_PROPERTY", "params": ["combined"], "id": 1}
        assert (await ask(ws, get))["result"] is False
        change = {"method": "SET_PROPERTY", "params": ["combined", True], "id": 2}
        assert (await ask(ws, change))["result"] is None
        assert (await ask(ws, get))["result"] is True
        assert (await ws.receive_json()).keys() == {"stream", "data"}


@pytest.mark.parametrize(
    ("message", "code", "text"),
    [
        ("{", 3, "Invalid JSON"),
        ('{"id": 1}', 2, "missing field `method`"),
        ({"method": "NOPE", "id": 1}, 2, "unknown variant `NOPE`"),
        ({"method": "SUBSCRIBE", "params": ["btcusdt@trade"], "id": 1.5}, 2, "request ID"),
        ({"method": "SUBSCRIBE", "params": ["btcusdt@trade"], "id": "x" * 37}, 2, "request ID"),
        ({"method": "SUBSCRIBE", "params": ["btcusdt@trade"], "id": 1, "z": 1}, 2, "too many"),
        ({"method": "GET_PROPERTY", "params": ["other"], "id": 1}, 0, "Unknown property"),
        ({"method": "GET_PROPERTY", "params": [7], "id": 1}, 2, "must be a string"),
        ({"method": "SET_PROPERTY", "params": ["combined", 1], "id": 1}, 1, "expected Boolean"),
    ],
)
async def test_errors_have_their_codes(local, message, code, text):
    sim = await local(symbols="BTCUSDT", rate=1)
    async with sim.connect("/stream") as ws:
        answer = await ask(ws, message)
        assert answer["code"] == code
        assert text in answer["msg"]
        assert ("id" in answer) == (code == 0)  # as the venue's table of errors has it


async def test_too_many_messages_in_a_second_cut_the_connection(local):
    sim = await local(symbols="BTCUSDT", rate=0)
    async with sim.connect("/stream") as ws:
        for number in range(6):
            await ws.send_json({"method": "LIST_SUBSCRIPTIONS", "id": number})
        answers = [await ws.receive() for _ in range(6)]
        assert [a.type for a in answers] == [WSMsgType.TEXT] * 5 + [WSMsgType.CLOSE]
        assert answers[-1].data == 1008


async def test_a_connection_holds_a_limited_number_of_streams(local):
    sim = await local(symbols="BTCUSDT", rate=0, messages_per_second=100)
    names = [f"s{number}usdt@trade" for number in range(1025)]
    async with sim.connect("/stream") as ws:
        for first in range(0, 1024, 256):
            params = names[first : first + 256]
            answer = await ask(ws, {"method": "SUBSCRIBE", "params": params, "id": first})
            assert answer == {"result": None, "id": first}
        answer = await ask(ws, {"method": "SUBSCRIBE", "params": names[1024:], "id": 19})
        assert answer == {"error": {"code": 4, "msg": "Too many subscriptions"}, "id": 19}


@pytest.mark.slow
async def test_pings_must_be_answered_with_their_payload(local):
    sim = await local(symbols="BTCUSDT", rate=0, ping_interval=0.2, pong_timeout=4)
    async with (
        sim.connect("/ws/btcusdt@trade", autoping=False) as careful,
        sim.connect("/ws/btcusdt@trade", autoping=False) as careless,
    ):
        for _ in range(8):
            ping = await careful.receive()
            assert ping.type is WSMsgType.PING
            await careful.pong(ping.data)
            other = await careless.receive()
            if other.type is WSMsgType.CLOSE:
                break
            await careless.pong(b"unasked")
        while other.type is WSMsgType.PING:
            other = await careless.receive()
        assert (other.type, other.data) == (WSMsgType.CLOSE, 1008)
        assert (await careful.receive()).type is WSMsgType.PING


async def test_a_connection_ends_after_its_lifetime(local):
    sim = await local(symbols="BTCUSDT", rate=0, connection_lifetime=0.5)
    async with sim.connect("/stream?streams=btcusdt@trade") as ws:
        message = await ws.receive()
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1001)


@pytest.mark.slow
async def test_a_slow_reader_is_cut_and_others_go_on(local):
    sim = await local(symbols="BTCUSDT", rate=3000, buffer_bytes=20_000, speed=4)
    streams = "btcusdt@trade/btcusdt@bookTicker/btcusdt@depth@100ms/btcusdt@depth20@100ms"
    async with sim.connect(f"/stream?streams={streams}") as reader:
        slow = await sim.session.ws_connect(sim.ws + f"/stream?streams={streams}")
        assert slow._reader is not None
        slow._conn.transport.pause_reading()
        while (await sim.status())["connections"] == 2:
            await reader.receive_json()
        assert (await reader.receive()).type is WSMsgType.TEXT


async def test_urls_may_be_encoded_and_the_unit_is_checked(local):
    sim = await local(symbols="这是测试币USDT,BTCUSDT", rate=500)
    name = "%E8%BF%99%E6%98%AF%E6%B5%8B%E8%AF%95%E5%B8%81usdt%40bookTicker"
    async with sim.connect(f"/stream?streams={name}&timeUnit=microsecond") as ws:
        frame = await ws.receive_json()
        assert frame["stream"] == "这是测试币usdt@bookTicker"
        assert frame["data"]["s"] == "这是测试币USDT"
    async with sim.session.get(f"{sim.base}/stream?streams=a@trade&timeUnit=DAY") as response:
        assert response.status == 400


async def test_connection_attempts_are_limited(local):
    sim = await local(symbols="BTCUSDT", rate=0, connections_per_5m=2)
    path = "/ws/btcusdt@trade"
    async with (
        sim.connect(path),
        sim.connect(path),
        sim.session.get(sim.base + path) as response,
    ):
        assert response.status == 429


def own_certificate(before: timedelta, after: timedelta) -> tuple[bytes, bytes]:
    """A service's certificate for this machine that vouches for itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "exchange")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - before)
        .not_valid_after(now + after)
        .add_extension(
            x509.SubjectAlternativeName(
                [
                    x509.IPAddress(ip_address("127.0.0.1")),
                    x509.UniformResourceIdentifier("spiffe://coinmesh/svc/exchange"),
                ]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM), private


async def test_both_listeners_speak_tls_when_told_to(local, tmp_path):
    certificate, key = own_certificate(timedelta(hours=1), timedelta(hours=1))
    (tmp_path / "cert.pem").write_bytes(certificate)
    (tmp_path / "key.pem").write_bytes(key)
    sim = await local(
        symbols="BTCUSDT", tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem", rate=500
    )
    trusted = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    url = sim.ws.replace("ws:", "wss:") + "/ws/btcusdt@bookTicker"
    async with sim.session.ws_connect(url, ssl=trusted) as ws:
        assert (await ws.receive_json())["s"] == "BTCUSDT"
    url = sim.admin.replace("http:", "https:") + "/admin/status"
    async with sim.session.get(url, ssl=trusted) as response:
        assert (await response.json())["phase"] == "generated"


@pytest.mark.slow
async def test_a_connection_ends_before_its_certificate(local, tmp_path):
    certificate, key = own_certificate(timedelta(seconds=1), timedelta(seconds=19))
    current = tmp_path / "tls" / "current"
    current.mkdir(parents=True)
    for name, pem in (("tls.crt", certificate), ("ca.crt", certificate), ("tls.key", key)):
        (current / name).write_bytes(pem)
    context = ssl.create_default_context(cafile=str(current / "ca.crt"))
    context.load_cert_chain(current / "tls.crt", current / "tls.key")
    sim = await local(
        context, symbols="BTCUSDT", rate=0, tls_dir=current.parent, clients="exchange"
    )
    async with sim.connect("/stream?streams=btcusdt@trade") as ws:
        message = await ws.receive()
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1001)


def test_going_on_after_429_leads_to_longer_and_longer_bans():
    now = 1_000_000.0 * 60 + 15
    limits = Limits(100, 10, lambda: now)
    assert [limits.charge("a", 50).status for _ in range(3)] == [200, 200, 429]
    assert limits.charge("a", 1).retry_after == 45
    assert limits.charge("b", 1).status == 200
    answers = [limits.charge("a", 1) for _ in range(20)]
    assert answers[0].status == 429
    assert answers[-1].status == 418
    assert 120 <= answers[-1].retry_after <= 121
    now += 119
    assert limits.charge("a", 1).status == 418
    now += 2
    assert limits.charge("a", 1).status == 200
    for _ in range(30):
        answer = limits.charge("a", 50)
    assert answer.status == 418
    assert 240 <= answer.retry_after <= 241
