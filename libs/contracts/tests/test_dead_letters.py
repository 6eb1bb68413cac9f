"""Dead letters stay below the limit of their topic, whatever they wrap."""

import pytest

from coinmesh_contracts import dead_letters, topics
from coinmesh_contracts.events.v1.dead_letter_pb2 import DeadLetter


def of_record(key: bytes | None, value: bytes) -> DeadLetter:
    return dead_letters.of_record(
        topic=topics.TRADES.name,
        partition=3,
        offset=7,
        receive_time=1,
        key=key,
        value=value,
        reason="BAD_PROTOBUF",
        detail="line 1\nline 2 " + "\N{SNOWMAN}" * 10_000,
        reporter="gateway",
    )


@pytest.mark.parametrize("key", [b"k", b"\xff" * topics.MAX_MESSAGE_BYTES])
def test_dead_letter_of_a_huge_record_fits_its_topic(key: bytes):
    dead_letter = of_record(key, b"\0" * topics.MAX_MESSAGE_BYTES)
    size = len(dead_letters.record_key(dead_letter) or b"") + dead_letter.ByteSize()
    assert size < topics.MAX_MESSAGE_BYTES - 1_000
    assert dead_letter.truncated


@pytest.mark.parametrize("key", [None, b"", b"binance.BTC-USDT"])
def test_dead_letter_of_a_small_record_is_whole(key: bytes | None):
    dead_letter = of_record(key, b"\1\2")
    assert dead_letters.record_key(dead_letter) == key
    assert (dead_letter.value, dead_letter.truncated) == (b"\1\2", False)
    assert dead_letter.event_id == f"dlq:{topics.TRADES.name}:3:7"
    assert dead_letter.instrument == (key or b"").decode()
    assert dead_letter.detail.startswith("line 1 line 2 ")


def test_dead_letter_of_an_input_names_its_origin():
    dead_letter = dead_letters.of_input(
        origin="c/1:9",
        source="binance",
        receive_time=123,
        value=b"{not json",
        reason="NOT_JSON",
        detail="line 1\nline 2",
        reporter="collector",
    )
    assert dead_letter.event_id == "dlq:c/1:9"
    assert (dead_letter.origin_topic, dead_letter.origin_partition) == ("", -1)
    assert (dead_letter.origin_offset, dead_letter.detail) == (-1, "line 1 line 2")
    assert dead_letter.metadata["origin"] == "c/1:9"
