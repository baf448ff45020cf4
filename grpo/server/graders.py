"""Graders on the wire → what scores completions. Reward functions are resolved here and nowhere else."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from grpo.server.errors import Invalid, NotFound
from grpo.server.records import Function
from grpo.server.settings import DataDirectory
from grpo.server.store import Store

ARN = re.compile(r"^arn:aws[a-z-]*:lambda:[a-z0-9-]+:\d{12}:function:(?P<name>[A-Za-z0-9_-]{1,64})(:[A-Za-z0-9$_-]+)?$")
NAME = re.compile(r"^[A-Za-z0-9_-]{1,64}$")
INVOCATION = re.compile(r"/2015-03-31/functions/[^/]+/invocations")
KNOWN = ("lambda",)
WAITING = {"batch_size": 8, "concurrency": 8}
"""Of functions with a network: a judge waits for its model, so calls side by side, as at Lambda, cost nothing."""
OPENAI = ("string_check", "text_similarity", "python", "score_model", "label_model", "multi")


class Graders:
    """Looks up what a grader names."""

    def __init__(
        self, store: Store, data: DataDirectory, sandbox: str, aws: bool, reach: Mapping[str, str] | None = None
    ) -> None:
        """``aws``: ARNs that are not registered here are called at AWS.

        ``reach``: functions made by Lambda's API have a network, as they have at Lambda, and these variables, by which
        boto3 finds this server there; None: they have no network.
        """
        self.store = store
        self.data = data
        self.sandbox = sandbox
        self.aws = aws
        self.reach = reach

    def reward(self, grader: Any, where: str) -> dict[str, Any]:
        """The ``[reward]`` section for a grader. Raises Invalid or NotFound, with the field's name."""
        if not isinstance(grader, dict):
            raise Invalid("required, an object with a type", param=where)
        kind = grader.get("type")
        if kind in OPENAI:
            raise Invalid(f"graders of type {kind} are not implemented yet; use type lambda", param=f"{where}.type")
        if kind not in KNOWN:
            raise Invalid(f"unknown grader type {str(kind)[:64]!r}; known: {', '.join(KNOWN)}", param=f"{where}.type")
        extra = set(grader) - {"type", "lambda", "name"}
        if extra:
            raise Invalid("unknown field", param=f"{where}.{min(extra)[:64]}")
        return self._lambda(grader.get("lambda"), f"{where}.lambda")

    def _lambda(self, content: Any, where: str) -> dict[str, Any]:
        if not isinstance(content, dict) or not isinstance(content.get("function"), str):
            raise Invalid("required: a function's name, ARN or invocation URL", param=f"{where}.function")
        extra = set(content) - {"function"}
        if extra:
            raise Invalid("unknown field", param=f"{where}.{min(extra)[:64]}")
        name: str = content["function"]
        where = f"{where}.function"
        if name.startswith(("http://", "https://")):
            return self._url(name, where)
        match = ARN.match(name)
        function = self.store.functions.get(match["name"] if match else name) if match or NAME.match(name) else None
        if function is None and match and self.aws:
            return {"function": name}
        if function is None:
            known = ", ".join(f.name for f in self.store.functions.all()) or "none"
            raise NotFound(
                f"no function {name[:200]!r} is registered here (known: {known}). "
                "Register one: grpo lambda deploy NAME FILE.py",
                param=where,
                code="function_not_found",
            )
        return self.section(function)

    def _url(self, url: str, where: str) -> dict[str, Any]:
        parts = urlsplit(url)
        if not INVOCATION.fullmatch(parts.path) or parts.query or parts.fragment or "@" in parts.netloc:
            raise Invalid("the URL must be http://HOST/2015-03-31/functions/NAME/invocations", param=where)
        return {"url": url}

    def section(self, function: Function) -> dict[str, Any]:
        """The ``[reward]`` section of a registered function."""
        module, _, handler = function.handler.rpartition(".")
        directory = self.data.function(function.name, function.sha256)
        reach = self.reach if function.role is not None else None
        return {
            "file": str(directory / f"{module.replace('.', '/')}.py"),
            "handler": handler,
            "timeout_s": function.timeout_s,
            "memory_gib": function.memory_mb / 1024,
            "environment": {"AWS_LAMBDA_FUNCTION_NAME": function.name, **(reach or {}), **function.environment},
            "network": function.network or reach is not None,
            "sandbox": self.sandbox,
            **(WAITING if reach else {}),
        }
