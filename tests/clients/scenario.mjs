// What any openai client must be able to do, by openai-node.
import assert from "node:assert";
import OpenAI, { toFile } from "openai";

const [url, key] = process.argv.slice(2);
const client = new OpenAI({ baseURL: url, apiKey: key });
const rows = Array.from({ length: 8 }, (_, i) => JSON.stringify({ messages: [{ role: "user", content: `say ${i}` }] })).join("\n") + "\n";

const models = [];
for await (const model of await client.models.list()) models.push(model.id);
assert.equal(models.at(-1), "tiny");
const file = await client.files.create({ file: await toFile(Buffer.from(rows), "t.jsonl"), purpose: "fine-tune" });
assert.equal(await (await client.files.content(file.id)).text(), rows);
const grader = { type: "lambda", lambda: { function: "letters" } };
const method = { type: "reinforcement", reinforcement: { grader, hyperparameters: { batch_size: 4, n_epochs: 9 } } };
const job = await client.fineTuning.jobs.create({ model: "tiny", training_file: file.id, method });
assert.equal((await client.fineTuning.jobs.retrieve(job.id)).id, job.id);
assert.equal((await client.fineTuning.jobs.cancel(job.id)).status, "cancelled");
const events = [];
for await (const event of client.fineTuning.jobs.listEvents(job.id, { limit: 1 })) events.push(event.message);
assert.equal(events[0], "Job cancelled");
assert.deepEqual((await client.fineTuning.jobs.checkpoints.list(job.id)).data, []);
await assert.rejects(client.fineTuning.jobs.retrieve("ftjob-none"), OpenAI.NotFoundError);
await assert.rejects(client.fineTuning.jobs.create({ model: "none", training_file: file.id }), OpenAI.BadRequestError);
assert.equal((await client.files.delete(file.id)).deleted, true);
console.log("scenario complete");
