"""What the server promises when things die, fill up or are repeated (docs/guarantees.md has the numbers G1 to G12)."""

import errno
import json
import os
import random
import signal
import sqlite3
import threading
import time
from pathlib import Path

import openai
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from kill_loop import is_host, loop

from grpo import engine
from grpo.server.errors import Conflict
from grpo.server.records import NEXT, TERMINAL, Job
from grpo.server.store import Database, Store
from grpo.server.store.database import StoreError
from grpo.server.transitions import bring

from runs import alive, final_state
from servers import Served, method, rows, wait_for


@pytest.fixture
def served(tmp_path: Path, tiny_model: Path):
    server = Served(tmp_path / "data", tiny_model)
    server.deploy(tmp_path)
    yield server
    server.stop()


def submit(served: Served, **asked):
    client = served.client()
    file = client.files.create(file=("train.jsonl", rows(16)), purpose="fine-tune")
    return client.fine_tuning.jobs.create(
        model="tiny", training_file=file.id, seed=1, extra_body={"method": method(**asked)}
    )


def ended(served: Served, job_id: str):
    """The job at its end, whatever the verdict on a random model."""
    return wait_for(served.client(), job_id, "succeeded", "failed", timeout=300)


def make_job(number: int) -> Job:
    return Job(
        id=f"ftjob-{number}",
        status="validating_files",
        created_at=1,
        model="m",
        local_model="/m",
        training_file="f",
        validation_file=None,
        seed=0,
        method={},
        settings={"run": {"steps": 3}},
    )


def test_g4_killed_jobs_end_like_the_unkilled_one(tmp_path: Path) -> None:
    """A few random kills; make test-slow has twenty, make kill-loop as many as asked for."""
    result = loop(kills=3, sampler="transformers", seed=11, folder=tmp_path)
    assert sum(result.kills.values()) >= 3
    assert result.different == []


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "kills"), [("transformers", 17), ("vllm", 3)])
def test_g4_many_kills(tmp_path: Path, sampler: str, kills: int) -> None:
    if sampler == "vllm" and not engine.installed():
        pytest.skip("vLLM is not installed; `grpo doctor` says how")
    result = loop(kills=kills, sampler=sampler, seed=12, folder=tmp_path)
    assert sum(result.kills.values()) >= kills
    assert result.different == []


def test_g1_what_was_acknowledged_survives_a_kill(served: Served) -> None:
    """Three clients upload, create and cancel while the server is killed five times."""
    acknowledged: dict[str, str] = {}
    stop = threading.Event()

    def busy() -> None:
        client = served.client(max_retries=0, timeout=5.0)
        while not stop.is_set():
            try:
                file = client.files.create(file=("t.jsonl", rows(8)), purpose="fine-tune")
                acknowledged[file.id] = "file"
                job = client.fine_tuning.jobs.create(
                    model="tiny", training_file=file.id, extra_body={"method": method()}
                )
                acknowledged[job.id] = "job"
                client.fine_tuning.jobs.cancel(job.id)
                acknowledged[job.id] = "cancelled"
            except openai.APIConnectionError:
                time.sleep(0.1)

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    rng = random.Random(2)
    for _ in range(5):
        time.sleep(rng.uniform(0.3, 1.5))
        served.kill()
        served.start()
    stop.set()
    for thread in threads:
        thread.join()
    client = served.client()
    assert len(acknowledged) > 20
    for object_id, kind in acknowledged.items():
        if kind == "file":
            assert client.files.content(object_id).read() == rows(8)
        else:
            job = client.fine_tuning.jobs.retrieve(object_id)
            assert kind == "job" or job.status == "cancelled"
    for job in client.fine_tuning.jobs.list(limit=100):
        if job.status not in TERMINAL:
            client.fine_tuning.jobs.cancel(job.id)


def test_g3_an_orphaned_worker_is_fenced_out(served: Served) -> None:
    """Its host and the server are killed at once; it is stopped meanwhile, so that it cannot notice."""
    job = submit(served, n_epochs=5)
    marker = str(served.data / "jobs")
    wait_for(served.client(), job.id, "running")
    served.wait_until(lambda: any(not is_host(p) for p in alive(marker)), 30)
    (worker,) = [p for p in alive(marker) if not is_host(p)]
    os.kill(worker, signal.SIGSTOP)
    served.kill()
    served.start()
    served.wait_until(lambda: worker not in alive(marker), 20)
    assert ended(served, job.id).verdict["steps"] == 20


@pytest.mark.slow
def test_g7_pause_and_resume_change_nothing(served: Served) -> None:
    reference = submit(served, n_epochs=3)
    ended(served, reference.id)
    client = served.client()
    job = submit(served, n_epochs=3)
    served.wait_until(lambda: len(client.fine_tuning.jobs.list_events(job.id, limit=50).data) > 6, 60)
    assert client.fine_tuning.jobs.pause(job.id).status == "paused"
    marker = str(served.data / "jobs" / job.id)
    served.wait_until(lambda: not alive(marker), 10)
    steps = json.loads(served.cli("jobs", "show", job.id, "--json"))["step"]
    assert 0 < steps < 12
    served.stop()
    served.start()
    assert served.client().fine_tuning.jobs.retrieve(job.id).status == "paused"
    served.client().fine_tuning.jobs.resume(job.id)
    ended(served, job.id)
    directories = [served.data / "jobs" / j / "run" for j in (reference.id, job.id)]
    assert final_state(directories[0]) == final_state(directories[1])


def test_g8_one_key_one_job(served: Served) -> None:
    client = served.client()
    file = client.files.create(file=("t.jsonl", rows(8)), purpose="fine-tune")

    def create(key: str | None, **fields):
        headers = {"Idempotency-Key": key} if key else {}
        body = {"method": method()} | fields
        return client.fine_tuning.jobs.create(
            model="tiny", training_file=file.id, extra_body=body, extra_headers=headers
        )

    first = create("k1")
    assert create("k1").id == first.id
    with pytest.raises(openai.ConflictError):
        create("k1", suffix="other")
    assert create("k2").id != first.id
    assert create(None).id != create(None).id  # without a key a repeated request is another job
    for job in client.fine_tuning.jobs.list(limit=100):
        client.fine_tuning.jobs.cancel(job.id)


class Transitions(RuleBasedStateMachine):
    """G2: whatever is tried, a job only takes legal steps, and terminal states stay."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(os.environ["PYTEST_TRANSITIONS"])
        path = self.folder / f"{time.monotonic_ns()}.db"
        self.store = Store(Database(path))
        self.seen: dict[str, str] = {}

    @rule()
    def create(self) -> None:
        job = self.store.jobs.add(make_job(len(self.seen)))
        self.seen[job.id] = job.status

    @precondition(lambda self: self.seen)
    @rule(data=st.data(), status=st.sampled_from(sorted(NEXT)), stale=st.booleans())
    def move(self, data: st.DataObject, status: str, stale: bool) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.seen)))
        job = self.store.jobs.get(job_id)
        assert job
        if stale:
            self.store.jobs.begin_attempt(job)
        moved = self.store.jobs.move(job, status, told={})
        assert (moved is not None) == (not stale and status in NEXT[job.status])
        self.seen[job_id] = status if moved else self.seen[job_id]

    @precondition(lambda self: self.seen)
    @rule(data=st.data(), status=st.sampled_from(("cancelled", "paused", "queued")))
    def ask(self, data: st.DataObject, status: str) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.seen)))
        try:
            self.seen[job_id] = bring(self.store, job_id, status).status
        except Conflict:
            pass

    @invariant()
    def stored_is_seen(self) -> None:
        for job_id, status in self.seen.items():
            job = self.store.jobs.get(job_id)
            assert job
            assert job.status == status

    def teardown(self) -> None:
        self.store.database.close()


def test_g2_only_legal_transitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_TRANSITIONS", str(tmp_path))
    Transitions.TestCase.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
    Transitions.TestCase("runTest").runTest()


def test_g11_a_database_that_cannot_be_opened_is_left_alone(tmp_path: Path) -> None:
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreError, match="not touched"):
        Database(broken)
    assert broken.read_bytes() == b"not a database" * 1000
    path = tmp_path / "newer.db"
    Database(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("update alembic_version set version_num = '9999'")
    with pytest.raises(StoreError, match="newer version"):
        Database(path)


def test_g11_a_migration_backs_up_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older database is simulated by a head that does not exist yet."""
    path = tmp_path / "state.db"
    store = Store(Database(path))
    store.jobs.add(make_job(1))
    store.database.close()
    monkeypatch.setattr("grpo.server.store.database.HEAD", "0003")
    Database(path).close()
    (backup,) = tmp_path.glob("state.db.before-0003-*")
    kept = sqlite3.connect(backup).execute("select id from jobs").fetchall()
    assert kept == [("ftjob-1",)]


def test_g11_a_database_of_the_first_version_is_brought_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tables are made by its own migration; the job in it is there afterwards, and so are the new tables."""
    from alembic import command

    path, upgrade = tmp_path / "state.db", command.upgrade
    with monkeypatch.context() as old:
        old.setattr("grpo.server.store.database.HEAD", "0001")
        old.setattr(command, "upgrade", lambda config, _: upgrade(config, "0001"))
        store = Store(Database(path))
        store.jobs.add(make_job(1))
        assert store.database.revision() == "0001"
        store.database.close()
    store = Store(Database(path))
    assert len(list(tmp_path.glob("state.db.before-0002-*"))) == 1
    assert store.jobs.get("ftjob-1") is not None
    assert store.objects.buckets() == {}


def test_tables_are_those_of_the_migrations(tmp_path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from grpo.server.store.schema import metadata

    database = Database(tmp_path / "state.db")
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def fill(path: Path) -> None:
    """Write until the file system refuses; unbuffered, for a buffer would write the refused bytes again on closing."""
    with path.open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(2**16))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


def test_g9_a_full_disk_is_named_and_passes(tmp_path: Path, tiny_model: Path) -> None:
    """A small file system of its own: the server answers, the job waits, and goes on when there is space."""
    import subprocess

    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("mounting needs root")
    try:
        served = Served(place / "data", tiny_model)
        served.deploy(tmp_path)
        client = served.client()
        job = submit(served, n_epochs=12)
        served.wait_until(lambda: len(client.fine_tuning.jobs.list_events(job.id, limit=50).data) > 5, 60)
        fill(place / "filler")
        time.sleep(6)
        assert client.fine_tuning.jobs.retrieve(job.id).status == "running"
        with pytest.raises(openai.InternalServerError) as caught:
            client.with_options(max_retries=0).files.create(file=("t.jsonl", rows(5000)), purpose="fine-tune")
        assert caught.value.code == "storage_unavailable"
        assert client.models.list()
        (place / "filler").unlink()
        ended(served, job.id)
        served.stop()
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path, tiny_model: Path) -> None:
    """Every line of the log fails, as on a full disk: errors keep their names, jobs their course."""
    served = Served(tmp_path / "data", tiny_model, log=Path("/dev/full"))
    served.deploy(tmp_path)
    (served.data / "files").rename(served.data / "elsewhere")
    with pytest.raises(openai.InternalServerError) as caught:
        served.client().with_options(max_retries=0).files.create(file=("t.jsonl", rows(5)), purpose="fine-tune")
    assert caught.value.code == "storage_unavailable"
    (served.data / "elsewhere").rename(served.data / "files")
    ended(served, submit(served, n_epochs=1).id)
    served.stop()


def test_g12_a_machine_that_slept_has_healthy_jobs(served: Served) -> None:
    """Server, host and worker stand still for a while, as in a suspend."""
    job = submit(served, n_epochs=5)
    client = served.client()
    served.wait_until(lambda: len(client.fine_tuning.jobs.list_events(job.id, limit=50).data) > 4, 60)
    assert served.process
    everyone = [served.process.pid, *alive(str(served.data / "jobs"))]
    for pid in everyone:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(5)
    for pid in reversed(everyone):
        os.kill(pid, signal.SIGCONT)
    ended(served, job.id)
    assert json.loads(served.cli("jobs", "show", job.id, "--json"))["attempt"] == 1
