"""docs/aws-sample.md: what it says of ours is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from infra.template import CLUSTER, Template

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/aws-sample.md").read_text()
TEMPLATES = (Template(CLUSTER).content, Template(ROOT / "infra/eia.yaml").content)


def rows(heading: str) -> list[list[str]]:
    """Cells of a section's table."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    table = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return table[2:]


@pytest.mark.parametrize(
    ("heading", "parts"),
    [
        ("Parameters of the template", ["Parameters"]),
        ("Resources", ["Resources", "Mappings"]),
        ("Outputs", ["Outputs"]),
    ],
)
def test_what_is_named_of_ours_is_in_our_templates(heading: str, parts: list[str]) -> None:
    named = {name for _, here in rows(heading) for name in re.findall(r"`([A-Z][A-Za-z]+[0-9]?)`", here)}
    ours = {name for content in TEMPLATES for part in parts for name in content.get(part, {})}
    assert named
    assert named <= ours


def test_variables_are_those_of_the_makefile() -> None:
    known = re.findall(r"^([A-Z][A-Z0-9_]*) \?=", (ROOT / "infra/aws.mk").read_text(), re.MULTILINE)
    assert set(re.findall(r"`([A-Z][A-Z0-9_]+)`", "".join(first for first, *_ in rows("Variables")))) <= set(known)
