"""Schema ids: resolved at start, looked up later, and what a registry in trouble leads to."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinmesh_contracts.events.v1.bar_pb2 import Bar
from coinmesh_contracts.events.v1.token_transfer_pb2 import TokenTransfer
from coinmesh_contracts.events.v1.trade_pb2 import Trade
from coinmesh_contracts.sources import proto_text
from meshkit.errors import FailedPrecondition, Unavailable
from meshkit.registry import (
    REJECTED_SECONDS,
    Registry,
    SchemaIds,
    SchemaMismatch,
    SchemaNotRegistered,
)
from meshkit.schema_text import contradictions, normalized
from meshkit.settings import RegistrySettings

TRADE = proto_text("coinmesh/events/v1/trade.proto")
NEWER = TRADE.replace("message Trade {", "message Trade {\n  string added = 99;")
TOPIC = "market.trades.v1"
SUBJECT = f"{TOPIC}-value"


class FakeRegistry:
    """Subjects with their versions' texts; a schema's id is its position over all of them."""

    def __init__(self, **subjects: list[str]) -> None:
        self.subjects = {f"{topic}-value": texts for topic, texts in subjects.items()}
        self.requests: list[str] = []
        self.failures: list[Callable[[httpx.Request], httpx.Response]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/apis/ccompat/v7")
        self.requests.append(path)
        if self.failures:
            return self.failures.pop(0)(request)
        match path.strip("/").split("/"):
            case ["subjects", subject, "versions"] if subject in self.subjects:
                return httpx.Response(200, json=list(range(1, len(self.subjects[subject]) + 1)))
            case ["subjects", subject, "versions", version] if subject in self.subjects:
                texts = self.subjects[subject]
                number = len(texts) if version == "latest" else int(version)
                body = {
                    "subject": subject,
                    "version": number,
                    "id": self.id_of(subject, number),
                    "schema": texts[number - 1],
                }
                return httpx.Response(200, json=body)
            case ["schemas", "ids", schema_id, "versions"]:
                found = [
                    {"subject": subject, "version": number}
                    for subject, texts in self.subjects.items()
                    for number in range(1, len(texts) + 1)
                    if self.id_of(subject, number) == int(schema_id)
                ]
                if found:
                    return httpx.Response(200, json=found)
        return httpx.Response(404, json={"error_code": 40401, "message": "not found"})

    def id_of(self, subject: str, version: int) -> int:
        return 100 * (1 + list(self.subjects).index(subject)) + version


def registry(
    fake: FakeRegistry, wait: float = 60, slept: list[float] | None = None, **options: Any
) -> Registry:
    settings = RegistrySettings(
        schema_registry_url="http://127.0.0.1:8081/apis/ccompat/v7",
        schema_registry_wait_seconds=wait,
    )
    sleep = slept.append if slept is not None else lambda _: None
    return Registry(settings, transport=httpx.MockTransport(fake), sleep=sleep, **options)


def refused(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("connection refused", request=request)


async def test_the_id_of_the_known_text_is_resolved_once():
    fake = FakeRegistry(**{TOPIC: [TRADE]})
    client = registry(fake)
    ids = await client.resolve({TOPIC: Trade})
    assert ids == SchemaIds({TOPIC: 101})
    assert ids.header(TOPIC) == b"\0\0\0\0\x65\0"
    asked = len(fake.requests)
    assert await client.accepts(TOPIC, 101)
    assert len(fake.requests) == asked


def test_comments_and_spaces_do_not_count(caplog: pytest.LogCaptureFixture):
    changed = "// new\n" + TRADE.replace("  ", "\t").replace("=", " = ")
    assert (
        registry(FakeRegistry(**{TOPIC: [changed]})).resolve_now({TOPIC: Trade}).ids[TOPIC] == 101
    )
    assert not caplog.records


def test_a_missing_subject_names_itself_and_the_way_out():
    with pytest.raises(SchemaNotRegistered) as caught:
        registry(FakeRegistry(**{TOPIC: [TRADE]})).resolve_now({TOPIC: Trade, "other.v1": Bar})
    assert "other.v1-value" in caught.value.message
    assert "coinmesh deploy schemas" in caught.value.message
    assert caught.value.metadata["subject"] == "other.v1-value"


def test_a_newer_version_there_is_written_as_the_known_one(caplog: pytest.LogCaptureFixture):
    fake = FakeRegistry(**{TOPIC: [TRADE, NEWER]})
    assert registry(fake).resolve_now({TOPIC: Trade}).ids[TOPIC] == 101
    assert "the registry has version 2" in caplog.text


def test_an_older_compatible_version_there_is_taken_with_a_warning(
    caplog: pytest.LogCaptureFixture,
):
    older = TRADE.replace("  optional int64 publish_time = 15;\n", "")
    assert older != TRADE
    assert registry(FakeRegistry(**{TOPIC: [older]})).resolve_now({TOPIC: Trade}).ids[TOPIC] == 101
    assert "isn't registered; writing compatible version 1" in caplog.text


def test_a_contradicting_version_is_refused():
    wrong = TRADE.replace("uint64 trade_id = 9;", "string trade_id = 9;")
    with pytest.raises(SchemaMismatch, match="field 9 is string there and uint64 here"):
        registry(FakeRegistry(**{TOPIC: [wrong]})).resolve_now({TOPIC: Trade})


def test_an_unreachable_registry_is_retried_with_log_lines(caplog: pytest.LogCaptureFixture):
    fake = FakeRegistry(**{TOPIC: [TRADE]})
    fake.failures = [refused, lambda _: httpx.Response(503), refused]
    slept: list[float] = []
    ids = registry(fake, slept=slept).resolve_now({TOPIC: Trade})
    assert ids.ids[TOPIC] == 101
    assert len(slept) == 3
    assert all(0 <= delay <= 5 for delay in slept)
    assert caplog.text.count("doesn't answer") == 3


def test_an_unreachable_registry_is_given_up_with_a_clear_error():
    fake = FakeRegistry()
    fake.failures = [refused] * 10
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:8081.*connection refused") as caught:
        registry(fake, wait=0).resolve_now({TOPIC: Trade})
    assert "COINMESH_SCHEMA_REGISTRY_URL" in caught.value.message


def test_a_wrong_address_is_told_from_a_missing_subject():
    fake = FakeRegistry()
    fake.failures = [lambda _: httpx.Response(404, text="<html>")]
    with pytest.raises(FailedPrecondition, match="Confluent-compatible API") as caught:
        registry(fake).resolve_now({TOPIC: Trade})
    assert not isinstance(caught.value, SchemaNotRegistered)


def test_who_may_not_read_is_told_which_grant_is_missing():
    fake = FakeRegistry()
    fake.failures = [lambda _: httpx.Response(403, text="RBAC: access denied")]
    with pytest.raises(FailedPrecondition, match=r"access\.toml needs http\.registry"):
        registry(fake).resolve_now({TOPIC: Trade})


async def test_a_later_id_is_accepted_only_for_its_own_topic():
    fake = FakeRegistry(**{TOPIC: [TRADE], "market.bars.v1": ["x"]})
    client = registry(fake)
    await client.resolve({TOPIC: Trade})
    fake.subjects[SUBJECT].append(NEWER)
    assert await client.accepts(TOPIC, 102)
    assert not await client.accepts(TOPIC, 201)
    assert not await client.accepts(TOPIC, 999)
    asked = len(fake.requests)
    assert await client.accepts(TOPIC, 102)
    assert not await client.accepts(TOPIC, 999)
    assert len(fake.requests) == asked


async def test_rejected_id_registered_later_is_accepted():
    fake, now = FakeRegistry(**{TOPIC: [TRADE]}), 100.0
    client = registry(fake, clock=lambda: now)
    assert not await client.accepts(TOPIC, 102)
    fake.subjects[SUBJECT].append(NEWER)
    now += REJECTED_SECONDS
    assert await client.accepts(TOPIC, 102)


async def test_rejected_ids_are_looked_up_once_in_a_while():
    fake, now = FakeRegistry(**{TOPIC: [TRADE]}), 100.0
    client = registry(fake, clock=lambda: now)
    for _ in range(1_000):
        assert not await client.accepts(TOPIC, 102)
    assert len(fake.requests) == 1


@pytest.mark.parametrize("message", [Trade, Bar, TokenTransfer])
def test_a_contract_does_not_contradict_itself(message: Any):
    text = proto_text(message.DESCRIPTOR.file.name)
    assert contradictions(message.DESCRIPTOR, text) == []


@pytest.mark.parametrize(
    ("before", "after", "difference"),
    [
        ("map<string, string> metadata", "map<string, int64> metadata", "field 8 is"),
        ("optional int64 event_time", "optional sint64 event_time", "field 2 is sint64 there"),
        ("EventType type = 5", "TakerSide type = 5", "field 5 is TakerSide there"),
        ("message Trade {", "message Deal {", "no message Trade"),
        ("string event_id", "repeated string event_id", "field 1 is repeated string there"),
    ],
)
def test_contradictions_are_named(before: str, after: str, difference: str):
    assert before in TRADE
    (found,) = contradictions(Trade.DESCRIPTOR, TRADE.replace(before, after))
    assert difference in found


def test_nested_messages_do_not_count():
    nested = "message Trade {\n message Inner { string x = 9; }\n string event_id = 1; }"
    assert contradictions(Trade.DESCRIPTOR, nested) == []


@given(st.lists(st.sampled_from([" ", "\n", "\t", "// c\n", "/* c */", "\r\n"]), min_size=1))
def test_normalization_forgets_what_is_between_tokens(gaps: list[str]):
    tokens = 'syntax = "proto3" ; message A { string a = 1 ; }'.split(" ")
    between = [gaps[index % len(gaps)] for index in range(len(tokens))]
    text = "".join(token + gap + " " for token, gap in zip(tokens, between, strict=True))
    assert normalized(text) == normalized(" ".join(tokens))


def test_normalization_keeps_what_is_inside_strings():
    assert normalized('a "x // y  z"') != normalized('a "x"')
