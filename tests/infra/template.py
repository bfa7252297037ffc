"""A CloudFormation template as parsed, and as AWS would see it with given parameters.

Knows the functions that the templates of `infra/` use, and no others. What AWS would make up, such as the id of a
subnet, is `<Subnet>`, and an attribute `<Subnet.Attribute>`; names, and ARNs that follow from names, are the real ones.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.template import Template

INFRA = Path(__file__).parents[2] / "infra"
ACCOUNT = "123456789012"
REGION = "us-east-1"
NAMED = {"AWS::S3::Bucket": "BucketName", "AWS::SQS::Queue": "QueueName", "AWS::EKS::Cluster": "Name"}
NOTHING = object()


class TemplateError(Exception):
    """CloudFormation would refuse this."""


def load(name: str) -> dict[str, Any]:
    """A template of `infra/`, with every function in its long form."""
    return Template(INFRA / name).content


class Stack:
    """A template with parameters.

    Raises:
        TemplateError: a parameter has a value that is not allowed, or is missing.
    """

    def __init__(
        self, template: Mapping[str, Any], parameters: Mapping[str, str] | None = None, *,
        name: str = "reelscan", region: str = REGION,
    ) -> None:  # fmt: skip
        self.template = template
        self.name = name
        self.region = region
        self.parameters = {
            key: _parameter(key, definition, (parameters or {}).get(key))
            for key, definition in template["Parameters"].items()
        }
        unknown = set(parameters or {}) - set(self.parameters)
        if unknown:
            raise TemplateError(f"no parameters: {sorted(unknown)}")
        self._being_named: list[str] = []

    def failures(self) -> list[str]:
        """What the rules say against these parameters."""
        return [
            assertion["AssertDescription"]
            for rule in self.template.get("Rules", {}).values()
            if self._is_true(rule.get("RuleCondition", True))
            for assertion in rule["Assertions"]
            if not self._is_true(assertion["Assert"])
        ]

    def condition(self, name: str) -> bool:
        return self._is_true(self.template["Conditions"][name])

    def has(self, logical_id: str) -> bool:
        resource = self.template["Resources"].get(logical_id)
        return resource is not None and ("Condition" not in resource or self.condition(resource["Condition"]))

    def resources(self) -> dict[str, dict[str, Any]]:
        """The resources that there are, with everything evaluated."""
        return {key: self.resource(key) for key in self.template["Resources"] if self.has(key)}

    def resource(self, logical_id: str) -> dict[str, Any]:
        if not self.has(logical_id):
            raise TemplateError(f"there is no {logical_id}")
        return self.value(self.template["Resources"][logical_id])

    def properties(self, logical_id: str) -> dict[str, Any]:
        return self.resource(logical_id).get("Properties", {})

    def of_type(self, kind: str) -> dict[str, dict[str, Any]]:
        """Properties of the resources of a type."""
        return {key: r.get("Properties", {}) for key, r in self.resources().items() if r["Type"] == kind}

    def outputs(self) -> dict[str, str]:
        return {key: self.value(output["Value"]) for key, output in self.template["Outputs"].items()}

    def value(self, node: Any) -> Any:
        """A part of the template, evaluated; TemplateError if it refers to what is not there."""
        if isinstance(node, list):
            found = [self.value(item) for item in node]
            return [item for item in found if item is not NOTHING]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            ((name, argument),) = node.items()
            if name == "Ref":
                return self._ref(argument)
            if name.startswith("Fn::"):
                return self._function(name, argument)
        found = {key: self.value(item) for key, item in node.items()}
        return {key: item for key, item in found.items() if item is not NOTHING}

    def _function(self, name: str, argument: Any) -> Any:
        match name:
            case "Fn::If":
                return self.value(argument[1] if self.condition(argument[0]) else argument[2])
            case "Fn::GetAtt":
                return self._attribute(*argument)
            case "Fn::Sub":
                return re.sub(r"\$\{([^}]+)\}", lambda found: str(self._variable(found[1])), argument)
            case "Fn::FindInMap":
                table, row, column = (self.value(part) for part in argument)
                return self.template["Mappings"][table][row][column]
            case "Fn::Join":
                return argument[0].join(self.value(argument[1]))
            case "Fn::Select":
                return self.value(argument[1])[int(argument[0])]
            case "Fn::Base64":
                return base64.b64encode(self.value(argument).encode()).decode()
        raise TemplateError(f"{name} is not known here")

    def _is_true(self, node: Any) -> bool:
        if isinstance(node, bool):
            return node
        ((name, argument),) = node.items()
        match name:
            case "Fn::Equals":
                return str(self.value(argument[0])) == str(self.value(argument[1]))
            case "Fn::Not":
                return not self._is_true(argument[0])
            case "Fn::And":
                return all(self._is_true(part) for part in argument)
            case "Fn::Or":
                return any(self._is_true(part) for part in argument)
            case "Fn::Contains":
                return self.value(argument[1]) in self.value(argument[0])
            case "Fn::EachMemberIn":
                return set(self.value(argument[0])) <= set(self.value(argument[1]))
            case "Condition":
                return self.condition(argument)
        raise TemplateError(f"{name} is no condition")

    def _ref(self, name: str) -> Any:
        pseudo = {
            "AWS::AccountId": ACCOUNT,
            "AWS::NoValue": NOTHING,
            "AWS::Partition": "aws",
            "AWS::Region": self.region,
            "AWS::StackName": self.name,
            "AWS::URLSuffix": "amazonaws.com",
        }
        if name in pseudo:
            return pseudo[name]
        if name in self.parameters:
            return self.parameters[name]
        kind = self._kind(name)
        if kind == "AWS::SQS::Queue":
            return f"https://sqs.{self.region}.amazonaws.com/{ACCOUNT}/{self._name(name)}"
        return self._name(name) if kind in NAMED else f"<{name}>"

    def _attribute(self, name: str, attribute: str) -> str:
        kind = self._kind(name)
        if attribute in ("QueueName", "BucketName"):
            return self._name(name)
        if attribute == "Arn" and kind == "AWS::S3::Bucket":
            return f"arn:aws:s3:::{self._name(name)}"
        if attribute == "Arn" and kind == "AWS::SQS::Queue":
            return f"arn:aws:sqs:{self.region}:{ACCOUNT}:{self._name(name)}"
        return f"<{name}.{attribute}>"

    def _variable(self, name: str) -> Any:
        owner, dot, attribute = name.partition(".")
        return self._attribute(owner, attribute) if dot else self._ref(name)

    def _kind(self, name: str) -> str:
        if not self.has(name):
            raise TemplateError(f"there is no {name}")
        return str(self.template["Resources"][name]["Type"])

    def _name(self, name: str) -> str:
        """By which a resource goes. That of another must not hang on it in turn."""
        if name in self._being_named:
            raise TemplateError(f"the name of {name} depends on itself")
        self._being_named.append(name)
        try:
            resource = self.template["Resources"][name]
            return str(self.value(resource["Properties"][NAMED[resource["Type"]]]))
        finally:
            self._being_named.pop()


def _parameter(name: str, definition: Mapping[str, Any], given: str | None) -> Any:
    if given is None and "Default" not in definition:
        raise TemplateError(f"{name} has no value")
    text = str(definition["Default"] if given is None else given)
    kind = definition["Type"]
    is_list = kind == "CommaDelimitedList" or kind.startswith("List<")
    parts = text.split(",") if is_list else [text]
    for part in parts:
        if "AllowedValues" in definition and part not in map(str, definition["AllowedValues"]):
            raise TemplateError(f"{name}={part}: allowed are {definition['AllowedValues']}")
        if not re.fullmatch(definition.get("AllowedPattern", ".*"), part, re.DOTALL):
            raise TemplateError(f"{name}={part}: {definition['ConstraintDescription']}")
        if kind == "Number" and not (
            definition.get("MinValue", float("-inf")) <= float(part) <= definition.get("MaxValue", float("inf"))
        ):
            raise TemplateError(f"{name}={part}: out of bounds")
    return parts if is_list else text
