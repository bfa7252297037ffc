"""What `make create-role` allows: policies of the role that operates a stack, and the boundary of the stack's roles."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from infra.session import Caller
from infra.settings import InfraSettings

OPERATOR = Path(__file__).with_name("operator-policy.yaml")
BOUNDARY = Path(__file__).with_name("boundary-policy.yaml")
MAX_POLICY_CHARACTERS = 6144
"""IAM's own limit on a managed policy, spaces not counted."""

Document = dict[str, Any]


def role_name(settings: InfraSettings) -> str:
    """The name of the role that operates the stack."""
    return f"{settings.cluster_stack_name}-operator"


def boundary_name(settings: InfraSettings) -> str:
    """The name of the policy that bounds the stack's roles. It begins as those of the operator's policies do."""
    return f"{role_name(settings)}-boundary"


def role_arn(settings: InfraSettings, caller: Caller) -> str:
    """The ARN of the role that operates the stack."""
    return f"arn:{caller.partition}:iam::{caller.account}:role/{role_name(settings)}"


def policy_arn(name: str, caller: Caller) -> str:
    """The ARN of a policy of the account."""
    return f"arn:{caller.partition}:iam::{caller.account}:policy/{name}"


def operator_policies(settings: InfraSettings, caller: Caller) -> dict[str, Document]:
    """What the role that operates the stack may do: documents by the names of their policies."""
    parts: dict[str, list[Document]] = yaml.safe_load(fill(OPERATOR.read_text(), _values(settings, caller)))
    return {f"{role_name(settings)}-{name}": _document(statements) for name, statements in parts.items()}


def boundary(settings: InfraSettings, caller: Caller) -> Document:
    """The most that a role of the stack may do."""
    statements: list[Document] = yaml.safe_load(fill(BOUNDARY.read_text(), _values(settings, caller)))
    if settings.more_source_arns:
        more = settings.more_source_arns.split(",")
        statements.append({"Sid": "MoreVideos", "Action": "s3:GetObject", "Resource": more})
    return _document(statements)


def fill(text: str, values: Mapping[str, str]) -> str:
    """Put values for `${NAME}`. Raises KeyError for one that is not known."""
    return re.sub(r"\$\{(\w+)\}", lambda found: values[found[1]], text)


def _values(settings: InfraSettings, caller: Caller) -> dict[str, str]:
    return {
        "Partition": caller.partition,
        "Account": caller.account,
        "Region": settings.region,
        "Stack": settings.cluster_stack_name,
        "Cluster": settings.cluster,
        "Role": role_arn(settings, caller),
        "Boundary": policy_arn(boundary_name(settings), caller),
    }


def _document(statements: Iterable[Document]) -> Document:
    return {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **statement} for statement in statements]}
