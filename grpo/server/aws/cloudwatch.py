"""CloudWatch metrics: those of every job's steps, read from the jobs' events. Nothing can be put.

docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference. Which names Bedrock gives to these metrics is not published;
here the namespace is ``AWS/Bedrock/ModelCustomization``, the dimension ``JobName``, and the names are those of the
events of a job (docs/metrics.md).
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from grpo.server.aws.bedrock import Jobs
from grpo.server.aws.errors import AwsError
from grpo.server.aws.wire import Call
from grpo.server.records import Event, Job

Given = dict[str, Any]
Point = tuple[int, float]
"""Time in seconds, and value."""
NAMESPACE = "AWS/Bedrock/ModelCustomization"
DIMENSION = "JobName"
PAGE = 500
STATISTICS: dict[str, Callable[[list[float]], float]] = {
    "Average": lambda values: sum(values) / len(values),
    "Sum": sum,
    "Minimum": min,
    "Maximum": max,
    "SampleCount": lambda values: float(len(values)),
}


class CloudWatch:
    """The metrics of one server's jobs."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs, self.store = jobs, jobs.store

    def operations(self) -> Mapping[str, Callable[[Call], Given]]:
        """By their names in the service's model."""
        return {
            "ListMetrics": self.list_metrics,
            "GetMetricData": self.data,
            "GetMetricStatistics": self.statistics,
        }

    def list_metrics(self, call: Call) -> Given:
        given = call.given
        if given.get("Namespace", NAMESPACE) != NAMESPACE:
            return {"Metrics": []}
        wanted = {entry["Name"]: entry.get("Value") for entry in given.get("Dimensions", [])}
        found = [
            {"Namespace": NAMESPACE, "MetricName": metric, "Dimensions": [{"Name": DIMENSION, "Value": name}]}
            for name, job in self._named().items()
            if set(wanted) <= {DIMENSION} and wanted.get(DIMENSION) in (None, name)
            for metric in self._metrics(job)
            if given.get("MetricName", metric) == metric
        ]
        start = number(given.get("NextToken", "0"))
        more = {"NextToken": str(start + PAGE)} if start + PAGE < len(found) else {}
        return {"Metrics": found[start : start + PAGE]} | more

    def data(self, call: Call) -> Given:
        results = []
        for query in call.given["MetricDataQueries"]:
            if "MetricStat" not in query:
                raise bad("MetricDataQueries: only MetricStat is implemented here, not Expression")
            stat = query["MetricStat"]
            found = self._reduced(stat["Metric"], stat["Period"], stat["Stat"], call.given)
            if call.given.get("ScanBy", "TimestampDescending") == "TimestampDescending":
                found.reverse()
            results.append(
                {
                    "Id": query["Id"],
                    "Label": query.get("Label", stat["Metric"]["MetricName"]),
                    "Timestamps": [when(at) for at, _ in found],
                    "Values": [value for _, value in found],
                    "StatusCode": "Complete",
                }
            )
        shown = [query.get("ReturnData", True) for query in call.given["MetricDataQueries"]]
        return {"MetricDataResults": [one for one, show in zip(results, shown, strict=True) if show], "Messages": []}

    def statistics(self, call: Call) -> Given:
        given = call.given
        if given.get("ExtendedStatistics") or not given.get("Statistics"):
            raise bad("Statistics: required here; ExtendedStatistics are not implemented")
        by_time: dict[int, Given] = {}
        for name in given["Statistics"]:
            for at, value in self._reduced(given, given["Period"], name, given):
                by_time.setdefault(at, {"Timestamp": when(at), "Unit": "None"})[name] = value
        return {"Label": given["MetricName"], "Datapoints": [by_time[at] for at in sorted(by_time)]}

    def _reduced(self, metric: Given, period: int, statistic: str, span: Given) -> list[Point]:
        """One value for each period that has any, oldest first."""
        if statistic not in STATISTICS:
            raise bad(f"the statistic {statistic[:64]!r} is not implemented here; known: {', '.join(STATISTICS)}")
        start, end = seconds(span["StartTime"]), seconds(span["EndTime"])
        by_period: dict[int, list[float]] = {}
        for at, value in self._points(metric):
            if start <= at < end:
                by_period.setdefault(at // period * period, []).append(value)
        return [(at, STATISTICS[statistic](values)) for at, values in sorted(by_period.items())]

    def _points(self, metric: Given) -> list[Point]:
        named = {entry["Name"]: entry["Value"] for entry in metric.get("Dimensions", [])}
        job = self._named().get(named.get(DIMENSION, ""))
        if metric["Namespace"] != NAMESPACE or set(named) != {DIMENSION} or job is None:
            return []
        name = metric["MetricName"]
        return [(event.created_at, value) for event in self._events(job) if (value := of(event, name)) is not None]

    def _named(self) -> dict[str, Job]:
        told = self.store.customizations.all()
        return {told[job.id].name if job.id in told else job.id: job for job in self.jobs.newest()}

    def _events(self, job: Job) -> Iterable[Event]:
        after = None
        while True:
            events, more = self.store.log.events(job.id, after=after, limit=1000, newest_first=False)
            yield from (event for event in events if event.type == "metrics")
            if not more:
                return
            after = events[-1].id

    def _metrics(self, job: Job) -> list[str]:
        """Names, by the job's first step."""
        first = next(iter(self._events(job)), None)
        return sorted(name for name in (first.data or {}) if of(first, name) is not None) if first else []


def of(event: Event, name: str) -> float | None:
    """A metric's value; None where the step has none, or one that is no number."""
    value = (event.data or {}).get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def seconds(time: datetime) -> float:
    """Of a time as moto's parsers give it, or CBOR."""
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def when(at: int) -> datetime:
    """As moto's serialisers want times."""
    return datetime.fromtimestamp(at, UTC).replace(tzinfo=None)


def number(token: str) -> int:
    """Raises AwsError."""
    if not (token.isascii() and token.isdigit() and len(token) < 10):
        raise bad("the NextToken is not one of this list's")
    return int(token)


def bad(message: str) -> AwsError:
    """CloudWatch's word for a request that cannot be carried out."""
    return AwsError("InvalidParameterValue", message)
