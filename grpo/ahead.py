"""The next step's groups, sampled while this step trains. Touches: processes, disk.

They come from the weights that this step's groups came from, so each step trains on completions that are one update
old, never older; the truncated importance weight of the loss corrects for it (docs/losses.md). They are on disk before
the new weights reach the sampler, and the next step finds them there like a run that resumes: what an interrupted run
trains on is what an uninterrupted one does.
"""

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

from torch import Tensor

from grpo.connection import EngineDown
from grpo.display import Display
from grpo.drawing import Candidate
from grpo.groups import groups_of
from grpo.resources import Main, Resources


@contextmanager
def sampling(resources: Resources, candidates: Seq[Candidate], step: int) -> Iterator[None]:
    """Within the block the groups of ``step`` are sampled, scored and saved; it ends when both are done.

    The policy may move meanwhile. A failed engine would come back with other weights then, so it stays down until the
    block ends, and is asked again with those of the block's beginning. Raises RewardError, EngineError.
    """
    main = resources.main
    if main is None:
        yield
        return
    weights = resources.policy.adapter_state()
    quiet = replace(resources, display=Display(quiet=True))
    with ThreadPoolExecutor(1) as thread:
        main.sampler.hold(True)
        sampled = thread.submit(groups_of, quiet, candidates, step)
        yield
        resources.display.phase("sampling the next step")
    main.sampler.hold(False)
    try:
        sampled.result()
    except EngineDown:
        _again(resources, main, candidates, step, weights)


def _again(resources: Resources, main: Main, candidates: Seq[Candidate], step: int, weights: dict[str, Tensor]) -> None:
    policy = resources.policy
    moved = policy.adapter_state()
    policy.load_adapter_state(weights)
    main.sampler.sync(f"step-{step - 1}")
    groups_of(resources, candidates, step)
    policy.load_adapter_state(moved)
