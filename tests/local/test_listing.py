"""What `reelscan send --recursive` finds below a prefix."""

from __future__ import annotations

import pytest

from local.listing import list_videos
from steps.errors import AccessDeniedError, NotFoundError, StorageError, UsageError
from steps.settings import Settings
from tests.conftest import Aws
from tests.faults import FaultProxy

SHORT = Settings(storage_timeout_seconds=3)
ODD_KEYS = ["v//a.mp4", "v/./b.mp4", "v/../c.mp4", "v/d\n\x01.mp4", "v/é %2F+{{x}}?#.mp4", "v/ "]


def put(aws: Aws, *keys: str, data: bytes = b"x") -> None:
    for key in keys:
        aws.s3.put_object(Bucket=aws.bucket, Key=key, Body=data)


def listed(aws: Aws, *prefixes: str, include: tuple[str, ...] = (), settings: Settings = SHORT) -> list[str]:
    """Keys of what is found below prefixes of the bucket."""
    start = f"s3://{aws.bucket}/"
    found = list_videos([start + prefix for prefix in prefixes], include, settings, lambda count: None)
    assert all(video.startswith(start) for video in found)
    return [video.removeprefix(start) for video in found]


def test_every_object_below_a_prefix_is_found_and_no_other(aws: Aws) -> None:
    put(aws, "cam1/a.mp4", "cam1/deep/er/b.mov", "cam10/c.mp4", "cam1.mp4", "d.mp4")

    assert listed(aws, "cam1/") == listed(aws, "cam1") == ["cam1/a.mp4", "cam1/deep/er/b.mov"]
    assert len(listed(aws, "")) == 5


def test_a_bucket_needs_no_slash(aws: Aws) -> None:
    put(aws, "a.mp4")

    assert list_videos([f"s3://{aws.bucket}"], (), SHORT, lambda count: None) == [f"s3://{aws.bucket}/a.mp4"]


def test_any_key_of_s3_is_found_as_it_is(aws: Aws) -> None:
    put(aws, *ODD_KEYS, "/lead.mp4")

    assert set(listed(aws, "v/")) == set(ODD_KEYS)
    assert set(listed(aws, "")) == {*ODD_KEYS, "/lead.mp4"}
    assert listed(aws, "v//") == ["v//a.mp4"]


def test_keys_of_folders_and_objects_without_a_byte_are_left_out(aws: Aws) -> None:
    put(aws, "v/a.mp4", "v/folder/")
    put(aws, "v/", "v/empty.mp4", data=b"")

    assert listed(aws, "v/") == ["v/a.mp4"]


def test_more_than_a_page_is_listed_and_told_page_by_page(aws: Aws) -> None:
    put(aws, *(f"v/{number:04}" for number in range(1003)))
    told: list[int] = []

    assert len(list_videos([f"s3://{aws.bucket}/v/"], (), SHORT, told.append)) == 1003
    assert told == [1000, 1003]


def test_prefixes_that_overlap_give_each_object_once(aws: Aws) -> None:
    put(aws, "v/a.mp4", "v/w/b.mp4")

    assert listed(aws, "v/", "v/w/", "v/") == ["v/a.mp4", "v/w/b.mp4"]


@pytest.mark.parametrize(
    ("include", "keys"),
    [
        (("*.mp4",), ["v/2026/b.mp4", "v/A.MP4"]),
        (("*.MOV", "a*"), ["v/2026/c.mov", "v/A.MP4"]),
        (("2026/*",), ["v/2026/b.mp4", "v/2026/c.mov"]),
        (("?.mov",), ["v/2026/c.mov"]),
    ],
)
def test_patterns_fit_the_name_or_what_follows_the_prefix(aws: Aws, include: tuple[str, ...], keys: list[str]) -> None:
    put(aws, "v/A.MP4", "v/2026/b.mp4", "v/2026/c.mov", "v/notes.txt")

    assert sorted(listed(aws, "v", include=include)) == sorted(keys)


def test_a_pattern_does_not_see_the_prefix(aws: Aws) -> None:
    put(aws, "v/a.mp4")

    with pytest.raises(NotFoundError, match=r"none of the 1 objects below it fits --include 'v/\*'"):
        listed(aws, "v/", include=("v/*",))


def test_a_prefix_with_nothing_below_it_is_named(aws: Aws) -> None:
    put(aws, "v/a.mp4", "clip.mp4")

    with pytest.raises(NotFoundError, match=rf"s3://{aws.bucket}/none/: there is no object below it"):
        listed(aws, "v/", "none")
    with pytest.raises(NotFoundError, match=rf"send the object s3://{aws.bucket}/clip.mp4 leave out --recursive"):
        listed(aws, "clip.mp4")


@pytest.mark.parametrize(
    ("video", "error", "said"),
    [
        ("s3://", UsageError, "names no bucket"),
        ("s3:///key", UsageError, "names no bucket"),
        ("s3://a b/", UsageError, "no bucket can be named 'a b'"),
        ("s3://no-such-bucket/v", NotFoundError, "there is no bucket 'no-such-bucket'"),
    ],
)
def test_a_wrong_address_is_told(aws: Aws, video: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        list_videos([video], (), SHORT, lambda count: None)


def test_a_passing_fault_is_not_noticed(aws: Aws, faults: FaultProxy) -> None:
    put(aws, "v/a.mp4")
    faults.inject("throttle", "list-type")
    faults.inject("lose_answer", "list-type")
    faults.inject("cut_answer", "list-type")

    assert listed(aws, "v/") == ["v/a.mp4"]


def test_a_listing_that_is_refused_or_fails_is_an_error(aws: Aws, faults: FaultProxy) -> None:
    faults.inject("deny", "list-type")
    with pytest.raises(AccessDeniedError, match="s3:ListBucket"):
        listed(aws, "v/")
    faults.inject("throttle", "list-type", times=100)
    with pytest.raises(StorageError, match="S3 failed"):
        listed(aws, "v/")


def test_without_credentials_it_is_said_what_to_set(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    with pytest.raises(AccessDeniedError, match="AWS_PROFILE"):
        listed(aws, "v/")
