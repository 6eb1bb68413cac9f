"""Locations of the mesh's files: checkout, state directory (home) and the user's cache."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshkit.files import write_atomically

#: deploy/local: component definitions, configuration templates and poms are beside the code.
LOCAL = Path(__file__).resolve().parents[2]
CHECKOUT = LOCAL.parents[1]
DEFAULT_HOME = CHECKOUT / ".coinmesh"
#: The file that marks a state directory.
MARKER = ".coinmesh-home"
COMPONENTS = LOCAL / "components"
#: Where components are declared: third-party ones in files, ours by the tree's manifests.
DECLARED = (COMPONENTS, CHECKOUT)
POMS = LOCAL / "provision"
#: Directory of the running interpreter's commands, so that any virtual environment works.
BIN = Path(sys.executable).parent


def cache_directory() -> Path:
    """Return Coinmesh's directory in the user's cache, for downloads and tools' caches."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "coinmesh"


@dataclass(frozen=True)
class Home:
    """A state directory: one mesh, its data, logs and secrets."""

    root: Path

    @classmethod
    def from_environment(cls) -> "Home":
        """Return the directory named by COINMESH_HOME, by default `.coinmesh` in the checkout."""
        return cls(Path(os.environ.get("COINMESH_HOME") or DEFAULT_HOME).absolute())

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def start_passwords(self) -> Path:
        """Return the directory of passwords between components; `down` removes it."""
        return self.secrets / "start"

    @property
    def tls(self) -> Path:
        """Return the parent of the identities' directories; `current/` has the certificate."""
        return self.root / "tls"

    @property
    def ca(self) -> Path:
        """Return the CA certificate of the mesh's listeners, a symbolic link that never changes."""
        return self.root / "ca.crt"

    def log(self, instance: str) -> Path:
        return self.logs / f"{instance}.log"

    @property
    def is_marked(self) -> bool:
        """Return whether a mesh keeps its state here: only such a directory is ever deleted."""
        # Older meshes have no marker, but always this file.
        return (self.root / MARKER).exists() or (self.run / "mesh.json").exists()

    def create(self) -> None:
        """Create the directories, accessible to their owner only.

        Raises:
            FileExistsError: The directory holds other files.
            PermissionError: A directory can't be written.
        """
        is_known = self.is_marked or self.root == DEFAULT_HOME
        if not is_known and self.root.is_dir() and any(self.root.iterdir()):
            raise FileExistsError(
                f"{self.root} holds other files and is no state directory of Coinmesh: set "
                "COINMESH_HOME to an empty or a new directory"
            )
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            for private in (self.root, self.data, self.logs, self.run, self.secrets, self.tls):
                private.mkdir(exist_ok=True, mode=0o700)
                private.chmod(0o700)
            (self.root / MARKER).touch()
        except OSError as error:
            raise PermissionError(
                f"can't keep the mesh's state in {self.root} ({error.strerror}): set COINMESH_HOME "
                "to a directory that can be written"
            ) from error
        for directory in (self.data, self.logs, self.run, self.secrets):
            if not os.access(directory, os.W_OK):
                raise PermissionError(f"{directory} is not writable: set COINMESH_HOME elsewhere")
        if not self.ca.is_symlink():
            self.ca.symlink_to("tls/deploy/current/ca.crt")

    def read_json(self, name: str, default: Any) -> Any:
        """Return the JSON file `run/<name>`, or `default` when it is missing or damaged."""
        try:
            return json.loads((self.run / name).read_text())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return default

    def write_json(self, name: str, value: Any) -> None:
        """Replace `run/<name>` atomically."""
        write_atomically(self.run / name, json.dumps(value, indent=2) + "\n", 0o600)
