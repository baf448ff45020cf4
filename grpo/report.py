"""One HTML file about a run, to send to somebody: nothing in it is loaded from anywhere. Touches: disk."""

import json
import tempfile
from html import escape
from pathlib import Path
from typing import Any

from grpo.console.run_view import RunView
from grpo.errors import DataError
from grpo.page import page, picture, table
from grpo.plot import save_curve

SHOWN = 4
"""Of the best and of the worst completions of the last step."""
LONGEST = 4000
MEASURED = (
    ("critic_rewards_mean", "Reward"),
    ("response_length_mean", "Completion length, tokens"),
    ("truncated_share", "Cut at the limit, share"),
    ("zero_variance_share", "Groups without signal, share"),
    ("actor_entropy", "Entropy, nats"),
    ("kl", "KL to the base model, nats"),
    ("actor_grad_norm", "Gradient norm"),
    ("reward_error_share", "Scoring failed, share"),
    ("seconds", "Seconds a step"),
)


def save_report(run: Path, target: Path) -> None:
    """Write it. Raises DataError when the run has no finished step."""
    view = RunView(run, run)
    details = view.details()
    if not details["steps"]:
        raise DataError(f"{run}: no finished step to report; metrics.jsonl is empty or missing")
    parts = [
        f"<h1>{escape(run.resolve().name)}</h1>",
        f"<p>{escape(details['status'].replace('_', ' '))}: {escape(details['reason'] or 'it has not ended')}.</p>",
        f"<p>{details['steps']} steps of at most {details['total_steps']}, model {escape(details['model'])}.</p>",
        picture(_curve(run), "Reward by step"),
        "<h2>Held-out prompts</h2>" + table(("step", "mean", "95 %, from", "to", "completions"), _heldout(details)),
        "<h2>What was measured</h2>" + table(("", "first step", "last step"), _measured(view)),
        "<h2>Completions of the last step</h2>" + _completions(view, details["steps"] - 1),
        "<h2>Configuration</h2>" + table(("", "value", "default"), _settings(details)),
    ]
    target.write_text(page(run.resolve().name, parts))


def _curve(run: Path) -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        save_curve(run, Path(scratch) / "curve.png")
        return (Path(scratch) / "curve.png").read_bytes()


def _heldout(details: dict[str, Any]) -> list[list[Any]]:
    return [[e["step"], e["mean"], e["low"], e["high"], e["n"]] for e in details["evaluations"]]


def _measured(view: RunView) -> list[list[Any]]:
    names, steps = [name for name, _ in MEASURED], view.table.refresh()
    found = view.table.thinned(names, 0, steps, steps)["columns"]
    return [[title, found[name]["mean"][0], found[name]["mean"][-1]] for name, title in MEASURED if name in found]


def _settings(details: dict[str, Any]) -> list[list[Any]]:
    return [[s["name"], json.dumps(s["value"]), json.dumps(s["default"])] for s in details["settings"] if s["changed"]]


def _completions(view: RunView, step: int) -> str:
    found = view.step(step)
    scored = [
        (completion["reward"], group["prompt"]["messages"][-1]["content"], completion["text"])
        for group in (found or {"groups": []})["groups"]
        for completion in group["completions"]
        if completion["reward"] is not None
    ]
    scored.sort(key=lambda one: -one[0])
    chosen = scored if len(scored) <= 2 * SHOWN else scored[:SHOWN] + scored[-SHOWN:]
    return "".join(
        f"<h3>reward {reward:.4g}</h3><pre>{escape(str(prompt)[:LONGEST])}</pre><pre>{escape(text[:LONGEST])}</pre>"
        for reward, prompt, text in chosen
    )
