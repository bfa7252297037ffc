"""The overview picture is as its source makes it, and can be read."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from images.overview import PICTURE, picture

SVG = "{http://www.w3.org/2000/svg}"
ROOT = ElementTree.fromstring(picture())
# Of the widest of the fonts that it names, at 12.5 pixels; titles are larger.
WIDEST_LETTER_PIXELS = 7.7


def numbers(element: ElementTree.Element, *names: str) -> list[float]:
    return [float(element.get(name, "0")) for name in names]


def test_the_picture_is_as_its_source_makes_it() -> None:
    assert PICTURE.read_text() == picture(), "stale: run python -m images.overview"


@pytest.mark.parametrize(
    "part",
    [
        "S3", "SQS", "EventSource", "EventBus", "Sensor", "plan", "detect", "TensorFlow Serving", "aggregate", "finish",
        "S3 results", "S3 ledger", "SQS completed", "SQS dead letter", "reconciler",
    ],
)  # fmt: skip
def test_it_shows(part: str) -> None:
    assert part in [text.text for text in ROOT.iter(f"{SVG}text")]


def test_every_text_lies_within_the_picture() -> None:
    _, _, width, height = map(float, ROOT.attrib["viewBox"].split())
    for text in ROOT.iter(f"{SVG}text"):
        x, y = numbers(text, "x", "y")
        wide = len(text.text or "") * WIDEST_LETTER_PIXELS * (1.25 if text.get("class") == "title" else 1)
        left = {"start": x, "middle": x - wide / 2}[text.attrib["text-anchor"]]
        assert left >= 0, text.text
        assert left + wide <= width, text.text
        assert 15 <= y <= height - 8, text.text


def test_every_colour_has_one_for_light_and_one_for_dark_pages() -> None:
    style = ROOT.findtext(f"{SVG}style") or ""
    light, dark = (set(re.findall(r"(--\w+): #", part)) for part in style.split("prefers-color-scheme: dark"))
    assert light == dark == set(re.findall(r"var\((--\w+)\)", style))


def luminance(colour: str) -> float:
    """Relative luminance, 0 to 1 (WCAG 2.2)."""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_stands_out_as_accessibility_asks(scheme: int) -> None:
    style = ROOT.findtext(f"{SVG}style") or ""
    colours = dict(re.findall(r"--(\w+): (#\w+)", style.split("prefers-color-scheme: dark")[scheme]))
    for ground in ("store", "queue", "events", "step", "serving", "watch"):
        assert contrast(colours["text"], colours[ground]) >= 7, ground
    for ground in ("page", "group"):
        assert contrast(colours["soft"], colours[ground]) >= 4.5, ground
