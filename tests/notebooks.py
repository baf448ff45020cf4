"""AWS's sample notebooks for reinforcement fine-tuning, unedited but for two lines, against ``grpo serve``.

    python tests/notebooks.py SAMPLES [--only TEXT] [--rows N] [--own-rows N] [--make-finqa]
                              [--gsm8k DIR] [--urls DIR] [--tiktoken DIR] [--keep DIR] [--out FILE]

SAMPLES is the folder custom-models/bedrock-reinforcement-fine-tuning of github.com/aws-samples/amazon-bedrock-samples,
which is not part of this project. All runs in a copy of it, with the first rows of its data, in an environment that
``make notebooks`` makes. Where there is no network, data that cells download are found locally: GSM8K in --gsm8k
(train.jsonl, test.jsonl), files at URLs in --urls (HOST/PATH), the tokenizer of tiktoken in --tiktoken (its cache), and
--make-finqa makes rows of FinQA's form.

A reader waits until the training has ended before going on; so do we, after each cell.
"""

import argparse
import base64
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from grpo.server.catalogue import DEMO_MODEL  # noqa: E402

from servers import Served, amazon  # noqa: E402

ENVIRONMENT = ROOT / ".cache" / "clients" / "notebooks"
MODELS = ("qwen.qwen3-32b", "openai.gpt-oss-20b", "openai.gpt-oss-120b", "amazon.nova-2-lite-v1:0")
"""What the notebooks train, and call as a judge; the demo's model stands for all."""
BUCKET = "reinforcement-fine-tuning-samples"
CELL_S, JOB_S = 900, 3600.0
FLAGS = ("--function-network", "--sampler", "auto", "--engine-memory", "4", "--engine-dtype", "bfloat16")
"""Of the server. A judge that answers in float32 on two cores takes longer than boto3 waits for a function."""
LAST = 3
"""Cells whose output is kept in the result."""
HUB = "openai/gsm8k"
FINQA = "raw.githubusercontent.com/czyssrs/FinQA/main/dataset"
STARTUP = '''
"""Before the first cell: files at URLs that lie here are read here."""
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit


class Local(urllib.request.HTTPSHandler):
    def https_open(self, request):
        parts = urlsplit(request.full_url)
        path = Path({urls!r}) / parts.netloc / parts.path.lstrip("/")
        if not path.is_file():
            return super().https_open(request)
        found = urllib.request.addinfourl(path.open("rb"), {{}}, request.full_url, 200)
        found.msg = "OK"
        return found


urllib.request.install_opener(urllib.request.build_opener(Local))
'''


@dataclass
class Result:
    """What became of one notebook."""

    notebook: str
    cells: int = 0
    """Code cells that ran to their end."""
    of: int = 0
    changed: list[str] = field(default_factory=list)
    """Lines as they are in the copy."""
    images: int = 0
    seconds: float = 0.0
    error: str | None = None
    last: list[str] = field(default_factory=list)
    rows: int = 0
    """Of data that its cells download."""
    server: list[str] = field(default_factory=list)
    """Flags."""


def change(source: str, url: str) -> tuple[str, list[str]]:
    """The endpoint of the OpenAI API or the name of the bucket: the source and the lines that are new in it."""
    changed = re.sub(r"^MANTLE_ENDPOINT = .*$", f'MANTLE_ENDPOINT = "{url}"', source, flags=re.MULTILINE)
    changed = re.sub(r"^S3_BUCKET = .*$", f'S3_BUCKET = "{BUCKET}"', changed, flags=re.MULTILINE)
    pairs = zip(source.splitlines(), changed.splitlines(), strict=True)
    return changed, [new for old, new in pairs if old != new]


def shorten(folder: Path, rows: int) -> None:
    """Every JSONL file to its first rows, every JSON list at a URL likewise."""
    for path in folder.rglob("*.jsonl"):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:rows]))
    for path in folder.rglob("*.json"):
        found = json.loads(path.read_text())
        path.write_text(json.dumps(found[:rows] if isinstance(found, list) else found))


def make_finqa(folder: Path, rows: int) -> None:
    """Files of FinQA's form, for where FinQA itself cannot be had: sums of a table's two numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    made = [
        {
            "pre_text": [f"Report of company {i}.", "All amounts are in millions."],
            "post_text": ["The fiscal year ends in December."],
            "table": [["segment", "sales"], ["north", str(i + 3)], ["south", str(2 * i + 1)]],
            "qa": {
                "question": "What are the sales of both segments together?",
                "exe_ans": 3 * i + 4,
                "program": f"add({i + 3}, {2 * i + 1})",
            },
        }
        for i in range(rows)
    ]
    for name, content in {"train": made, "dev": [], "test": []}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def cache_gsm8k(source: Path, cache: Path) -> None:
    """GSM8K where ``datasets`` looks for it when the Hub is out of reach."""
    from datasets import Dataset, DatasetDict, Split, load_dataset

    found = load_dataset(
        "json", data_files={s: str(source / f"{s}.jsonl") for s in ("train", "test")}, cache_dir=str(cache / "json")
    )
    assert isinstance(found, DatasetDict)
    target = cache / "openai___gsm8k" / "main" / "0.0.0" / ("0" * 40)
    target.mkdir(parents=True)
    for name, split in found.items():
        assert isinstance(split, Dataset)
        plain = Dataset.from_list(split.to_list(), split=Split(name))
        plain.save_to_disk(cache / "saved" / str(name))
        (arrow,) = (cache / "saved" / str(name)).glob("*.arrow")
        shutil.move(arrow, target / f"gsm8k-{name}.arrow")
    described = {
        name: {"name": name, "num_examples": len(split), "dataset_name": "gsm8k"} for name, split in found.items()
    }
    features = found["train"].features.to_dict()
    told = {
        "features": features,
        "splits": described,
        "builder_name": "parquet",
        "dataset_name": "gsm8k",
        "config_name": "main",
        "version": {"version_str": "0.0.0", "major": 0, "minor": 0, "patch": 0},
    }
    (target / "dataset_info.json").write_text(json.dumps(told))
    shutil.rmtree(cache / "saved")


def environment(work: Path, url: str, tiktoken: Path | None) -> dict[str, str]:
    """Of the kernel: AWS's clients with any credentials, and where data lie."""
    found = {
        "PATH": f"{ENVIRONMENT / 'bin'}:{os.environ['PATH']}",
        "HOME": str(work / "home"),
        "IPYTHONDIR": str(work / "ipython"),
        "JUPYTER_PATH": str(work / "jupyter"),
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "thing",
        "AWS_DEFAULT_REGION": "us-west-2",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_PROGRESS_BAR": "off",
    }
    if (work / "datasets").exists():
        found |= {"HF_DATASETS_CACHE": str(work / "datasets"), "HF_HUB_OFFLINE": "1"}
    return found | ({"TIKTOKEN_CACHE_DIR": str(tiktoken)} if tiktoken else {})


def prepare(arguments: argparse.Namespace, work: Path) -> Path:
    """A copy of the samples with short data, a kernel in the notebooks' environment; the samples' folder."""
    samples = work / "samples"
    shutil.copytree(arguments.samples, samples)
    shorten(samples / "datasets", arguments.own_rows)
    if arguments.urls:
        shutil.copytree(arguments.urls, work / "urls")
        shorten(work / "urls", arguments.rows)
    if arguments.gsm8k:
        shutil.copytree(arguments.gsm8k, work / "gsm8k")
        shorten(work / "gsm8k", arguments.rows)
        cache_gsm8k(work / "gsm8k", work / "datasets")
    if arguments.make_finqa:
        make_finqa(work / "urls" / FINQA, arguments.rows)
    startup = work / "ipython" / "profile_default" / "startup" / "00-local.py"
    startup.parent.mkdir(parents=True)
    startup.write_text(STARTUP.format(urls=str(work / "urls")))
    (work / "home").mkdir()
    kernel = work / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    words = [str(ENVIRONMENT / "bin" / "python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": words, "display_name": "Python 3", "language": "python"}))
    return samples


def wait(bedrock: Any) -> None:
    """Until no job is running."""
    deadline = time.monotonic() + JOB_S
    while bedrock.list_model_customization_jobs(statusEquals="InProgress")["modelCustomizationJobSummaries"]:
        assert time.monotonic() < deadline, "the job did not end"
        time.sleep(1)


def texts(cell: Any) -> Iterator[str]:
    """What a cell printed and showed, as text."""
    for output in cell.get("outputs", []):
        if output["output_type"] == "stream":
            yield output["text"]
        elif "text/plain" in output.get("data", {}):
            yield output["data"]["text/plain"]


def images(cell: Any) -> list[bytes]:
    """The plots of a cell."""
    found = [output.get("data", {}).get("image/png") for output in cell.get("outputs", [])]
    return [base64.b64decode(image) for image in found if image]


def run(path: Path, samples: Path, served: Served, keep: Path, console: Console) -> Result:
    """One notebook, from its first cell to its last; the executed copy goes to ``keep``."""
    url, started = served.url.removesuffix("/v1"), time.monotonic()
    notebook = nbformat.read(path, as_version=4)
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    result = Result(str(path.relative_to(samples)), of=len(codes))
    for cell in codes:
        cell.source, lines = change(cell.source, url)
        result.changed += lines
    bedrock = amazon(served, "bedrock")
    client = NotebookClient(
        notebook, timeout=CELL_S, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    )
    try:
        with client.setup_kernel():
            for index, cell in enumerate(notebook.cells):
                if cell.cell_type == "code":
                    with console.status(f"{result.notebook}: cell {index} of {len(notebook.cells)}"):
                        client.execute_cell(cell, index)
                        wait(bedrock)
                    result.cells += 1
    except Exception as error:  # whatever a cell raises is this notebook's result
        result.error = f"{type(error).__name__}: {error}"[-2000:]
    result.images = sum(len(images(cell)) for cell in codes)
    result.last = [
        text.replace(str(ROOT), "PROJECT")[-2000:] for text in ("".join(texts(cell)) for cell in codes) if text
    ][-LAST:]
    result.seconds = round(time.monotonic() - started, 1)
    nbformat.write(notebook, keep / path.name)
    return result


def versions() -> dict[str, str]:
    """Of the packages that speak to the server."""
    found = {
        d.name: d.version for d in distributions(path=[str(p) for p in ENVIRONMENT.glob("lib/python*/site-packages")])
    }
    return {name: found[name] for name in ("boto3", "botocore", "openai", "aws-bedrock-token-generator", "datasets")}


def run_all(arguments: argparse.Namespace, work: Path, console: Console) -> list[Result]:
    """Every notebook of the samples against one server."""
    samples = prepare(arguments, work)
    model = ROOT / ".cache" / "models" / DEMO_MODEL
    mapped = [word for name in MODELS for word in ("--map", f"{name}={model}")]
    served = Served(work / "data", model, *FLAGS, *mapped)
    keep = arguments.keep or work / "executed"
    keep.mkdir(parents=True, exist_ok=True)
    try:
        amazon(served, "s3").create_bucket(Bucket=BUCKET)
        os.environ.update(environment(work, served.url.removesuffix("/v1"), arguments.tiktoken))
        results = []
        for path in sorted(samples.rglob("*.ipynb")):
            if arguments.only in path.name:
                results.append(replace(run(path, samples, served, keep, console), rows=arguments.rows, server=[*FLAGS]))
                console.print_json(json.dumps(asdict(results[-1])))
        return results
    finally:
        served.stop()


def write(arguments: argparse.Namespace, results: list[Result]) -> None:
    """Results, beside those of other notebooks that the file has."""
    before = json.loads(arguments.out.read_text())["notebooks"] if arguments.out.exists() else []
    ran = {result.notebook for result in results}
    found = [asdict(r) for r in results] + [one for one in before if one["notebook"] not in ran]
    told = {"own_rows": arguments.own_rows, "model": DEMO_MODEL, "versions": versions()}
    told |= {
        "finqa": "made" if arguments.make_finqa else "its own",
        "notebooks": sorted(found, key=lambda r: r["notebook"]),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(told, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", type=Path)
    parser.add_argument("--only", default="", help="part of a notebook's name")
    parser.add_argument("--rows", type=int, default=40, help="of data that cells download; 40 make a batch of 32")
    parser.add_argument("--own-rows", type=int, default=12, help="of the samples' own data; a batch has 4")
    parser.add_argument("--make-finqa", action="store_true", help="where its own data cannot be had")
    for name in ("gsm8k", "urls", "tiktoken", "keep", "out"):
        parser.add_argument(f"--{name}", type=lambda text: Path(text).resolve())
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="notebooks-") as work:
        results = run_all(arguments, Path(work), Console(emoji=False))
    if arguments.out:
        write(arguments, results)
    return int(not results or any(result.error or result.cells < result.of for result in results))


if __name__ == "__main__":
    sys.exit(main())
