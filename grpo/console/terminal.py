"""The story of a run in a terminal: bar, curve, numbers, alarms, the best and the worst completion. Pure."""

import math
from collections.abc import Sequence as Seq
from itertools import pairwise
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from grpo.errors import printable

BLOCKS = " ▁▂▃▄▅▆▇█"
HEIGHT, AXIS = 8, 8
LONGEST = 300
SHOWN = (
    ("response_length_mean", "length", "{:.0f}"),
    ("truncated_share", "cut", "{:.0%}"),
    ("zero_variance_share", "no signal", "{:.0%}"),
    ("actor_entropy", "entropy", "{:.2f}"),
    ("kl", "kl", "{:.3f}"),
    ("reward_error_share", "not scored", "{:.0%}"),
    ("tokens_per_second", "tokens/s", "{:.0f}"),
)
GOOD, BAD = ("plateau", "converged_ceiling", "succeeded"), ("collapsed", "regressed", "no_signal", "failed")


def story(told: dict[str, Any], rewards: Seq[float], last: dict[str, Any], ends: dict[str, Any], width: int) -> Group:
    """``told``: a run's details; ``rewards``: of all steps; ``last``: the newest metrics; ``ends``: best and worst."""
    parts: list[RenderableType] = [_head(told), _numbers(told, last)]
    parts += [Text(line, style="cyan") for line in curve(rewards, width - AXIS - 1, HEIGHT)]
    parts += [Text(text, style="dim") for text in [outlook(told)] if text]
    parts += [Text(f"! {a['text']}: {a['advice']}", style="yellow") for a in told.get("alarms", [])]
    for name, style in (("best", "green"), ("worst", "red")):
        if name in ends:
            parts.append(_completion(name, ends[name], style))
    if told["reason"]:
        parts.append(Text(printable(told["reason"]), style="bold"))
    return Group(*parts)


def line(summary: dict[str, Any], last: dict[str, Any]) -> str:
    """One step, for a pipe."""
    numbers = "  ".join(f"{name} {form.format(last[key])}" for key, name, form in SHOWN if _known(last.get(key)))
    reward = "-" if summary["reward"] is None else f"{summary['reward']:.3f}"
    return f"step {summary['steps']}/{summary['total_steps'] or '?'}  reward {reward}  {numbers}"


def curve(values: Seq[float], width: int, height: int) -> list[str]:
    """A column for each step, or for the mean of some; lines from the top, with the scale at their left."""
    known = [value for value in values if math.isfinite(value)]
    if not known or width < 1:
        return []
    count = min(width, len(known))
    edges = [round(k * len(known) / count) for k in range(count + 1)]
    means = [sum(known[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    eighths = [1 + round((m - low) / ((high - low) or 1) * (8 * height - 1)) for m in means]
    rows = []
    for row in range(height - 1, -1, -1):
        label = f"{high:.3f}" if row == height - 1 else f"{low:.3f}" if row == 0 else ""
        cells = "".join(BLOCKS[max(0, min(8, e - 8 * row))] for e in eighths)
        rows.append(f"{label:>{AXIS}} {cells}".rstrip())
    return rows


def outlook(told: dict[str, Any]) -> str:
    """What the stop rule saw last, and where it thinks that this goes."""
    looks, rule = told.get("looks") or [], told.get("rule") or {}
    if not looks or not rule or looks[-1].get("bound") is None:
        return ""
    look = looks[-1]
    gain = f"the next {rule['horizon']} steps may still gain up to {look['bound']:.3f}"
    text = f"{gain}; the run stops below {rule['delta']:g}"
    steps, rewards = look.get("stop_steps"), look.get("stop_rewards")
    if steps and rewards and not look.get("flat") and not told["reason"]:
        text += f"; forecast: flat by step {steps[1]} ({steps[0]} to {steps[2]}), reward {rewards[1]:.2f}"
    return text


def best_and_worst(groups: Seq[dict[str, Any]]) -> dict[str, Any]:
    """Of a step's groups: {"best": ..., "worst": ...}, each {reward, prompt, text}; empty where nothing was scored."""
    scored = [
        {"reward": c["reward"], "prompt": g["prompt"]["messages"][-1].get("content"), "text": c["text"]}
        for g in groups
        for c in g["completions"]
        if c["reward"] is not None
    ]
    if not scored:
        return {}
    ordered = sorted(scored, key=lambda one: float(one["reward"]))
    return {"best": ordered[-1], "worst": ordered[0]}


def _head(told: dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2), expand=True)
    style = "green" if told["status"] in GOOD else "red" if told["status"] in BAD else "cyan"
    total = told["total_steps"] or 0
    left = max(0, total - told["steps"]) * (told["seconds_per_step"] or 0)
    going = told["status"] in ("running", "starting") and left
    table.add_row(
        Text(printable(told["name"]), style="bold"),
        Text(printable(told["status"].replace("_", " ")), style=style),
        f"{told['steps']}/{total or '?'}",
        ProgressBar(total=total or 1, completed=told["steps"], width=30),
        f"at most {left / 60:.0f} min left" if going else "",
    )
    return table


def _numbers(told: dict[str, Any], last: dict[str, Any]) -> Text:
    text = Text()
    text.append("reward ", style="dim")
    text.append("-" if told["reward"] is None else f"{told['reward']:.3f}", style="bold")
    if told.get("evaluations"):
        held = told["evaluations"][-1]
        text.append(f"  held-out {held['mean']:.3f} [{held['low']:.3f}, {held['high']:.3f}] at step {held['step']}")
    for key, name, form in SHOWN:
        if _known(last.get(key)):
            text.append(f"  {name} ", style="dim")
            text.append(form.format(last[key]))
    return text


def _completion(name: str, one: dict[str, Any], style: str) -> Text:
    text = Text(f"{name} {one['reward']:g}  ", style=style)
    text.append(printable(str(one["prompt"])[-LONGEST // 2 :].strip().replace("\n", " ")), style="dim")
    text.append("\n    ")
    text.append(printable(one["text"][:LONGEST].strip().replace("\n", "\n    ")), style="default")
    return text


def _known(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
