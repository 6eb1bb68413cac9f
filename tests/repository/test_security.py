"""docs/security.md names a test for every threat, and each of them exists."""

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "security.md"


def test_every_threat_is_shown_by_tests_that_exist() -> None:
    section = PAGE.read_text().partition("## Threats")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 10
    for threat, control, shown in rows:
        assert control.strip(), threat
        tests = re.findall(r"\]\(([^)]+)\)", shown)
        assert tests, threat
        for test in tests:
            text = (PAGE.parent / test).resolve().read_text()
            assert re.search(r"^(async )?def test_", text, re.MULTILINE), test
