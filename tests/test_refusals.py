"""What nobody should give, and how each is answered: what is wrong, where, and what to do."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from rich.console import Console
from test_setup import fake_gpu
from typer.testing import CliRunner

from grpo import cli, cli_plan, conversion, doctor, streams
from grpo.checkpoint import HISTORY, history
from grpo.config import load
from grpo.display import Display
from grpo.errors import CheckpointError, ConfigError, DataError, ModelError, SetupError
from grpo.export import export_merged
from grpo.manifest import Checkpoint, verify
from grpo.plot import save_curve
from grpo.policy import Policy, load_base, load_tokenizer
from grpo.prompts import tokenise
from grpo.rows import RowError, check_row
from grpo.samplers import kernels_of
from grpo.sections import Convergence, Lora, Update
from grpo.shapes import shape_of
from grpo.update import Updater


def policy_of(model: Path, rank: int = 16) -> Policy:
    return Policy.load(
        model, dtype="float32", lora=Lora(rank=rank), seed=0, temperature=1.0, device=torch.device("cpu")
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"messages": [{"role": "user", "content": "a"}], "x": NaN}', "NaN is no JSON value"),
        ('{"messages": [{"role": "user", "content": "\\ud83d"}]}', "half of a surrogate pair"),
    ],
)
def test_a_row(line: str, message: str) -> None:
    with pytest.raises(RowError, match=message):
        check_row(line.encode())


def test_a_directory_without_a_model(tmp_path: Path) -> None:
    for refuse in (load_tokenizer, lambda path: load_base(path, "float32"), lambda path: shape_of(path, Lora())):
        with pytest.raises(ModelError, match=r"no config\.json there"):
            refuse(tmp_path)


def test_a_broken_model(tiny_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="cannot be loaded as a causal language model"):
        load_base(model, "float32")
    (model / "tokenizer.json").write_text("no tokenizer")
    with pytest.raises(ModelError, match="its tokenizer cannot be loaded"):
        load_tokenizer(model)
    (model / "config.json").write_text('{"model_type": "no such architecture"}')
    with pytest.raises(ModelError, match="of no model that transformers knows"):
        shape_of(model, Lora())


def test_a_tokenizer_without_a_chat_template(tiny_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="no chat template"):
        load_tokenizer(model)


def test_an_adapter_of_another_rank(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match="other modules or another rank"):
        policy_of(tiny_model).load_adapter_state(policy_of(tiny_model, rank=8).adapter_state())


def test_targets_that_are_not_there(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match=r"lora\.targets = \('no_such_layer',\) does not fit this model"):
        shape_of(tiny_model, Lora(targets=("no_such_layer",)))


def test_merging_into_quantised_weights(tiny_run, tiny_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    settings = json.loads((model / "config.json").read_text()) | {"quantization_config": {"quant_method": "mxfp4"}}
    (model / "config.json").write_text(json.dumps(settings))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "manifest.json").write_text('{"files": {}}')
    config = load(tiny_run("quantised", model=model))
    with pytest.raises(ModelError, match="its weights are quantised; export the adapter"):
        export_merged(tmp_path, config, tmp_path / "adapter", tmp_path / "out")


def test_kernels_that_cannot_run_here(tiny_run) -> None:
    with pytest.raises(SetupError, match=r"update\.kernels = fused: the fused kernels run on CUDA"):
        kernels_of(load(tiny_run("fused"), ["update.kernels=fused"]), torch.device("cpu"))


def test_settings_that_contradict_each_other(tiny_run) -> None:
    path = tiny_run("contradiction", sampler="vllm")
    with pytest.raises(ConfigError, match="packed layers cannot be split over ranks"):
        load(path, ["update.shard_base=true", "update.pack_base=true", "rollout.sync=adapter"])
    with pytest.raises(ConfigError, match="more than the 8 tokens"):
        load(path, ["update.overlong_buffer=9"])
    with pytest.raises(ConfigError, match="steps is not a table"):
        load(path, ["run.steps.x=1"])
    with pytest.raises(ConfigError, match="set exactly one of file, url, function, builtin"):
        load(path, ['reward.graders=[{name="a", file="x.py", url="http://x"}]'])


def test_damaged_files_of_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("no manifest")
    with pytest.raises(CheckpointError, match=r"damaged \(.*Remove it to resume from an older one"):
        verify(Checkpoint(tmp_path, 1))
    (tmp_path / HISTORY).write_text("[1")
    with pytest.raises(CheckpointError, match="cannot be read"):
        history(Checkpoint(tmp_path, 1))


def test_a_run_of_another_version(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"config": {"run": {"no_such_field": 1}}}')
    with pytest.raises(ConfigError, match="settings this version does not know"):
        cli.run_config(tmp_path)
    with pytest.raises(DataError, match="no finished step to draw"):
        save_curve(tmp_path, tmp_path / "curve.png")


def test_a_stop_rule_that_is_none() -> None:
    with pytest.raises(ConfigError, match="--alpha"):
        cli.stop_rule(Convergence(), {"alpha": 2.0, "delta": None})


def test_a_source_without_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows there"):
        conversion.write([], tmp_path / "out.jsonl")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="nowhere"):
        conversion.open_source(str(tmp_path / "nowhere"), None, "train")


@pytest.mark.parametrize(
    ("name", "text", "metric", "message"),
    [
        ("absent.jsonl", None, None, "no such file"),
        ("a.jsonl", '{"reward": 1.0, "other": 2}\n', "reward", "a record has no usable step or reward"),
        ("a.json", '{"log_history": 3}', None, "log_history is not a list of records"),
    ],
)
def test_a_curve(tmp_path: Path, name: str, text: str | None, metric: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        streams.read_stream(tmp_path / name, metric)


def test_a_dtype_that_quantising_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--dtype float16: bfloat16 or float32"):
        cli_plan.quantise(tmp_path, tmp_path / "out", "float16")


@pytest.mark.parametrize(
    ("driver", "capability", "ok"), [("550.54", "9.0", False), ("580.95", "7.5", False), ("580.95", "9.0", True)]
)
def test_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str, capability: str, ok: bool) -> None:
    monkeypatch.setenv("PATH", fake_gpu(tmp_path, driver, capability)["PATH"])
    assert [finding.ok for finding in doctor.machine() if finding.name == "gpu"] == [ok]


def test_a_driver_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpu(tmp_path, "580.95")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert doctor.gpus() == []


def test_packages_of_other_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": "1.0.0"}
    monkeypatch.setattr(doctor, "_version", versions.get)
    found = {finding.name: finding for finding in doctor.packages()}
    assert "this project is tested with torch" in found["torch"].advice
    assert "transformers samples" in found["vllm"].advice
    assert not found["vllm"].required


def test_the_doctors_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Both of its forms name the same findings."""
    table = CliRunner().invoke(cli.app, ["doctor"]).stdout
    code = doctor.main([])
    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert all(line.split()[1] in table for line in lines)


@pytest.mark.parametrize(
    ("schedule", "rates"), [("constant", [0.5, 1.0, 1.0, 1.0]), ("linear", [0.5, 0.75, 0.5, 0.25])]
)
def test_a_schedule_by_hand(tiny_model: Path, schedule: Any, rates: list[float]) -> None:
    """Two steps of warm-up, then constant or linear to zero at the fourth."""
    settings = Update(learning_rate=1.0, warmup_steps=2, schedule=schedule)
    updater = Updater(policy_of(tiny_model), settings, Accelerator(cpu=True), 4)
    assert [updater.learning_rate(step) for step in range(4)] == rates


def test_bars_on_a_terminal() -> None:
    out = io.StringIO()
    display = Display(Console(file=out, force_terminal=True, width=120))
    with display.status("loading"):
        pass
    with display.training(2, 8):
        display.phase("updating")
    assert "loading: 0.0 s" in out.getvalue()
    assert "updating" in out.getvalue()
    assert "2/8" in out.getvalue()


def test_a_metric_that_no_event_file_has(tiny_run, tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "events")) as writer:
        writer.add_scalar("loss", 1.0, 1)
    with pytest.raises(DataError, match="no scalar 'reward'; there are loss"):
        streams.read_stream(tmp_path / "events", "reward")


def test_another_metric_of_a_run_has_no_sizes(tmp_path: Path) -> None:
    """Completions and spread in a metrics line are the usual reward's."""
    record = {"step": 0, "critic_rewards_mean": 0.5, "other": 0.25, "completions": 8}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    (point,) = streams.read_stream(tmp_path, "other")
    assert (point.reward, point.completions) == (0.25, None)


def test_a_template_that_raises(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = "{{ raise_exception('no system turns') }}"
    with pytest.raises(RowError, match="chat template refuses them: no system turns"):
        tokenise({"messages": [{"role": "user", "content": "a"}]}, tokenizer)


def test_a_training_without_a_file() -> None:
    done = subprocess.run([sys.executable, "-m", "grpo.train"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: accelerate launch -m grpo.train CONFIG")
