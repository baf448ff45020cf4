"""What any openai client must be able to do; run by older versions in environments of their own."""

import sys

import openai

GRADER = {"type": "lambda", "lambda": {"function": "letters"}}
ROWS = b"".join(b'{"messages": [{"role": "user", "content": "say %d"}]}\n' % i for i in range(8))


def main(url: str, key: str) -> None:
    client = openai.OpenAI(base_url=url, api_key=key)
    assert [m.id for m in client.models.list()][-1] == "tiny"
    file = client.files.create(file=("t.jsonl", ROWS), purpose="fine-tune")
    assert client.files.content(file.id).read() == ROWS
    method = {
        "type": "reinforcement",
        "reinforcement": {"grader": GRADER, "hyperparameters": {"batch_size": 4, "n_epochs": 9}},
    }
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, extra_body={"method": method})
    assert client.fine_tuning.jobs.retrieve(job.id).id == job.id
    assert job.id in [j.id for j in client.fine_tuning.jobs.list(limit=1)]
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    assert next(iter(client.fine_tuning.jobs.list_events(job.id))).message == "Job cancelled"
    assert client.fine_tuning.jobs.checkpoints.list(job.id).data == []
    for wrong, error in (
        (lambda: client.fine_tuning.jobs.retrieve("ftjob-none"), openai.NotFoundError),
        (lambda: client.fine_tuning.jobs.create(model="none", training_file=file.id), openai.BadRequestError),
    ):
        try:
            wrong()
        except error:
            continue
        raise AssertionError(error)
    assert client.files.delete(file.id).deleted
    print("scenario complete")


if __name__ == "__main__":
    main(*sys.argv[1:])
