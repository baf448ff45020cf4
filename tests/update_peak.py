"""Memory of one update on a CPU: what the process holds at most above what it held before, in bytes.

    MALLOC_MMAP_THRESHOLD_=262144 python tests/update_peak.py MODEL DTYPE TOKENS

The variable makes the allocator give tensors back when they are freed; what it keeps for the next
pass, as in a training on a CPU (grpo/memory.py), is no more than that pass asks for again.
"""

import json
import sys
import threading
import time
from pathlib import Path

import torch
from accelerate import Accelerator

from grpo.placement import trainer_parts
from grpo.policy import Policy
from grpo.sections import Lora, Update
from grpo.shapes import shape_of
from grpo.types import Sequence
from grpo.update import Updater

PROMPT, COMPLETION = 64, 64


def resident() -> int:
    """Without files that are mapped."""
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


class Peak(threading.Thread):
    """Looks every millisecond; torch works outside the interpreter's lock."""

    def run(self) -> None:
        self.most, self.over = 0, False
        while not self.over:
            self.most = max(self.most, resident())
            time.sleep(0.001)


def sequences(tokens: int) -> list[Sequence]:
    group = (tokens - PROMPT) // COMPLETION
    completion = tuple(range(100, 100 + COMPLETION))
    return [
        Sequence(
            group=0,
            prompt_ids=tuple(range(300, 300 + PROMPT)),
            completion_ids=completion,
            sampler_logprobs=(-1.0,) * COMPLETION,
            advantage=1.0,
            weight=0.01,
        )
        for _ in range(group)
    ]


def main(model: Path, dtype: str, tokens: int) -> None:
    lora = Lora(rank=16)
    policy = Policy.load(model, dtype=dtype, lora=lora, seed=0, temperature=1.0, device=torch.device("cpu"))
    updater = Updater(policy, Update(tokens_per_microbatch=tokens), Accelerator(cpu=True), budget=2)
    updater.step(sequences(192), 0)  # buffers and code of the libraries
    before, peak = resident(), Peak()
    peak.start()
    updater.step(sequences(tokens), 1)
    peak.over = True
    peak.join()
    row = PROMPT + (tokens - PROMPT) // COMPLETION * COMPLETION
    parts = trainer_parts(shape_of(model, lora), row, False, 4.0 if dtype == "float32" else 2.0, row)
    print(json.dumps({"measured": peak.most - before, "planned": parts["activations"] + parts["head"], **parts}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
