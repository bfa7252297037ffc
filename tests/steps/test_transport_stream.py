"""Losses in transport streams are found where they are, and nowhere else."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steps.transport_stream import Grid, Loss, LossFinder, damaged_packets, packet_grid
from tests.media.clips import SHAPES
from tests.media.library import ClipLibrary
from tests.media.patches import TS_PACKET
from tests.steps.analysis import WHOLE, Analysis, Analyst
from tests.steps.reading_model import checksum_read
from tests.steps.special_clips import SPECIAL_SHAPES

VIDEO, AUDIO = 256, 257
SOUND_STREAMS = [
    name
    for name, shape in {**SHAPES, **SPECIAL_SHAPES}.items()
    if shape.container == "mpegts" and ("from_mid_gop" in name or not shape.fragile)
]


def packet(
    counter: int,
    *,
    pid: int = VIDEO,
    starts: bool = False,
    payload: bool = True,
    adaptation: bytes | None = None,
    error: bool = False,
) -> bytes:
    """A packet; `adaptation` is the field behind its length, which is left out where it is None."""
    flags = (0x20 if adaptation is not None else 0) | (0x10 if payload else 0)
    header = bytes(
        [0x47, (0x80 if error else 0) | (0x40 if starts else 0) | pid >> 8, pid & 0xFF, flags | counter % 16]
    )
    field = b"" if adaptation is None else bytes([len(adaptation)]) + adaptation
    return (header + field).ljust(TS_PACKET, b"\xaa")


STUFFING = bytes([0]) + b"\xff" * 20
CLOCK = bytes([0x10]) + bytes(6)
DISCONTINUITY = bytes([0x80])


def stream(frames: int = 6, packets_a_frame: int = 4) -> list[bytes]:
    """Frames whose last packet is filled up, with an audio packet after each."""
    made: list[bytes] = []
    for number in range(frames * packets_a_frame):
        place = number % packets_a_frame
        field = STUFFING if place == packets_a_frame - 1 else CLOCK if place == 0 else None
        made.append(packet(number, starts=place == 0, adaptation=field))
        if place == packets_a_frame - 1:
            made.append(packet(number // packets_a_frame, pid=AUDIO))
    return made


def losses_in(data: bytes, block_bytes: int = 1 << 20, pid: int = VIDEO) -> list[Loss]:
    finder = LossFinder()
    for at in range(0, len(data), block_bytes):
        finder.feed(at, data[at : at + block_bytes])
        if at == 0:
            finder.watch(pid)
    finder.end()
    return finder.losses


def losses_of(packets: list[bytes]) -> list[Loss]:
    return losses_in(b"".join(packets))


class TestGrid:
    @pytest.mark.parametrize("name", SOUND_STREAMS)
    def test_a_transport_stream_is_recognised(self, name: str, clips: ClipLibrary) -> None:
        grid = packet_grid(clips.path(name).read_bytes()[:4096])
        expected = {"h264_time_codes.m2ts": Grid(192, 4), "h264_error_correction.ts": Grid(204, 0)}
        assert grid == expected.get(name, Grid(TS_PACKET, 0))

    def test_a_damaged_start_is_passed_over(self) -> None:
        data = random.Random(1).randbytes(1001) + b"".join(stream(40))
        assert packet_grid(data) == Grid(TS_PACKET, 1001 % TS_PACKET)

    @pytest.mark.parametrize("name", ["h264_closed_gop.mp4", "vp9.webm", "mpeg2_program_stream.mpg", "mjpeg.avi"])
    def test_other_containers_are_none(self, name: str, clips: ClipLibrary) -> None:
        assert packet_grid(clips.path(name).read_bytes()) is None

    def test_nothing_is_none(self) -> None:
        assert packet_grid(b"") is None


class TestLossFinder:
    def test_a_sound_stream_has_no_loss(self) -> None:
        assert losses_of(stream()) == []

    def test_a_missing_packet_is_a_loss_between_its_neighbours(self) -> None:
        packets = stream()
        del packets[7]
        assert losses_of(packets) == [Loss(6 * TS_PACKET, 7 * TS_PACKET, ends_before=False, starts_after=False)]

    def test_a_missing_frame_leaves_whole_ones_around_it(self) -> None:
        packets = stream()
        del packets[5:10]
        assert losses_of(packets) == [Loss(3 * TS_PACKET, 5 * TS_PACKET, ends_before=True, starts_after=True)]

    def test_a_packet_sent_twice_is_a_loss_as_ffmpeg_takes_its_bytes_twice(self) -> None:
        packets = stream()
        packets.insert(6, packets[6])
        assert [loss.before for loss in losses_of(packets)] == [6 * TS_PACKET]

    def test_a_packet_without_payload_does_not_count(self) -> None:
        packets = stream()
        packets.insert(7, packet(5, payload=False, adaptation=CLOCK))
        assert losses_of(packets) == []

    def test_a_discontinuity_that_is_announced_is_none(self) -> None:
        packets = [*stream(), packet(3, starts=True, adaptation=DISCONTINUITY), packet(4, adaptation=STUFFING)]
        assert losses_of(packets) == []

    def test_a_packet_that_says_it_is_spoilt_is_a_loss(self) -> None:
        packets = stream()
        packets[7] = packet(6, error=True)
        assert losses_of(packets) == [Loss(7 * TS_PACKET, 7 * TS_PACKET, ends_before=False, starts_after=False)]

    def test_losses_of_other_streams_are_none_of_the_picture(self) -> None:
        packets = stream()
        del packets[9]
        assert losses_of(packets) == []

    def test_lost_step_is_a_loss_though_the_counter_goes_on(self) -> None:
        packets = b"".join(stream(12))
        # As many packets of the picture as make the counter come round.
        noise = random.Random(2).randbytes(20 * TS_PACKET).replace(b"\x47", b"\x00")
        data = packets[: 5 * TS_PACKET] + noise + packets[25 * TS_PACKET :]
        assert [(loss.before, loss.after) for loss in losses_in(data)] == [(3 * TS_PACKET, 25 * TS_PACKET)]

    def test_a_packet_that_was_cut_does_not_end_a_frame(self) -> None:
        packets = b"".join(stream())
        data = packets[: 3 * TS_PACKET + 100] + packets[3 * TS_PACKET + 120 :]
        (loss,) = losses_in(data)
        assert loss.before == 3 * TS_PACKET
        assert not loss.ends_before

    def test_a_file_that_ends_in_a_packet_has_lost_what_follows(self) -> None:
        data = b"".join(stream())[:-100]
        assert losses_in(data) == [Loss(28 * TS_PACKET, None, ends_before=True, starts_after=False)]

    def test_bytes_behind_the_last_packet_are_no_loss_of_a_frame(self) -> None:
        assert all(loss.ends_before for loss in losses_in(b"".join(stream()) + bytes(1000)))

    def test_other_containers_have_no_losses(self, clips: ClipLibrary) -> None:
        assert losses_in(clips.path("h264_closed_gop.mp4").read_bytes()) == []

    @settings(max_examples=60, deadline=None)
    @given(
        gone=st.sets(st.integers(50, 300), max_size=6),
        stride=st.sampled_from([188, 192, 204]),
        junk=st.integers(0, 400),
        place=st.integers(50, 300),
        block_bytes=st.integers(50, 5000),
    )
    def test_how_the_bytes_arrive_makes_no_difference(
        self, gone: set[int], stride: int, junk: int, place: int, block_bytes: int
    ) -> None:
        before, behind = (4, 0) if stride == 192 else (0, stride - TS_PACKET)
        packets = [bytes(before) + made + bytes(behind) for made in stream(80)]
        kept = [made for number, made in enumerate(packets) if number not in gone]
        data = b"".join(kept[:place]) + bytes(junk) + b"".join(kept[place:])
        at_once = losses_in(data)

        finder = LossFinder()
        finder.feed(0, data[:8192])
        finder.watch(VIDEO)
        for at in range(8192, len(data), block_bytes):
            # Some bytes come again, as when a reader goes back.
            finder.feed(max(0, at - 50), data[max(0, at - 50) : at + block_bytes])
        finder.end()

        assert finder.losses == at_once


class TestDamagedPackets:
    POSITIONS = np.array([0, 1000, 2000, -1, 3000, 4000])

    def damaged(self, loss: Loss) -> tuple[list[int], list[int]]:
        flags, behind = damaged_packets([loss], self.POSITIONS)
        return np.flatnonzero(flags).tolist(), behind

    def test_a_loss_within_a_frame_damages_it(self) -> None:
        assert self.damaged(Loss(1200, 1400, ends_before=False, starts_after=False)) == ([1], [2])

    def test_a_loss_over_frames_damages_all_it_touches(self) -> None:
        assert self.damaged(Loss(1200, 3400, ends_before=False, starts_after=False)) == ([1, 2, 3, 4], [5])

    def test_a_loss_between_whole_frames_damages_none_and_is_told(self) -> None:
        assert self.damaged(Loss(1800, 3000, ends_before=True, starts_after=True)) == ([2, 3], [4])
        assert self.damaged(Loss(3800, 4000, ends_before=True, starts_after=True)) == ([], [5])

    def test_the_rest_of_a_lost_frame_damages_the_one_it_was_added_to(self) -> None:
        assert self.damaged(Loss(3800, 3990, ends_before=True, starts_after=False)) == ([4], [5])

    def test_frames_that_share_a_place_are_all_damaged(self) -> None:
        assert self.damaged(Loss(2500, 2700, ends_before=False, starts_after=False)) == ([2, 3], [4])

    def test_the_end_of_the_file_damages_the_frame_that_was_begun(self) -> None:
        assert self.damaged(Loss(4200, None, ends_before=False, starts_after=False)) == ([5], [])
        assert self.damaged(Loss(4200, None, ends_before=True, starts_after=False)) == ([], [])


def _packets(data: bytes) -> list[bytes]:
    return [data[at : at + TS_PACKET] for at in range(0, len(data), TS_PACKET)]


def _is_picture(made: bytes, pid: int) -> bool:
    return (made[1] & 0x1F) << 8 | made[2] == pid


def _picture_places(packets: list[bytes], pid: int) -> list[int]:
    return [number for number, made in enumerate(packets) if _is_picture(made, pid)]


def _drop(count: int) -> Callable[[list[bytes], int, int], bytes]:
    def drop(packets: list[bytes], place: int, pid: int) -> bytes:
        first = next(number for number in _picture_places(packets, pid) if number >= place)
        return b"".join(packets[:first] + packets[first + count :])

    return drop


def _drop_start(packets: list[bytes], place: int, pid: int) -> bytes:
    start = next(number for number in _picture_places(packets, pid) if number > place and packets[number][1] & 0x40)
    return b"".join(packets[:start] + packets[start + 1 :])


def _drop_a_round(packets: list[bytes], place: int, pid: int) -> bytes:
    gone = set([number for number in _picture_places(packets, pid) if number >= place][:32])
    return b"".join(made for number, made in enumerate(packets) if number not in gone)


def _twice(packets: list[bytes], place: int, pid: int) -> bytes:
    number = next(number for number in _picture_places(packets, pid) if number >= place)
    return b"".join(packets[: number + 1] + packets[number:])


def _overwrite(packets: list[bytes], place: int, _: int) -> bytes:
    data, at = b"".join(packets), place * TS_PACKET + 70
    return data[:at] + random.Random(place).randbytes(3000) + data[at + 3000 :]


def _cut_out(packets: list[bytes], place: int, _: int) -> bytes:
    data, at = b"".join(packets), place * TS_PACKET + 70
    return data[:at] + data[at + 777 :]


def _put_in(packets: list[bytes], place: int, _: int) -> bytes:
    data, at = b"".join(packets), place * TS_PACKET + 70
    return data[:at] + random.Random(place).randbytes(777) + data[at:]


def _mark_spoilt(packets: list[bytes], place: int, pid: int) -> bytes:
    number = next(number for number in _picture_places(packets, pid) if number >= place)
    spoilt = bytearray(packets[number])
    spoilt[1] |= 0x80
    spoilt[100:140] = random.Random(place).randbytes(40)
    return b"".join([*packets[:number], bytes(spoilt), *packets[number + 1 :]])


FAULTS = {
    "one packet": _drop(1),
    "forty packets": _drop(40),
    "the start of a frame": _drop_start,
    "as many as the counter counts": _drop_a_round,
    "a packet twice": _twice,
    "noise": _overwrite,
    "bytes cut out": _cut_out,
    "bytes put in": _put_in,
    "marked as spoilt": _mark_spoilt,
}


@pytest.fixture(scope="module")
def sound() -> dict[str, dict[int, int]]:
    """Checksums of the pictures of whole clips, by pts, as they get known."""
    return {}


class TestStreams:
    @pytest.mark.parametrize("name", SOUND_STREAMS)
    def test_a_sound_clip_shows_no_damage(self, name: str, clips: ClipLibrary, analyst: Analyst) -> None:
        assert analyst.plan(analyst.open(clips.path(name)), fps=0.0).video.warnings == []

    @pytest.mark.parametrize("fault", FAULTS)
    @pytest.mark.parametrize("name", ["h264_open_gop.ts", "h264_intra_refresh.ts", "mpeg2_with_audio.ts"])
    def test_what_comes_of_a_broken_stream_is_whole_or_listed_under_any_chunking(
        self,
        name: str,
        fault: str,
        clips: ClipLibrary,
        analyst: Analyst,
        sound: dict[str, dict[int, int]],
        tmp_path: Path,
    ) -> None:
        path = clips.path(name)
        if name not in sound:
            sound[name] = dict(_pictures(analyst.analyse(path, fps=0.0, chunk_seconds=1.0)))
        with av.open(str(path)) as container:
            pid = container.streams.video[0].id
        packets = _packets(path.read_bytes())
        broken = tmp_path / name
        broken.write_bytes(FAULTS[fault](packets, len(packets) * 2 // 5, pid))

        analyses = [analyst.analyse(broken, fps=0.0, chunk_seconds=seconds) for seconds in (1.0, 2.5, WHOLE)]

        assert all(analysis.lines == analyses[0].lines for analysis in analyses)
        shown = dict(_pictures(analyses[0]))
        assert shown.items() <= sound[name].items()
        # At worst a loss spoils two groups of pictures, but for a stream that never has a whole picture again.
        if "intra_refresh" not in name:
            assert len(shown) >= len(sound[name]) - 2 * 30 - 16


def _pictures(analysis: Analysis) -> Iterator[tuple[int, int]]:
    return ((line["pts"], checksum_read(line)) for line in analysis.analysed)
