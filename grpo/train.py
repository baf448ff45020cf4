"""Entry point of a training under a launcher.

    accelerate launch -m grpo.train CONFIG [section.key=value ...]

``grpo train CONFIG`` does the same in one process. The loop itself is in loop.py.
"""

import os
import sys
from pathlib import Path

from grpo.errors import INTERRUPTED, GrpoError, exit_code, explain
from grpo.offline import go_offline


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 wrong usage, 130 interrupted, else as errors.py has them."""
    if not arguments or arguments[0].startswith("-"):
        print("usage: accelerate launch -m grpo.train CONFIG [section.key=value ...]", file=sys.stderr)
        return 2
    go_offline()
    from grpo.config import load  # after the switches: the libraries read them when they are imported
    from grpo.display import Display
    from grpo.headstart import head_start

    try:
        settings = load(Path(arguments[0]), arguments[1:])
        with head_start(settings) as early:
            display = Display()
            with display.status("loading torch, transformers and PEFT"):
                from grpo import loop
            loop.run(settings, display, early)
    except (GrpoError, OSError) as error:
        print(explain(error), file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # All is closed and on disk. Where the interpreter takes torch's process groups down, a rank aborts now and then
        # ("terminate called without an active exception"), and the launcher calls a finished training a failure.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
