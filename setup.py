"""Build step that obtains TensorFlow Serving's client stubs without installing TensorFlow.

`tensorflow-serving-api` depends on all of TensorFlow (2 GB), of which its stubs use 22 small generated
modules. The build asks pip where the wheels lie, reads single files out of them by HTTP ranges, checks every
file against the digests below and leaves them in `steps/_protos/`. Everything else stands in pyproject.toml.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from setuptools import setup
from setuptools.command.build_py import build_py

PROTOS = Path("steps") / "_protos"
TIMEOUT_SECONDS = 60

# Where each top folder comes from.
WHEELS = {"tensorflow_serving": "tensorflow-serving-api==2.21.0", "tensorflow": "tensorflow-cpu==2.21.0"}

# As sha256sum prints it. The files are plain Python, so one wheel serves every platform and Python version.
PINNED = """
e0f471c9a5294ec41bf515f3811594eacccff8bad02857ae08435e26b2a37f12  tensorflow_serving/apis/classification_pb2.py
5daecfb892aeeaeac4297870a4b1e3444db6a574a7b277939d14a8e1604b146b  tensorflow_serving/apis/get_model_metadata_pb2.py
509caee7844314bd4c7c67a93224a7a16a2ccade973e7f0bc87fa58af86702b6  tensorflow_serving/apis/get_model_status_pb2.py
62a169ca178a87959a276b1700c82ebc8dfda1bd6c492bf7400424002c28d17c  tensorflow_serving/apis/inference_pb2.py
19e901dda8f71924917264ee277d90ad2ab26417b745d9598b3f721130c48540  tensorflow_serving/apis/input_pb2.py
a56dd81896f7365c8a354ee3af25117e2f1628509caa555836b7669cf6e51b2e  tensorflow_serving/apis/model_management_pb2.py
e02646ebb62f1a30ac7642283de89a1fe9e49a76f0f58638e2773ba926f7b387  tensorflow_serving/apis/model_pb2.py
68bca40d5fedc4bf41039b2db7f65b9120a9a0f54aad403eb184feeb7a8ad31a  tensorflow_serving/apis/model_service_pb2.py
a09c7b1727aafc1c0a268785fc8154cdb8f1805beb7ef4f2c360d8a2a4c2438e  tensorflow_serving/apis/model_service_pb2_grpc.py
914f5876ec97e060a3d2d8f9e60d0b50aa737211ddc7097d89a949edbe9d97d0  tensorflow_serving/apis/predict_pb2.py
36e69c593e3c28d8850b58fde78144befd81c0deee9afbb5ebdd6dab5c8b27d7  tensorflow_serving/apis/prediction_service_pb2.py
0fc1f5115d72c554e14c536ff759b05e3f7a4fd936da124db93db5ff009b7421  tensorflow_serving/apis/prediction_service_pb2_grpc.py
5b9ebec5eb10c241b55c0a443381876b4bbc22644159edce16b93c378e3554bb  tensorflow_serving/apis/regression_pb2.py
0faaa08d5485e31ea5e30a5e82f441ba2accbfad643135a8084177d805026a75  tensorflow_serving/apis/status_pb2.py
166d203f6e94cda89446f26da679490d3be8f6afc3a32edd57435343fe9d3493  tensorflow_serving/config/file_system_storage_path_source_pb2.py
b3ac8adf7ccf3a16309e5422fd1ca3d92acd1ee01ccfb2c06ac0b2617fddd111  tensorflow_serving/config/log_collector_config_pb2.py
a2f276c5befb73fe6e6316c94b8f78e108cd64127412ec4c417bf787ea7943be  tensorflow_serving/config/logging_config_pb2.py
7650aa6bfc21efa9c13be2b2f78e1162e164fefa5193b656b2f3b56bd1ff9563  tensorflow_serving/config/model_server_config_pb2.py
cd10225be63a6a4ee9aa4751f83473fc56fef83f459b4990a041f58aa8b9f8d4  tensorflow/compiler/xla/tsl/protobuf/error_codes_pb2.py
3faf200b5543a1a27ea68abee8456598f518dc01966145986e01d2603346c0dd  tensorflow/core/example/example_pb2.py
02ac1443fe487171b4bed1608f734541c522cb187307b6de63302959f7495661  tensorflow/core/example/feature_pb2.py
e9abd89542865e220390c209fe6bb0cdd12ca6aa5d5ccf0b5f72c4d12145ea31  tensorflow/core/framework/attr_value_pb2.py
051037f6403389a8301d2ed901297689a4b41e7dc7bb0ffa8a88c0ff074b8d39  tensorflow/core/framework/full_type_pb2.py
44f1e75b21f0cf80e710497e39dd8fd2e6e5e84e201e5803492ebaa70d058402  tensorflow/core/framework/function_pb2.py
968038bfc0de825b5afea06c356cfcc11c405054f02279201214cfe984a4c4e0  tensorflow/core/framework/graph_debug_info_pb2.py
019444b4280e194a79200cd01d04abe17d34bae8baac7d57824bbacc1a49edec  tensorflow/core/framework/graph_pb2.py
07550710c6fa09c4a682819092ad26332cc0db468d00227e5955b582e58d7b34  tensorflow/core/framework/node_def_pb2.py
14594ae03321828cbdde4d054e0493c7ce9e498ee3137b26caeabea81caa389c  tensorflow/core/framework/op_def_pb2.py
9293793e508ba737ab59a64689981d3cf747a70ed74ac1e96474c6f78a7ad151  tensorflow/core/framework/resource_handle_pb2.py
918c978e9f0e230687c6c9a7483f224a2d95578a307008f3d9f4c1924620a32a  tensorflow/core/framework/tensor_pb2.py
73c6efb3d50bc542baf911fda32759e7992de0338ec8e1ab6a6a2803d96d983d  tensorflow/core/framework/tensor_shape_pb2.py
301ce68951c8c19816e9b8e72e1f2224cb5f6d8e9fba6864d8130acda92f6cea  tensorflow/core/framework/types_pb2.py
f2e4bf6ed32f4541461cf38d06a2d2a6540289ed32f6cdf23b0e078c02b87162  tensorflow/core/framework/variable_pb2.py
a152d3b55567d6a71c9e333befa408bd9d42f4df2d2e4d31158d6efedaba86f8  tensorflow/core/framework/versions_pb2.py
8b11a3b5c58b8fdbaa6a257c1b04992781190440797d8942e1939f6b502b8db6  tensorflow/core/protobuf/error_codes_pb2.py
8ca9e46f8e530d8802487342990d3e6e6f4443d6e5b36997fb15d79111a57d75  tensorflow/core/protobuf/meta_graph_pb2.py
a0e8ad66d484c104a58be0e31c7efcf8ebfccd639ba2d6c6eee8aebac6d9e8ff  tensorflow/core/protobuf/saved_object_graph_pb2.py
e4d5301e699b72e3378c7bca1be531842cb4d55691bbebe64f5ef1d130888f38  tensorflow/core/protobuf/saver_pb2.py
a99e15bbdc1671a2a265b0000b111651ec0d4a306ab4571cadd0e3917af56528  tensorflow/core/protobuf/struct_pb2.py
656be0ffafb4ccfca17c961298f4ce5b4aa01c488e8312e1839fbb982e4ab54a  tensorflow/core/protobuf/trackable_object_graph_pb2.py
"""  # noqa: E501
DIGESTS: dict[str, str] = {path: digest for digest, path in (line.split() for line in PINNED.split("\n") if line)}

# Of all the wheels of a version, always the same one, whatever this machine is.
WHEEL_CHOICE = (
    "--no-deps", "--only-binary=:all:", "--implementation=cp", "--python-version=3.11", "--abi=cp311",
    "--abi=none", "--platform=manylinux_2_27_x86_64", "--platform=any",
)  # fmt: skip


class FetchError(Exception):
    """A wheel could not be read."""


def pip(*arguments: str) -> str:
    """Standard output of a pip command, run with the user's own index, proxy and certificates."""
    command = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise FetchError(f"pip {arguments[0]} said: {' '.join(lines[-2:])}")
    return done.stdout


def wheel_address(requirement: str) -> str:
    """The address from which pip would take the wheel of a requirement."""
    with tempfile.TemporaryDirectory() as unused:  # pip takes a choice of platform only with a target
        report = pip(
            "install", "--dry-run", "--quiet", "--ignore-installed", "--report=-", f"--target={unused}",
            *WHEEL_CHOICE, requirement,
        )  # fmt: skip
    return str(json.loads(report)["install"][0]["download_info"]["url"])


def url_opener() -> urllib.request.OpenerDirector:
    """An opener with the certificates and the proxy of pip's configuration, else of the environment."""
    settings = dict(re.findall(r"^\S+\.(cert|proxy)='(.*)'$", pip("config", "list"), re.MULTILINE))
    handlers: list[urllib.request.BaseHandler] = [
        urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=settings.get("cert") or None))
    ]
    if "proxy" in settings:
        handlers.append(urllib.request.ProxyHandler({"http": settings["proxy"], "https": settings["proxy"]}))
    return urllib.request.build_opener(*handlers)


class RangeFile(io.RawIOBase):
    """A file behind HTTP, read by byte ranges."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._opener = url_opener()
        self._position = 0
        self._size = 0
        self._size = self._fetch(0, 1)[1]

    def _fetch(self, first: int, end: int) -> tuple[bytes, int]:
        wanted = {"Range": f"bytes={first}-{end - 1}", "Accept-Encoding": "identity"}
        request = urllib.request.Request(self._address, headers=wanted)  # noqa: S310 (pip named the address)
        with self._opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
            found = re.fullmatch(r"bytes \d+-\d+/(\d+)", answer.headers.get("Content-Range", ""))
            if answer.status != 206 or found is None:
                raise FetchError("the package index does not serve byte ranges")
            return answer.read(), int(found[1])

    def readable(self) -> bool:
        """True: it can be read."""
        return True

    def seekable(self) -> bool:
        """True: it can be read anywhere."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to an offset; returns it from the start."""
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: object) -> int:
        """Fills the buffer from one range."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        end = min(self._position + len(view), self._size)
        if end <= self._position:
            return 0
        data = self._fetch(self._position, end)[0]
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


def members(wheel: zipfile.ZipFile, names: list[str]) -> dict[str, bytes]:
    """The named files of a wheel."""
    return {name: wheel.read(name) for name in names}


def read_wheel(requirement: str, names: list[str]) -> dict[str, bytes]:
    """The named files of a requirement's wheel: by byte ranges, or by downloading it where that fails."""
    try:
        address = urlsplit(wheel_address(requirement))
        if address.scheme == "file":
            with zipfile.ZipFile(unquote(address.path)) as wheel:
                return members(wheel, names)
        # Large enough that the 3 MB directory of TensorFlow's wheel takes a few requests, not hundreds.
        ranges = io.BufferedReader(RangeFile(address.geturl()), buffer_size=1 << 16)
        with zipfile.ZipFile(ranges) as wheel:
            return members(wheel, names)
    except (FetchError, OSError, zipfile.BadZipFile, KeyError, ValueError) as problem:
        print(f"reelscan: {requirement}: {problem}; downloading the whole wheel", file=sys.stderr)  # noqa: T201
    with tempfile.TemporaryDirectory() as folder:
        pip("download", "--quiet", f"--dest={folder}", *WHEEL_CHOICE, requirement)
        (path,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(path) as wheel:
            return members(wheel, names)


def is_intact(name: str) -> bool:
    """Whether the file is there with the pinned content."""
    path = PROTOS / name
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == DIGESTS[name]


def obtain_protos() -> None:
    """Writes what lacks of `steps/_protos/`. Every file is checked against its pinned digest."""
    for folder, requirement in WHEELS.items():
        names = [name for name in DIGESTS if name.startswith(f"{folder}/") and not is_intact(name)]
        for name, content in (read_wheel(requirement, names) if names else {}).items():
            if hashlib.sha256(content).hexdigest() != DIGESTS[name]:
                raise FetchError(f"{name} of {requirement} is not the file that setup.py pins")
            target = PROTOS / name
            target.parent.mkdir(parents=True, exist_ok=True)
            # Whole or not at all, also when two builds run at once.
            with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as part:
                part.write(content)
            Path(part.name).chmod(0o644)
            os.replace(part.name, target)  # noqa: PTH105


class BuildWithProtos(build_py):
    """build_py that first obtains the protos, and puts them into the wheel."""

    def run(self) -> None:
        """Obtains, builds, copies. The editable build uses `steps/_protos/` where it lies."""
        try:
            obtain_protos()
        except (FetchError, OSError, ValueError, zipfile.BadZipFile, KeyError) as problem:
            # SystemExit, since an editable install turns any Exception of build_py into a mere warning.
            raise SystemExit(
                f"reelscan: could not obtain TensorFlow Serving's client stubs: {problem}. "
                f"They come from {' and '.join(WHEELS.values())} on the package index. Check the network, or "
                f"pip's settings (PIP_INDEX_URL, PIP_PROXY, PIP_CERT, pip config list), then install again."
            ) from None
        super().run()
        if not self.editable_mode:
            for name in DIGESTS:
                target = Path(self.build_lib) / PROTOS / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(PROTOS / name, target)


setup(cmdclass={"build_py": BuildWithProtos})
