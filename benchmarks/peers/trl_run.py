"""A training by TRL's GRPOTrainer on the terms of one of our configuration files.

    python -m benchmarks.peers.trl_run CONFIG SEED STEPS DTYPE OUT

Same model, prompts, chat template, reward function, group size, lengths, adapter, learning rate with its warm-up, loss,
clip range and optimizer. A line a step goes to OUT/curve.jsonl, the tuned model, merged, to OUT/model.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / ".cache" / "clients" / "trl"))

import torch
from datasets import Dataset
from peft import LoraConfig
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from grpo.config import Config, load
from grpo.reward_host import load as load_handler


class WarmedUp(GRPOTrainer):  # type: ignore[misc]
    """With our warm-up, whose first step already moves; transformers' own begins with a rate of 0."""

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        steps = self.args.warmup_steps
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, lambda step: min(1.0, (step + 1) / steps))
        return self.lr_scheduler


class Curve(TrainerCallback):
    """Writes what TRL logs of a step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "reward" in logs:
            line = {"step": state.global_step, "reward": logs["reward"], "tokens": logs["completions/mean_length"]}
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")


def reward_of(config: Config) -> Callable[..., list[float]]:
    """Our reward function in TRL's form, in TRL's process."""
    assert config.reward.file, "a reward function in a file"
    handler = load_handler(config.reward.file, config.reward.handler)

    def score(prompts: list[Any], completions: list[Any], reference_answer: list[str], **_: Any) -> list[float]:
        event = [
            {"id": str(i), "messages": [*prompt, *completion], "reference_answer": {"text": answer}}
            for i, (prompt, completion, answer) in enumerate(zip(prompts, completions, reference_answer, strict=True))
        ]
        return [float(scored["aggregate_reward_score"]) for scored in handler(event, None)]

    return score


def arguments(config: Config, seed: int, steps: int, dtype: str, out: Path) -> GRPOConfig:
    """Our settings under TRL's names. One forward pass takes the whole step: its fastest on a CPU."""
    rollout, update = config.rollout, config.update
    assert (update.loss, update.advantages, update.schedule, update.kl_coef) == ("dapo", "std", "constant", 0.0)
    return GRPOConfig(
        output_dir=str(out / "trl"),
        use_cpu=True,
        bf16=dtype == "bfloat16",
        seed=seed,
        max_steps=steps,
        per_device_train_batch_size=rollout.prompts_per_step * rollout.completions_per_prompt,
        num_generations=rollout.completions_per_prompt,
        max_completion_length=rollout.max_tokens,
        temperature=rollout.temperature,
        learning_rate=update.learning_rate,
        warmup_steps=update.warmup_steps,
        weight_decay=0.0,
        adam_beta2=0.99,
        max_grad_norm=update.max_grad_norm,
        epsilon=update.clip_low,
        epsilon_high=update.clip_high,
        loss_type="dapo",
        scale_rewards="group",
        beta=0.0,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
    )


def main(path: str, seed: int, steps: int, dtype: str, out: Path) -> None:
    """Train, and leave curve and model."""
    config = load(Path(path))
    rows = [json.loads(line) for line in config.data.train.read_text().splitlines()]
    data = [{"prompt": row["messages"], "reference_answer": row["reference_answer"]} for row in rows]
    tokenizer = AutoTokenizer.from_pretrained(config.model.path)
    trainer = WarmedUp(
        model=AutoModelForCausalLM.from_pretrained(config.model.path, dtype=getattr(torch, dtype)),
        processing_class=tokenizer,
        reward_funcs=reward_of(config),
        train_dataset=Dataset.from_list(data),
        peft_config=LoraConfig(
            r=config.lora.rank, lora_alpha=config.lora.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        callbacks=[Curve(out / "curve.jsonl")],
        args=arguments(config, seed, steps, dtype, out),
    )
    trainer.train()
    trainer.model.merge_and_unload().to(torch.float32).save_pretrained(out / "model")
    tokenizer.save_pretrained(out / "model")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], Path(sys.argv[5]))
