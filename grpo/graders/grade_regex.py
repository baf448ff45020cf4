"""1 where a pattern is found in the answer; with ``compare`` only if what its last match captured is the reference.

options: pattern (required; Python's re, where . is a line's end, too), compare (false), field (of an object reference),
full (false; true: the whole answer must match)
"""

import re

from contract import answer, batch, options, reference

SETTINGS = options({"pattern": None, "compare": False, "field": None, "full": False})
if not isinstance(SETTINGS["pattern"], str) or not SETTINGS["pattern"]:
    raise ValueError("reward.options.pattern: required, a regular expression")
try:
    PATTERN = re.compile(SETTINGS["pattern"], re.DOTALL)
except re.error as problem:
    raise ValueError(f"reward.options.pattern: {SETTINGS['pattern']!r} is no regular expression: {problem}") from None


def score(sample):
    text = answer(sample)
    found = [PATTERN.fullmatch(text)] if SETTINGS["full"] else list(PATTERN.finditer(text))
    if not found or found[-1] is None:
        return 0.0
    if not SETTINGS["compare"]:
        return 1.0
    captured = found[-1].group(1 if PATTERN.groups else 0)
    return (captured or "").strip() == reference(sample, SETTINGS["field"]).strip()


def lambda_handler(event, context):
    return batch(score, event)
