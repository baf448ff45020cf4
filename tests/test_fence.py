"""A worker that its host left behind is killed before another one trains in its directory."""

import subprocess
import sys
from pathlib import Path

from grpo.server.worker import fenced

OWNER = """
import sys, time
from pathlib import Path
from grpo.runlog import RunLog
log = RunLog(Path(sys.argv[1]))
log.claim({}, "digest")
print("holds it", flush=True)
time.sleep(60)
"""


def test_an_owner_of_the_lock_is_killed_and_then_the_directory_is_free(tmp_path: Path) -> None:
    assert fenced(tmp_path), "nobody was here yet"
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "holds it\n"
    assert not fenced(tmp_path), "it was there a moment ago"
    assert owner.wait(10) == -9
    assert fenced(tmp_path)
