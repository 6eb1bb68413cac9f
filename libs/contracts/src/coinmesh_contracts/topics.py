"""The mesh's Kafka topics: names, messages, partitions and retention.

The deploy step creates topics from this table, and services take names and messages from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from google.protobuf.message import Message

from coinmesh_contracts.events.v1.audit_event_pb2 import AuditEvent
from coinmesh_contracts.events.v1.bar_pb2 import Bar
from coinmesh_contracts.events.v1.block_header_pb2 import BlockHeader
from coinmesh_contracts.events.v1.book_update_pb2 import BookUpdate
from coinmesh_contracts.events.v1.checkpoint_pb2 import Checkpoint
from coinmesh_contracts.events.v1.dead_letter_pb2 import DeadLetter
from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameBatch
from coinmesh_contracts.events.v1.gap_pb2 import Gap
from coinmesh_contracts.events.v1.indicator_value_pb2 import IndicatorValue
from coinmesh_contracts.events.v1.instrument_pb2 import Instrument
from coinmesh_contracts.events.v1.liveness_pb2 import Liveness
from coinmesh_contracts.events.v1.quote_pb2 import Quote
from coinmesh_contracts.events.v1.reference_price_pb2 import ReferencePrice
from coinmesh_contracts.events.v1.sentiment_bar_pb2 import SentimentBar
from coinmesh_contracts.events.v1.social_post_pb2 import SocialPost
from coinmesh_contracts.events.v1.token_transfer_pb2 import TokenTransfer
from coinmesh_contracts.events.v1.trade_pb2 import Trade

INSTRUMENT_PARTITIONS: Final = 4
"""All instrument-keyed topics have one partition count, so a key has one partition number."""

_DAY_MS: Final = 86_400_000
MAX_MESSAGE_BYTES: Final = 4 << 20
"""The largest record that any topic accepts, and so any producer sends."""
# Rewritten often under few keys: rolled and compacted soon, so that the time to read the whole
# topic depends on its keys, not on its history.
_SHORT_LOG: Final = {
    "segment_ms": "60000",
    "segment_bytes": str(16 << 20),
    "min_cleanable_dirty_ratio": "0.1",
    "delete_retention_ms": "3600000",
    "max_compaction_lag_ms": "120000",
}


@dataclass(frozen=True)
class Topic:
    """One topic.

    Attributes:
        name: Its name.
        key: Meaning of its record keys.
        message: Its message type; None if its contract is not defined yet.
        partitions: Number of partitions at creation.
        retention_days: How long records are retained; None for a compacted topic.
        settings: Further topic settings.
    """

    name: str
    key: str
    message: type[Message] | None
    partitions: int
    retention_days: int | None
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """Return the Schema Registry subject of its values (TopicNameStrategy)."""
        return f"{self.name}-value"

    @property
    def config(self) -> dict[str, str]:
        """Return Kafka's settings for the topic, except those that depend on the broker count."""
        kept = (
            {"cleanup.policy": "compact"}
            if self.retention_days is None
            else {
                "cleanup.policy": "delete",
                "retention.ms": str(self.retention_days * _DAY_MS),
            }
        )
        return {
            # Event time is in the payload only; the log's time is the time of append.
            "message.timestamp.type": "LogAppendTime",
            "compression.type": "producer",
            **kept,
            **self.settings,
        }


def _topic(
    name: str,
    key: str,
    message: type[Message] | None,
    days: int | None,
    partitions: int = INSTRUMENT_PARTITIONS,
    **settings: str,
) -> Topic:
    dotted = {name.replace("_", "."): value for name, value in settings.items()}
    return Topic(name, key, message, partitions, days, MappingProxyType(dotted))


INSTRUMENTS: Final = _topic("market.instruments.v1", "instrument", Instrument, None)
TRADES: Final = _topic("market.trades.v1", "instrument", Trade, 7)
QUOTES: Final = _topic("market.quotes.v1", "instrument", Quote, 7)
BOOKS: Final = _topic("market.books.v1", "instrument", BookUpdate, 7)
PRICES: Final = _topic("market.prices.v1", "asset", ReferencePrice, 7, 1)
BARS: Final = _topic("market.bars.v1", "instrument", Bar, 7)
INDICATORS: Final = _topic("market.indicators.v1", "instrument", IndicatorValue, 7)
TRANSFERS: Final = _topic("chain.transfers.v1", "token", TokenTransfer, 30, 1)
BLOCKS: Final = _topic("chain.blocks.v1", "chain", BlockHeader, 30, 1)
POSTS: Final = _topic("social.posts.v1", "asset", SocialPost, 7, 1)
SENTIMENT: Final = _topic("social.sentiment.v1", "asset", SentimentBar, 7, 1)
FRAMES: Final = _topic(
    "ingest.frames.v1", "connection", FrameBatch, 3, max_message_bytes=str(MAX_MESSAGE_BYTES)
)
GAPS: Final = _topic("ingest.gaps.v1", "instrument", Gap, 400)
CHECKPOINTS: Final = _topic(
    "ingest.checkpoints.v1",
    "source and stream",
    Checkpoint,
    None,
    1,
    # Keeps a newer writer's records next to the later ones of an outdated process; see
    # docs/decisions/checkpoints.md.
    min_compaction_lag_ms="60000",
    # A record that Kafka rejects would stop the collector at each start.
    max_message_bytes=str(MAX_MESSAGE_BYTES),
    **_SHORT_LOG,
)
LIVENESS: Final = _topic("ingest.liveness.v1", "collector", Liveness, None, 1, **_SHORT_LOG)
DEAD_LETTERS: Final = _topic(
    "ingest.dlq.v1", "original key", DeadLetter, 30, max_message_bytes=str(MAX_MESSAGE_BYTES)
)
ALERT_RULES: Final = _topic("alerts.rules.v1", "rule", None, None, 1)
ALERT_STATES: Final = _topic("alerts.state.v1", "rule and instrument", None, None, 1)
ALERTS: Final = _topic("alerts.events.v1", "rule", None, 30, 1)
AUDIT: Final = _topic("audit.events.v1", "writer", AuditEvent, 365, 1)

ALL: Final = (
    INSTRUMENTS,
    TRADES,
    QUOTES,
    BOOKS,
    PRICES,
    BARS,
    INDICATORS,
    TRANSFERS,
    BLOCKS,
    POSTS,
    SENTIMENT,
    FRAMES,
    GAPS,
    CHECKPOINTS,
    LIVENESS,
    DEAD_LETTERS,
    ALERT_RULES,
    ALERT_STATES,
    ALERTS,
    AUDIT,
)

ARCHIVED: Final = tuple(topic for topic in ALL if topic is not LIVENESS)
"""Archived topics: liveness records of each second are not worth retaining for a year."""

BY_NAME: Final[Mapping[str, Topic]] = MappingProxyType({topic.name: topic for topic in ALL})

GROUPS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "@all": tuple(BY_NAME),
        **{
            f"@{family}": tuple(name for name in BY_NAME if name.startswith(f"{family}."))
            for family in dict.fromkeys(name.partition(".")[0] for name in BY_NAME)
        },
    }
)
"""Names for several topics: `@all`, and `@market`, `@ingest`, … after their first part."""


def expand(names: Iterable[str]) -> tuple[str, ...]:
    """Replace each group in `names` by its topics, without duplicates; ValueError if unknown."""
    found: dict[str, None] = {}
    for name in names:
        if name.startswith("@") and name not in GROUPS:
            raise ValueError(f"there is no topic group {name!r}; there are: {', '.join(GROUPS)}")
        found |= dict.fromkeys(GROUPS.get(name, (name,)))
    return tuple(found)
