"""What the gateway's tests share: makers of events and rows, and an in-memory Cassandra."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
