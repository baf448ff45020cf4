"""``GET /metrics``: the server's jobs for Prometheus. Touches: disk (read).

Names follow prometheus.io/docs/practices/naming; a job's numbers are those of its newest confirmed step.
"""

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from grpo.server.context import Server
from grpo.server.records import NEXT, RUNNING

CONTENT_TYPE = CONTENT_TYPE_LATEST
MOST_JOBS = 1000
OF_A_STEP = {
    "critic_rewards_mean": ("grpo_job_reward", "Mean reward of the newest step"),
    "response_length_mean": ("grpo_job_completion_tokens", "Mean tokens of a completion in the newest step"),
    "truncated_share": ("grpo_job_truncated_ratio", "Completions cut at the limit in the newest step"),
    "reward_error_share": ("grpo_job_reward_error_ratio", "Completions that could not be scored in the newest step"),
    "kl": ("grpo_job_kl_nats", "KL to the base model in the newest step"),
    "tokens_per_second": ("grpo_job_tokens_per_second", "Sampled tokens a second of the newest step"),
}


class Jobs(Collector):
    """What one scrape is told."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def collect(self) -> Iterator[Metric]:
        """Jobs by their status; of those that run, the newest step."""
        store = self.server.store
        jobs, _ = store.jobs.page(after=None, limit=MOST_JOBS, metadata=None)
        counts = Counter(job.status for job in jobs)
        by_status = GaugeMetricFamily("grpo_jobs", "Jobs by status", labels=["status"])
        for status in NEXT:
            by_status.add_metric([status], counts[status])
        yield by_status
        running = [job for job in jobs if job.status == RUNNING]
        steps = GaugeMetricFamily("grpo_job_steps", "Steps done", labels=["job"])
        families = {key: GaugeMetricFamily(*named, labels=["job"]) for key, named in OF_A_STEP.items()}
        for job in running:
            steps.add_metric([job.id], store.log.steps_told(job.id))
            newest, _ = store.log.events(job.id, after=None, limit=20)
            data = next((event.data for event in newest if event.type == "metrics"), None) or {}
            for key, family in families.items():
                if data.get(key) is not None:
                    family.add_metric([job.id], data[key])
        yield steps
        yield from families.values()


def exposition(server: Server) -> bytes:
    """In Prometheus' text form."""
    registry = CollectorRegistry()
    registry.register(Jobs(server))
    return generate_latest(registry)
