// One run: its curve, what else it measured, what happened, and how it was set.

import { ask, follow, run as at } from "./api.js";
import { curve } from "./charts.js";
import { crumbs, duration, h, number, show, status } from "./dom.js";

const SMALL = [
  ["response_length_mean", "Completion length, tokens"], ["truncated_share", "Cut at the limit, share"], ["zero_variance_share", "Groups without signal, share"],
  ["actor_entropy", "Entropy, nats"], ["kl", "KL to the base model, nats"], ["actor_grad_norm", "Gradient norm"], ["actor_pg_loss", "Policy loss"],
  ["clip_share", "Clipped tokens, share"], ["sampler_gap_mean", "Trainer against sampler, nats"], ["reward_error_share", "Scoring failed, share"],
  ["seconds_scoring", "Scoring, seconds a step"], ["tokens_per_second", "Tokens a second"], ["learning_rate", "Learning rate"],
];
const BAD = ["collapsed", "no_signal", "failed"];

export async function oneRun(id) {
  const found = await ask(at(id));
  crumbs(["Runs", "#/"], [id, `#/run/${encodeURIComponent(id)}`]);
  const facts = h("dl", { class: "facts" }), verdict = h("div"), main = h("div", { class: "plot" }), events = h("tbody");
  const small = SMALL.filter(([name]) => found.metrics.includes(name)).concat(found.metrics.filter((name) => name.startsWith("part:")).map((name) => [name, `Reward part ${name.slice(5)}`]));
  const places = small.map(([, title]) => ({ place: h("div", { class: "plot" }), value: h("b"), title }));
  show(
    h("div", { class: "row end" }, h("h1", {}, id), search(id)),
    verdict, facts,
    h("h2", {}, "Reward"),
    main,
    h("p", { class: "legend" },
      h("span", { class: "line" }, h("i"), "mean of a step's completions"), h("span", { class: "band" }, h("i"), "95 % band, or the range of steps drawn as one"),
      h("span", { class: "held" }, h("i"), "held-out prompts, 95 %"), h("span", {}, "Click a step to see its completions.")),
    h("h2", {}, "What else was measured"),
    h("div", { class: "grid" }, places.map(({ place, value, title }) => h("section", { class: "card" }, h("h3", {}, title, value), place))),
    h("h2", {}, "What happened"),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Time"), h("th", { scope: "col" }, "Event"), h("th", { scope: "col" }, "Details"))), events)),
    h("details", {}, h("summary", {}, "Configuration"), h("pre", { class: "config", tabindex: "0" }, JSON.stringify(found.config, null, 1))),
  );
  const go = (step) => { location.hash = `#/run/${encodeURIComponent(id)}/step/${step}`; };
  const reward = curve(main, { height: 300, evaluations: found.evaluations, checkpoints: found.checkpoints, onstep: go, label: `Reward of ${id} by step` });
  const charts = places.map(({ place, title }) => curve(place, { height: 110, label: title, onstep: go }));

  async function draw() {
    const names = ["critic_rewards_mean", "reward_half_width", ...small.map(([name]) => name)];
    const wide = await ask(`${at(id)}/series?points=800&names=${encodeURIComponent(names.slice(0, 2).join(","))}`);
    if (wide.step.length) reward.update(wide.step, banded(wide.columns));
    const slim = await ask(`${at(id)}/series?points=200&names=${encodeURIComponent(names.slice(2).join(","))}`);
    charts.forEach((chart, k) => {
      const column = slim.columns[small[k][0]];
      if (!column || !slim.step.length) return;
      chart.update(slim.step, column);
      places[k].value.textContent = number(column.mean.at(-1));
    });
  }

  function head(now) {
    const running = ["running", "starting"].includes(now.status);
    const fact = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));
    facts.replaceChildren(
      fact("Status", status(now.status)), fact("Reward", number(now.reward)), fact("Steps", `${now.steps} / ${now.total_steps ?? "?"}`),
      fact("Time a step", duration(now.seconds_per_step)),
      fact("Left at most", running && now.total_steps && now.seconds_per_step ? duration((now.total_steps - now.steps) * now.seconds_per_step) : "–"), fact("Model", now.model || "–"));
    verdict.replaceChildren(...(now.reason ? [h("p", { class: BAD.includes(now.status) ? "alarm" : "note" }, now.reason)] : []));
  }

  function log(details) {
    const shown = details.events.slice().reverse().map((event) => {
      const { time, event: name, ...rest } = event;
      return h("tr", {}, h("td", {}, new Date(time * 1000).toLocaleTimeString()), h("td", {}, name.replaceAll("_", " ")), h("td", { class: "wide small" }, Object.entries(rest).map(([key, value]) => `${key} ${typeof value === "number" ? number(value) : value}`).join(" · ")));
    });
    events.replaceChildren(...shown);
  }

  head(found);
  log(found);
  await draw();
  const stop = follow(id, async (now) => {
    head(now);
    await draw();
    log(await ask(at(id)));
  });
  return () => { stop(); reward.destroy(); charts.forEach((chart) => chart.destroy()); };
}

// A step's own band where each point is one step; else the range of the steps that a point stands for.
function banded(columns) {
  const { mean, low, high } = columns.critic_rewards_mean, half = columns.reward_half_width?.mean ?? [];
  const single = mean.every((value, k) => low[k] === value && high[k] === value);
  if (!single) return { mean, low, high };
  return { mean, low: mean.map((value, k) => (value === null ? null : value - (half[k] ?? 0))), high: mean.map((value, k) => (value === null ? null : value + (half[k] ?? 0))) };
}

function search(id) {
  const field = h("input", { type: "search", placeholder: "Search completions", "aria-label": "Search completions" });
  return h("form", { role: "search", onsubmit: (event) => { event.preventDefault(); if (field.value) location.hash = `#/run/${encodeURIComponent(id)}/search/${encodeURIComponent(field.value)}`; } }, field);
}
