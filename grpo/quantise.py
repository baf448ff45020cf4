"""``grpo quantise``: a model whose numbers fit in four bits, for trainings with ``update.pack_base``. Touches: disk."""

import json
from importlib.util import find_spec
from pathlib import Path

from grpo.errors import ConfigError, ModelError, SetupError
from grpo.four_bits import move_to_grid
from grpo.policy import load_base, load_tokenizer


def quantise(path: Path, out: Path, dtype: str) -> float:
    """Write the model with its linear layers on NF4's grid; head and embeddings stay as they are.

    Returns the relative change of those weights. Raises ModelError for a model that is quantised already, ConfigError
    when ``out`` holds something.
    """
    if not find_spec("bitsandbytes"):
        raise SetupError("grpo quantise needs bitsandbytes, which is not installed: pip install bitsandbytes")
    tokenizer = load_tokenizer(path)
    if "quantization_config" in json.loads((path / "config.json").read_text()):
        raise ModelError(f"{path}: its weights are quantised already; train it without update.pack_base")
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise ConfigError(f"{out}: is not empty. Name a new directory")
    model = load_base(path, dtype)
    changed = move_to_grid(model, dtype)
    model.save_pretrained(str(out))
    tokenizer.save_pretrained(str(out))
    return changed
