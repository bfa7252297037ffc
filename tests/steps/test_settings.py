from __future__ import annotations

import re
from typing import Any

import pytest

from steps.errors import UsageError
from steps.settings import Settings


def test_without_variables_the_defaults_hold() -> None:
    assert Settings.from_environment({}) == Settings()


def test_the_limits_of_the_contract_are_the_defaults() -> None:
    settings = Settings()

    assert settings.max_message_bytes == 64 << 10
    assert settings.max_chunks == 300
    assert settings.resend_after_seconds == 120


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_a_description_and_a_variable(name: str) -> None:
    field = Settings.model_fields[name]
    assert field.description
    text = {
        "allowed_sources": "s3://a/*",
        "serving": "host:1",
    }.get(name, "7")

    changed = Settings.from_environment({f"REELSCAN_{name.upper()}": text})

    assert getattr(changed, name) == {
        "allowed_sources": ("s3://a/*",),
        "serving": "host:1",
    }.get(name, text if field.annotation in (str, str | None) else 7)
    assert changed.model_copy(update={name: getattr(Settings(), name)}) == Settings()


def test_every_number_has_a_bound() -> None:
    for name, field in Settings.model_fields.items():
        if field.annotation in (int, float):
            kinds = {type(bound).__name__ for bound in field.metadata}
            assert kinds & {"Ge", "Gt"}, name


def test_every_time_names_its_unit() -> None:
    for name, field in Settings.model_fields.items():
        if field.annotation is float:
            assert name.endswith("_seconds"), name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://videos/*", ("s3://videos/*",)),
        (" s3://a/x* , s3://b ,", ("s3://a/x*", "s3://b")),
    ],
)
def test_lists_are_separated_by_commas(text: str, expected: tuple[str, ...]) -> None:
    assert Settings.from_environment({"REELSCAN_ALLOWED_SOURCES": text}).allowed_sources == expected


def test_an_empty_variable_counts_as_unset() -> None:
    assert Settings.from_environment({"REELSCAN_MAX_CHUNKS": "", "REELSCAN_RESULTS": ""}) == Settings()


def test_flags_win_over_variables_unless_they_are_unset() -> None:
    environment = {"REELSCAN_SERVING": "a:1", "REELSCAN_RESULTS": "s3://a"}

    settings = Settings.from_environment(environment, serving="b:2", results=None)

    assert (settings.serving, settings.results) == ("b:2", "s3://a")


def test_variables_of_others_do_not_matter() -> None:
    assert Settings.from_environment({"REELSCAN_FPS": "9", "REELSCAN_JOBS": "2", "max_chunks": "1"}) == Settings()


def test_the_environment_is_that_of_the_process_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REELSCAN_MAX_CHUNKS", "17")

    assert Settings.from_environment().max_chunks == 17


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("max_chunks", "0", "a whole number from 1 to 1000"),
        ("max_chunks", "1001", "a whole number from 1 to 1000"),
        ("max_chunks", "many", "a whole number from 1 to 1000"),
        ("max_chunks", "1.5", "a whole number from 1 to 1000"),
        ("lease_seconds", "0", "a number above 0"),
        ("lease_seconds", "-1", "a number above 0"),
        ("storage_timeout_seconds", "soon", "a number above 0"),
        ("resend_after_seconds", "-1", "a number of at least 0"),
        ("model_name", "../model", "a letter or digit, then at most 127 letters, digits, dots, underscores or hyphens"),
        ("model_name", "a b", "a letter or digit, then .*"),
        ("model_version", "0", "a whole number of at least 1"),
        ("batch_size", "257", "a whole number from 1 to 256"),
    ],
)
def test_a_wrong_value_is_a_usage_error_that_says_what_is_allowed(name: str, value: Any, allowed: str) -> None:
    variable = f"REELSCAN_{name.upper()}"

    with pytest.raises(
        UsageError,
        match=rf"^{variable}='{re.escape(value)}': allowed is {allowed}; set it to another value or unset it$",
    ):
        Settings.from_environment({variable: value})


def test_settings_cannot_be_changed_by_accident() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().max_chunks = 3  # type: ignore[misc]
