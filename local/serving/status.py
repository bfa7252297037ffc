"""What a request is refused with, as gRPC's status codes, and their HTTP counterparts."""

from __future__ import annotations

from http import HTTPStatus

import grpc

MAX_MESSAGE_CHARACTERS = 1024
"""Longer messages are cut, as TensorFlow Serving does (model_servers/grpc_status_util.cc, ToGRPCStatus)."""

# TensorFlow Serving, model_servers/http_server.cc, ToHTTPStatusCode.
_HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.FAILED_PRECONDITION: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.OUT_OF_RANGE: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    grpc.StatusCode.UNIMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
    grpc.StatusCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
}


class ServingError(Exception):
    """A request is answered with this status. Goes over the wire, never to a terminal.

    Args:
        code: The gRPC status code.
        message: One line; cut after MAX_MESSAGE_CHARACTERS.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        text = " ".join(message.split())
        if len(text) > MAX_MESSAGE_CHARACTERS:
            text = text[:MAX_MESSAGE_CHARACTERS] + "...TRUNCATED"
        super().__init__(text)
        self.code = code
        self.message = text

    @property
    def http_status(self) -> HTTPStatus:
        """The status of the same refusal over REST."""
        return _HTTP_STATUS.get(self.code, HTTPStatus.INTERNAL_SERVER_ERROR)


def invalid_argument(message: str) -> ServingError:
    """The request itself is wrong: sending it again is no use."""
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)
