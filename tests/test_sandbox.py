"""Hostile completions against a reward function that executes them, at both levels the kernel enforces.

The grader scores ``honest`` text by its length; whatever a snippet did, those scores must be the same afterwards.
"""

import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hostile import SNIPPETS

from grpo import sandbox
from grpo.errors import RewardError, SetupError
from grpo.rewards import RewardFunction
from grpo.sections import Reward as Settings
from grpo.types import Completion, Prompt, Reward

GRADER = """
import tempfile

def honest(text):
    print("honest", flush=True)
    with tempfile.NamedTemporaryFile() as file:
        file.write(bytes(1 << 20))
    return len(text) / 10

def one(sample):
    text = sample["messages"][-1]["content"]
    if text.startswith("honest"):
        return honest(text)
    scope = {"sample": sample, "OUTSIDE": @OUTSIDE, "CODE": @CODE, "PORT": @PORT, "value": 0.0}
    exec(text, scope)
    return scope["value"]

def lambda_handler(event, context):
    return [{"id": s["id"], "aggregate_reward_score": one(s)} for s in event]
"""
HONEST = ("honest", "honest and longer", "honest, too")
PROMPT = Prompt(index=0, messages=({"role": "user", "content": "q"},), token_ids=(1,))


def score(function: RewardFunction, *texts: str) -> tuple[Reward, ...]:
    completions = (Completion(token_ids=(1,), logprobs=(0.0,), text=text, finish_reason="stop") for text in texts)
    return function.score([(PROMPT, tuple(completions))])[0].rewards


@pytest.fixture(scope="module")
def port():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


@pytest.fixture(scope="module", params=["strong", "medium"])
def function(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, port: int):
    if reason := sandbox.why_not(request.param):
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("grader")
    outside = tmp_path_factory.mktemp("outside") / "secret.txt"
    outside.write_text("secret")
    source = GRADER.replace("@OUTSIDE", repr(str(outside))).replace("@CODE", repr(str(folder)))
    (folder / "grader.py").write_text(source.replace("@PORT", str(port)))
    patch = pytest.MonkeyPatch()
    patch.setenv("SECRET_TOKEN", "hush")
    settings = Settings(file=folder / "grader.py", sandbox=request.param, timeout_s=2.0, memory_gib=1.0)
    reward = RewardFunction(settings, folder / "log")
    (first,) = score(reward, SNIPPETS["fork"])
    assert first.value is None, "a counted fork must fail before anything bolder is tried"
    assert "Operation not permitted" in str(first.error)
    yield reward
    reward.close()
    patch.undo()


@pytest.mark.parametrize("name", SNIPPETS)
def test_contained(function: RewardFunction, name: str) -> None:
    (reward,) = score(function, SNIPPETS[name])
    assert reward.value in (None, 0.0), reward
    assert [r.value for r in score(function, *HONEST)] == [len(text) / 10 for text in HONEST]


def test_a_hostile_neighbour_costs_no_honest_score(function: RewardFunction) -> None:
    rewards = score(function, HONEST[0], SNIPPETS["os._exit"], HONEST[1], SNIPPETS["fork"], HONEST[2])
    assert [r.value for r in rewards] == [0.6, None, 1.7, None, 1.1]


AT_IMPORT = {
    "fork bomb": "import os, time\nn = 0\ntry:\n  for _ in range(300):\n    if os.fork() == 0: time.sleep(30)\n"
    "    n += 1\nexcept OSError: pass\nassert n < 100, n",
    "outside file": "open(@OUTSIDE).read()\nraise AssertionError('read')",
    "network": "import socket\nsocket.create_connection(('127.0.0.1', @PORT), 1)\nraise AssertionError('connected')",
}


@pytest.mark.parametrize("level", ["strong", "medium"])
@pytest.mark.parametrize("name", AT_IMPORT)
def test_contained_at_import(tmp_path: Path, port: int, level: str, name: str) -> None:
    """The module itself is code, too; it runs before any batch."""
    (tmp_path / "code").mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    source = AT_IMPORT[name].replace("@OUTSIDE", repr(str(tmp_path / "secret.txt"))).replace("@PORT", str(port))
    wrapped = f"try:\n  {source.replace(chr(10), chr(10) + '  ')}\nexcept OSError as e: print(e, flush=True)\n"
    (tmp_path / "code" / "grader.py").write_text(wrapped + "def lambda_handler(event, context): return []\n")
    settings = Settings(file=tmp_path / "code" / "grader.py", sandbox=level, timeout_s=5.0)
    RewardFunction(settings, tmp_path / "log").close()  # an AssertionError at import would be a RewardError
    refusals = ("not permitted", "Permission denied", "No such file", "temporarily unavailable")
    said = (tmp_path / "log").read_text()
    assert name == "fork bomb" or any(refusal in said for refusal in refusals), said


@pytest.mark.parametrize("level", ["strong", "medium"])
def test_the_network_is_there_where_it_is_allowed(tmp_path: Path, port: int, level: str) -> None:
    source = (
        "import socket\n"
        "def lambda_handler(event, context):\n"
        f"  with socket.create_connection(('127.0.0.1', {port}), 2): pass\n"
        "  return [{'id': s['id'], 'aggregate_reward_score': 1.0} for s in event]\n"
    )
    (tmp_path / "r.py").write_text(source)
    for network, value in ((True, 1.0), (False, None)):
        reward = RewardFunction(Settings(file=tmp_path / "r.py", sandbox=level, network=network), tmp_path / "log")
        assert score(reward, "a")[0].value == value
        reward.close()


def test_a_level_that_is_asked_for_is_never_lowered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "r.py").write_text("def lambda_handler(event, context): return []\n")
    monkeypatch.setenv("PATH", str(tmp_path))  # no bwrap there
    with pytest.raises(SetupError, match="bubblewrap is missing"):
        RewardFunction(Settings(file=tmp_path / "r.py", sandbox="strong"), tmp_path / "log")
    with pytest.raises(RewardError):
        RewardFunction(Settings(file=tmp_path / "none.py", sandbox="weak"), tmp_path / "log")


def test_numpy_and_threads_work_inside(tmp_path: Path) -> None:
    source = (
        "import numpy as np, asyncio, tempfile, threading\n"
        "def lambda_handler(event, context):\n"
        "  asyncio.run(asyncio.sleep(0))\n"
        "  t = threading.Thread(target=print); t.start(); t.join()\n"
        "  with tempfile.TemporaryFile() as f: f.write(b'x')\n"
        "  assert context.get_remaining_time_in_millis() > 0\n"
        "  return [{'id': s['id'], 'aggregate_reward_score': float(np.linalg.norm([3.0, 4.0]))} for s in event]\n"
    )
    (tmp_path / "r.py").write_text(source)
    for level in ("strong", "medium", "weak"):
        reward = RewardFunction(Settings(file=tmp_path / "r.py", sandbox=level), tmp_path / "log")
        assert score(reward, "a")[0].value == 5.0, level  # 3-4-5
        reward.close()


NAMESPACES = {
    "a container of 65,536 users": (65_536, True, "strong"),
    "users, but no change of groups": (65_536, False, "weak"),
    "one user": (1, False, "weak"),
}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can map more than itself into a user namespace")
@pytest.mark.parametrize("name", NAMESPACES)
def test_root_of_a_namespace_gets_what_its_limits_can_hold(tmp_path: Path, name: str) -> None:
    """Root of a rootless container may become another user only where its namespace maps one."""
    users, groups_change, expected = NAMESPACES[name]
    (tmp_path / "grader.py").write_text("def lambda_handler(event, context): return [0.5 for _ in event]\n")
    script = f"""
from pathlib import Path
from grpo.sections import Reward
from grpo.reward_process import ProcessFunction
function = ProcessFunction(Reward(file=Path({str(tmp_path / "grader.py")!r})), Path({str(tmp_path / "log")!r}))
print(function.level, function.call([{{}}]))
function.close()
"""
    # the child waits inside its new namespace until we, outside, have written its maps
    inside = ["unshare", "-U", "sh", "-c", 'echo; read go; exec "$0" -c "$1"', sys.executable, script]
    pipe = subprocess.PIPE
    with subprocess.Popen(inside, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        if not groups_change:
            (Path("/proc") / str(process.pid) / "setgroups").write_text("deny")
        for ids in ("uid_map", "gid_map"):
            (Path("/proc") / str(process.pid) / ids).write_text(f"0 0 {users}")
        said, problems = process.communicate("go\n", timeout=60)
    assert said.split(maxsplit=1) == [expected, "[0.5]\n"], problems
