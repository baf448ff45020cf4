"""Where everything of a run goes on a machine's GPUs, by arithmetic alone. Pure.

Each estimate is a sum of named parts in bytes, so that a plan can be checked by hand (docs/plan.md has the formulas).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from grpo.config import Config
from grpo.shapes import Shape

GIB = 2**30
BF16, FP32 = 2.0, 4.0
SPARE, SPARE_OF_EXPERTS = 1.25, 1.9
"""Activations are planned with as much more than their formula: torch was seen to keep 1.22 times (Gemma 3) and, in
layers of experts, 1.81 times (GPT-OSS)."""
EAGER = 5.0
"""Matrices of attention probabilities that are there at once in a layer without a fused form."""
MXFP4 = 4.25 / 8
"""Bytes a number: four bits, and eight more for every 32 of them (OCP Microscaling Formats 1.0)."""
NF4 = 4.5 / 8
"""Bytes a number: four bits, and an fp32 scale for every 64 of them (arXiv 2305.14314, not quantised twice)."""
ADAPTER = 16.0
"""Bytes a number: value, gradient and Adam's two moments in fp32."""
PROCESS = 1.0 * GIB
"""Of one process: the CUDA context, and a sleeping engine's leftovers."""
ENGINE_WORK = 2.0 * GIB
"""vLLM's activations for a batch of 8192 tokens, and its CUDA graphs."""
HEAD_WORK = 0.25 * GIB
"""Logits of one chunk, with exponentials and their product."""
USABLE = 0.95
"""Share of a card that may be planned with; the rest is fragmentation."""
BUDGETS = (32768, 16384, 8192, 4096, 2048, 1024)
FEWEST_AT_ONCE = 16
"""Completions that the cache must hold together, else sampling crawls."""


@dataclass(frozen=True, slots=True)
class Gpus:
    """Equal cards of one machine."""

    count: int
    gib: float

    @property
    def room(self) -> float:
        """Bytes of one card to plan with."""
        return self.gib * GIB * USABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What goes where. Parts are bytes on one card."""

    ranks: int
    """Trainer processes, a card each."""
    shard_base: bool
    """The trainer's layers are split over the ranks; else every rank has the whole model."""
    tensor_parallel: int
    """Cards over which the engine's weights are split."""
    sleep: bool
    """Engine and trainer take turns on the cards."""
    gradient_checkpointing: bool
    tokens_per_microbatch: int
    at_once: int
    """Completions of full length that the cache holds."""
    engine_memory_share: float
    trainer: dict[str, float] = field(default_factory=dict)
    engine: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing fits: what lacks how much, in the best arrangement that was tried."""

    reason: str


def place(config: Config, shape: Shape, gpus: Gpus) -> Placement | Refusal:
    """The fastest arrangement that fits: whole models awake, split ones awake, then taking turns; few cards for the
    engine before many."""
    least = float("inf")
    for candidate in arrangements(config, shape, gpus):
        needed = total(candidate)
        if needed <= gpus.room:
            return candidate
        least = min(least, needed)
    model = weights(shape, number(config), trainer=True) / GIB
    return Refusal(
        f"needs {least / GIB:.1f} GiB on each card at the least, and {gpus.count} x {gpus.gib:g} GiB have "
        f"{gpus.room / GIB:.1f} to plan with. The model has {model:.1f} GiB"
    )


def arrangements(config: Config, shape: Shape, gpus: Gpus) -> Iterator[Placement]:
    """All that might do, the better ones first."""
    ranks = min(gpus.count, config.rollout.prompts_per_step)
    splits = [n for n in (1, 2, 4, 8) if n <= gpus.count and shape.kv_heads % n == 0]
    wanted = config.rollout.prompts_per_step * config.rollout.completions_per_prompt
    row = longest_row(config)
    budgets = BUDGETS if row <= BUDGETS[0] else (row, *BUDGETS)
    splittable = ranks > 1 and not config.update.pack_base
    modes = [(shard, sleep) for sleep in (False, True) for shard in ((False, True) if splittable else (False,))]
    for shard, sleep in modes:
        for at_once in (wanted, max(FEWEST_AT_ONCE, wanted // 4), min(wanted, FEWEST_AT_ONCE)):
            for split in splits:
                for recompute, tokens in ((r, t) for r in (False, True) for t in budgets if r or t >= BUDGETS[2]):
                    if tokens < row:
                        continue
                    engine = engine_parts(config, shape, split, at_once)
                    yield Placement(
                        ranks=ranks,
                        shard_base=shard,
                        tensor_parallel=split,
                        sleep=sleep,
                        gradient_checkpointing=recompute,
                        tokens_per_microbatch=tokens,
                        at_once=at_once,
                        engine_memory_share=round(min(0.95, sum(engine.values()) / (gpus.gib * GIB) + 0.005), 2),
                        trainer=trainer_parts(
                            shape,
                            tokens,
                            recompute,
                            number(config),
                            group_row(config, tokens),
                            ranks=ranks if shard else 1,
                            packed=config.update.pack_base,
                        ),
                        engine=engine,
                    )


def total(placement: Placement) -> float:
    """Bytes on the fullest card at the worst moment."""
    resident = sum(size for name, size in placement.trainer.items() if name not in TRANSIENT)
    update, engine = sum(placement.trainer.values()), sum(placement.engine.values())
    if placement.sleep:
        return max(update + PROCESS, resident + engine)
    return update + engine


TRANSIENT = ("activations", "head")
"""Parts of the trainer that live during an update only."""


def longest_row(config: Config) -> int:
    """Tokens of one prompt with one completion: a micro-batch must hold as many."""
    return config.data.max_prompt_tokens + config.longest_completion


def number(config: Config) -> float:
    """Bytes of one number of the model."""
    return FP32 if config.model.dtype == "float32" else BF16


def group_row(config: Config, tokens: int) -> int:
    """Tokens of a row: a prompt with all of its completions, as far as a micro-batch holds them."""
    group = config.data.max_prompt_tokens + config.rollout.completions_per_prompt * config.longest_completion
    return min(tokens, group)


def weights(shape: Shape, size: float, *, trainer: bool) -> float:
    """Bytes of the base model. The trainer unpacks MXFP4 experts; vLLM keeps them as they are."""
    packed = shape.experts if shape.quantised and not trainer else 0
    return size * (shape.parameters - packed) + MXFP4 * packed


def base_weights(shape: Shape, size: float, ranks: int, packed: bool) -> float:
    """Bytes of the trainer's base on one card.

    Split over ``ranks``: its share of the layers, two whole ones, and the rest. Packed: all layers in four bits, one
    whole one, and the rest.
    """
    inside = size * (shape.parameters - shape.outside)
    if packed:
        return size * shape.outside + inside / size * NF4 + inside / shape.layers
    if ranks == 1:
        return weights(shape, size, trainer=True)
    return size * shape.outside + inside / ranks + 2 * inside / shape.layers


def trainer_parts(
    shape: Shape, tokens: int, recompute: bool, size: float, row: int, *, ranks: int = 1, packed: bool = False
) -> dict[str, float]:
    """Bytes on one card while a micro-batch of ``tokens``, in rows of ``row``, is in its backward pass.

    ``ranks``: over which the base is split. ``packed``: the base is kept in NF4.
    """
    spare = SPARE_OF_EXPERTS if shape.experts else SPARE
    layer = spare * tokens * layer_activations(shape, size, packed=packed)
    if shape.eager:
        layer += EAGER * size * shape.heads * tokens * row
    kept = tokens * shape.layers * size * shape.hidden + layer if recompute else shape.layers * layer
    return {
        "weights": base_weights(shape, size, ranks, packed),
        "adapter and optimizer": ADAPTER * shape.adapter,
        "activations": kept + (1 + 2 * size) * tokens * row,  # and the masks: of booleans, for two kinds of layers
        "head": HEAD_WORK + 2 * size * tokens * shape.hidden,
        "process": PROCESS,
    }


def layer_activations(shape: Shape, size: float, *, packed: bool = False) -> float:
    """Bytes one token leaves in one layer for the backward pass; ``size``: of a number.

    Adapted modules keep their input, those with the same one together: what two norms give, attention's result anew
    and (but in experts) the feed-forward product. Packed ones are PEFT's own, and keep an fp32 copy each. Norms keep
    theirs in fp32, those of queries and keys, too; attention its queries, keys, values (of every head) and result; the
    feed-forward gate, before and after its activation, and input.
    """
    result, product = shape.heads * shape.head_dim, 0 if shape.experts else shape.inner
    adapted = size * (2 * shape.hidden + result + product)
    if packed:
        adapted = FP32 * shape.adapted_inputs / shape.layers
    norms = shape.norms * FP32 * shape.hidden
    attention = 4 * size * result
    heads = FP32 * (shape.heads + shape.kv_heads) * shape.head_dim if shape.head_norms else 0.0
    return adapted + norms + attention + heads + 3 * size * shape.inner


def engine_parts(config: Config, shape: Shape, split: int, at_once: int) -> dict[str, float]:
    """Bytes on one of the ``split`` cards that share the engine."""
    numbers = 2 * shape.layers * shape.kv_heads * shape.head_dim / split
    size = number(config)
    merged = config.rollout.sync == "merged" or size == FP32
    adapter = 0.0 if merged else BF16 * shape.adapter
    return {
        "weights": weights(shape, size, trainer=False) / split,
        "adapter": adapter / split,
        "cache": size * numbers * at_once * longest_row(config),
        "work": ENGINE_WORK,
        "process": PROCESS,
    }
