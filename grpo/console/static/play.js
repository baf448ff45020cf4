// One prompt, two models, the same seed: the base model against what became of it.

import { ask, streamed } from "./api.js";
import { crumbs, field, h, options, say, show } from "./dom.js";

export async function playground(place) {
  crumbs(["Runs", "#/"], ["Playground", "#/play"]);
  if (!place.server) throw new Error("Models are served by grpo serve");
  const { data } = await ask("v1/models");
  const base = data.filter((model) => model.owned_by === "local").map((model) => [model.id]), tuned = data.filter((model) => model.owned_by !== "local").reverse().map((model) => [model.id]);
  const sides = [column("Left", base, tuned, base[0]?.[0]), column("Right", base, tuned, tuned[0]?.[0] ?? base[0]?.[0])];
  const prompt = h("textarea", { rows: 4, required: true, name: "prompt" }), system = h("input", { name: "system" });
  const number = (name, value, more) => h("input", { name, type: "number", value, ...more });
  const send = h("button", { class: "main" }, "Ask both"), halt = h("button", { type: "button", disabled: true, onclick: () => stop?.abort() }, "Stop");
  let stop = null;
  const form = h("form", { class: "form", onsubmit: (event) => { event.preventDefault(); go(); } },
    field("Prompt", prompt), field("System", system, "may be empty"),
    field("Temperature", number("temperature", 1, { min: 0, max: 2, step: 0.1 })), field("Tokens at most", number("max_tokens", 256, { min: 1, max: 32768 })), field("Seed", number("seed", 0, { min: 0 })),
    h("p", { class: "row" }, send, halt));
  show(h("h1", {}, "Playground"), h("p", { class: "quiet" }, "The same prompt and the same seed for both. The first answer of a model waits until its engine runs."), form, h("div", { class: "grid two" }, sides.map((side) => side.element)));

  async function go() {
    const given = Object.fromEntries(new FormData(form));
    const body = {
      messages: [...(given.system ? [{ role: "system", content: given.system }] : []), { role: "user", content: given.prompt }],
      temperature: Number(given.temperature), max_tokens: Number(given.max_tokens), seed: Number(given.seed),
    };
    stop = new AbortController();
    send.disabled = true;
    halt.disabled = false;
    await Promise.all(sides.map((side) => side.answer(body, stop.signal)));
    send.disabled = false;
    halt.disabled = true;
    say(stop.signal.aborted ? "Stopped" : "Both are at their end");
  }
  return () => stop?.abort();
}

function column(label, base, tuned, chosen) {
  const model = h("select", {}, h("optgroup", { label: "Base models" }, options(base, chosen)), tuned.length ? h("optgroup", { label: "Tuned models and checkpoints" }, options(tuned, chosen)) : null);
  const text = h("p", { class: "text answer", dir: "auto", "aria-live": "polite", tabindex: "0", role: "region", "aria-label": `${label} answer` }), told = h("span", { class: "quiet" });
  async function answer(body, signal) {
    const began = performance.now();
    let parts = 0, first = null, ended = false;
    text.replaceChildren();
    told.textContent = "waiting …";
    const timer = setInterval(() => { if (first === null) told.textContent = `waiting ${Math.round((performance.now() - began) / 1000)} s …`; }, 1000);
    try {
      for await (const part of streamed("v1/chat/completions", { ...body, model: model.value }, signal)) {
        const choice = part.choices?.[0];
        if (choice?.delta?.content) { first ??= performance.now(); parts += 1; text.append(choice.delta.content); }
        ended ||= Boolean(choice?.finish_reason);
        if (choice?.finish_reason) told.textContent = `${parts} parts in ${((performance.now() - (first ?? began)) / 1000).toFixed(1)} s${choice.finish_reason === "length" ? ", cut at the limit" : ""}`;
      }
      if (!ended) told.textContent = "the answer broke off";
    } catch (error) {
      told.textContent = signal.aborted ? "stopped" : error.message;
    } finally {
      clearInterval(timer);
    }
  }
  return { answer, element: h("section", { class: "completion" }, h("header", {}, h("label", {}, `${label} `, model), told), text) };
}
