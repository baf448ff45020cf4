"""GSM8K's own form, as AWS's sample and verl read it: 1 when the number behind the last ####, within the last 300
characters, is the reference's, else 0."""

import re

NUMBER = r"(-?[\d,]*\d(?:\.\d+)?)"


def lambda_handler(event, context):
    return [{"id": sample["id"], "aggregate_reward_score": score(sample)} for sample in event]


def score(sample):
    given = last("#### *" + NUMBER, sample["messages"][-1]["content"][-300:])
    wanted = last(NUMBER, sample["reference_answer"]["text"])
    return float(given is not None and given == wanted)


def last(pattern, text):
    found = re.findall(pattern, text)
    return float(found[-1].replace(",", "")) if found else None
