"""`coinmesh tail`: the last events of a topic as minimal JSON, then new ones."""

import sys
from collections.abc import Iterable
from contextlib import closing
from typing import Annotated

import typer
from confluent_kafka import Message
from google.protobuf.message import DecodeError

from coinmesh_cli.records import TopicReader, settings_of
from coinmesh_contracts import framing, topics
from coinmesh_contracts.minimal import render
from meshkit.errors import InvalidArgument
from meshkit.settings import KafkaSettings

#: Number of records per partition that are searched for a key.
LOOK_BACK = 20_000


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(tail)


def tail(
    what: Annotated[str, typer.Argument(metavar="TOPIC[/KEY]", help="e.g. market.trades.v1")],
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="So many to begin with.")] = 10,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with new ones.")] = False,
) -> None:
    """Print a topic's events as JSON lines, of one instrument with TOPIC/INSTRUMENT."""
    name, _, key = what.partition("/")
    topic = topics.BY_NAME.get(name)
    if topic is None or topic.message is None:
        known = ", ".join(t.name for t in topics.ALL if t.message)
        raise InvalidArgument(
            "UNKNOWN_TOPIC", f"{name} is not a topic of events; those are: {known}"
        )
    with closing(TopicReader(settings_of(KafkaSettings), name)) as reader:
        records = reader.existing(LOOK_BACK if key else lines)
        chosen = sorted((m for m in records if _is(m, key)), key=lambda m: m.timestamp()[1])
        _print(chosen[len(chosen) - min(lines, len(chosen)) :], topic)
        if follow:
            _print((m for m in reader.following() if _is(m, key)), topic)


def _is(message: Message, key: str) -> bool:
    return not key or message.key() == key.encode()


def _print(messages: Iterable[Message], topic: topics.Topic) -> None:
    assert topic.message is not None
    for message in messages:
        where = f"{topic.name} {message.partition()}@{message.offset()}"
        try:
            _, payload = framing.split(message.value())
            print(render(topic.message.FromString(payload)), flush=True)
        except (framing.FramingError, DecodeError) as error:
            print(f"{where} cannot be decoded: {error}", file=sys.stderr)
