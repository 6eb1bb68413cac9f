"""Format a Kafka node's storage so that a kill -9 at any moment leaves no partial state.

The log directory is formatted under another name and renamed when it is complete. A copy of
meta.properties is kept beside it: a lost, truncated or foreign one is restored from the copy.
"""

import argparse
import base64
import contextlib
import logging
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

from meshkit import logs
from meshkit.files import write_atomically

META = "meta.properties"
_log = logging.getLogger(__name__)


def cluster_id(path: Path) -> str:
    """Return the mesh's cluster id, creating it on first use.

    All nodes race to create one hard link; the first wins.
    """
    if not path.exists():
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        write_atomically(draft, text)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    return path.read_text().strip()


def restore(log: Path, copy: Path) -> bool:
    """Restore the node's identity if it was lost or altered; return False when it has none yet."""
    if not copy.is_file() or not log.is_dir():
        return False
    meta = log / META
    if not meta.is_file() or meta.read_text() != copy.read_text():
        _log.warning("%s was lost or altered: restored from %s", meta, copy)
        write_atomically(meta, copy.read_text())
    return True


def format_storage(arguments: argparse.Namespace, log: Path, copy: Path) -> None:
    """Run Kafka's storage tool on a new directory and publish the result by one rename."""
    fresh = log.with_name("log.new")
    for left in (fresh, log):
        shutil.rmtree(left, ignore_errors=True)
    properties = Path(arguments.properties).read_text()
    draft = Path(arguments.properties).with_name("format.properties")
    write_atomically(draft, properties.replace(f"log.dirs={log}", f"log.dirs={fresh}"), 0o600)
    identity = cluster_id(Path(arguments.cluster))
    tool = [arguments.java, "-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", arguments.classpath]
    tool += ["kafka.tools.StorageTool", "format", f"--cluster-id={identity}", "-c", str(draft)]
    done = subprocess.run(
        tool, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    level = logging.ERROR if done.returncode else logging.INFO
    for line in done.stdout.splitlines():
        _log.log(level, "%s", line)
    done.check_returncode()
    write_atomically(copy, (fresh / META).read_text())
    os.replace(fresh, log)


def main() -> int:
    """Prepare the storage of one node; return the exit status of Kafka's tool when it fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("java", "classpath", "properties", "data", "node", "cluster"):
        parser.add_argument(f"--{name}", required=True)
    arguments = parser.parse_args()
    logs.configure("kafka")
    log = Path(arguments.data) / "log"
    copy = Path(arguments.data) / f"{META}.copy"
    if restore(log, copy):
        return 0
    try:
        format_storage(arguments, log, copy)
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
