"""The build obtains exactly the pinned stubs, by byte ranges where the index serves them."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import re
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PADDING = 3_000_000


@pytest.fixture
def build(monkeypatch, tmp_path):
    """setup.py as a module, without setuptools and in an empty folder."""
    setuptools, command, build_py = (
        ModuleType(name) for name in ("setuptools", "setuptools.command", "setuptools.command.build_py")
    )
    setuptools.setup = lambda **_: None
    build_py.build_py = object
    for module in (setuptools, command, build_py):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    spec = importlib.util.spec_from_file_location("reelscan_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "url_opener", lambda: module.urllib.request.build_opener())
    return module


@pytest.fixture
def index(build, monkeypatch):
    """A package index with one wheel; tells what was asked of it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr("big.bin", bytes(PADDING))
        wheel.writestr("tensorflow/a_pb2.py", b"a = 1\n")
        wheel.writestr("tensorflow/b_pb2.py", b"b = 1\n")
    content = file.getvalue()

    class Handler(BaseHTTPRequestHandler):
        serves_ranges = True
        sent = 0

        def log_message(self, *_):
            pass

        def do_GET(self):
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if asked and Handler.serves_ranges:
                part = content[int(asked[1]) : int(asked[2]) + 1]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {asked[1]}-{asked[2]}/{len(content)}")
            else:
                part = content
                self.send_response(200)
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            try:
                self.wfile.write(part)
            except ConnectionError:
                return
            Handler.sent += len(part)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}/x-1-py3-none-any.whl"
    monkeypatch.setattr(build, "wheel_address", lambda _: address)
    monkeypatch.setattr(build, "WHEELS", {"tensorflow": "x==1"})
    digest = hashlib.sha256
    monkeypatch.setattr(
        build,
        "DIGESTS",
        {
            "tensorflow/a_pb2.py": digest(b"a = 1\n").hexdigest(),
            "tensorflow/b_pb2.py": digest(b"b = 1\n").hexdigest(),
        },
    )
    Handler.content = content
    yield Handler
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_installed_stubs_are_the_pinned_ones(build, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert len(build.DIGESTS) == 40
    assert [name for name in build.DIGESTS if not build.is_intact(name)] == []


def test_single_files_are_read_by_ranges(build, index):
    build.obtain_protos()
    assert (build.PROTOS / "tensorflow/a_pb2.py").read_text() == "a = 1\n"
    assert (build.PROTOS / "tensorflow/b_pb2.py").read_text() == "b = 1\n"
    assert index.sent < PADDING / 5


def test_what_is_there_is_not_fetched_again(build, index):
    build.obtain_protos()
    index.sent = 0
    build.obtain_protos()
    assert index.sent == 0
    (build.PROTOS / "tensorflow/b_pb2.py").write_text("b = 2\n")
    build.obtain_protos()
    assert (build.PROTOS / "tensorflow/b_pb2.py").read_text() == "b = 1\n"


def test_an_index_without_ranges_gives_the_whole_wheel_through_pip(build, index, monkeypatch):
    index.serves_ranges = False

    def pip(*arguments):
        (folder,) = (text.removeprefix("--dest=") for text in arguments if text.startswith("--dest="))
        (Path(folder) / "x-1-py3-none-any.whl").write_bytes(index.content)

    monkeypatch.setattr(build, "pip", pip)
    build.obtain_protos()
    assert (build.PROTOS / "tensorflow/a_pb2.py").read_text() == "a = 1\n"


def test_a_wheel_in_a_local_folder_is_read_where_it_lies(build, index, monkeypatch, tmp_path):
    path = tmp_path / "with space.whl"
    path.write_bytes(index.content)
    monkeypatch.setattr(build, "wheel_address", lambda _: path.as_uri())
    build.obtain_protos()
    assert (build.PROTOS / "tensorflow/a_pb2.py").read_text() == "a = 1\n"
    assert index.sent == 0


def test_a_file_other_than_the_pinned_one_is_refused(build, index, monkeypatch):
    monkeypatch.setitem(build.DIGESTS, "tensorflow/b_pb2.py", "0" * 64)
    with pytest.raises(build.FetchError, match="b_pb2"):
        build.obtain_protos()
    assert not (build.PROTOS / "tensorflow/b_pb2.py").exists()


def test_no_network_ends_the_build_with_what_to_do(build, monkeypatch):
    def pip(command, *_):
        raise build.FetchError(f"pip {command} said: ERROR: no route")

    monkeypatch.setattr(build, "pip", pip)
    with pytest.raises(SystemExit, match=r"no route.*PIP_INDEX_URL"):
        build.BuildWithProtos().run()
