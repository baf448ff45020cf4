// A job, started by form, with the code that would start the same one.

import { ask, asJson, reach } from "./api.js";
import { attempt, crumbs, field, h, options, say, show } from "./dom.js";

const AUTO = "auto";
const NUMBERS = [
  ["n_epochs", "Epochs", "whole passes over the prompts"], ["batch_size", "Prompts a step", "auto: 16"], ["learning_rate_multiplier", "Learning rate", "a multiple of 1e-4"],
  ["compute_multiplier", "Completions", "a multiple of 8 a prompt"], ["eval_interval", "Steps between evaluations", "auto: 10"], ["eval_samples", "Completions an evaluation", "auto: 4 a prompt"],
];

export async function newJob(place) {
  crumbs(["Runs", "#/"], ["New job", "#/new"]);
  if (!place.server) throw new Error("Jobs are started at a server: grpo serve");
  const { data: models } = await ask("v1/models");
  let { data: files } = await ask("v1/files?purpose=fine-tune");
  const base = models.filter((model) => model.owned_by === "local").map((model) => [model.id]);
  const named = () => files.map((file) => [file.id, `${file.filename} (${file.id})`]);
  const train = h("select", { name: "training_file", required: true }), held = h("select", { name: "validation_file" });
  const fill = (chosen) => { train.replaceChildren(...options(named(), chosen)); held.replaceChildren(...options([["", "none"], ...named()], held.value)); };
  const upload = h("input", { type: "file", accept: ".jsonl,application/jsonl", onchange: () => attempt(upload, async () => {
    if (!upload.files.length) return;
    const body = new FormData();
    body.append("purpose", "fine-tune");
    body.append("file", upload.files[0]);
    const made = await (await reach("v1/files", { method: "POST", body })).json();
    ({ data: files } = await ask("v1/files?purpose=fine-tune"));
    fill(made.id);
    tell();
    say(`${made.filename} is uploaded`);
  }) });
  fill();
  const functions = h("select", { name: "function", required: true }, options(place.functions.map((name) => [name])));
  const code = h("pre", { class: "config", tabindex: "0", "aria-label": "The same by the OpenAI SDK" });
  const start = h("button", { class: "main" }, "Start the job");
  const form = h("form", { class: "form", oninput: () => tell(), onsubmit: (event) => { event.preventDefault(); attempt(start, async () => { const job = await ask("v1/fine_tuning/jobs", asJson(request(form))); location.hash = `#/run/${job.id}`; }); } },
    field("Model", h("select", { name: "model", required: true }, options(base))),
    field("Prompts", train, "JSONL with messages and reference_answer"), field("Upload others", upload), field("Held-out prompts", held, "they choose the checkpoint, and tell when a run learns by heart"),
    field("Reward function", functions, place.functions.length ? "" : "none yet: grpo lambda deploy NAME FILE.py"),
    NUMBERS.map(([name, label, hint]) => field(label, h("input", { name, placeholder: AUTO, inputmode: "decimal" }), hint)),
    field("Seed", h("input", { name: "seed", inputmode: "numeric" }), "the same seed, the same run"), field("Suffix", h("input", { name: "suffix", pattern: "[A-Za-z0-9._\\-]*" }), "becomes part of the model's name"),
    h("p", {}, start));
  const tell = () => { code.textContent = sdk(request(form)); };
  show(h("h1", {}, "New job"), form, h("h2", {}, "The same by the OpenAI SDK"), code);
  tell();
}

function request(form) {
  const given = Object.fromEntries(new FormData(form)), number = (text) => (text === "" || text === AUTO ? AUTO : Number.isNaN(Number(text)) ? text : Number(text));
  const hyperparameters = Object.fromEntries(NUMBERS.map(([name]) => [name, number(given[name])]).filter(([, value]) => value !== AUTO));
  return {
    model: given.model, training_file: given.training_file,
    ...(given.validation_file && { validation_file: given.validation_file }), ...(given.suffix && { suffix: given.suffix }), ...(given.seed && { seed: number(given.seed) }),
    method: { type: "reinforcement", reinforcement: { grader: { type: "lambda", lambda: { function: given.function ?? "" } }, ...(Object.keys(hyperparameters).length && { hyperparameters }) } },
  };
}

function sdk(asked) {
  const python = (value, pad) => {
    if (typeof value !== "object") return JSON.stringify(value);
    const inner = `${pad}    `;
    return `{\n${Object.entries(value).map(([name, one]) => `${inner}${JSON.stringify(name)}: ${python(one, inner)},\n`).join("")}${pad}}`;
  };
  const lines = Object.entries(asked).map(([name, value]) => `    ${name}=${python(value, "    ")},`);
  return `from openai import OpenAI\n\nclient = OpenAI(base_url="${location.origin}/v1", api_key="...")\njob = client.fine_tuning.jobs.create(\n${lines.join("\n")}\n)`;
}
