"""The table of topics and the contracts as data."""

import re

from coinmesh_contracts import sources, topics


def test_instrument_keyed_topics_have_one_partition_count() -> None:
    counts = {topic.partitions for topic in topics.ALL if topic.key == "instrument"}
    assert counts == {topics.INSTRUMENT_PARTITIONS}


def test_names_carry_their_version() -> None:
    assert all(re.fullmatch(r"[a-z]+\.[a-z]+\.v[0-9]+", topic.name) for topic in topics.ALL)


def test_compacted_topics_have_no_retention_and_others_do() -> None:
    assert topics.INSTRUMENTS.config["cleanup.policy"] == "compact"
    assert "retention.ms" not in topics.INSTRUMENTS.config
    assert topics.GAPS.config["retention.ms"] == str(400 * 24 * 3600 * 1000)


def test_every_topic_keeps_the_time_at_which_a_record_was_appended() -> None:
    assert {topic.config["message.timestamp.type"] for topic in topics.ALL} == {"LogAppendTime"}


def test_dependencies_come_before_what_imports_them() -> None:
    order = list(sources.with_imports("coinmesh/events/v1/token_transfer.proto"))
    assert order[-1] == "coinmesh/events/v1/token_transfer.proto"
    assert set(order[:-1]) == {
        "coinmesh/events/v1/event_type.proto",
        "coinmesh/events/v1/finality.proto",
    }


def test_every_message_of_a_topic_has_its_text() -> None:
    for topic in topics.ALL:
        if topic.message is not None:
            text = sources.proto_text(topic.message.DESCRIPTOR.file.name)
            assert f"message {topic.message.DESCRIPTOR.name} {{" in text
