"""Splitting packets into groups that can be decoded by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from steps.groups import Groups


class Packet(NamedTuple):
    name: str
    pts: int | None
    is_keyframe: bool


def packets(text: str) -> Iterator[Any]:
    """`K4` a keyframe with pts 4, `p5` any other picture, `p` one without a time."""
    for word in text.split():
        yield Packet(word, int(word[1:]) if word[1:] else None, word[0] == "K")


def groups(text: str) -> list[str]:
    """Groups as text; a packet whose picture is not one of the group in brackets."""
    return [
        " ".join(packet.name if belongs else f"({packet.name})" for packet, belongs in group)
        for group in Groups(packets(text))
    ]


def test_a_group_goes_on_to_the_next_keyframe() -> None:
    assert groups("K0 p1 p2 K3 p4 p5") == ["K0 p1 p2 (K3)", "K3 p4 p5"]


def test_pictures_that_lead_a_keyframe_belong_to_the_group_before() -> None:
    assert groups("K0 p3 p1 p2 K6 p4 p5 p8 p7") == ["K0 p3 p1 p2 (K6) p4 p5", "K6 (p4) (p5) p8 p7"]


def test_keyframes_alone_are_a_group_each() -> None:
    assert groups("K0 K1 K2") == ["K0 (K1)", "K1 (K2)", "K2"]


def test_what_comes_before_the_first_keyframe_is_a_group() -> None:
    assert groups("p1 p2 K3 p4") == ["p1 p2 (K3)", "K3 p4"]


def test_pictures_without_keyframes_are_one_group() -> None:
    assert groups("p1 p p3") == ["p1 p p3"]
    assert groups("") == []


def test_a_keyframe_of_an_earlier_time_does_not_cut() -> None:
    # As where an edit list goes back: what follows is shown later than what came before.
    assert groups("K0 p1 K4 p5 K1 p2 p3 p6 K7") == ["K0 p1 (K4)", "K4 p5 K1 p2 p3 p6 (K7)", "K7"]


def test_a_file_that_ends_with_leading_pictures_gives_them_once_to_their_group() -> None:
    assert groups("K0 p1 K5 p3 p4") == ["K0 p1 (K5) p3 p4", "K5 (p3) (p4)"]


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 3)), min_size=1, max_size=12))
def test_every_picture_belongs_to_one_group_and_all_packets_stay_in_order(shape: list[tuple[int, int]]) -> None:
    words = []
    time = 0
    for followers, leading in shape:
        time += leading
        words.append(f"K{time}")
        words += [f"p{time - leading + number}" for number in range(leading)]
        words += [f"p{time + 1 + number}" for number in range(followers)]
        time += followers + 1
    text = " ".join(words)
    split = [[(packet.name, belongs) for packet, belongs in group] for group in Groups(packets(text))]

    owned = [name for group in split for name, belongs in group if belongs]
    leading_at_start = [f"p{number}" for number in range(shape[0][1])]
    assert sorted(owned) == sorted(name for name in words if name not in leading_at_start)
    for group in split:
        names = [name for name, _ in group]
        place = words.index(names[0])
        assert names == words[place : place + len(names)]
