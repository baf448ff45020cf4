"""1 where the answer is mathematically equal to the reference (Hugging Face's math-verify), 0 elsewhere.

options: mode (strict: the answer stands in \\boxed{}; lenient: the last expression or number counts), field (of an
object reference); of GSM8K's references what follows #### is taken; seconds (5) for one answer
"""

import re
from decimal import Decimal

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

from contract import answer, batch, options, reference, within

SETTINGS = options({"mode": "strict", "field": None, "seconds": 5.0})
if SETTINGS["mode"] not in ("strict", "lenient"):
    raise ValueError("reward.options.mode: strict or lenient")
# the sandbox has its own clock; math-verify's would need signals that it does not let through
NO_CLOCK = {"parsing_timeout": None}


def boxed(text):
    """What the last \\boxed{} holds, or None; braces may nest."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for position in range(start + len("\\boxed"), len(text)):
        depth += (text[position] == "{") - (text[position] == "}")
        if depth == 0:
            return text[start + len("\\boxed{") : position]
    return None


def plain(text):
    """What math-verify does not read: escaped dollars, the minus of typography, tags, signs without a blank."""
    text = text.replace("\\$", "$").replace("\N{MINUS SIGN}", "-")
    text = re.sub(r"</?[A-Za-z]\w*>", " ", text).replace("*", " ")
    text = re.sub(r"(?<=[:#(])(?=[-$\d])", " ", text)
    return written_out(text)


def written_out(text):
    """Without exponents: 6.02e5 would be read as a product with e."""
    return re.sub(r"(?<![\w.])\d+(\.\d+)?[eE][-+]?\d+(?!\w)", lambda m: format(Decimal(m[0]), "f"), text)


def expressions(text):
    return parse(text, [LatexExtractionConfig(), ExprExtractionConfig()], **NO_CLOCK)


def score(sample):
    gold = written_out(reference(sample, SETTINGS["field"]).rpartition("####")[2].strip().strip("$"))
    wanted = expressions(f"${gold}$") or expressions(plain(gold))
    if not wanted:
        raise ValueError(f"reference_answer: no mathematical expression in {gold[:100]!r}")
    return within(SETTINGS["seconds"], lambda: float(matches(wanted, answer(sample))))


def matches(wanted, text):
    inside = boxed(text)
    if SETTINGS["mode"] == "strict" and inside is None:
        return False
    given = expressions(plain(text) if inside is None else f"${inside}$")
    return verify(wanted, given, timeout_seconds=None)


def lambda_handler(event, context):
    return batch(score, event)
