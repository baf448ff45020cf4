"""A reward of both sides, without silent groups: how often letters of the first half of the alphabet occur."""

from typing import Any


def share(text: str) -> float:
    """Of the text's characters; 0 for none."""
    return sum(letter in "abcdefghijklm" for letter in text.lower()) / max(1, len(text))


def lambda_handler(event: list[dict[str, Any]], context: object) -> list[dict[str, Any]]:
    """Ours: Bedrock's contract."""
    return [
        {"id": sample["id"], "aggregate_reward_score": share(sample["messages"][-1]["content"])} for sample in event
    ]
