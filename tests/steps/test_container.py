"""What is no video, or none that can be taken, is refused with its reason, and leaves nothing behind."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from steps.errors import BadInputError, NotAVideoError, ObjectChangedError, TimeLimitError, TooLargeError
from steps.index import VideoIndex, read_index
from steps.settings import Settings
from steps.source import Source, SourceReader, open_source
from tests.local.command import reelscan
from tests.media.bad_inputs import BAD_INPUT_NAMES, BadInputLibrary
from tests.media.library import ClipLibrary

SETTINGS = Settings()
FAR_SECONDS = 600


def index(
    path: Path, settings: Settings = SETTINGS, *, source: Source | None = None, seconds: float = FAR_SECONDS
) -> VideoIndex:
    source = source or open_source(None, str(path), settings)
    reader = SourceReader(source, limit_bytes=1 << 40, deadline=time.monotonic() + seconds)
    return read_index(reader, source.identity.url, settings)


@pytest.mark.parametrize("name", BAD_INPUT_NAMES)
def test_a_bad_input_is_refused_with_its_code_in_one_line_that_names_it(name: str, bad_inputs: BadInputLibrary) -> None:
    bad = bad_inputs[name]

    with pytest.raises(BadInputError) as raised:
        index(bad.path)

    assert raised.value.code in bad.codes
    assert raised.value.exit_status == 3
    assert str(raised.value).startswith(f"{bad.path}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", BAD_INPUT_NAMES)
def test_a_run_of_a_bad_input_says_so_in_one_line_and_leaves_nothing(
    name: str, bad_inputs: BadInputLibrary, tmp_path: Path
) -> None:
    bad = bad_inputs[name]

    done = reelscan("run", str(bad.path), "--out", "results", "--model-path", "null", cwd=tmp_path)

    said = done.stderr.splitlines()
    assert done.returncode == 3, done.stderr
    assert said[-1].startswith(f"reelscan: {bad.path}: ")
    assert [line for line in said if "reelscan: " in line or "Error" in line or "Traceback" in line] == said[-1:]
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_a_bad_input_keeps_a_folder_that_was_there_with_what_is_in_it(
    bad_inputs: BadInputLibrary, tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "mine.txt").write_text("of the user")

    done = reelscan("run", str(bad_inputs["prose.mp4"].path), "--out", "results", "--model-path", "null", cwd=tmp_path)

    assert done.returncode == 3, done.stderr
    assert list(tmp_path.iterdir()) == [folder]
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("audio_only.mp4", "holds no moving picture, only audio"),
        ("truncated_without_index.mp4", "upload it again whole"),
        ("picture.avif", "is a picture"),
        ("encrypted.mp4", "decrypt it first"),
        ("unknown_codec.mp4", "re-encode it"),
        ("huge.mp4", "REELSCAN_MAX_PIXELS"),
        ("no_frames_fragmented.mp4", "holds no frames"),
        ("prose.mp4", "allowed are MP4"),
    ],
)
def test_the_line_says_what_is_wrong_or_what_to_change(name: str, end: str, bad_inputs: BadInputLibrary) -> None:
    with pytest.raises(BadInputError, match=end):
        index(bad_inputs[name].path)


def test_a_good_clip_by_a_misleading_name_is_read(clips: ClipLibrary, tmp_path: Path) -> None:
    path = tmp_path / "clip.txt"
    path.write_bytes(clips.path("h264_closed_gop.mp4").read_bytes())

    assert index(path).packets.displayed.sum() == 301


@pytest.mark.parametrize("start", [b"", b"#EXTM3U\n", b"ffconcat version 1.0\n", b"v=0\r\n", b"<?xml?><MPD"])
def test_bytes_of_any_kind_behind_a_known_start_are_no_video(start: bytes, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(start + bytes(range(1, 256)) * 40)

    with pytest.raises(NotAVideoError):
        index(path)


def test_pictures_of_exactly_the_allowed_size_are_read_and_one_pixel_more_is_not(clips: ClipLibrary) -> None:
    path = clips.path("mjpeg.avi")
    pixels = 320 * 180

    assert index(path, Settings(max_pixels=pixels)).width == 320
    with pytest.raises(TooLargeError, match="320x180"):
        index(path, Settings(max_pixels=pixels - 1))


def test_more_frames_than_allowed_are_too_large(clips: ClipLibrary) -> None:
    path = clips.path("h264_closed_gop.mp4")

    assert len(index(path, Settings(max_video_frames=301)).packets.pts) == 301
    with pytest.raises(TooLargeError, match="more than 300 frames"):
        index(path, Settings(max_video_frames=300))


class ChangedSource:
    """A file that turns out to be another one at the read that covers a place."""

    def __init__(self, path: Path, place: int) -> None:
        self._source = open_source(None, str(path), SETTINGS)
        self._place = place
        self.identity = self._source.identity

    def read(self, offset: int, length: int) -> bytes:
        if offset <= self._place < offset + length:
            raise ObjectChangedError(f"{self.identity.url}: was replaced")
        return self._source.read(offset, length)


@pytest.mark.parametrize("name", ["h264_closed_gop.mp4", "h264_no_duration.mkv", "h264_closed_gop.ts", "mjpeg.avi"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_what_made_reading_fail_is_told_and_not_taken_for_the_end_or_for_damage(
    name: str, share: float, clips: ClipLibrary
) -> None:
    path = clips.path(name)
    source = ChangedSource(path, int(share * (path.stat().st_size - 1)))

    with pytest.raises(ObjectChangedError, match="was replaced"):
        index(path, source=source)


def test_indexing_ends_at_its_deadline(clips: ClipLibrary) -> None:
    with pytest.raises(TimeLimitError):
        index(clips.path("h264_closed_gop.mp4"), seconds=-1)
