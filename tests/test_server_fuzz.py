"""Hostile input by the thousand: schemathesis over every operation, from the server's own OpenAPI description.

Requests per operation: FUZZ_EXAMPLES (default 12 here; ``make fuzz`` asks for many).
"""

import json
import os
import re
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import checks
from schemathesis.config._checks import NegativeDataRejectionConfig

from servers import KEY, Served

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "12"))
EXPLORES = "FUZZ_EXAMPLES" in os.environ
"""New requests with every run; else the same ones each time."""
LEAK = re.compile(
    rb"Traceback|File \"/|/tmp/|/root/|/home/|"
    + re.escape(str(Path.cwd()).encode())
    + rb"|0x[0-9a-f]{8,}|site-packages|sqlite|sqlalchemy",
    re.IGNORECASE,
)
NOT_CHECKED = ("positive_data_acceptance",)
"""A body may be right by its schema and still name a file that does not exist: a 400 that says so."""
REFUSALS = NegativeDataRejectionConfig().expected_statuses
"""Of wrong input, by schemathesis; it does not think of input that is also too large."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path):
    folder = tmp_path_factory.mktemp("fuzz")
    server = Served(folder / "data", tiny_model)
    server.deploy(folder)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def description(served: Served):
    url = served.url.replace("/v1", "/openapi.json")
    schema = schemathesis.openapi.from_url(url, headers={"Authorization": f"Bearer {KEY}"})
    schema.config.update(base_url=served.url.removesuffix("/v1"))
    schema.config.checks.negative_data_rejection.expected_statuses = [*REFUSALS, "413"]
    return schema


def test_a_wrong_body_that_is_also_too_large_is_refused(description) -> None:
    """A million characters of four bytes and more: its size is refused before its fields are read."""
    wrong = []
    operation = description["/v1/fine_tuning/alpha/graders/run"]["POST"]

    @settings(
        max_examples=20, derandomize=not EXPLORES, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
    def collect(case: schemathesis.Case) -> None:
        if isinstance(case.body, dict):
            wrong.append(case)

    collect()
    case = wrong[0]
    case.body = {**case.body, "model_sample": "\N{GRINNING FACE}" * 1_000_001}
    response = case.call(headers={"Authorization": f"Bearer {KEY}"}, timeout=30)
    assert response.status_code == 413
    case.validate_response(response, checks=CHECKS, headers={"Authorization": f"Bearer {KEY}"})


checks.load_all_checks()
CHECKS = [c for c in checks.CHECKS.get_all() if c.__name__ not in NOT_CHECKED]


def test_every_operation_takes_anything(description) -> None:
    """Valid and invalid input for each; ``operation`` in the message says which failed."""
    seen = 0
    for found in description.get_all_operations():
        operation = found.ok()
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            seen += fuzz(operation, mode)
    assert seen >= 20 * EXAMPLES, "the operations were found and called"
    if target := os.environ.get("FUZZ_RESULT"):
        Path(target).write_text(
            json.dumps({"requests": seen, "checks": [c.__name__ for c in CHECKS], "wrong": 0}) + "\n"
        )


def fuzz(operation, mode: schemathesis.GenerationMode) -> int:
    """Requests sent to one operation; raises for the first answer that is wrong."""
    seen = 0

    @settings(
        max_examples=EXAMPLES,
        derandomize=not EXPLORES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: schemathesis.Case) -> None:
        nonlocal seen
        seen += 1
        response = case.call(headers={"Authorization": f"Bearer {KEY}"}, timeout=30)
        assert not LEAK.search(response.content), response.content
        case.validate_response(response, checks=CHECKS, headers={"Authorization": f"Bearer {KEY}"})

    try:
        send()
    except Unsatisfiable:
        pass  # some operations have nothing to get wrong
    return seen


def test_sequences_of_operations(description, served: Served) -> None:
    """Stateful: what one operation made is used, deleted, and used again by others."""
    machine = description.as_state_machine()
    machine.TestCase.settings = settings(
        derandomize=not EXPLORES,
        max_examples=max(3, EXAMPLES // 4),
        stateful_step_count=8,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )

    class Sequences(machine):
        def get_call_kwargs(self, case: schemathesis.Case) -> dict:
            return {"headers": {"Authorization": f"Bearer {KEY}"}, "timeout": 30}

        def validate_response(self, response, case, **options) -> None:
            assert not LEAK.search(response.content), response.content
            case.validate_response(response, checks=CHECKS, headers={"Authorization": f"Bearer {KEY}"})

    Sequences.TestCase.settings = machine.TestCase.settings
    Sequences.run()
    assert served.healthy()
