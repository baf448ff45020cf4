"""TRL's GRPOTrainer on the race's terms; the seconds of each step to standard output, as JSON.

python trl_run.py MODEL PROMPTS DTYPE BATCH STEPS [vllm | compiled]

With ``compiled`` torch compiles its model. With ``vllm`` its sampler is a vLLM in the trainer's own process
("colocate"). The other way, TRL's server, takes its weights over NCCL, which a CPU has not.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / ".cache" / "clients" / "trl"))

import torch
from datasets import Dataset
from peft import LoraConfig
from reward import share
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

PROMPTS, GROUP, TOKENS = 8, 8, 48
GAP = "sampling/sampling_logp_difference/mean"
"""Of log-probabilities, between vLLM and the trainer: whether vLLM has the trainer's weights."""


class Clock(TrainerCallback):
    """Seconds between the ends of steps."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.monotonic())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.monotonic())


def score(completions: list[list[dict[str, str]]], **_: Any) -> list[float]:
    """TRL's form of the reward."""
    return [share(messages[-1]["content"]) for messages in completions]


def colocated() -> dict[str, Any]:
    """Settings of a vLLM in this process, for sequences of at most 256 tokens."""
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
    return {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": 256}


def main(model: str, prompts: str, dtype: str, batch: int, steps: int, own: dict[str, Any]) -> None:
    """Fixed terms: LoRA on all linear layers, rank 16; no KL; temperature 1; one update a step."""
    rows = [json.loads(line) for line in Path(prompts).read_text().splitlines()]
    data = Dataset.from_list([{"prompt": row["messages"]} for row in rows])
    clock = Clock()
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)),
        processing_class=AutoTokenizer.from_pretrained(model),
        reward_funcs=score,
        train_dataset=data,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[clock],
        args=GRPOConfig(
            output_dir="/dev/shm/trl-race",
            use_cpu=True,
            bf16=dtype == "bfloat16",
            max_steps=steps,
            learning_rate=1e-4,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=PROMPTS * GROUP // batch,
            num_generations=GROUP,
            max_completion_length=TOKENS,
            temperature=1.0,
            beta=0.0,
            loss_type="dapo",
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            **own,
        ),
    )
    trainer.train()
    lengths = [
        entry["completions/mean_length"] for entry in trainer.state.log_history if "completions/mean_length" in entry
    ]
    seconds = [end - start for start, end in zip(clock.ends, clock.ends[1:], strict=False)]
    gaps = [entry[GAP] for entry in trainer.state.log_history if GAP in entry]
    print(json.dumps({"seconds": seconds, "tokens": lengths, "gaps": gaps}), flush=True)


if __name__ == "__main__":
    own = colocated() if sys.argv[6:] == ["vllm"] else {"torch_compile": sys.argv[6:] == ["compiled"]}
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), own)
