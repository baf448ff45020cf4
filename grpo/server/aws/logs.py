"""CloudWatch Logs: what functions printed, to read and to delete.

docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference.
"""

from collections.abc import Callable, Mapping
from typing import Any

from grpo.server.aws.errors import AwsError, invalid
from grpo.server.aws.names import ACCOUNT
from grpo.server.aws.prints import Prints
from grpo.server.aws.wire import Call
from grpo.server.records import LogLine
from grpo.server.settings import DataDirectory
from grpo.server.store import Store

Given = dict[str, Any]
FOR_EVER = 2**62
MOST_LINES = 10_000
WHOLE = 10**9
PAGE = 50


class Logs:
    """The log groups of one server."""

    def __init__(self, store: Store, data: DataDirectory) -> None:
        self.lines, self.prints = store.lines, Prints(store, data)

    def operations(self) -> Mapping[str, Callable[[Call], Given]]:
        """By their names in the service's model."""
        return {
            "DescribeLogGroups": self.groups,
            "DescribeLogStreams": self.streams,
            "GetLogEvents": self.events,
            "FilterLogEvents": self.filtered,
            "DeleteLogGroup": self.delete,
        }

    def groups(self, call: Call) -> Given:
        self.prints.follow()
        prefix, pattern = call.given.get("logGroupNamePrefix", ""), call.given.get("logGroupNamePattern", "")
        found = [
            {"logGroupName": name, "creationTime": first, "arn": arn(name, call.region), "storedBytes": 0}
            for name, first in self.lines.groups().items()
            if name.startswith(prefix) and pattern in name
        ]
        return paged("logGroups", found, call.given)

    def streams(self, call: Call) -> Given:
        group = self._group(call)
        found = [
            {
                "logStreamName": name,
                "creationTime": first,
                "firstEventTimestamp": first,
                "lastEventTimestamp": last,
                "lastIngestionTime": last,
                "arn": f"{arn(group, call.region)}:log-stream:{name}",
            }
            for name, (first, last) in self.lines.streams(group).items()
            if name.startswith(call.given.get("logStreamNamePrefix", ""))
        ]
        if call.given.get("orderBy") == "LastEventTime":
            found.sort(key=lambda stream: str(stream["lastEventTimestamp"]))
        if call.given.get("descending"):
            found.reverse()
        return paged("logStreams", found, call.given)

    def events(self, call: Call) -> Given:
        """Forward only; a page's forward token continues it, and is its own when nothing has come since.

        Without a token and startFromHead: the newest lines.
        """
        group, given = self._group(call), call.given
        start, end = given.get("startTime", 0), given.get("endTime", FOR_EVER)
        token = given.get("nextToken", "f/0")
        if token.startswith("b/"):
            return {"events": [], "nextForwardToken": f"f/{token[2:]}", "nextBackwardToken": token}
        after, limit = serial(token.removeprefix("f/")), given.get("limit", MOST_LINES)
        newest = not given.get("startFromHead") and "nextToken" not in given
        most = WHOLE if newest else limit
        found = self.lines.of(group, [given["logStreamName"]], start, end, after, most)[-limit if newest else 0 :]
        last = found[-1][0] if found else after
        shown = [{"timestamp": line.at_ms, "message": line.message, "ingestionTime": line.at_ms} for _, line in found]
        return {"events": shown, "nextForwardToken": f"f/{last}", "nextBackwardToken": f"b/{after}"}

    def filtered(self, call: Call) -> Given:
        """With a pattern of plain words: lines that contain all of them."""
        group, given = self._group(call), call.given
        pattern, limit = given.get("filterPattern", ""), given.get("limit", MOST_LINES)
        if any(sign in pattern for sign in "{}[]?%-"):
            raise invalid("filterPattern: only plain words are implemented here")
        words = [word.strip('"') for word in pattern.split()]
        after = serial(given.get("nextToken", "0"))
        start, end = given.get("startTime", 0), given.get("endTime", FOR_EVER)
        found = self.lines.of(group, given.get("logStreamNames"), start, end, after, limit + 1)
        page, more = found[:limit], len(found) > limit
        shown = [shape(number, line) for number, line in page if all(word in line.message for word in words)]
        return {"events": shown} | ({"nextToken": str(page[-1][0])} if more else {})

    def delete(self, call: Call) -> Given:
        self.lines.delete(self._group(call))
        return {}

    def _group(self, call: Call) -> str:
        self.prints.follow()
        name = call.given.get("logGroupName") or call.given.get("logGroupIdentifier", "").rpartition("log-group:")[2]
        if name not in self.lines.groups():
            raise AwsError("ResourceNotFoundException", "The specified log group does not exist.", 400)
        return str(name)


def paged(name: str, found: list[Given], given: Given) -> Given:
    """One page of a list, and where the next begins."""
    start, limit = serial(given.get("nextToken", "0")), given.get("limit", PAGE)
    more = {"nextToken": str(start + limit)} if start + limit < len(found) else {}
    return {name: found[start : start + limit]} | more


def shape(number: int, line: LogLine) -> Given:
    """A line as FilterLogEvents shows it."""
    return {
        "eventId": str(number),
        "logStreamName": line.stream,
        "timestamp": line.at_ms,
        "ingestionTime": line.at_ms,
        "message": line.message,
    }


def serial(token: str) -> int:
    """Raises AwsError."""
    if not (token.isascii() and token.isdigit() and len(token) < 19):
        raise AwsError("InvalidParameterException", "The specified nextToken is invalid.")
    return int(token)


def arn(group: str, region: str) -> str:
    """Of a log group."""
    return f"arn:aws:logs:{region}:{ACCOUNT}:log-group:{group}"
