"""The bank of curves and noise laws on which stop rules are judged. Rewards lie in [0, 1]; 600 steps."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
STEPS = 600
NOISE = 0.03
"""Standard deviation of the laws that are not Bernoulli."""


def curves() -> dict[str, Floats]:
    """True mean reward per step of every family."""
    t = np.arange(STEPS, dtype=float)
    fast = 0.1 + 0.8 * (1 - np.exp(-t / 40))
    return {
        "fast": fast,
        "slow": 0.1 + 0.8 * (1 - np.exp(-t / 200)),
        "power law": 0.9 - 0.8 * (1 + t / 20) ** -0.5,
        "late take-off": 0.05 + 0.85 * sigmoid((t - 150) / 20),
        "second rise": 0.1 + 0.4 * (1 - np.exp(-t / 20)) + 0.3 * sigmoid((t - 400) / 10),
        "staircase": 0.1 + 0.15 * sum(sigmoid((t - at) / 4) for at in (100, 200, 300, 400, 500)),
        "line": 0.1 + 0.0012 * t,
        "line at delta": 0.1 + 0.001 * t,
        "ceiling": np.minimum(1.0, 0.2 + t / 100),
        "flat": np.full(STEPS, 0.3),
        "noisy flat": np.full(STEPS, 0.5),
        "collapse": np.where(t < 250, fast, np.maximum(0.05, fast - (t - 250) * 0.04)),
        "regression": np.where(t < 200, fast, fast - (t - 200) * 0.0015),
        "cyclic": 0.1 + 0.5 * (1 - np.exp(-t / 60)) + 0.06 * np.sin(2 * np.pi * t / 80),
    }


LAWS = ("gaussian", "ar 0.5", "ar 0.8", "student t3", "ramp", "gaps", "bernoulli 32", "bernoulli 128", "bernoulli 512")
"""ramp: the noise grows threefold over the run; gaps: Gaussian, a fifth of the steps is missing."""


def observe(family: str, law: str, runs: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """(runs, T) observed step means of the family's curve under the noise law, and the T steps that were seen."""
    steps = np.arange(STEPS, dtype=float)
    if law == "gaps":
        steps = np.sort(rng.choice(STEPS, STEPS * 4 // 5, replace=False)).astype(float)
    mean = curves()[family][steps.astype(int)]
    loud = 3.0 if family == "noisy flat" else 1.0
    shape = (runs, len(steps))
    kind, _, value = law.partition(" ")
    if kind == "bernoulli":
        rollouts = int(int(value) / loud**2)
        return rng.binomial(rollouts, mean, shape) / rollouts, steps
    if kind == "student":
        return mean + loud * NOISE * rng.standard_t(3, shape) / np.sqrt(3), steps
    spread = NOISE * (0.5 + steps / STEPS) if kind == "ramp" else NOISE
    return mean + loud * spread * autoregressive(float(value or 0), shape, rng), steps


def autoregressive(phi: float, shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Stationary AR(1) of variance 1 along the second axis."""
    noise = rng.normal(size=shape)
    for i in range(1, shape[1] if phi else 0):
        noise[:, i] = phi * noise[:, i - 1] + np.sqrt(1 - phi**2) * noise[:, i]
    return noise


def gain(family: str, horizon: int) -> Floats:
    """(STEPS,) true gain over the next ``horizon`` steps after each step; the last level goes on."""
    mean = curves()[family]
    return np.concatenate([mean[horizon:], np.full(horizon, mean[-1])]) - mean


def fallen(family: str, drop: float) -> int | None:
    """The first step at which the true mean is ``drop`` below its best so far; None where that never happens."""
    mean = curves()[family]
    below = np.maximum.accumulate(mean) - mean >= drop - 1e-9
    return int(below.argmax()) if below.any() else None


def sigmoid(x: Floats) -> Floats:
    """The logistic function."""
    return 1 / (1 + np.exp(-x))
