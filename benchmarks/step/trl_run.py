"""TRL's GRPOTrainer on the race's terms; the seconds of each step to standard output, as JSON.

python trl_run.py MODEL PROMPTS DTYPE BATCH STEPS [vllm]
"""

import json
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


def main(model: str, prompts: str, dtype: str, batch: int, steps: int) -> None:
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
        ),
    )
    trainer.train()
    lengths = [
        entry["completions/mean_length"] for entry in trainer.state.log_history if "completions/mean_length" in entry
    ]
    seconds = [end - start for start, end in zip(clock.ends, clock.ends[1:], strict=False)]
    print(json.dumps({"seconds": seconds, "tokens": lengths}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
