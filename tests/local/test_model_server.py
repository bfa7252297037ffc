"""The embedded model server as a process beside the job."""

from __future__ import annotations

from pathlib import Path

import pytest

from local import model_server
from local.model_server import MAX_RESTARTS, EmbeddedServer, choose_server, with_embedded_model
from steps.errors import ModelMismatchError, ModelUnavailableError, UsageError
from steps.plan import ModelIdentity
from steps.profile import load_profile
from steps.serving import ServingClient
from steps.settings import Settings
from tests.local.command import wait_until

SETTINGS = Settings(model_name="numbers", model_version=3)
NUMBERS = ModelIdentity(name="numbers", version=3, profile_digest="")


def test_it_serves_the_model_under_the_name_and_version_of_the_settings() -> None:
    with EmbeddedServer("coded", SETTINGS) as server:
        address = server.address(NUMBERS)
        assert server.address(NUMBERS) == address
        with ServingClient(address, "numbers", 3) as client:
            assert client.wait_until_available() == 3


@pytest.mark.parametrize("wrong", [{"name": "other"}, {"version": 4}])
def test_another_model_is_refused_without_a_wait(wrong: dict[str, object]) -> None:
    with EmbeddedServer("coded", SETTINGS) as server, pytest.raises(ModelMismatchError, match="'numbers' version 3"):
        server.address(NUMBERS.model_copy(update=wrong))


@pytest.mark.parametrize("model", ["nowhere.tflite", __file__])
def test_a_file_that_is_no_model_is_told_as_the_server_tells_it(model: str) -> None:
    with EmbeddedServer(model, SETTINGS) as server, pytest.raises(UsageError, match=model.replace("\\", ".")):
        server.start()


def kill(server: EmbeddedServer) -> None:
    process = server._process
    assert process is not None
    process.kill()
    process.wait()


def test_a_server_that_was_killed_is_there_again_at_the_same_address() -> None:
    with EmbeddedServer("coded", SETTINGS) as server:
        address = server.start()
        server.ensure_running()
        kill(server)
        server.ensure_running()
        assert server.start() == address
        with ServingClient(address, "numbers", 3) as client:
            assert client.wait_until_available() == 3


def test_a_server_that_ends_over_and_over_is_given_up() -> None:
    with EmbeddedServer("coded", SETTINGS) as server:
        server.start()
        for _ in range(MAX_RESTARTS):
            kill(server)
            server.ensure_running()
        kill(server)
        with pytest.raises(ModelUnavailableError, match=f"ended {MAX_RESTARTS + 1} times, with status -9"):
            server.ensure_running()


def test_nothing_is_started_before_the_address_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_server, "spawn", None)
    with EmbeddedServer("coded", SETTINGS) as server:
        server.ensure_running()


def test_the_sample_model_has_the_profile_beside_it_and_the_deployments_name() -> None:
    settings = with_embedded_model(Settings(), None)
    assert settings.model_name == "ssd"
    assert settings.model_profile is not None
    assert Path(settings.model_profile).parent.name == "samples"
    assert load_profile(settings.model_profile).label_of_class_id[1] == "person"


@pytest.mark.parametrize("model", ["hog", "coded", "null"])
def test_a_built_in_model_has_its_own_name_and_profile(model: str) -> None:
    settings = with_embedded_model(Settings(), model)
    assert settings.model_name == model
    load_profile(settings.model_profile)


def test_two_files_of_one_name_are_two_models(tmp_path: Path) -> None:
    names = set()
    for content in ("one", "two"):
        (tmp_path / "my model.tflite").write_text(content)
        names.add(with_embedded_model(Settings(), str(tmp_path / "my model.tflite")).model_name)
    assert len(names) == 2
    assert all(name.startswith("my-model-") for name in names)


def test_a_folder_is_named_after_all_its_files(tmp_path: Path) -> None:
    (tmp_path / "saved/variables").mkdir(parents=True)
    names = set()
    for content in ("one", "two"):
        (tmp_path / "saved/variables/data").write_text(content)
        names.add(with_embedded_model(Settings(), str(tmp_path / "saved")).model_name)
    assert len(names) == 2


def test_what_the_settings_name_is_kept(tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_text("m")
    settings = Settings(model_name="mine", model_profile="my.json")
    assert with_embedded_model(settings, str(tmp_path / "m.tflite")) == settings


def test_a_given_server_and_a_model_for_the_embedded_one_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="leave one out"):
        choose_server("127.0.0.1:8500", "hog", Settings())


def test_the_process_is_gone_when_the_block_ends() -> None:
    with EmbeddedServer("coded", SETTINGS) as server:
        server.start()
        process = server._process
        assert process is not None
    wait_until(lambda: process.poll() is not None, "the end of the server")
