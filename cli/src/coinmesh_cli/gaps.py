"""`coinmesh gaps`: list gaps in the collected streams and retry their repair."""

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Annotated, Any

import httpx
import typer
from google.protobuf.message import DecodeError

from coinmesh_cli.records import TopicReader, settings_of
from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1 import gap_pb2 as pb
from coinmesh_local import local_user
from coinmesh_local.mesh import Mesh
from coinmesh_local.paths import Home
from meshkit.errors import (
    FailedPrecondition,
    MeshError,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from meshkit.settings import KafkaSettings
from meshkit.tls import trusting_ssl_context

#: Longer than Envoy waits for a collector.
TIMEOUT_SECONDS = 35
_CLOSED = (pb.GAP_STATE_REPAIRED, pb.GAP_STATE_RESYNCED)
_ERRORS: dict[int, type[MeshError]] = {
    401: Unauthenticated,
    403: PermissionDenied,
    404: NotFound,
    400: FailedPrecondition,
}
app = typer.Typer(no_args_is_help=True, help="Gaps in the collected streams: list, retry.")


def register(parent: typer.Typer) -> None:
    """Add the command group to `parent`."""
    parent.add_typer(app, name="gaps")


@app.command("list")
def list_gaps(
    *,
    only_open: Annotated[bool, typer.Option("--open", help="Only gaps that are open.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """List the current state of each gap, oldest first."""
    gaps = [gap for gap in latest().values() if not only_open or gap.state == pb.GAP_STATE_OPEN]
    for gap in sorted(gaps, key=lambda gap: (gap.receive_time, gap.gap_id)):
        facts = _facts(gap)
        if as_json:
            print(json.dumps(facts, ensure_ascii=False))
        else:
            print(
                f"{facts['time']}  {facts['state']:<12} {facts['cause']:<16} {gap.gap_id}"
                f"  {_span(gap)}  {gap.detail}"
            )
    if not as_json:
        print(f"{len(gaps)} {'open ' if only_open else ''}gap{'' if len(gaps) == 1 else 's'}")


@app.command()
def retry(
    gap_id: Annotated[str, typer.Argument(help="The gap's id; `coinmesh gaps list` shows it.")],
) -> None:
    """Retry the repair of a gap that is open or was given up."""
    gap = latest().get(gap_id)
    if gap is None:
        raise NotFound("GAP_NOT_FOUND", f"there is no gap {gap_id!r}; see `coinmesh gaps list`")
    if gap.state in _CLOSED:
        raise FailedPrecondition("GAP_CLOSED", f"gap {gap_id} is {_state(gap)} already")
    mesh = Mesh.recorded(Home.from_environment())
    with http_client(mesh) as client:
        request_repair(client, gap)
    print(f"{gap_id}: repair requested; `coinmesh gaps list` shows its state")


def latest() -> dict[str, pb.Gap]:
    """Return the record with the highest revision of each gap, by its id."""
    newest: dict[str, pb.Gap] = {}
    for gap in _records():
        known = newest.get(gap.gap_id)
        if known is None or gap.revision >= known.revision:
            newest[gap.gap_id] = gap
    return newest


def http_client(mesh: Mesh) -> httpx.Client:
    """Return a client of the public REST listener, with the local user's token."""
    rest = mesh.endpoints()["rest"]
    return httpx.Client(
        base_url=str(rest["url"]),
        verify=trusting_ssl_context(str(rest["ca"])),
        auth=local_user.Bearer(mesh),
        timeout=TIMEOUT_SECONDS,
    )


def request_repair(client: httpx.Client, gap: pb.Gap) -> None:
    """Call RetryGap of the gap's collector, which has the name of its source.

    Raises:
        NotFound: The collector has no such gap, or is not part of the mesh.
        FailedPrecondition: The collector rejects the request.
        PermissionDenied: The local user is no editor.
        Unauthenticated: The local user's token or key is invalid.
        Unavailable: Envoy or the collector is unreachable.
    """
    collector = gap.source
    try:
        answer = client.post(f"/v1/collectors/{collector}:retryGap", json={"gapId": gap.gap_id})
    except httpx.HTTPError as error:
        raise Unavailable(
            "REST_UNREACHABLE",
            f"{client.base_url} is unreachable ({error}); see `coinmesh status`",
        ) from error
    if answer.is_success:
        return
    reason, message = _problem(answer)
    if reason == "UNKNOWN_PATH":
        message = f"the mesh has no collector {collector!r}; see `coinmesh status`"
    elif reason == "BACKEND_UNAVAILABLE":
        message = f"collector {collector!r} is not running; see `coinmesh status`"
    raise _ERRORS.get(answer.status_code, Unavailable)(reason, message)


def _records() -> Iterator[pb.Gap]:
    with closing(TopicReader(settings_of(KafkaSettings), topics.GAPS.name)) as reader:
        for message in reader.existing():
            try:
                yield pb.Gap.FromString(framing.split(message.value())[1])
            except (framing.FramingError, DecodeError) as error:
                typer.echo(
                    f"{message.partition()}:{message.offset()} is not a gap: {error}", err=True
                )


def _problem(answer: httpx.Response) -> tuple[str, str]:
    """Return reason and message of an error's body, which is google.rpc.Status as JSON."""
    try:
        body = answer.json()
        return str(body["details"][0]["reason"]), str(body["message"])
    except (ValueError, KeyError, IndexError, TypeError):
        return "UNEXPECTED_ANSWER", f"{answer.url} answered {answer.status_code}"


def _state(gap: pb.Gap) -> str:
    return _name(pb.GapState, gap.state, "GAP_STATE_")


def _name(kind: Any, number: int, prefix: str) -> str:
    """Return an enumerator without its prefix, in lower case; the number of an unknown one."""
    if number not in kind.values():
        return str(number)
    return str(kind.Name(number)).removeprefix(prefix).lower()


def _span(gap: pb.Gap) -> str:
    match gap.WhichOneof("span"):
        case "ids":
            return f"ids {gap.ids.first} to {gap.ids.last}"
        case "blocks":
            return f"blocks {gap.blocks.first} to {gap.blocks.last}"
        case "time":
            return f"{_moment(gap.time.start)} to {_moment(gap.time.end)}"
        case "cursor":
            return f"cursors {gap.cursor.after!r} to {gap.cursor.until!r}"
        case _:
            return ""


def _facts(gap: pb.Gap) -> dict[str, Any]:
    return {
        "gap_id": gap.gap_id,
        "time": _moment(gap.receive_time // 1_000),
        "source": gap.source,
        "instrument": gap.instrument,
        "channel": gap.channel,
        "state": _state(gap),
        "cause": _name(pb.GapCause, gap.cause, "GAP_CAUSE_"),
        "span": _span(gap),
        "repaired": gap.repaired_count,
        "failed_attempts": gap.failed_attempts,
        "revision": gap.revision,
        "detail": gap.detail,
    }


def _moment(microseconds: int) -> str:
    moment = datetime.fromtimestamp(microseconds / 1e6, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
