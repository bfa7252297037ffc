"""The bad inputs are as bad as their names say."""

from __future__ import annotations

from pathlib import Path

import av
import pytest

from steps.errors import ERROR_CODES

from .bad_inputs import BAD_INPUT_NAMES, LARGE, MAX_PIXELS_OF_MAKER, BadInputLibrary
from .writer import packets_of


@pytest.mark.parametrize("name", BAD_INPUT_NAMES)
def test_a_bad_input_is_made_and_its_codes_are_known(bad_inputs: BadInputLibrary, name: str) -> None:
    assert bad_inputs[name].path.is_file()
    assert set(bad_inputs[name].codes) <= set(ERROR_CODES)


def _frames_naively(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


@pytest.mark.parametrize("name", ["hls_of_a_clip.m3u8", "ffconcat_of_a_clip.mp4"])
def test_a_script_plays_its_clip_to_who_opens_it_naively(bad_inputs: BadInputLibrary, name: str) -> None:
    assert _frames_naively(bad_inputs[name].path) == 301


def test_prose_plays_to_who_opens_it_by_its_name(bad_inputs: BadInputLibrary) -> None:
    assert _frames_naively(bad_inputs["prose.txt"].path) > 1


@pytest.mark.parametrize("name", [name for name in BAD_INPUT_NAMES if name.startswith("picture.")])
def test_a_picture_opens_as_a_video_of_one_frame(bad_inputs: BadInputLibrary, name: str) -> None:
    assert _frames_naively(bad_inputs[name].path) == 1


@pytest.mark.parametrize(
    "name",
    ["empty.mp4", "truncated_without_index.mp4", "prose.mp4", "hls_to_elsewhere.mp4", "noise.mp4", "archive.zip"],
)
def test_what_is_no_media_at_all_does_not_open(bad_inputs: BadInputLibrary, name: str) -> None:
    with pytest.raises(av.InvalidDataError):
        av.open(str(bad_inputs[name].path))


@pytest.mark.parametrize("name", [name for name in BAD_INPUT_NAMES if name.startswith("audio_only")])
def test_audio_only_has_no_video_stream(bad_inputs: BadInputLibrary, name: str) -> None:
    with av.open(str(bad_inputs[name].path)) as container:
        assert [stream.type for stream in container.streams] == ["audio"]


def test_a_track_without_fragments_has_no_packet(bad_inputs: BadInputLibrary) -> None:
    with av.open(str(bad_inputs["no_frames_fragmented.mp4"].path)) as container:
        assert list(packets_of(container.streams.video[0])) == []


def test_every_packet_of_the_encrypted_clip_says_how(bad_inputs: BadInputLibrary) -> None:
    with av.open(str(bad_inputs["encrypted.mp4"].path)) as container:
        found = list(packets_of(container.streams.video[0]))
        assert len(found) == 301
        assert all(packet.has_sidedata("encryption_info") for packet in found)


def test_an_unknown_codec_leaves_a_stream_without_a_decoder(bad_inputs: BadInputLibrary) -> None:
    with av.open(str(bad_inputs["unknown_codec.mp4"].path)) as container:
        assert container.streams.video[0].codec_context is None


@pytest.mark.parametrize("name", ["huge.mp4", "huge_in_secret.mp4", "huge.ts"])
def test_a_huge_clip_claims_its_size(bad_inputs: BadInputLibrary, name: str) -> None:
    with av.open(str(bad_inputs[name].path), options=MAX_PIXELS_OF_MAKER) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (LARGE, LARGE)


@pytest.mark.parametrize("name", ["absurd.mp4", "absurd.avi"])
def test_an_absurd_size_leaves_ffmpeg_without_any(bad_inputs: BadInputLibrary, name: str) -> None:
    with av.open(str(bad_inputs[name].path)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (0, 0)
