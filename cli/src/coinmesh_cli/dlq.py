"""`coinmesh dlq`: list, show and replay records that could not be processed."""

import asyncio
import base64
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from google.protobuf.message import DecodeError

from coinmesh_access.accounting import operator, operator_log
from coinmesh_audit.log import AuditLog, AuditSettings
from coinmesh_cli import replays
from coinmesh_cli.records import TopicReader, settings_of
from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1.audit_event_pb2 import AUDIT_ACTION_DEAD_LETTER_REPLAY
from coinmesh_contracts.events.v1.dead_letter_pb2 import DeadLetter
from coinmesh_contracts.minimal import render
from coinmesh_local.paths import Home
from meshkit.errors import FailedPrecondition, InvalidArgument, NotFound
from meshkit.producer import Producer
from meshkit.settings import KafkaSettings

app = typer.Typer(no_args_is_help=True, help="Dead letters: list, show, replay.")

Ids = Annotated[list[str] | None, typer.Argument(help="Dead letters, as PARTITION:OFFSET.")]
Topic = Annotated[str | None, typer.Option("--topic", help="Only those from this topic.")]
Reason = Annotated[str | None, typer.Option("--reason", help="Only those with this reason.")]


def register(parent: typer.Typer) -> None:
    """Add the command group to `parent`."""
    parent.add_typer(app, name="dlq")


@dataclass(frozen=True)
class Letter:
    """A dead letter and its position in the dead letter topic."""

    id: str
    letter: DeadLetter

    @property
    def origin(self) -> str:
        """Return `topic partition@offset`, or the id of an input that was never on a topic."""
        one = self.letter
        if not one.origin_topic:
            return f"input {one.event_id.removeprefix('dlq:')}"
        return f"{one.origin_topic} {one.origin_partition}@{one.origin_offset}"


def read(ids: list[str] | None, topic: str | None, reason: str | None) -> Iterator[Letter]:
    """Yield the dead letters that match all conditions.

    Raises:
        InvalidArgument: An id is malformed.
        NotFound: A named dead letter does not exist.
    """
    missing = set(ids or ())
    for one in missing:
        if not all(part.isdigit() for part in one.split(":")) or one.count(":") != 1:
            raise InvalidArgument("BAD_ID", f"{one!r} is not PARTITION:OFFSET, e.g. 0:17")
    with closing(TopicReader(settings_of(KafkaSettings), topics.DEAD_LETTERS.name)) as reader:
        for message in reader.existing():
            number = f"{message.partition()}:{message.offset()}"
            if ids and number not in missing:
                continue
            try:
                letter = DeadLetter.FromString(framing.split(message.value())[1])
            except (framing.FramingError, DecodeError) as error:
                print(f"{number} is not a dead letter itself: {error}")
                continue
            missing.discard(number)
            if topic in (None, letter.origin_topic) and reason in (None, letter.reason):
                yield Letter(number, letter)
    if missing:
        raise NotFound("NO_SUCH_DEAD_LETTER", f"there is no dead letter {', '.join(missing)}")


@app.command("list")
def list_letters(
    topic: Topic = None,
    reason: Reason = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List dead letters, oldest first."""
    replayed = replays.replayed()
    count = 0
    for one in sorted(read(None, topic, reason), key=lambda x: x.letter.receive_time):
        count += 1
        done = one.letter.event_id in replayed
        if as_json:
            print(json.dumps(_facts(one) | {"replayed": done}))
        else:
            print(
                f"{one.id:>8}  {_time(one.letter)}  {one.letter.reason:<22} {one.origin}"
                f"{'  (replayed)' if done else ''}  {one.letter.detail}"
            )
    if not as_json:
        print(f"{count} dead letters")


@app.command()
def show(ids: Ids = None, topic: Topic = None, reason: Reason = None) -> None:
    """Show complete dead letters, with the value in base64 and decoded where possible."""
    for one in read(ids, topic, reason):
        value = one.letter.value
        facts = _facts(one) | {"value": base64.b64encode(value).decode(), "size": len(value)}
        print(json.dumps(facts | {"decoded": _decoded(one.letter)}, indent=2, ensure_ascii=False))


@app.command()
def replay(
    ids: Ids = None,
    topic: Topic = None,
    reason: Reason = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Also what was replayed before.")] = False,
) -> None:
    """Replay records: the original key and bytes to their original topic.

    Each replay is first recorded in the audit log and otherwise not executed; a second replay of
    the same dead letter is rejected unless --force is given.
    """
    if not (ids or topic or reason or every):
        raise InvalidArgument("NOTHING_CHOSEN", "name dead letters, --topic, --reason or --all")
    asyncio.run(_replay(list(read(ids, topic, reason)), named=bool(ids), dry=dry_run, force=force))


async def _replay(letters: list[Letter], *, named: bool, dry: bool, force: bool) -> None:
    settings = settings_of(KafkaSettings)
    with replays.locked(Home.from_environment()):
        replayed = replays.replayed()
        chosen: dict[str, Letter] = {}
        for one in letters:
            if not one.letter.origin_topic:
                print(f"{one.id} was never on a topic: it is kept for analysis, not replayed")
            elif one.letter.event_id in replayed and not force:
                when = f"{one.id} was replayed at {replayed[one.letter.event_id]}"
                if named:
                    raise FailedPrecondition("REPLAYED_BEFORE", f"{when}: --force does it again")
                print(f"{when}: left out")
            elif one.letter.truncated:
                cut = f"{one.id} was cut to fit: the whole record is only at {one.origin}"
                if named:
                    raise FailedPrecondition("DEAD_LETTER_TRUNCATED", cut)
                print(f"{cut}; left out")
            else:
                # A record rejected twice, e.g. by a consumer that restarted, is still one record.
                chosen.setdefault(one.letter.event_id, one)
        if dry:
            for one in chosen.values():
                print(f"{one.id} would go to {one.letter.origin_topic}")
        elif chosen:
            async with (
                operator_log(settings_of(AuditSettings)) as log,
                Producer(settings, client_id="coinmesh-dlq") as producer,
            ):
                await producer.check_topics({o.letter.origin_topic for o in chosen.values()}, 10)
                for one in chosen.values():
                    await _put_back(producer, log, one)
    print(f"{len(chosen)} {'to replay' if dry else 'replayed'}")


async def _put_back(producer: Producer, log: AuditLog, one: Letter) -> None:
    letter = one.letter
    recorded = log.recorded(
        AUDIT_ACTION_DEAD_LETTER_REPLAY,
        actor=operator(),
        object=one.id,
        detail=f"to {letter.origin_topic}",
        metadata={replays.EVENT_ID: letter.event_id},
        instrument=letter.instrument,
    )
    key = letter.key if letter.HasField("key") else None
    headers: list[tuple[str, str | bytes | None]] = [("coinmesh-dlq", one.id)]
    async with recorded:
        partition, offset = await producer.deliver(letter.origin_topic, key, letter.value, headers)
    print(f"{one.id} → {letter.origin_topic} {partition}@{offset}")


def _facts(one: Letter) -> dict[str, Any]:
    letter = one.letter
    return {
        "id": one.id,
        "event_id": letter.event_id,
        "time": _time(letter),
        "reason": letter.reason,
        "detail": letter.detail,
        "reporter": letter.reporter,
        "topic": letter.origin_topic or None,
        "partition": letter.origin_partition,
        "offset": letter.origin_offset,
        "instrument": letter.instrument or None,
        "key": letter.key.decode(errors="replace") if letter.HasField("key") else None,
        "truncated": letter.truncated,
    }


def _time(letter: DeadLetter) -> str:
    moment = datetime.fromtimestamp(letter.receive_time / 1e9, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _decoded(letter: DeadLetter) -> Any:
    """Return the value as an event of its topic, else as text, else None."""
    topic = topics.BY_NAME.get(letter.origin_topic)
    if topic is not None and topic.message is not None:
        try:
            return json.loads(render(topic.message.FromString(framing.split(letter.value)[1])))
        except (framing.FramingError, DecodeError, ValueError):
            return None
    try:
        return letter.value.decode()
    except UnicodeDecodeError:
        return None
