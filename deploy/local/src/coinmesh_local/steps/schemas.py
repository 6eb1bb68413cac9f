"""Register the event contracts as .proto text in a Confluent-compatible registry.

Only this step registers schemas: services look their ids up and don't start without them. Rules
come first (compatibility BACKWARD_TRANSITIVE, and in Apicurio INTEGRITY and VALIDITY, without which
unresolved imports are accepted), then every contract after its imports.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from coinmesh_contracts import sources, topics
from coinmesh_local.steps.errors import StepError
from meshkit.errors import MeshError
from meshkit.registry_client import RegistryClient
from meshkit.settings import RegistrySettings

COMPATIBILITY = "BACKWARD_TRANSITIVE"
RULES = {"INTEGRITY": "FULL", "VALIDITY": "FULL"}
REQUEST_SECONDS = 30.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Contract:
    """One schema to register; `references` are the subjects (import paths) that it imports."""

    subject: str
    text: str
    references: tuple[str, ...]


def contracts() -> Iterator[Contract]:
    """Yield the contracts of all topics, dependencies first: imports by path, then values."""
    paths: dict[str, None] = {}
    values: list[Contract] = []
    for topic in topics.ALL:
        if topic.message is None:
            continue
        path = topic.message.DESCRIPTOR.file.name
        text = sources.proto_text(path)
        paths |= dict.fromkeys(p for p in sources.with_imports(path) if p != path)
        values.append(Contract(topic.subject, text, tuple(sources.imports(text))))
    for path in paths:
        text = sources.proto_text(path)
        yield Contract(path, text, tuple(sources.imports(text)))
    yield from values


class SchemaDeployment:
    """The registry calls needed for deployment."""

    def __init__(self, registry: RegistryClient) -> None:
        self._registry = registry
        parts = urlsplit(registry.url)
        self._admin = f"{parts.scheme}://{parts.netloc}/apis/registry/v3/admin/rules"

    def set_rules(self) -> None:
        """Set the global rules; those of Apicurio's own API only where it exists."""
        self._registry.request("PUT", "/config", {"compatibility": COMPATIBILITY})
        listed = self._registry.request("GET", self._admin, accepted={404})
        if listed.status_code == 404:
            return
        for kind, config in RULES.items():
            rule = {"ruleType": kind, "config": config}
            if kind in listed.json():
                self._registry.request("PUT", f"{self._admin}/{kind}", rule)
            else:
                self._registry.request("POST", self._admin, rule)

    def register(self, contract: Contract) -> int:
        """Register one contract, with its references' latest versions; return the schema's id.

        Registering the same contract again returns the same id. StepError when the registry rejects
        it.
        """
        references = [
            {"name": path, "subject": path, "version": self._latest(path)}
            for path in contract.references
        ]
        body = {"schemaType": "PROTOBUF", "schema": contract.text, "references": references}
        path = f"/subjects/{quote(contract.subject, safe='')}/versions"
        answer = self._registry.request("POST", path, body, accepted={409, 422})
        if answer.status_code in (409, 422):
            why = answer.json().get("message", answer.text)
            raise StepError(
                f"the registry refuses {contract.subject}: {why}. A contract may only grow: keep "
                "numbers and types, reserve what is removed, or begin a new version (…v2)"
            )
        return int(answer.json()["id"])

    def _latest(self, subject: str) -> int:
        path = f"/subjects/{quote(subject, safe='')}/versions/latest"
        return int(self._registry.request("GET", path).json()["version"])


def register_all(settings: RegistrySettings) -> dict[str, int]:
    """Set the rules, register every contract and return the ids by subject."""
    try:
        with RegistryClient(settings, request_seconds=REQUEST_SECONDS) as registry:
            deployment = SchemaDeployment(registry)
            deployment.set_rules()
            ids = {contract.subject: deployment.register(contract) for contract in contracts()}
    except MeshError as error:
        raise StepError(error.message) from error
    for subject, number in ids.items():
        _log.info("schema %d is %s", number, subject)
    return ids
