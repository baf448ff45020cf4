"""The results as Markdown."""

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Seq
from typing import Any

import bank

Results = dict[str, list[dict[str, Any]]]


def report(results: Results, families: Seq[str], levelling: Seq[str], rivals: Seq[str]) -> Iterator[str]:
    """All tables."""
    find = {(c["family"], c["law"]): c for c in results["cells"]}
    yield "# The stop rule, measured\n"
    yield f"delta 0.02 over 20 steps, alpha 0.05, {find[families[0], bank.LAWS[0]]['ours']['runs']} runs a cell.\n"
    yield "## False stops: upper 95 % bound, %\n"
    yield from _grid(families, lambda f, law: _percent(find[f, law]["ours"]["false_upper"]))
    yield "\n## Median stop / that of the best fixed-window test, which knows the noise law (600: never)\n"
    yield from _grid(levelling, lambda f, law: _delay(find[f, law]))
    yield "\n## Steps of 600 saved, %\n"
    yield from _grid(levelling, lambda f, law: _percent(find[f, law]["ours"]["saved"], 0))
    yield "\n## Reward given up by the returned checkpoint, % of the rise: median / 95th percentile\n"
    rising = [f for f in families if "given_up" in find[f, bank.LAWS[0]]["ours"]]
    yield from _grid(rising, lambda f, law: _pair(find[f, law]["ours"], "given_up", "given_up_95"))
    yield "\n## Still to come after the stop, % of the rise, median\n"
    yield from _grid(rising, lambda f, law: _percent(find[f, law]["ours"]["still_to_come"]))
    yield "\n## False alarms: upper 95 % bound, %\n"
    yield from _grid(families, lambda f, law: _percent(find[f, law]["ours"]["false_alarm_upper"]))
    yield "\n## Falls heard within 30 steps of being 0.1 deep, % (median delay, steps)\n"
    yield from _grid(["collapse", "regression"], lambda f, law: _heard(find[f, law]["ours"]))
    yield "\n## Rules side by side: the largest share of false stops over the noise laws, %\n"
    yield _row(["family", "ours", *rivals])
    yield _row(["---"] * (len(rivals) + 2))
    for f in families:
        worst = [max(find[f, law]["ours"]["false"] for law in bank.LAWS)]
        worst += [max(find[f, law]["rivals"][name]["false"] for law in bank.LAWS) for name in rivals]
        yield _row([f, *map(_percent, worst)])
    yield from _extras(results)


def _extras(results: Results) -> Iterator[str]:
    yield "\n## Short jobs: stopped by the rule, % (median stop)\n"
    yield _row(["steps", "rollouts", "levels off at 0.9", "levels off at 1, known as the ceiling"])
    yield _row(["---"] * 4)
    for r in results["short jobs"]:
        ends = [f"{_percent(r[name], 0)} ({r[f'{name}_median']:.0f})" for name in ("below", "at")]
        yield _row([r["steps"], r["rollouts"], *ends])
    yield "\n## Short jobs at the end of their budget: called `no_signal`, %\n"
    curves = {"steep": "0.05 to 0.95 within 20 steps", "steady": "0.1 to 0.9", "small": "0.1 to 0.2"}
    curves |= {"flat": "flat", "flat, ar 0.8": "flat, AR 0.8"}
    yield _row(["steps", "rollouts", *curves.values()])
    yield _row(["---"] * 7)
    for r in results["budget"]:
        yield _row([r["steps"], r["rollouts"], *(_percent(r[name]) for name in curves)])
    yield "\n## Trade-off: alpha\n"
    yield _row(["alpha", *(f"{law}: {what}" for law in ("gaussian", "ar 0.8") for what in ("false, %", "median stop"))])
    yield _row(["---"] * 5)
    for r in results["alpha"]:
        numbers = [x for law in ("gaussian", "ar 0.8") for x in (_percent(r[law]["false"]), f"{r[law]['median']:.0f}")]
        yield _row([r["alpha"], *numbers])
    yield "\n## Trade-off: the certain fall that raises the alarm (default 0.02)\n"
    parts = ("false", "slow", "quick")
    yield _row(["fall", *(f"{law}: {part}, %" for law in ("ar 0.8", "bernoulli 32") for part in parts)])
    yield _row(["---"] * 7)
    for r in results["alarm"]:
        yield _row([r["fall"], *(_percent(r[law][part]) for law in ("ar 0.8", "bernoulli 32") for part in parts)])
    yield "\n## Trade-off: steps on either side from which the returned checkpoint's reward is told (default 20)\n"
    yield "Reward given up, % of the rise: median / 95th percentile.\n"
    traded = [name for name in results["checkpoint"][0] if name != "half"]
    yield _row(["steps", *traded])
    yield _row(["---"] * (len(traded) + 1))
    for r in results["checkpoint"]:
        yield _row([r["half"], *(f"{_percent(r[name][0])} / {_percent(r[name][1])}" for name in traded)])
    yield "\n## Prompt difficulty removed\n"
    yield _row(["prompts known", "noise of one step", "median stop", "stopped, %"])
    yield _row(["---"] * 4)
    for r in results["difficulty"]:
        yield _row(
            ["yes" if r["known"] else "no", f"{r['spread']:.4f}", f"{r['median']:.0f}", _percent(r["stopped"], 0)]
        )
    yield "\n## Forecasts after 150 steps, 90 % intervals\n"
    yield _row(["family", "stop inside, %", "median error, steps", "reward inside, %", "median width"])
    yield _row(["---"] * 5)
    for r in results["forecast"]:
        inside = [_percent(r["stop_covered"], 0), f"{r['stop_error']:.0f}", _percent(r["reward_covered"], 0)]
        yield _row([r["family"], *inside, f"{r['reward_width']:.3f}"])


def _grid(families: Iterable[str], entry: Callable[[str, str], str]) -> Iterator[str]:
    yield _row(["family", *bank.LAWS])
    yield _row(["---"] * (len(bank.LAWS) + 1))
    for f in families:
        yield _row([f, *(entry(f, law) for law in bank.LAWS)])


def _row(entries: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, entries)) + " |"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}"


def _pair(numbers: dict[str, float], *names: str) -> str:
    return " / ".join(_percent(numbers[name]) for name in names)


def _delay(cell: dict[str, Any]) -> str:
    return f"{cell['ours']['median']:.0f} / {cell['oracle']['median']:.0f}"


def _heard(numbers: dict[str, float]) -> str:
    return f"{_percent(numbers['heard_in_time'])} ({numbers['median_delay']:.0f})"
