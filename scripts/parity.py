"""docs/aws-parity.md: every operation of the services that are here, and every member of its input and output.

    python scripts/parity.py [--check]

Made of botocore's service models, of grpo/server/aws/members.py, and, for members of outputs of most services, of the
source: a member whose name the service's code writes is sent (where there is something to send), any other never is.
"""

import argparse
import ast
import sys
from pathlib import Path

from botocore.loaders import Loader
from botocore.model import OperationModel, ServiceModel

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from grpo.server.aws import members  # noqa: E402

PAGE = ROOT / "docs" / "aws-parity.md"
SOURCE = ROOT / "grpo" / "server" / "aws"
CODE = {
    "bedrock": ("bedrock", "models", "customization"),
    "bedrock-runtime": ("runtime", "chat"),
    "s3": ("s3", "s3_parts", "s3_rules"),
    "lambda": ("lambda_",),
    "logs": ("logs",),
    "cloudwatch": ("cloudwatch",),
}
HEAD = """# Amazon's APIs, member by member

Made by `make parity` of botocore {version}'s service models and of what the code says; a test fails when it is out of
date.

- **taken**: members of the input that have their effect. Members inside them may be refused: docs/aws.md.
- **no effect**: accepted, and makes no difference here.
- **refused**: answered with an error that names the member.
- **sent**: members of the output that are there when there is something to say.
- **never sent**: the others.

Operations that are not listed answer with their name, as `NotImplemented`, HTTP 501. `iam` and `sts` are moto's.
How Amazon's own service behaves beyond its model (wording, order of checks, timing) is unknown unless docs/aws.md says
it.
"""


def model(service: str) -> ServiceModel:
    """botocore's."""
    return ServiceModel(Loader().load_service_model(service, "service-2"))


def written(service: str) -> set[str]:
    """Every string in the service's code."""
    trees = [ast.parse((SOURCE / f"{name}.py").read_text()) for name in CODE[service]]
    nodes = (node for tree in trees for node in ast.walk(tree))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def row(service: str, operation: OperationModel, said: set[str]) -> str:
    """One line of the table."""
    taken = members.TAKEN[service][operation.name].split()
    without = members.WITHOUT_EFFECT.get(service, {}).get(operation.name, "").split()
    asked = list(operation.input_shape.members) if operation.input_shape else []
    answered = list(operation.output_shape.members) if operation.output_shape else []
    refused = [name for name in asked if name not in taken and name not in without]
    if service in members.SENT:
        said = {*members.SENT[service].get(operation.name, "").split()}
    cells = [
        taken,
        without,
        refused,
        [name for name in answered if name in said],
        [name for name in answered if name not in said],
    ]
    return f"| {operation.name} | " + " | ".join(", ".join(cell) or "-" for cell in cells) + " |"


def section(service: str) -> str:
    """One service."""
    found, said = model(service), written(service)
    here = members.TAKEN[service]
    lacking = len(found.operation_names) - len(here)
    lines = [f"## {service}: {len(here)} operations, {lacking} lacking", ""]
    lines += [
        "| operation | taken | no effect | refused | sent | never sent |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [row(service, found.operation_model(name), said) for name in here]
    return "\n".join(lines) + "\n"


def page() -> str:
    """All of it."""
    import botocore

    return "\n".join([HEAD.format(version=botocore.__version__), *(section(service) for service in members.TAKEN)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail when the page is out of date")
    if parser.parse_args().check:
        return int(PAGE.read_text() != page())
    PAGE.write_text(page())
    print(PAGE.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
