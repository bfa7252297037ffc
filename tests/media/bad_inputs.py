"""What is no video, or none that can be taken: by name, with the error codes that it may give."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from .library import ClipLibrary, FileStore
from .patches import claim_avi_size, claim_size, edit_moov
from .writer import Video, encode_picture, remux, write_audio, write_video

HLS = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n{entries}#EXT-X-ENDLIST\n"
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=-\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
PROSE = "It was a dark and stormy night; the rain fell in torrents.\n" * 100
SUBTITLES = "1\n00:00:01,000 --> 00:00:02,000\nIt was a dark and stormy night.\n\n"
ENCRYPTION = {
    "encryption_scheme": "cenc-aes-ctr",
    "encryption_key": "00112233445566778899aabbccddeeff",
    "encryption_kid": "ffeeddccbbaa99887766554433221100",
}
LARGE = 16_000
"""Pixels a side that FFmpeg would still allocate: 384 MB a frame."""

TOO_LARGE_FOR_FFMPEG = 65_500 // 16 * 16
"""Above FFmpeg's own limit, which then tells no size at all."""

MAX_PIXELS_OF_MAKER = {"max_pixels": "1000000"}
"""Keeps the making itself from allocating the size that the file claims."""

NOT_A_VIDEO, UNSUPPORTED, TOO_LARGE = ("not_a_video",), ("unsupported",), ("too_large",)
NO_SIZE = ("too_large", "unsupported")

MakeBad = Callable[[ClipLibrary, Path], object]


@dataclass(frozen=True)
class BadShape:
    make: MakeBad
    codes: tuple[str, ...]
    notes: str


@dataclass(frozen=True)
class BadInput:
    """A file that has to be refused, with one of `codes`."""

    name: str
    path: Path
    codes: tuple[str, ...]
    notes: str


class BadInputLibrary:
    """Bad inputs by name. They lie beside the clips that they are made from, and that scripts among them name."""

    def __init__(self, folder: Path, clips: ClipLibrary) -> None:
        self._store, self._clips = FileStore(folder), clips

    def __getitem__(self, name: str) -> BadInput:
        shape = BAD_SHAPES[name]
        path = self._store.get(name, lambda path: shape.make(self._clips, path))
        return BadInput(name, path, shape.codes, shape.notes)


def _text(text: str) -> MakeBad:
    return lambda _, path: path.write_text(text)


def _picture(encoder: str, pixel_format: str) -> MakeBad:
    return lambda _, path: path.write_bytes(encode_picture(encoder, pixel_format, number=1))


def _still(video: Video) -> MakeBad:
    return lambda _, path: write_video(path, video)


def _sound(encoder: str) -> MakeBad:
    return lambda _, path: write_audio(path, encoder, seconds=2)


def _playlist_of_a_clip(clips: ClipLibrary, path: Path) -> None:
    """A naive reader plays this one: the file that it names is there."""
    path.write_text(HLS.format(entries=f"#EXTINF:10,\n{clips.path('h264_closed_gop.ts')}\n"))


def _script_of_a_clip(clips: ClipLibrary, path: Path) -> None:
    """A naive reader plays this one: the script names a clip in its own folder, which FFmpeg calls safe."""
    path.write_text(f"ffconcat version 1.0\nfile '{clips.path('h264_closed_gop.mp4').name}'\n")


def _without_index(clips: ClipLibrary, path: Path) -> None:
    data = clips.path("h264_closed_gop.mp4").read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _without_frames(clips: ClipLibrary, path: Path, options: dict[str, str] | None = None) -> None:
    remux(clips.path("h264_closed_gop.mp4"), path, options=options, with_packets=False)


def _encrypted(clips: ClipLibrary, path: Path) -> None:
    remux(clips.path("h264_closed_gop.mp4"), path, options=ENCRYPTION)


def _unknown_codec(clips: ClipLibrary, path: Path) -> None:
    path.write_bytes(clips.path("h264_closed_gop.mp4").read_bytes().replace(b"avc1", b"zzz1"))


def _claiming(side: int, everywhere: bool, clips: ClipLibrary, path: Path) -> None:
    data = clips.path("h264_closed_gop.mp4").read_bytes()
    path.write_bytes(edit_moov(data, partial(claim_size, width=side, height=side, everywhere=everywhere)))


def _claiming_in_ts(clips: ClipLibrary, path: Path) -> None:
    claiming = path.with_suffix(".mp4")
    _claiming(LARGE, True, clips, claiming)
    remux(claiming, path, source_options=MAX_PIXELS_OF_MAKER)
    claiming.unlink()


def _claiming_in_avi(clips: ClipLibrary, path: Path) -> None:
    side = TOO_LARGE_FOR_FFMPEG
    path.write_bytes(claim_avi_size(clips.path("mjpeg.avi").read_bytes(), side, side))


def _zip(clips: ClipLibrary, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(clips.path("h264_closed_gop.mp4"), "clip.mp4")


def _noise(_: ClipLibrary, path: Path) -> None:
    path.write_bytes(np.random.default_rng(1).integers(0, 256, 100_000, dtype=np.uint8).tobytes())


_STILL_AV1 = Video(encoder="libsvtav1", numbers=[1], options={"preset": "8", "svtav1-params": "avif=1"})

BAD_SHAPES: dict[str, BadShape] = {
    "audio_only.mp4": BadShape(_sound("aac"), NOT_A_VIDEO, "sound alone"),
    "audio_only.mp3": BadShape(_sound("libmp3lame"), NOT_A_VIDEO, "sound alone"),
    "audio_only.ts": BadShape(_sound("mp2"), NOT_A_VIDEO, "sound alone"),
    "empty.mp4": BadShape(_text(""), NOT_A_VIDEO, "no byte"),
    "truncated_without_index.mp4": BadShape(_without_index, NOT_A_VIDEO, "the index was at the end"),
    "prose.mp4": BadShape(_text(PROSE), NOT_A_VIDEO, "text"),
    "prose.txt": BadShape(
        _text(PROSE), NOT_A_VIDEO, "text: FFmpeg goes by the name and plays it as a terminal's output"
    ),
    "subtitles.srt": BadShape(_text(SUBTITLES), NOT_A_VIDEO, "subtitles"),
    "hls_to_elsewhere.mp4": BadShape(
        _text(HLS.format(entries="#EXTINF:10,\nfile:///etc/passwd\n#EXTINF:10,\nhttp://127.0.0.1:1/clip.ts\n")),
        NOT_A_VIDEO,
        "an HLS playlist that reaches for a local file and a port",
    ),
    "hls_of_a_clip.m3u8": BadShape(_playlist_of_a_clip, NOT_A_VIDEO, "an HLS playlist of a clip that is there"),
    "hls_of_a_clip.mp4": BadShape(_playlist_of_a_clip, NOT_A_VIDEO, "the same by another name"),
    "ffconcat_of_a_clip.mp4": BadShape(_script_of_a_clip, NOT_A_VIDEO, "an ffconcat script of a clip that is there"),
    "session.sdp": BadShape(_text(SDP), NOT_A_VIDEO, "a session description: FFmpeg would listen on a port"),
    "picture.jpg": BadShape(_picture("mjpeg", "yuvj420p"), NOT_A_VIDEO, "a JPEG"),
    "picture.mp4": BadShape(_picture("mjpeg", "yuvj420p"), NOT_A_VIDEO, "a JPEG by another name"),
    "picture.png": BadShape(_picture("png", "rgb24"), NOT_A_VIDEO, "a PNG"),
    "picture.webp": BadShape(_picture("libwebp", "yuv420p"), NOT_A_VIDEO, "a WebP"),
    "picture.gif": BadShape(
        _still(Video(encoder="gif", numbers=[1], pixel_format="gray")), NOT_A_VIDEO, "a GIF of one picture"
    ),
    "picture.avif": BadShape(_still(_STILL_AV1), NOT_A_VIDEO, "an AVIF, which FFmpeg opens as MP4"),
    "no_frames.mp4": BadShape(_without_frames, NOT_A_VIDEO, "an index of nothing"),
    "no_frames_fragmented.mp4": BadShape(
        partial(_without_frames, options={"movflags": "empty_moov+frag_keyframe"}),
        NOT_A_VIDEO,
        "a video track without a fragment",
    ),
    "no_frames.mkv": BadShape(_without_frames, NOT_A_VIDEO, "a video track without a block"),
    "encrypted.mp4": BadShape(_encrypted, UNSUPPORTED, "common encryption; a few garbage frames decode"),
    "unknown_codec.mp4": BadShape(_unknown_codec, UNSUPPORTED, "a four-character code that nobody knows"),
    "huge.mp4": BadShape(partial(_claiming, LARGE, True), TOO_LARGE, "claims 16,000 x 16,000"),
    "huge_in_secret.mp4": BadShape(
        partial(_claiming, LARGE, False),
        TOO_LARGE,
        "claims 16,000 x 16,000 in the bit stream and 320 x 180 in the boxes",
    ),
    "huge.ts": BadShape(_claiming_in_ts, TOO_LARGE, "claims 16,000 x 16,000, seen only while it is read"),
    "absurd.mp4": BadShape(
        partial(_claiming, TOO_LARGE_FOR_FFMPEG, True), NO_SIZE, "claims a size over what FFmpeg can hold"
    ),
    "absurd.avi": BadShape(_claiming_in_avi, NO_SIZE, "claims a size over what FFmpeg can hold"),
    "noise.mp4": BadShape(_noise, NOT_A_VIDEO, "random bytes"),
    "archive.zip": BadShape(_zip, NOT_A_VIDEO, "a clip in a ZIP archive"),
}

BAD_INPUT_NAMES: tuple[str, ...] = tuple(BAD_SHAPES)
