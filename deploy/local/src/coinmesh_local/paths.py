"""Where the mesh keeps things: the checkout, the state directory (home) and the user's cache."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshkit.files import write_atomically

#: deploy/local: component definitions, configuration templates and poms lie here, beside the code.
LOCAL = Path(__file__).resolve().parents[2]
CHECKOUT = LOCAL.parents[1]
DEFAULT_HOME = CHECKOUT / ".coinmesh"
#: The file that marks a state directory.
MARKER = ".coinmesh-home"
COMPONENTS = LOCAL / "components"
#: Where components are declared: third-party ones in files, our own by the tree's manifests.
DECLARED = (COMPONENTS, CHECKOUT)
POMS = LOCAL / "provision"
#: The virtual environment's commands: the running interpreter's own, so that any venv works.
BIN = Path(sys.executable).parent


def cache_directory() -> Path:
    """The user's cache directory of Coinmesh: downloads, and the tools' own caches below it."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "coinmesh"


@dataclass(frozen=True)
class Home:
    """A state directory: one mesh, its data, logs and secrets."""

    root: Path

    @classmethod
    def from_environment(cls) -> "Home":
        """The directory that COINMESH_HOME names, by default `.coinmesh` in the checkout."""
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
        """What some components ask of others, from a start of the mesh to its end."""
        return self.secrets / "start"

    @property
    def tls(self) -> Path:
        """A directory for each identity, whose `current/` holds its key and certificate."""
        return self.root / "tls"

    @property
    def ca(self) -> Path:
        """The authority that vouches for every listener of the mesh: a link that never changes."""
        return self.root / "ca.crt"

    def log(self, instance: str) -> Path:
        return self.logs / f"{instance}.log"

    @property
    def is_marked(self) -> bool:
        """Whether a mesh keeps its state here: only such a directory is ever deleted."""
        # Older meshes have no marker, but always this file.
        return (self.root / MARKER).exists() or (self.run / "mesh.json").exists()

    def create(self) -> None:
        """Create the directories, open to their owner only.

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
        """The JSON file `run/<name>`, or `default` when there is none or it is damaged."""
        try:
            return json.loads((self.run / name).read_text())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return default

    def write_json(self, name: str, value: Any) -> None:
        """Replace `run/<name>` atomically."""
        write_atomically(self.run / name, json.dumps(value, indent=2) + "\n", 0o600)
