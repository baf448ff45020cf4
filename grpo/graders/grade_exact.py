"""1 where the answer is the reference, 0 elsewhere.

options: field (of an object reference), ignore_case (false), strip (true: blanks around both do not count)
"""

from contract import answer, batch, options, reference

SETTINGS = options({"field": None, "ignore_case": False, "strip": True})


def clean(text):
    text = text.strip() if SETTINGS["strip"] else text
    return text.casefold() if SETTINGS["ignore_case"] else text


def score(sample):
    return clean(answer(sample)) == clean(reference(sample, SETTINGS["field"]))


def lambda_handler(event, context):
    return batch(score, event)
