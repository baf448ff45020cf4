"""Methods that vLLM's worker gains (``--worker-extension-cls``): they load weights and report what really arrived.

vLLM mixes this class into its worker; ``self`` is that worker. It runs in the engine's process and imports nothing
of vLLM's. Callable over ``/collective_rpc``.
"""

import json
import struct
from pathlib import Path
from typing import Any


class EngineExtension:
    """Mixed into vLLM's worker."""

    def load_merged(self, path: str) -> dict[str, Any]:
        """Reload all weights from ``path`` and say which file that was: its version stamp and tensor count."""
        header = _safetensors_header(Path(path) / "model.safetensors")
        self.reload_weights(weights_path=path)  # type: ignore[attr-defined]
        self._version = header.pop("__metadata__", {}).get("version")
        return {"version": self._version, "tensors": len(header)}

    def loaded(self, version: str | None = None) -> dict[str, Any]:
        """Which weights it has; ``version`` names those that came by another way."""
        self._version = version or getattr(self, "_version", None)
        return {"version": self._version}

    def describe_adapter(self) -> dict[str, Any]:
        """Modules the loaded adapter is bound to, and the sum of squares of their B matrices (scaling folded in)."""
        manager = self.model_runner.lora_manager._adapter_manager  # type: ignore[attr-defined]
        adapters = list(manager.list_adapters().values())
        if not adapters:
            return {"modules": 0, "norm": 0.0}
        bound = [manager._get_lora_layer_weights(adapters[-1], name) for name in manager.modules]
        parts = [part for weights in bound if weights is not None for part in _unpack(weights.lora_b)]
        return {"modules": len(parts), "norm": sum(float((part.double() ** 2).sum()) for part in parts)}


def _unpack(lora_b: Any) -> list[Any]:
    """vLLM packs q, k, v (and gate, up) into one module with a list of B matrices."""
    return [part for part in lora_b if part is not None] if isinstance(lora_b, list) else [lora_b]


def _safetensors_header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(length))
    return header
