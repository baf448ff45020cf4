"""The structure as tests: import direction, which library is used where, sizes, dangerous calls."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ORDER = [
    "errors",
    "types",
    "offline",
    "config",
    "doctor",
    "prompts",
    "advantages",
    "points",
    "linefit",
    "falls",
    "flatness",
    "heldout",
    "health",
    "convergence",
    "forecast",
    "outlook",
    "replay",
    "batch",
    "loss",
    "policy",
    "rollout",
    "hf_sampler",
    "engine_host",
    "engine_extension",
    "engine",
    "vllm_sampler",
    "sync",
    "reward_host",
    "rewards",
    "update",
    "runlog",
    "streams",
    "checkpoint",
    "evaluate",
    "selection",
    "metrics",
    "plot",
    "display",
    "resources",
    "outcome",
    "loop",
    "standalone",
    "train",
    "cli",
    "demo_model",
    "__main__",
]
ONLY_IN = {
    "vllm": set(),
    "triton": set(),
    "peft": {"policy"},
    "transformers": {"policy", "standalone", "demo_model"},
    "typer": {"cli"},
    "matplotlib": {"plot"},
    "httpx": {"engine", "vllm_sampler"},
    "scipy": {"linefit", "flatness", "forecast"},
    "tensorboard": {"streams"},
}
LIGHT = [
    "errors",
    "types",
    "config",
    "doctor",
    "prompts",
    "advantages",
    "points",
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
    "rewards",
    "runlog",
    "cli",
]
SOURCES = sorted(ROOT.glob("grpo/*.py")) + sorted(ROOT.glob("kernels/grpo_kernels/*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = node.module == "grpo"
            yield from ((node.lineno, f"grpo.{a.name}" if whole else node.module) for a in node.names)


def test_every_file_has_its_place() -> None:
    assert sorted(ORDER) == sorted(p.stem for p in ROOT.glob("grpo/*.py") if p.stem != "__init__")


def test_imports_point_one_way() -> None:
    wrong = []
    for path in ROOT.glob("grpo/[!_]*.py"):
        for line, name in imports(path):
            parts = name.split(".")
            ours = parts[0] == "grpo" and len(parts) > 1
            if ours and ORDER.index(parts[1]) >= ORDER.index(path.stem):
                wrong.append(f"{path.name}:{line} imports {parts[1]}")
    assert wrong == []


def test_libraries_stay_in_their_files() -> None:
    found = [
        f"{path.name}:{line} imports {name}"
        for path in ROOT.glob("grpo/*.py")
        for line, name in imports(path)
        if name.split(".")[0] in ONLY_IN and path.stem not in ONLY_IN[name.split(".")[0]]
    ]
    assert found == []


def test_kernels_know_nothing_of_the_rest() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()
    names = {name.split(".")[0] for path in ROOT.glob("kernels/grpo_kernels/*.py") for _, name in imports(path)}
    assert names <= {"torch", "typing", "grpo_kernels"}


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
    for path in SOURCES:
        for node in ast.parse(path.read_text()).body:
            named = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if named and not ast.get_docstring(node) and node.name != "main":
                missing.append(f"{path.name}:{node.name}")
    assert missing == []


def test_nothing_dangerous() -> None:
    """No pickle, no torch.load, no eval: a checkpoint, a prompt file or a reply never runs code."""
    found = []
    for path in SOURCES:
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
    """Three places run somebody else's code: the reward function (loading, calling) and a model's chat template."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else "everything"
                if caught == "everything" or "Exception" in caught.replace("(", " ").replace(",", " ").split():
                    found.append(path.name)
    assert sorted(found) == ["prompts.py", "reward_host.py", "reward_host.py"]


def test_the_order_is_the_documented_one() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    listed = [name for name in ORDER if not name.startswith("__")]
    assert [name for name in listed if f"{name}.py" not in text] == []
