"""A model's opinion: any OpenAI-compatible chat endpoint is shown question and answer and names a number.

options: url (base URL, required), model (required), low (0), high (10): the number is scaled from there to 0..1;
instructions, in which {low} and {high} stand for them; api_key (or the variable JUDGE_API_KEY in the environment);
timeout_s (30); at_once (8 questions). Needs the network, which naming this grader allows.
"""

import http.client
import json
import os
import re
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from contract import answer, batch, options

SETTINGS = options(
    {
        "url": None,
        "model": None,
        "low": 0.0,
        "high": 10.0,
        "instructions": "You grade answers. Be strict. End with one line: SCORE: a number from {low} to {high}.",
        "api_key": None,
        "timeout_s": 30.0,
        "at_once": 8,
    }
)
if not SETTINGS["url"] or not SETTINGS["model"]:
    raise ValueError("reward.options.url and reward.options.model: required")
if not SETTINGS["low"] < SETTINGS["high"]:
    raise ValueError("reward.options.low: must be less than high")
LAST_SCORE = re.compile(r"score\W{0,6}?(-?[0-9]+(?:\.[0-9]+)?)", re.IGNORECASE)


def ask(content):
    system = SETTINGS["instructions"]
    for name in ("low", "high"):
        system = system.replace(f"{{{name}}}", f"{SETTINGS[name]:g}")
    messages = [{"role": "system", "content": system}, {"role": "user", "content": content}]
    body = json.dumps({"model": SETTINGS["model"], "messages": messages, "temperature": 0}).encode()
    key = SETTINGS["api_key"] or os.environ.get("JUDGE_API_KEY", "none")
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    request = urllib.request.Request(SETTINGS["url"].rstrip("/") + "/chat/completions", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=SETTINGS["timeout_s"]) as response:
            return json.load(response)["choices"][0]["message"]["content"] or ""
    except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException) as error:
        raise ValueError(f"the judge did not answer: {type(error).__name__} {error}") from None


def score(sample):
    *before, _ = sample["messages"]
    question = "\n\n".join(f"{message['role']}: {message['content']}" for message in before)
    parts = [f"Conversation:\n{question}", f"Answer:\n{answer(sample)}"]
    if sample.get("reference_answer") is not None:
        parts.append(f"Reference:\n{json.dumps(sample['reference_answer'])}")
    found = LAST_SCORE.findall(ask("\n\n".join(parts)))
    if not found:
        raise ValueError("the judge named no SCORE")
    low, high = SETTINGS["low"], SETTINGS["high"]
    return (min(high, max(low, float(found[-1]))) - low) / (high - low)


def lambda_handler(event, context):
    with ThreadPoolExecutor(max(1, int(SETTINGS["at_once"]))) as pool:
        return [entry for entries in pool.map(lambda sample: batch(score, [sample]), event) for entry in entries]
