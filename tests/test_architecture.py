"""The structure as tests: import direction, which library is used where, sizes, dangerous calls."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ORDER = [
    "errors",
    "types",
    "offline",
    "sections",
    "config",
    "doctor",
    "rows",
    "prompts",
    "conversion",
    "advantages",
    "survey",
    "points",
    "drawing",
    "linefit",
    "falls",
    "flatness",
    "heldout",
    "health",
    "alarms",
    "convergence",
    "rehearsal",
    "forecast",
    "outlook",
    "replay",
    "manifest",
    "batch",
    "blocks",
    "attention",
    "loss",
    "reading",
    "four_bits",
    "folding",
    "adapted",
    "policy",
    "compilation",
    "quantise",
    "shapes",
    "placement",
    "memory",
    "rollout",
    "sharding",
    "hf_sampler",
    "process_host",
    "engine_extension",
    "connection",
    "engine",
    "remote_engine",
    "engine_choice",
    "runlog",
    "kept_proof",
    "headstart",
    "vllm_sampler",
    "replicas",
    "sync",
    "kernel_proof",
    "reward_host",
    "syscalls",
    "users",
    "sandbox",
    "reward_process",
    "reward_remote",
    "rewards",
    "episodes",
    "update",
    "sinks",
    "streams",
    "checkpoint",
    "evaluate",
    "selection",
    "metrics",
    "plot",
    "display",
    "samplers",
    "ranks",
    "resources",
    "outcome",
    "groups",
    "ahead",
    "loop",
    "export",
    "standalone",
    "train",
    "console",
    "page",
    "report",
    "bench",
    "server",
    "testing",
    "cli_bench",
    "cli_console",
    "cli_data",
    "cli_plan",
    "cli_engine",
    "cli",
    "demo_model",
    "__main__",
]
ONLY_IN = {
    "vllm": set(),
    "triton": set(),
    "peft": {"adapted", "policy", "shapes", "export"},
    "transformers": {"attention", "compilation", "policy", "shapes", "standalone", "demo_model"},
    "typer": {
        "cli",
        "cli_bench",
        "cli_console",
        "cli_data",
        "cli_engine",
        "cli_plan",
        "server/cli",
        "server/cli_jobs",
        "server/cli_cloud",
    },
    "matplotlib": {"plot", "bench/picture"},
    "httpx": {
        "connection",
        "reward_remote",
        "server/engines",
        "server/openai/inference",
        "server/aws/runtime",
        "server/conformance",
    },
    "boto3": {"reward_remote", "server/conformance"},
    "cryptography": {"server/tls"},
    "pyseccomp": {"syscalls"},
    "sqlalchemy": {"server/store/*", "server/app", "server/supervisor", "server/aws/face"},
    "alembic": {"server/store/*"},
    "fastapi": {"server/context", "server/app", "server/openai/*", "server/aws/*"},
    "moto": {"server/aws/*"},
    "regex": {"server/aws/checks"},
    "cbor2": {"server/aws/cbor"},
    "uvicorn": {"server/serve", "server/protocol", "testing", "console/server"},
    "pytest": {"testing"},
    "python_multipart": {"server/uploads"},
    "scipy": {"linefit", "flatness", "forecast", "bench/intervals"},
    "tensorboard": {"streams"},
    "sqlite3": {"console/index", "server/store/database", "graders/grade_sql"},
    "tokenizers": {"console/tokens"},
}
SERVER_ORDER = [
    "errors",
    "records",
    "settings",
    "store",
    "keys",
    "aws_auth",
    "guard",
    "uploads",
    "catalogue",
    "training_files",
    "plan",
    "graders",
    "functions",
    "trial",
    "projection",
    "transitions",
    "worker",
    "supervisor",
    "engines",
    "context",
    "prometheus",
    "openai",
    "aws",
    "removal",
    "console",
    "app",
    "protocol",
    "tls",
    "serve",
    "probes",
    "conformance",
    "cli_jobs",
    "cli_cloud",
    "cli",
]
"""Inside ``server``; ``cli`` knows the store and what changes it, not the application."""
LIGHT = [
    "errors",
    "types",
    "sections",
    "config",
    "doctor",
    "prompts",
    "advantages",
    "points",
    "drawing",
    "linefit",
    "falls",
    "flatness",
    "heldout",
    "health",
    "convergence",
    "forecast",
    "outlook",
    "replay",
    "streams",
    "engine",
    "engine_choice",
    "kept_proof",
    "headstart",
    "rewards",
    "runlog",
    "manifest",
    "server.app",
    "server.serve",
    "server.cli",
    "cli",
]
SOURCES = sorted(ROOT.glob("grpo/**/*.py")) + sorted(ROOT.glob("kernels/grpo_kernels/*.py"))
TRUSTED = [path for path in SOURCES if path.parent.name != "graders"]
"""Built-in graders are reward code: they run in the sandbox, and exec what they grade."""


def place(path: Path) -> str:
    """A file's place below ``grpo``: ``loop``, ``server/store/jobs``."""
    return str(path.relative_to(ROOT / "grpo").with_suffix(""))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = node.module == "grpo"
            yield from ((node.lineno, f"grpo.{a.name}" if whole else node.module) for a in node.names)


def test_every_file_has_its_place() -> None:
    found = [p.stem for p in ROOT.glob("grpo/*.py") if p.stem != "__init__"]
    assert sorted(ORDER) == sorted([*found, "bench", "console", "server"])
    inside = [p.stem for p in ROOT.glob("grpo/server/*.py") if p.stem != "__init__"]
    assert sorted(SERVER_ORDER) == sorted([*inside, "store", "openai", "aws"])


def test_imports_point_one_way() -> None:
    wrong = []
    for path in ROOT.glob("grpo/[!_]*.py"):
        for line, name in imports(path):
            parts = name.split(".")
            ours = parts[0] == "grpo" and len(parts) > 1
            if ours and ORDER.index(parts[1]) >= ORDER.index(path.stem):
                wrong.append(f"{path.name}:{line} imports {parts[1]}")
    for path in ROOT.glob("grpo/server/**/*.py"):
        own = path.relative_to(ROOT / "grpo" / "server").parts[0].removesuffix(".py")
        for line, name in imports(path):
            parts = name.split(".")
            inside = parts[:2] == ["grpo", "server"] and len(parts) > 2 and parts[2] != own
            if inside and SERVER_ORDER.index(parts[2]) >= SERVER_ORDER.index(own):
                wrong.append(f"server/{path.name}:{line} imports {parts[2]}")
            below = parts[0] != "grpo" or len(parts) == 1 or ORDER.index(parts[1]) <= ORDER.index("server")
            if not below:
                wrong.append(f"server/{path.name}:{line} imports {parts[1]}")
    assert wrong == []


def test_libraries_stay_in_their_files() -> None:
    found = []
    for path in ROOT.glob("grpo/**/*.py"):
        for line, name in imports(path):
            allowed = ONLY_IN.get(name.split(".")[0])
            if allowed is not None and not any(fnmatch(place(path), pattern) for pattern in allowed):
                found.append(f"{place(path)}:{line} imports {name}")
    assert found == []


def test_kernels_know_nothing_of_the_rest() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()
    names = {name.split(".")[0] for path in ROOT.glob("kernels/grpo_kernels/*.py") for _, name in imports(path)}
    assert names <= {
        "torch",
        "triton",
        "typing",
        "collections",
        "dataclasses",
        "importlib",
        "functools",
        "grpo_kernels",
    }


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_do_not_load_torch(module: str) -> None:
    code = f"import grpo.{module}, sys; sys.exit(bool({{'torch', 'vllm', 'transformers'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_files_and_functions_stay_short() -> None:
    long_files = [p.name for p in SOURCES if len(p.read_text().splitlines()) > 300]
    lengths = [(f.end_lineno - f.lineno + 1, f"{p.name}:{f.name}") for p in SOURCES for f in functions(p)]
    assert long_files == []
    assert [entry for entry in lengths if entry[0] > 60] == []
    assert sorted(length for length, _ in lengths)[len(lengths) // 2] <= 12


def test_public_functions_and_modules_have_docstrings() -> None:
    missing = [p.name for p in SOURCES if not ast.get_docstring(ast.parse(p.read_text()))]
    for path in TRUSTED:
        for node in ast.parse(path.read_text()).body:
            named = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if named and not ast.get_docstring(node) and node.name != "main":
                missing.append(f"{path.name}:{node.name}")
    assert missing == []


def test_nothing_dangerous() -> None:
    """No pickle, no torch.load, no eval: a checkpoint, a prompt file or a reply never runs code."""
    found = []
    for path in TRUSTED:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name in ("eval", "exec", "torch.load", "pickle.load", "pickle.loads", "os.system", "yaml.load"):
                    found.append(f"{path.name}:{node.lineno} {name}")
                if any(k.arg == "shell" and ast.unparse(k.value) != "False" for k in node.keywords):
                    found.append(f"{path.name}:{node.lineno} shell=True")
            if isinstance(node, ast.Import | ast.ImportFrom) and "pickle" in ast.unparse(node):
                found.append(f"{path.name}:{node.lineno} imports pickle")
    assert found == []


def test_broad_excepts_are_counted() -> None:
    """Somebody else's code is run in three places: the reward function (loading, calling) and a model's chat template.

    The fourth keeps one job's bug from stopping the others, the fifth answers for a bug in Amazon's form.
    """
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else "everything"
                if caught == "everything" or "Exception" in caught.replace("(", " ").replace(",", " ").split():
                    found.append(path.name)
    assert sorted(found) == ["face.py", "prompts.py", "reward_host.py", "reward_host.py", "supervisor.py"]


def test_the_order_is_the_documented_one() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    listed = [name for name in [*ORDER, *SERVER_ORDER] if not name.startswith("__")]
    listed = [name for name in listed if name not in ("server", "store", "openai", "aws")]
    assert [name for name in listed if f"{name}.py" not in text] == []
