"""A finished run's model for anyone else: the adapter in PEFT's form, or a whole model with it merged in, and a card.

Touches: disk.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from peft import PeftModel

from grpo.config import Config
from grpo.errors import ConfigError, ModelError
from grpo.folding import fold
from grpo.manifest import Checkpoint, verify
from grpo.policy import load_base, load_tokenizer, lora_layers

CHANGED = "| data, grader, base model | changed since the training, or not at hand: no digests |"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")


def export_adapter(run: Path, config: Config, adapter: Path, out: Path) -> None:
    """Copy the adapter, with a card. Raises ConfigError when ``out`` holds something, CheckpointError when damaged."""
    verify(Checkpoint(adapter, 0))
    _claim(out)
    for name in ADAPTER_FILES:
        shutil.copy(adapter / name, out / name)
    (out / "README.md").write_text(card(run, config, adapter, merged=False))


def export_merged(run: Path, config: Config, adapter: Path, out: Path) -> None:
    """Write the base model's weights, in their own dtype, with the adapter folded in, tokenizer and card.

    Raises ModelError for a base whose weights are quantised: a sum would have to be rounded to four bits.
    """
    verify(Checkpoint(adapter, 0))
    settings = json.loads((config.model.path / "config.json").read_text())
    if settings.get("quantization_config"):
        raise ModelError(f"{config.model.path}: its weights are quantised; export the adapter, which engines add to it")
    _claim(out)
    base = load_base(config.model.path, str(settings.get("torch_dtype") or settings.get("dtype") or "float32"))
    adapted = PeftModel.from_pretrained(base, str(adapter))
    for number, (name, layer) in enumerate(lora_layers(adapted).items()):
        folded = fold(layer.get_base_layer().weight.detach(), layer.get_delta_weight("default"), number)
        if not bool(folded.isfinite().all()):
            raise ModelError(f"{name}: {config.model.path} with {adapter} has numbers that are not finite")
        layer.get_base_layer().weight.data = folded
    adapted.unload().save_pretrained(str(out))
    load_tokenizer(config.model.path).save_pretrained(str(out))
    (out / "README.md").write_text(card(run, config, adapter, merged=True))


def card(run: Path, config: Config, adapter: Path, *, merged: bool) -> str:
    """What the model is, from what, how it was trained, how good it is, how to use it."""
    result, trained = _read(run / "result.json"), (_read(run / "config.json") or {}).get("digest")
    files = {"training prompts": config.data.train, "held-out prompts": config.data.heldout}
    files |= {"test prompts": config.data.test, "base model's config.json": config.model.path / "config.json"}
    files |= {f"grader {path.name}": path for path in config.reward.files()}
    digests = [f"| {name} | `{digest}` |" for name, path in files.items() if (digest := _digest(path))]
    lines = [
        "---",
        f"base_model: {_name(config.model.path)}",
        f"library_name: {'transformers' if merged else 'peft'}",
        "tags: [grpo, reinforcement-learning, lora]",
        "---",
        "",
        f"# {_name(config.model.path)}, tuned by reinforcement",
        "",
        f"Trained by GRPO (loss `{config.update.loss}`, LoRA rank {config.lora.rank}); the adapter of {adapter.name}.",
        *_results(result),
        "",
        "## Use",
        "",
        *_usage(config, merged),
        "",
        "The weights are safetensors; no file of this directory runs code when it is loaded.",
        "",
        "## Made from",
        "",
        "| what | SHA-256 |",
        "| --- | --- |",
        *(digests if trained == config.digest() else [CHANGED]),
        f"| configuration, files included, as it was trained | `{trained}` |",
    ]
    return "\n".join(lines) + "\n"


def _results(result: dict[str, Any] | None) -> list[str]:
    if result is None:
        return ["", "The run is not finished: this is its newest checkpoint."]
    lines = ["", f"Verdict `{result['verdict']}`: {result['reason']}."]
    if result["base"] and result["tuned"]:
        lines += ["", "| model | mean test reward | 95 % interval | completions |", "| --- | --- | --- | --- |"]
        for name in ("base", "tuned"):
            n = result[name]
            lines.append(f"| {name} | {n['mean']:.3f} | {n['low']:.3f} to {n['high']:.3f} | {n['n']:.0f} |")
    return lines


def _usage(config: Config, merged: bool) -> list[str]:
    if merged:
        return ["```sh", "vllm serve DIRECTORY", "```"]
    rank = max(8, config.lora.rank)
    serve = f"vllm serve BASE --enable-lora --max-lora-rank {rank} --lora-modules tuned=DIRECTORY"
    return ["```sh", serve, "```", "", "```python", 'model = PeftModel.from_pretrained(base, "DIRECTORY")', "```"]


def _name(model: Path) -> str:
    """The directory's name; in the Hub's cache, .../models--OWNER--NAME/snapshots/REVISION, the model's."""
    cached = next((part for part in model.parts if part.startswith("models--")), None)
    return "/".join(cached.split("--")[1:]) if cached else model.name


def _claim(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise ConfigError(f"{out}: is not empty. Name a new directory with --out")


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.is_file() else None


def _digest(path: Path | None) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path and path.is_file() else None
