"""Which local directory stands for which model id. Nothing is guessed: an id that is not mapped is an error."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from grpo.errors import ConfigError
from grpo.server.errors import NotFound

DEMO_MODEL = "smollm2-135m-instruct"
BEDROCK = ("openai.gpt-oss-20b", "qwen.qwen3-32b")
"""Models that Bedrock fine-tunes by this API (docs.aws.amazon.com/bedrock/latest/userguide/fine-tuning-openai-apis)."""
VERSION = re.compile(r"(-v\d+|-\d+):\d+$|-v\d+:\d+$")


class Catalogue:
    """The base models of a server."""

    def __init__(self, mapped: Mapping[str, Path]) -> None:
        """``mapped``: model id → directory in Hugging Face's form. Raises ConfigError for one that is no model."""
        demo = Path(__file__).resolve().parents[2] / ".cache" / "models" / DEMO_MODEL
        table = ({DEMO_MODEL: demo} if (demo / "config.json").is_file() else {}) | dict(mapped)
        for model, path in table.items():
            if not (path / "config.json").is_file():
                raise ConfigError(f"--map {model}={path}: no config.json there. Name a model directory")
        self.table = {model: path.resolve() for model, path in table.items()}

    def find(self, model: str) -> Path:
        """The directory for an id, with or without Bedrock's version suffix. Raises NotFound."""
        for name, path in self.table.items():
            if plain(name) == plain(model):
                return path
        raise NotFound(
            f"model {model[:200]!r} stands for no local model. Known: {', '.join(sorted(self.table)) or 'none'}. "
            f"Start the server with --map {model[:64]}=DIRECTORY",
            param="model",
            code="model_not_found",
        )

    def names(self, path: Path) -> list[str]:
        """All ids that stand for a directory."""
        return sorted(name for name, directory in self.table.items() if directory == path.resolve())


def plain(model: str) -> str:
    """Without the version: ``qwen.qwen3-32b-v1:0`` is ``qwen.qwen3-32b``."""
    return VERSION.sub("", model)


def chat_template(path: Path) -> str:
    """The model's chat template, empty where it has none."""
    separate, settings = path / "chat_template.jinja", path / "tokenizer_config.json"
    if separate.is_file():
        return separate.read_text()
    found = json.loads(settings.read_text()).get("chat_template") if settings.is_file() else None
    return str(found or "")


def context_length(path: Path) -> int:
    """Most tokens of prompt and completion together, by the model's own configuration."""
    found = json.loads((path / "config.json").read_text()).get("max_position_embeddings", 2048)
    return int(found)
