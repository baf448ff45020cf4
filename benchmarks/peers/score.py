"""Mean reward of a whole model on a configuration's test prompts, with the prompts' means, as JSON.

python -m benchmarks.peers.score CONFIG MODEL
"""

import json
import sys
from pathlib import Path

from grpo.config import load
from grpo.display import Display
from grpo.standalone import score_file


def main(config: str, model: str) -> None:
    """In float32, with the sampler of our own trainings; the adapter stays at zero."""
    settings = load(Path(config), [f"model.path={model}", "model.dtype=float32"])
    print(json.dumps(score_file(settings, None, None, 8, Display(quiet=True))))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
