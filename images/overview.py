"""Draws images/overview.svg, the picture of the whole: `python -m images.overview`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

PICTURE = Path(__file__).with_name("overview.svg")

_WIDTH, _HEIGHT = 1120, 640
_LINE_PIXELS = 17

# It brings its own background, so that it can be read on any page; the colours follow the reader's choice.
_STYLE = """
svg { --page: #ffffff; --group: #f3f5f8; --line: #57606a; --text: #1f2328; --soft: #57606a;
      --store: #dbeafe; --queue: #fde8c8; --events: #e7e0fa; --step: #d5f0dc; --serving: #fbdcdc; --watch: #e6e8eb; }
@media (prefers-color-scheme: dark) {
  svg { --page: #0d1117; --group: #161b22; --line: #9198a1; --text: #e6edf3; --soft: #9aa4af;
        --store: #17335c; --queue: #5a3a0a; --events: #3b2d66; --step: #123f22; --serving: #5c2226; --watch: #30363d; }
}
text { font-family: system-ui, "Segoe UI", Helvetica, Arial, sans-serif; font-size: 12.5px; fill: var(--soft); }
.title { font-size: 15px; font-weight: 600; fill: var(--text); }
.inside { fill: var(--text); }
.page { fill: var(--page); } .group { fill: var(--group); stroke: var(--line); stroke-dasharray: 5 4; }
.store { fill: var(--store); } .queue { fill: var(--queue); } .events { fill: var(--events); }
.step { fill: var(--step); } .serving { fill: var(--serving); } .watch { fill: var(--watch); }
.box { stroke: var(--line); } .arrow { fill: none; stroke: var(--line); stroke-width: 1.6; marker-end: url(#head); }
.joins { marker-end: none; } .head { fill: var(--line); }
""".strip()

Point = tuple[float, float]


def box(kind: str, left: float, top: float, width: float, title: str, *lines: str, height: float = 0) -> str:
    """A rounded box with a title and lines below it, centred; its height fits them if none is given."""
    height = height or 20 + _LINE_PIXELS * (1 + len(lines))
    middle = left + width / 2
    first = top + height / 2 - _LINE_PIXELS * len(lines) / 2 + 5
    parts = [f'<rect class="box {kind}" x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}" rx="8"/>']
    parts += [_text(middle, first, title, "title")] if title else []
    parts += [_text(middle, first + _LINE_PIXELS * (n + 1), line, "inside") for n, line in enumerate(lines)]
    return "\n".join(parts)


def group(left: float, top: float, width: float, height: float, title: str) -> str:
    """A dashed frame around others, with its name in the upper left corner."""
    frame = f'<rect class="group" x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}" rx="12"/>'
    return f"{frame}\n{_text(left + 16, top + 25, title, 'title', anchor='start')}"


def arrow(points: Sequence[Point], *lines: str, at: Point = (0, 0), anchor: str = "middle", head: bool = True) -> str:
    """An arrow along the points, with lines of text at a place; without a head it is one that joins another."""
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    parts = [f'<polyline class="arrow{"" if head else " joins"}" points="{path}"/>']
    parts += [_text(at[0], at[1] + _LINE_PIXELS * n, line, "", anchor=anchor) for n, line in enumerate(lines)]
    return "\n".join(parts)


def _text(x: float, y: float, words: str, kind: str, *, anchor: str = "middle") -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>'


def picture() -> str:
    """The whole picture as SVG."""
    parts = [
        # How a task comes in.
        box("store", 30, 58, 130, "S3", "videos"),
        box("queue", 290, 58, 130, "SQS", "task queue"),
        group(510, 20, 580, 112, "Argo Events"),
        box("events", 530, 58, 140, "EventSource", "SQS"),
        box("events", 730, 58, 140, "EventBus", "JetStream"),
        box("events", 930, 58, 140, "Sensor", "message to task"),
        arrow([(160, 85), (288, 85)], "event, or", "reelscan send", at=(224, 60)),
        arrow([(420, 85), (528, 85)], "message", at=(464, 76)),
        arrow([(670, 85), (728, 85)]),
        arrow([(870, 85), (928, 85)]),
        arrow([(1000, 112), (1000, 178)], "creates", at=(1010, 162), anchor="start"),
        # What becomes of it.
        group(220, 180, 870, 246, "Argo Workflow, one for each task"),
        box("step", 246, 264, 160, "plan", "one forward read,", "chunks at keyframes"),
        *(_pod(486 + 11 * n, 220 + 11 * n, with_text=n == 0) for n in (2, 1, 0)),
        box("step", 740, 264, 150, "aggregate", "checks each frame,", "merges in order"),
        box("step", 930, 264, 140, "finish", "on exit: reports", "what failed"),
        arrow([(406, 300), (484, 300)], "N chunks", at=(443, 291)),
        arrow([(688, 300), (738, 300)]),
        arrow([(890, 300), (928, 300)]),
        arrow([(60, 112), (60, 300), (244, 300)]),
        arrow([(60, 240), (484, 240)]),
        _text(70, 150, "byte ranges", "", anchor="start"),
        _text(70, 150 + _LINE_PIXELS, "of the video,", "", anchor="start"),
        _text(70, 150 + 2 * _LINE_PIXELS, "no copy on disk", "", anchor="start"),
        # What comes out.
        box("queue", 246, 482, 170, "SQS completed", "one answer a task"),
        box("queue", 246, 556, 170, "SQS dead letter", "fit to be sent again"),
        box("store", 496, 502, 180, "S3 ledger", "an answer is written", "before it is sent"),
        box("store", 740, 502, 150, "S3 results", "frames.jsonl.gz,", "Parquet, COCO, ..."),
        box("watch", 930, 502, 140, "reconciler", "answers for what", "was stopped"),
        arrow([(850, 335), (850, 500)], "results", at=(858, 484), anchor="start"),
        arrow([(1000, 335), (1000, 448), (586, 448), (586, 500)], "answers", at=(700, 441)),
        arrow([(780, 335), (780, 448)], head=False),
        arrow([(496, 528), (456, 528), (456, 509), (418, 509)]),
        arrow([(496, 545), (456, 545), (456, 583), (418, 583)], "failed", at=(440, 601)),
        arrow([(1030, 502), (1030, 428)], "watches", at=(1038, 482), anchor="start"),
        arrow([(1000, 573), (1000, 606), (586, 606), (586, 575)], "answers", at=(790, 599)),
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
            'aria-labelledby="title">',
            '<title id="title">From a video in S3 to its results: SQS, Argo Events, an Argo Workflow with a model '
            "server beside each detect step, the ledger and the reconciler</title>",
            f"<style>\n{_STYLE}\n</style>",
            '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            'orient="auto"><path class="head" d="M0 0 10 5 0 10z"/></marker></defs>',
            f'<rect class="page" width="{_WIDTH}" height="{_HEIGHT}" rx="12"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _pod(left: float, top: float, *, with_text: bool) -> str:
    """A detect pod with its model server; those behind it show no more than their edges."""
    server = ("TensorFlow Serving", "sidecar, CPU or GPU") if with_text else ("",)
    return "\n".join(
        [
            box("step", left, top, 180, *(("detect", "decodes its chunk") if with_text else ("",)), height=84),
            box("serving", left, top + 84, 180, *server, height=66),
        ]
    )


def main() -> None:
    """Writes the picture."""
    PICTURE.write_text(picture())


if __name__ == "__main__":
    main()
