"""What any TensorFlow Serving server answers, and what the embedded one has to answer as well.

`source` names file and function, in github.com/tensorflow/serving below tensorflow_serving/ and in
github.com/tensorflow/tensorflow below tensorflow/. Statuses are compared, and words where clients read them.
"""

from __future__ import annotations

import time

import grpc
import numpy as np
import pytest

from steps.stubs import (
    GetModelStatusRequest,
    ModelVersionStatus,
    PredictRequest,
    TensorProto,
    array_from_tensor,
    tensor_from_array,
)
from tests.conformance.conftest import BusyTarget, LoadingTarget, not_shown
from tests.conformance.target import SIGNATURE_NAME, TIMEOUT_SECONDS, Target

pytestmark = pytest.mark.serving

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
NOWHERE = "no-such-model"
NEVER = 1 << 40  # a version that nobody has

METADATA = "servables/tensorflow/get_model_metadata_impl.cc"
STATUS = "model_servers/get_model_status_impl.cc"
PREDICT = "servables/tensorflow/predict_impl.cc, TensorflowPredictor::Predict"
PREDICT_UTIL = "servables/tensorflow/predict_util.cc"
SERVER_CORE = "model_servers/server_core.cc, ServerCore::ServableRequestFromModelSpec"
SERVABLE = "core/basic_manager.cc, BasicManager::ServingMap::GetUntypedServableHandle"
INPUT_VALUES = "cc/saved_model/util.cc, GetInputValues"
QUEUE = "core/kernels/batching_util/shared_batch_scheduler.h, Queue::ValidateBatchTaskQueueCapacity"


def refused(call) -> tuple[grpc.StatusCode, str]:
    """Status and message with which a call is refused."""
    with pytest.raises(grpc.RpcError) as refusal:
        call()
    return refusal.value.code(), refusal.value.details()


@pytest.mark.source(f"{METADATA}, SavedModelGetSignatureDef")
def test_metadata_names_the_model_and_its_version(target: Target) -> None:
    answer = target.metadata(target.spec(), "signature_def")
    assert (answer.model_spec.name, answer.model_spec.version.value) == (target.model, target.latest_version())


@pytest.mark.source(f"{METADATA}, SavedModelGetSignatureDef", f"{PREDICT_UTIL}, VerifySignature")
def test_metadata_holds_the_default_signature_for_predict(target: Target) -> None:
    signature = target.signature()
    assert signature.method_name == "tensorflow/serving/predict"
    assert signature.inputs
    assert signature.outputs
    assert all(info.dtype for info in (*signature.inputs.values(), *signature.outputs.values()))


@pytest.mark.source(f"{METADATA}, ValidateGetModelMetadataRequest")
@pytest.mark.parametrize("fields", [(), ("no_such_field",)])
def test_metadata_without_a_known_field_is_an_invalid_argument(target: Target, fields: tuple[str, ...]) -> None:
    code, _ = refused(lambda: target.metadata(target.spec(), *fields))
    assert code is INVALID_ARGUMENT


@pytest.mark.source(SERVABLE)
def test_metadata_of_an_unknown_model_is_not_found(target: Target) -> None:
    code, message = refused(lambda: target.metadata(target.spec(name=NOWHERE), "signature_def"))
    assert (code, message) == (NOT_FOUND, f"Servable not found for request: Latest({NOWHERE})")


@pytest.mark.source(f"{STATUS}, GetModelStatusImpl::GetModelStatusWithModelSpec")
def test_status_of_a_loaded_model_is_available_and_ok(target: Target) -> None:
    states = {status.version: status for status in target.status(target.spec())}
    loaded = states[target.latest_version()]
    assert (loaded.state, loaded.status.error_code) == (ModelVersionStatus.AVAILABLE, 0)
    assert loaded.HasField("status")


@pytest.mark.source(f"{STATUS}, GetModelStatusImpl::GetModelStatusWithModelSpec")
def test_status_of_one_version_is_of_that_version_alone(target: Target) -> None:
    version = target.latest_version()
    assert [status.version for status in target.status(target.spec(version=version))] == [version]


@pytest.mark.source(f"{STATUS}, GetModelStatusImpl::GetModelStatusWithModelSpec")
def test_status_of_an_unknown_model_or_version_is_not_found(target: Target) -> None:
    assert refused(lambda: target.status(target.spec(name=NOWHERE))) == (
        NOT_FOUND,
        f"Could not find any versions of model {NOWHERE}",
    )
    assert refused(lambda: target.status(target.spec(version=NEVER))) == (
        NOT_FOUND,
        f"Could not find version {NEVER} of model {target.model}",
    )


@pytest.mark.source(f"{STATUS}, GetModelStatusImpl::GetModelStatus", PREDICT)
def test_a_request_without_model_spec_is_an_invalid_argument(target: Target) -> None:
    calls = [
        lambda: target.models.GetModelStatus(GetModelStatusRequest(), timeout=TIMEOUT_SECONDS),
        lambda: target.predict(PredictRequest()),
    ]
    assert [refused(call) for call in calls] == [(INVALID_ARGUMENT, "Missing ModelSpec")] * 2


@pytest.mark.source(f"{PREDICT_UTIL}, RunPredict and PostProcessPredictionResult")
def test_predict_answers_every_output_of_the_signature(target: Target) -> None:
    outputs = target.signature().outputs
    answer = target.predict(target.request(target.inputs(frames=2)))
    assert set(answer.outputs) == set(outputs)
    for name, info in outputs.items():
        wanted = [dim.size for dim in info.tensor_shape.dim]
        array = array_from_tensor(answer.outputs[name])
        assert answer.outputs[name].dtype == info.dtype
        assert len(array.shape) == len(wanted)
        assert all(want in (-1, got) for want, got in zip(wanted, array.shape, strict=True))
        assert array.shape[0] == 2


@pytest.mark.source(f"{PREDICT_UTIL}, RunPredict (MakeModelSpec)")
def test_predict_says_which_version_and_signature_answered(target: Target) -> None:
    version = target.latest_version()
    spec = target.spec(version=version, signature_name=SIGNATURE_NAME)
    for asked in (target.spec(), spec):
        assert target.predict(target.request(target.inputs(), asked)).model_spec == spec


@pytest.mark.source(f"{PREDICT_UTIL}, PreProcessPrediction")
def test_output_filter_selects_the_outputs(target: Target) -> None:
    wanted = sorted(target.signature().outputs)[:2]
    answer = target.predict(target.request(target.inputs(), output_filter=wanted))
    assert sorted(answer.outputs) == wanted


@pytest.mark.source(f"{PREDICT_UTIL}, PreProcessPrediction")
def test_an_unknown_or_doubled_output_filter_is_an_invalid_argument(target: Target) -> None:
    inputs, known = target.inputs(), sorted(target.signature().outputs)[0]
    code, message = refused(lambda: target.predict(target.request(inputs, output_filter=["no_such_output"])))
    assert code is INVALID_ARGUMENT
    assert message.startswith("output tensor alias not found in signature: no_such_output")
    doubled = refused(lambda: target.predict(target.request(inputs, output_filter=[known, known])))
    assert doubled == (INVALID_ARGUMENT, f"duplicate output tensor alias: {known}")


@pytest.mark.source("core/framework/tensor.cc, Tensor::FromProto")
def test_values_one_by_one_mean_the_same_as_tensor_content(target: Target) -> None:
    inputs = target.inputs()
    packed, spelled = target.request(inputs), target.request(inputs)
    for name, array in inputs.items():
        tensor = spelled.inputs[name]
        tensor.ClearField("tensor_content")
        field = tensor.int_val if array.dtype == np.uint8 else tensor.float_val
        field.extend(array.ravel().tolist())
    from_packed, from_spelled = target.predict(packed).outputs, target.predict(spelled).outputs
    for name in from_packed:
        np.testing.assert_allclose(
            array_from_tensor(from_packed[name]), array_from_tensor(from_spelled[name]), atol=1e-4
        )


@pytest.mark.source("core/framework/function.cc, FunctionCallFrame::SetArgs")
def test_a_wrong_type_is_an_invalid_argument(target: Target) -> None:
    wrong = {
        name: array.astype(np.float32 if array.dtype == np.uint8 else np.uint8)
        for name, array in target.inputs().items()
    }
    code, _ = refused(lambda: target.predict(target.request(wrong)))
    assert code is INVALID_ARGUMENT


@pytest.mark.source("the kernel that takes the input, such as core/util/image_resizer_state.h")
@pytest.mark.parametrize("change", ["no batch dimension", "another number of channels"])
def test_a_wrong_shape_is_an_invalid_argument(target: Target, change: str) -> None:
    changes = {
        "no batch dimension": lambda array: array[0],
        "another number of channels": lambda array: np.concatenate([array, array], axis=-1),
    }
    wrong = {name: changes[change](array) for name, array in target.inputs().items()}
    code, _ = refused(lambda: target.predict(target.request(wrong)))
    assert code is INVALID_ARGUMENT


@pytest.mark.source(INPUT_VALUES, "core/framework/tensor.cc, Tensor::FromProto")
def test_content_that_does_not_fill_the_shape_is_an_invalid_argument(target: Target) -> None:
    request = target.request(target.inputs())
    name = next(iter(request.inputs))
    request.inputs[name].tensor_content = request.inputs[name].tensor_content[:-1]
    code, message = refused(lambda: target.predict(request))
    assert code is INVALID_ARGUMENT
    assert message.startswith(f"tensor parsing error: {name}")


@pytest.mark.source(f"{PREDICT_UTIL}, VerifyRequestInputsSize", INPUT_VALUES)
@pytest.mark.parametrize("change", ["missing", "extra", "renamed"])
def test_a_wrong_set_of_input_names_is_an_invalid_argument(target: Target, change: str) -> None:
    inputs = target.inputs()
    name, array = next(iter(inputs.items()))
    if change != "extra":
        del inputs[name]
    if change != "missing":
        inputs["no_such_input"] = array
    code, _ = refused(lambda: target.predict(target.request(inputs)))
    assert code is INVALID_ARGUMENT


@pytest.mark.source(SERVABLE, "core/manager.h, ServableRequest::DebugString")
def test_predict_for_an_unknown_model_or_version_is_not_found(target: Target) -> None:
    inputs = target.inputs()
    specs = {
        f"Latest({NOWHERE})": target.spec(name=NOWHERE),
        f"Specific({target.model}, {NEVER})": target.spec(version=NEVER),
    }
    for wanted, spec in specs.items():
        answer = refused(lambda spec=spec: target.predict(target.request(inputs, spec)))
        assert answer == (NOT_FOUND, f"Servable not found for request: {wanted}")


@pytest.mark.source(SERVER_CORE)
def test_predict_without_a_model_name_is_an_invalid_argument(target: Target) -> None:
    answer = refused(lambda: target.predict(target.request(target.inputs(), target.spec(name="", version=1))))
    assert answer == (INVALID_ARGUMENT, "ModelSpec has no name specified.")


@pytest.mark.source("model_servers/server_core.cc, ServerCore::GetModelVersionForLabel")
def test_predict_for_an_unknown_version_label_is_an_invalid_argument(target: Target) -> None:
    spec = target.spec(version_label="no-such-label")
    answer = refused(lambda: target.predict(target.request(target.inputs(), spec)))
    assert answer == (INVALID_ARGUMENT, "Unrecognized servable version label: no-such-label")


@pytest.mark.source(f"{PREDICT_UTIL}, RunPredict")
def test_predict_with_an_unknown_signature_is_a_failed_precondition(target: Target) -> None:
    spec = target.spec(signature_name="no_such_signature")
    code, _ = refused(lambda: target.predict(target.request(target.inputs(), spec)))
    assert code is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.source("model_servers/server.cc, Server::BuildAndStart (SetMaxMessageSize)")
def test_requests_larger_than_the_4_mb_of_grpc_are_read(target: Target) -> None:
    large = tensor_from_array(np.zeros((8, 640, 640, 3), np.uint8))
    inputs: dict[str, TensorProto] = {"no_such_input": large}
    code, _ = refused(lambda: target.predict(PredictRequest(model_spec=target.spec(), inputs=inputs)))
    assert code is INVALID_ARGUMENT  # and not RESOURCE_EXHAUSTED, which gRPC gives for the size


@pytest.mark.source(QUEUE)
def test_too_large_a_batch_is_an_invalid_argument(batching_target: tuple[Target, int]) -> None:
    target, max_batch = batching_target
    code, message = refused(lambda: target.predict(target.request(target.inputs(max_batch + 1))))
    assert code is INVALID_ARGUMENT
    assert message == f"Task size {max_batch + 1} is larger than maximum input batch size {max_batch}"
    target.predict(target.request(target.inputs(max_batch)))


@pytest.mark.source(QUEUE)
def test_a_full_queue_is_unavailable_at_once_and_the_rest_is_served(busy_target: BusyTarget) -> None:
    answers = busy_target.target.flood(busy_target.go_on)
    refusals = [message for code, message in answers if code is not grpc.StatusCode.OK]
    if not refusals:
        not_shown("full queue", f"{len(answers)} requests at once were all served; give it a short queue")
    assert {code for code, _ in answers} == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert all("queue to which this" in message and "full" in message for message in refusals)


@pytest.mark.source(f"{STATUS}, ManagerStateToStateProtoEnum", SERVABLE)
def test_a_loading_model_is_loading_and_not_found_until_it_is_available(loading_target: LoadingTarget) -> None:
    target, spec = loading_target.target, loading_target.target.spec(version=loading_target.version)
    deadline = time.monotonic() + TIMEOUT_SECONDS
    state = wait_for_state(target, spec, {ModelVersionStatus.LOADING, ModelVersionStatus.AVAILABLE}, deadline)
    if state != ModelVersionStatus.LOADING:
        not_shown("model still loading", f"version {loading_target.version} loaded faster than it was looked at")
    request = PredictRequest(model_spec=spec, inputs={"any": tensor_from_array(np.zeros(1, np.uint8))})
    assert refused(lambda: target.predict(request)) == (
        NOT_FOUND,
        f"Servable not found for request: Specific({target.model}, {loading_target.version})",
    )
    loading_target.finish()
    wait_for_state(target, spec, {ModelVersionStatus.AVAILABLE}, deadline)
    answer = target.predict(target.request(target.inputs(), spec))
    assert answer.model_spec.version.value == loading_target.version


def wait_for_state(target: Target, spec, states: set[int], deadline: float) -> int:
    """The first of the states that is seen; a version that is not known yet is waited for too."""
    while time.monotonic() < deadline:
        try:
            (status,) = target.status(spec)
        except grpc.RpcError as unknown:
            assert unknown.code() is NOT_FOUND  # noqa: PT017 (anything else ends the wait)
            continue
        if status.state in states:
            return status.state
    raise AssertionError(f"none of the states {states} was seen in time")
