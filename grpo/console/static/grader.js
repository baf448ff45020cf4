// A reward function, tried before a job depends on it.

import { ask, asJson, run as at } from "./api.js";
import { attempt, crumbs, duration, field, h, number, options, show, table } from "./dom.js";

const MOST = 64;
const EXAMPLE = [
  { messages: [{ role: "user", content: "What is 2 + 2?" }], reference_answer: { answer: "4" }, completion: "2 + 2 = 4\n#### 4" },
  { messages: [{ role: "user", content: "What is 2 + 2?" }], reference_answer: { answer: "4" }, completion: "It is 5." },
];

export async function grader(place) {
  crumbs(["Runs", "#/"], ["Grader", "#/grader"]);
  if (!place.server) throw new Error("Reward functions are registered at a server: grpo serve");
  const runs = (await ask("api/runs")).filter((run) => run.steps > 0);
  const functions = h("select", { required: true }, options(place.functions.map((name) => [name])));
  const samples = h("textarea", { rows: 10, class: "code", spellcheck: "false" }, EXAMPLE.map((one) => JSON.stringify(one)).join("\n"));
  const source = h("select", {}, options(runs.map((run) => [run.id, `${run.name}, step ${run.steps}`]))), result = h("div", { "aria-live": "polite" });
  const take = h("button", { type: "button", disabled: !runs.length, onclick: () => attempt(take, async () => { samples.value = await ofRun(runs.find((run) => run.id === source.value)); }) }, "Take its completions");
  const go = h("button", { class: "main", disabled: !place.functions.length }, "Score them");
  const form = h("form", { class: "form", onsubmit: (event) => { event.preventDefault(); attempt(go, async () => {
    result.replaceChildren(h("p", { class: "quiet" }, "scoring …"));
    try {
      result.replaceChildren(...shown(await ask("api/attempts", asJson({ function: functions.value, samples: parsed(samples.value) }))));
    } catch (error) {
      result.replaceChildren(h("p", { class: "alarm", role: "alert" }, error.message));
    }
  }); } },
    field("Reward function", functions, place.functions.length ? "" : "none yet: grpo lambda deploy NAME FILE.py"),
    field("Samples", samples, `one a line: a row of a training file, with a completion; at most ${MOST}`),
    field("From a run", source), h("p", { class: "row" }, take, go));
  show(h("h1", {}, "Try a reward function"), h("p", { class: "quiet" }, "It runs as in a job: in its sandbox, with its time limit. A function that gives every completion the same score teaches nothing."), form, result);
}

async function ofRun(run) {
  const { groups } = await ask(`${at(run.id)}/steps/${run.steps - 1}`);
  const rows = groups.flatMap((group) => group.completions.map((c) => ({ messages: group.prompt.messages, reference_answer: group.reference_answer, completion: c.text })));
  return rows.slice(0, MOST).map((row) => JSON.stringify(row)).join("\n");
}

function parsed(text) {
  return text.split("\n").filter((line) => line.trim()).map((line, k) => {
    try { return JSON.parse(line); } catch { throw new Error(`Line ${k + 1} is no JSON`); }
  });
}

function shown(found) {
  if (found.error) return [h("p", { class: "alarm", role: "alert" }, found.error), printed(found)];
  const fact = (name, one) => h("div", {}, h("dt", {}, name), h("dd", {}, one));
  const words = found.failed ? h("p", { class: "alarm" }, `${found.failed} of ${found.scores.length} could not be scored.`)
    : found.variance === 0 && found.scores.length > 1 ? h("p", { class: "alarm" }, "All scores are equal: nothing could be learned from these.") : null;
  return [
    h("h2", {}, "Scores"), words,
    h("dl", { class: "facts" }, fact("Mean", number(found.mean)), fact("Variance", number(found.variance)), fact("Not scored", String(found.failed)), fact("Time, median", duration3(found.seconds_median)), fact("Time, longest", duration3(found.seconds_most)), fact("Sandbox", found.sandbox ?? "–")),
    table("Scores", ["Sample", "Reward", "Parts", "Time", "Error"], found.scores.map((one, k) => h("tr", {},
      h("td", {}, String(k + 1)), h("td", {}, number(one.reward)), h("td", { class: "wide small" }, Object.entries(one.parts).map(([name, part]) => `${name} ${number(part)}`).join(" · ") || "–"),
      h("td", {}, duration3(one.seconds)), h("td", { class: "wide small" }, one.error ?? "")))),
    printed(found),
  ].filter(Boolean);
}

const duration3 = (seconds) => (seconds !== null && seconds < 10 ? `${number(seconds * 1000, 1)} ms` : duration(seconds));
const printed = (found) => (found.printed ? h("details", {}, h("summary", {}, "What it printed"), h("pre", { class: "config", tabindex: "0" }, found.printed)) : null);
