"""Makes the tests' own modules importable, whichever directory pytest is started in."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
