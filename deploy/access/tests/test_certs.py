"""The certificate agent against a real Vault: what it writes, renews, survives and never tells."""

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from issuing import TABLE, agent, live, renew

from coinmesh_access import certificates
from coinmesh_access.agent import Agent, Place
from coinmesh_access.certificates import CertificateError
from coinmesh_access.login import VaultUnavailableError
from coinmesh_access.testing import BIN
from coinmesh_local.testing import eventually
from meshkit.metrics import Metrics
from meshkit.tls import CertificateFiles

pytestmark = pytest.mark.component
CERTS = Path(sys.executable).parent / "coinmesh-certs"
FILES = {"tls.key", "tls.crt", "ca.crt", "keystore.pem"}


def options(bao: Any) -> list[str]:
    return [
        *("--address", bao.vault.address, "--ca", str(bao.vault.ca)),
        *("--secrets", str(bao.secrets)),
    ]


class Running:
    """`coinmesh-certs agent` as a process."""

    def __init__(self, bao: Any, log: Path, *arguments: str) -> None:
        self.log = log
        self.metrics_port = bao.free_port()
        with open(log, "ab") as file:
            self.process = subprocess.Popen(
                [
                    CERTS,
                    "agent",
                    *options(bao),
                    *arguments,
                    "--metrics-listen",
                    f"127.0.0.1:{self.metrics_port}",
                ],
                stdout=file,
                stderr=file,
            )

    def metric(self, name: str) -> float | None:
        try:
            text = httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5).text
        except httpx.TransportError:
            return None
        found = re.search(rf"^coinmesh_{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else None


@contextmanager
def running(bao: Any, log: Path, *arguments: str) -> Iterator[Running]:
    started = Running(bao, log, *arguments)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.process.kill()
        started.process.wait()


def serial(directory: Path) -> str | None:
    found = certificates.current(directory)
    return found.serial if found else None


def test_a_directory_holds_one_whole_set(bao: Any, tmp_path: Path) -> None:
    live(bao, "redis", 3600)
    published = renew(bao, "redis", tmp_path / "tls")
    directory = tmp_path / "tls" / "current"
    assert directory.is_symlink()
    assert os.readlink(directory) == published.serial
    assert {path.name for path in directory.iterdir()} == FILES
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in directory.iterdir())
    assert (tmp_path / "tls").stat().st_mode & 0o777 == 0o700
    pair = CertificateFiles(tmp_path / "tls").read()
    leaf, authority = x509.load_pem_x509_certificates(pair.chain)
    assert f"{leaf.serial_number:040x}" == published.serial
    leaf.verify_directly_issued_by(authority)
    authority.verify_directly_issued_by(x509.load_pem_x509_certificate(pair.roots))
    assert (directory / "keystore.pem").read_bytes() == pair.key + pair.chain
    assert pair.key.startswith(b"-----BEGIN PRIVATE KEY-----")  # pragma: allowlist secret


def test_the_key_is_sent_nowhere(bao: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    genuine = requests.Session.request

    def recorded(self: Any, method: str, url: str, **more: Any) -> Any:
        sent.append(f"{method} {url} {more.get('json')} {more.get('params')} {more.get('data')}")
        return genuine(self, method, url, **more)

    monkeypatch.setattr(requests.Session, "request", recorded)
    renew(bao, "redis", tmp_path)
    pem = (tmp_path / "current" / "tls.key").read_text()
    number = serialization.load_pem_private_key(pem.encode(), None).private_numbers().private_value
    everything = "\n".join(sent)
    assert "CERTIFICATE REQUEST" in everything
    assert "PRIVATE KEY" not in everything
    body = "".join(pem.split("\n")[1:-2])
    for text in (body, body[40:80], str(number), f"{number:x}"):
        assert text not in everything
    logs = "\n".join(path.read_text(errors="replace") for path in bao.audit.parent.iterdir())
    assert body[40:80] not in logs


def test_a_certificate_for_another_key_is_not_published(
    bao: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = renew(bao, "redis", tmp_path)
    client = bao.service("redis")
    genuine = client.secrets.pki.sign_certificate
    strange = certificates.ec.generate_private_key(certificates.ec.SECP256R1())
    other = certificates._request(TABLE, "redis", strange, [TABLE.spiffe_id("redis")])
    monkeypatch.setattr(
        client.secrets.pki,
        "sign_certificate",
        lambda name, _, common, extra, mount_point: genuine(
            name, other, common, extra, mount_point=mount_point
        ),
    )
    with pytest.raises(CertificateError, match="another key"):
        certificates.renew(client, TABLE, "redis", tmp_path)
    assert serial(tmp_path) == before.serial


def test_a_reader_never_sees_half_a_pair(bao: Any, tmp_path: Path) -> None:
    renew(bao, "redis", tmp_path)
    files = CertificateFiles(tmp_path)
    seen: list[str] = []
    wrong: list[str] = []
    reads, stop = threading.Condition(), threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                pair = files.read()
                key = serialization.load_pem_private_key(pair.key, None)
                leaf = x509.load_pem_x509_certificate(pair.chain)
                if key.public_key() != leaf.public_key():
                    wrong.append(f"{leaf.serial_number:x} with another key")
                store = (tmp_path / "current" / "keystore.pem").read_bytes()
                stored = serialization.load_pem_private_key(store, None).public_key()
                if stored != x509.load_pem_x509_certificate(store).public_key():
                    wrong.append("keystore.pem is mixed")
                found = f"{leaf.serial_number:040x}"
            except Exception as error:
                wrong.append(repr(error))
                found = ""
            with reads:
                seen.append(found)
                reads.notify_all()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(25):
            renew(bao, "redis", tmp_path)
            with reads:
                count = len(seen)
                assert reads.wait_for(lambda n=count: len(seen) > n, timeout=120)
    finally:
        stop.set()
        reader.join()
    assert wrong == []
    assert len(set(seen)) > 20


def test_old_directories_and_a_killed_agents_drafts_go(bao: Any, tmp_path: Path) -> None:
    draft = tmp_path / ".draft-killed"
    draft.mkdir()
    made = [renew(bao, "redis", tmp_path).serial for _ in range(5)]
    kept = {path.name for path in tmp_path.iterdir() if not path.is_symlink()}
    assert kept == set(made[-1 - certificates.KEPT :])


async def test_once_renews_only_what_is_due(bao: Any, tmp_path: Path) -> None:
    live(bao, "redis", 3600)
    place = Place("redis", tmp_path)
    await agent(bao).once([place])
    first = serial(tmp_path)
    assert first
    await agent(bao).once([place])
    assert serial(tmp_path) == first


async def test_without_vault_and_certificate_there_is_nothing_to_start_with(
    bao: Any, tmp_path: Path
) -> None:
    gone = Agent(
        type(bao.vault)("https://127.0.0.1:1", bao.vault.ca), bao.secrets, TABLE, {}, Metrics()
    )
    with pytest.raises(VaultUnavailableError, match="doesn't answer"):
        await gone.once([Place("redis", tmp_path)])
    live(bao, "redis", 3600)
    renew(bao, "redis", tmp_path)
    await gone.once([Place("redis", tmp_path)])


def test_the_agent_renews_and_says_so(bao: Any, tmp_path: Path) -> None:
    live(bao, "envoy", 3)
    tls, log = tmp_path / "tls", tmp_path / "log"
    login = bao.secrets / "envoy" / "secret-id"
    first = login.read_text()
    seen: set[str] = set()

    def renewed() -> bool:
        seen.add(serial(tls) or "")
        return len(seen - {""}) >= 4

    with running(bao, log, "--service", "envoy", "--dir", str(tls)) as process:
        eventually(renewed, "four certificates of three seconds", timeout=60)
        left = process.metric('certificate_seconds_left{peer="envoy"}')
        assert left is not None
        assert 0 < left <= 3
        assert (process.metric('certificate_renewals_total{peer="envoy"}') or 0) >= 4
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(timeout=120) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    told = {line.get("serial") for line in lines if line["message"] == "certificate renewed"}
    assert seen - {""} <= told
    assert all(line["service"] == "certs" for line in lines)
    assert "PRIVATE" not in log.read_text()
    assert login.read_text() != first
    assert login.read_text() not in log.read_text()


def test_certificates_are_renewed_without_the_callers_proxy(
    bao: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "example.org")
    words = [BIN / "coinmesh-certs", "agent", "--service", "redis", "--dir", tmp_path, "--once"]
    at = ["--address", bao.vault.address, "--ca", bao.vault.ca, "--secrets", bao.secrets]
    subprocess.run([*words, *at], check=True)
    assert certificates.current(tmp_path) is not None


def test_a_hangup_renews_what_is_not_due(bao: Any, tmp_path: Path) -> None:
    live(bao, "envoy", 3600)
    tls = tmp_path / "tls"
    with running(bao, tmp_path / "log", "--service", "envoy", "--dir", str(tls)) as process:
        first = eventually(lambda: serial(tls), "the certificate is there", timeout=60)
        eventually(
            lambda: process.metric('certificate_seconds_left{peer="envoy"}'), "it waits", timeout=60
        )
        process.process.send_signal(signal.SIGHUP)
        eventually(lambda: serial(tls) != first, "another one", timeout=60)
        assert process.metric('certificate_renewals_total{peer="envoy"}') == 2


def test_a_sealed_and_a_killed_vault_leave_the_certificate_in_place(
    bao: Any, tmp_path: Path
) -> None:
    live(bao, "envoy", 9)
    # Somebody who may seal it: the setup itself may not.
    more = 'path "sys/seal" { capabilities = ["update", "sudo"] }\n'
    admin = bao.admin()
    admin.sys.create_or_update_acl_policy("sim-exchange", more)
    sealer = bao.service("sim-exchange")
    tls, log = tmp_path / "tls", tmp_path / "log"
    failures = 'certificate_renewal_failures_total{peer="envoy"}'
    try:
        with running(bao, log, "--service", "envoy", "--dir", str(tls)) as process:
            eventually(lambda: serial(tls), "the first certificate", timeout=60)
            sealer.sys.seal()
            eventually(lambda: (process.metric(failures) or 0) >= 1, "a failed renewal", timeout=60)
            held = serial(tls)
            assert "sealed" in log.read_text()
            bao.stop(signal.SIGKILL)
            before = process.metric(failures) or 0
            eventually(lambda: (process.metric(failures) or 0) > before, "another", timeout=60)
            assert serial(tls) == held
            assert CertificateFiles(tls).read().key
            bao.start()
            eventually(lambda: serial(tls) != held, "a renewal", timeout=60)
            assert process.process.poll() is None
    finally:
        if bao.process is None:
            bao.start()
        bao.setup()


def handshake(server_dir: Path, client_dir: Path | None, trust: Path) -> None:
    """A TLS 1.3 handshake in memory; ssl.SSLError when either side refuses."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=server_dir / "ca.crt")
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain(server_dir / "tls.crt", server_dir / "tls.key")
    client = ssl.create_default_context(cafile=trust)
    if client_dir is not None:
        client.load_cert_chain(client_dir / "tls.crt", client_dir / "tls.key")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1"),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    waiting = [True, True]
    for _ in range(10):
        for index, end in enumerate(ends):
            try:
                end.do_handshake()
                waiting[index] = False
            except ssl.SSLWantReadError:
                pass
        if not any(waiting):
            break
    assert not any(waiting)
    assert ends[0].version() == "TLSv1.3"
    ends[0].write(b"x")
    assert ends[1].read(1) == b"x"


def test_one_agent_serves_all_and_its_certificates_fit_together(bao: Any, tmp_path: Path) -> None:
    bao.setup(leaf=3600)
    subprocess.run(
        [CERTS, "agent", "--all", "--once", "--tls", tmp_path, *options(bao)], check=True
    )
    for name in TABLE.services:
        leaf = x509.load_pem_x509_certificate((tmp_path / name / "current/tls.crt").read_bytes())
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        assert uris == [TABLE.spiffe_id(name)]
    server, client = (tmp_path / name / "current" for name in ("query-gateway", "envoy"))
    handshake(server, client, client / "ca.crt")
    with pytest.raises(ssl.SSLError):
        handshake(server, None, client / "ca.crt")
    # A stranger: the certificate of OpenBao's own listener comes from another authority.
    with pytest.raises(ssl.SSLError):
        handshake(server, bao.secrets / "openbao" / "current", client / "ca.crt")
    # And one who doesn't listen is no server.
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path / "cli" / "current", client, client / "ca.crt")


def test_an_unknown_service_is_told(bao: Any) -> None:
    done = subprocess.run(
        [CERTS, "agent", "--once", "--service", "envoi", *options(bao)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "envoi" in done.stderr
