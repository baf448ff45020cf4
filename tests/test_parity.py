"""docs/aws-parity.md says what is so: every name is one of the model's, the page is current, the rest is refused."""

import ast
import sys
from pathlib import Path

import pytest
from botocore.model import ServiceModel

from grpo.server.aws import members, runtime
from grpo.server.aws.errors import AwsError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import parity  # noqa: E402

OPERATIONS = [(service, name) for service, found in members.TAKEN.items() for name in found]


def read_by(service: str) -> set[str]:
    """Names that the code of a service mentions."""
    return parity.written(service)


def test_the_page_is_current() -> None:
    assert parity.PAGE.read_text() == parity.page(), "run: make parity"


def test_operations_are_those_of_the_services() -> None:
    """The table lists what the classes offer, no more and no less; read from the source, not from the table."""
    for service in members.TAKEN:
        offered = set()
        for module in parity.CODE[service]:
            for node in ast.walk(ast.parse((parity.SOURCE / f"{module}.py").read_text())):
                if isinstance(node, ast.FunctionDef) and node.name == "operations":
                    keys = [key for d in ast.walk(node) if isinstance(d, ast.Dict) for key in d.keys]
                    offered |= {key.value for key in keys if isinstance(key, ast.Constant)}
        if service == "bedrock-runtime":
            offered = set(runtime.OPERATIONS)
        assert offered == set(members.TAKEN[service])


@pytest.mark.parametrize(("service", "operation"), OPERATIONS)
def test_members_are_the_models(service: str, operation: str) -> None:
    """No name is misspelt, and what is said to have an effect is mentioned in the service's code."""
    shape = parity.model(service).operation_model(operation).input_shape
    known = members.known_members(service, operation)
    assert known <= set(shape.members if shape else ())
    in_url = {"contentType", "accept", "Body", "Payload", "body", "ContentLength", "EncodingType"}
    assert set(members.TAKEN[service][operation].split()) - in_url <= read_by(service) | {"sortBy"}


@pytest.mark.parametrize(("service", "operation"), OPERATIONS)
def test_any_other_member_is_refused_by_name(service: str, operation: str) -> None:
    model: ServiceModel = parity.model(service)
    shape = model.operation_model(operation).input_shape
    others = set(shape.members if shape else ()) - members.known_members(service, operation)
    for name in others:
        with pytest.raises(AwsError, match=f"^{name} is not implemented here$"):
            members.check(service, operation, {name: "something"})
    members.check(service, operation, dict.fromkeys(members.known_members(service, operation), "something"))
