"""What a pipe shows while something slow happens."""

import io
import time

from rich.console import Console

from grpo.display import PULSE_SECONDS, Display


def test_a_pipe_is_never_silent_for_long() -> None:
    out = io.StringIO()
    display = Display(Console(file=out))
    with display.status("loading"):
        time.sleep(2.5 * PULSE_SECONDS)
        display.note("half way")
    lines = out.getvalue().splitlines()
    assert lines[:3] == ["loading ...", "..", "half way"]
    assert lines[3].startswith("loading: ")
