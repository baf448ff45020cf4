"""Nothing leaves the machine: hub access and usage statistics of every library are switched off."""

import logging
import os

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def go_online() -> None:
    """Lift the ban on the Hub for this process, for the one command that is asked to fetch something."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        os.environ.pop(name, None)


def go_offline() -> None:
    """Set the switches for this process and its children; call before the libraries are imported."""
    os.environ.update(OFFLINE)
    # without the Hub it lacks a kernel that only inference would use, and says so whenever PEFT is imported
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
