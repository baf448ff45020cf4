// One run: what it says of itself, its curve, what else it measured, what happened, and how it was set.

import { ask, follow, query, run as at } from "./api.js";
import { bound, curve } from "./charts.js";
import { attempt, crumbs, duration, ended, h, number, remaining, renew, say, sentence, show, status, table, value } from "./dom.js";

const SMALL = [
  ["response_length_mean", "Completion length, tokens"], ["truncated_share", "Cut at the limit, share"], ["zero_variance_share", "Groups without signal, share"],
  ["actor_entropy", "Entropy, nats"], ["kl", "KL to the base model, nats"], ["actor_grad_norm", "Gradient norm"], ["actor_pg_loss", "Policy loss"],
  ["clip_share", "Clipped tokens, share"], ["sampler_gap_mean", "Trainer against sampler, nats"], ["reward_error_share", "Scoring failed, share"],
  ["seconds_scoring", "Scoring, seconds a step"], ["tokens_per_second", "Tokens a second"], ["memory_peak_gib", "Memory at its peak, GiB"], ["learning_rate", "Learning rate"],
];
const BAD = ["collapsed", "regressed", "no_signal", "failed"];
const link = (id, rest = "") => `#/run/${encodeURIComponent(id)}${rest}`;

export async function oneRun(place, id) {
  let found = await ask(at(id)), left = false;
  crumbs(["Runs", "#/"], [id, link(id)]);
  const parts = { facts: h("dl", { class: "facts" }), verdict: h("div"), deeds: h("div", { class: "row" }), alarms: h("div"), outlook: h("p", { class: "quiet" }), log: h("div"), checkpoints: h("div") };
  const reading = h("p", { class: "quiet", role: "status" }, `Reading ${found.steps.toLocaleString("en")} steps …`);
  const main = h("div", { class: "plot" }, found.steps > 0 && reading), gain = h("div", { class: "plot" });
  const small = drawn(found);
  const places = small.map(([, title]) => ({ place: h("div", { class: "plot" }), value: h("b"), title }));
  show(
    h("div", { class: "row end" }, h("h1", {}, found.name ?? id), search(id)),
    parts.deeds, parts.verdict, parts.alarms, parts.facts,
    h("h2", {}, "Reward"), main, legend(found),
    found.rule.delta && h("section", {}, h("h2", {}, `What the next ${found.rule.horizon} steps may still gain`), parts.outlook, gain, h("p", { class: "legend" },
      h("span", { class: "gainline" }, h("i"), "upper bound of the gain, look by look"), h("span", { class: "deltaline" }, h("i"), `delta: the run stops below ${number(found.rule.delta)}`),
      found.rule.certifiable && h("span", { class: "bestline" }, h("i"), `the least that this run can certify: ${number(found.rule.certifiable)}`))),
    h("h2", {}, "What else was measured"),
    h("div", { class: "grid" }, places.map(({ place: chart, value: now, title }) => h("section", { class: "card" }, h("h3", {}, title, now), chart))),
    h("h2", {}, "Checkpoints"), parts.checkpoints,
    h("h2", {}, "What happened"), parts.log,
    h("h2", {}, "Configuration"), settings(found),
  );
  const go = (step) => { location.hash = link(id, `/step/${step}`); };
  const known = () => ({ evaluations: found.evaluations, checkpoints: found.checkpoints.map((one) => one.step), restarts: found.restarts, base: found.evaluations.find((one) => one.step === 0)?.mean ?? found.base, forecast: forecast(found) });
  const reward = curve(main, { height: 300, known, onstep: go, label: `Reward of ${found.name ?? id} by step` });
  const charts = places.map(({ place: chart, title }) => curve(chart, { height: 110, label: title, onstep: go }));
  const gains = found.rule.delta ? bound(gain, { levels: { delta: found.rule.delta, certifiable: found.rule.certifiable }, steps: () => found.steps, label: "Upper bound of the gain, by look" }) : null;

  async function draw() {
    const wide = await ask(`${at(id)}/series?${query({ points: 800, name: ["critic_rewards_mean", "reward_half_width"] })}`);
    if (left) return;
    reading.remove();
    if (wide.step.length) reward.update(wide.step, banded(wide.columns));
    const looks = found.looks.filter((look) => look.bound !== null && look.bound !== undefined);
    if (looks.length) gains?.update(looks);
    const slim = await ask(`${at(id)}/series?${query({ points: 200, name: small.map(([name]) => name) })}`);
    if (left) return;
    charts.forEach((chart, k) => {
      const column = slim.columns[small[k][0]];
      if (!column || !slim.step.length) return;
      chart.update(slim.step, column);
      places[k].value.textContent = number(column.mean.at(-1));
    });
  }

  function words() {
    head(parts, found);
    renew(parts.deeds, [found.job, found.tuned, found.steps > 0, found.checkpoints.length > 0], () => deeds(place, id, found, again));
    renew(parts.log, found.events, () => log(found));
    renew(parts.checkpoints, found.checkpoints, () => checkpoints(id, found));
    parts.outlook.textContent = outlook(found);
  }

  async function again() {
    const before = found;
    found = await ask(at(id));
    if (found.digest !== before.digest || drawn(found).some(([name]) => !small.some(([shown]) => shown === name))) {
      dispatchEvent(new HashChangeEvent("hashchange")); // it has begun: the page has another form
      return;
    }
    words();
    await draw();
  }

  words();
  await draw();
  const stop = follow(id, (now) => {
    if (now.steps === found.steps && now.status === found.status) return;
    head(parts, { ...found, ...now });
    again().catch((error) => { if (error.name !== "AbortError") say(error.message); });
  }, () => say("The server does not tell of this run any more: reload the page"));
  return () => { left = true; stop(); reward.destroy(); gains?.destroy(); charts.forEach((chart) => chart.destroy()); };
}

// What is drawn small, of what the newest step has.
function drawn(run) {
  return SMALL.filter(([name]) => run.metrics.includes(name)).concat(run.metrics.filter((name) => name.startsWith("part:")).map((name) => [name, `Reward part ${name.slice(5)}`]));
}

function head(parts, now) {
  const fact = (name, one) => h("div", {}, h("dt", {}, name), h("dd", {}, one));
  parts.facts.replaceChildren(
    fact("Status", status(now.status)), fact("Reward", number(now.reward)), fact("Steps", `${now.steps} / ${now.total_steps ?? "?"}`),
    fact("Time a step", duration(now.seconds_per_step)), fact("Left at most", duration(remaining(now))), fact("Model", now.model || "–"),
    ...(now.tuned ? [fact("Tuned model", now.tuned)] : []),
    fact("Restarts", String(now.restarts.length)), fact("Configuration", h("code", { title: now.digest ?? "" }, (now.digest ?? "–").slice(0, 12))));
  renew(parts.verdict, [now.reason, now.status], () => (now.reason ? h("p", { class: BAD.includes(now.status) ? "alarm" : "note" }, now.reason) : null));
  renew(parts.alarms, now.alarms, () => now.alarms.map((one) => h("p", { class: "alarm", role: "alert" }, h("b", {}, `${sentence(one.text)} `), sentence(one.advice))));
}

function deeds(place, id, now, again) {
  const order = (text, path, told) => h("button", { onclick: (event) => attempt(event.target, async () => { await ask(`v1/fine_tuning/jobs/${id}/${path}`, { method: "POST" }); say(told); await again(); }) }, text);
  const mine = [
    now.steps > 0 && h("a", { class: "button", href: link(id, "/completions") }, "All completions"),
    now.checkpoints.length > 0 && h("a", { class: "button", href: `/console/${at(id)}/adapter`, download: true }, "Download adapter"),
  ];
  if (place.server) {
    if (["queued", "running"].includes(now.job)) mine.push(order("Pause", "pause", "It stops after its last complete step"));
    if (now.job === "paused") mine.push(order("Resume", "resume", "It goes on from its last complete step"));
    if (!["succeeded", "failed", "cancelled"].includes(now.job)) mine.push(order("Cancel", "cancel", "Cancelled"));
    else mine.push(removal(id));
    if (now.tuned) mine.push(h("a", { class: "button", href: "#/play" }, "Talk to it"));
  }
  return mine.filter(Boolean);
}

// Deleting is asked twice.
function removal(id) {
  let sure = false;
  const button = h("button", { class: "danger", onclick: () => {
    if (!sure) { sure = true; button.textContent = "Delete it with all checkpoints?"; return; }
    attempt(button, async () => { await ask(at(id), { method: "DELETE" }); say("Deleted"); location.hash = "#/"; });
  } }, "Delete");
  return button;
}

function legend(run) {
  const one = (name, text) => h("span", { class: name }, h("i"), text);
  return h("p", { class: "legend" }, one("line", "mean of a step's completions"), one("band", "95 % band, or the range of steps drawn as one"), one("held", "held-out prompts, 95 %"),
    forecast(run) && one("forecast", "forecast of the stop, 90 %"), one("base", "the base model, by the first step"), run.restarts.length > 0 && one("restart", "restart"), h("span", {}, "Ticks on the axis are checkpoints. Click a step to see its completions."));
}

function forecast(run) {
  const look = run.looks.at(-1);
  if (ended(run) || !look?.stop_steps || !look.stop_rewards || look.flat) return null;
  return { step: look.stop_steps[1], steps: [look.stop_steps[0], look.stop_steps[2]], mean: look.stop_rewards[1], low: look.stop_rewards[0], high: look.stop_rewards[2] };
}

function outlook(run) {
  const look = run.looks.at(-1), next = forecast(run);
  if (!look) return "The stop rule has not looked yet: it needs some steps first.";
  const said = look.bound === null ? "No window is long enough to be believed yet." : `At step ${look.step} at most ${number(look.bound, 4)}, by the last ${look.window} steps; ${number(look.alpha_spent, 4)} of alpha = ${number(run.rule.alpha)} is spent.`;
  return next ? `${said} Forecast: flat by step ${next.step} (${next.steps.join(" to ")}), reward ${number(next.mean, 2)} (${number(next.low, 2)} to ${number(next.high, 2)}).` : said;
}

function log(run) {
  const detail = (rest) => Object.entries(rest).map(([key, one]) => `${key.replaceAll("_", " ")} ${typeof one === "number" ? number(one) : value(one)}`).join(" · ");
  return table("Events", ["Time", "Event", "Details"], run.events.slice().reverse().map(({ time, event, ...rest }) =>
    h("tr", {}, h("td", {}, new Date(time * 1000).toLocaleString()), h("td", {}, event.replaceAll("_", " ")), h("td", { class: "wide small" }, detail(rest)))));
}

function checkpoints(id, run) {
  if (!run.checkpoints.length) return h("p", { class: "quiet" }, "None is kept yet.");
  return table("Checkpoints", ["Step", "SHA-256 of the adapter", ""], run.checkpoints.slice().reverse().map((one) =>
    h("tr", {}, h("td", {}, String(one.step)), h("td", {}, h("code", { title: one.sha256 ?? "" }, (one.sha256 ?? "–").slice(0, 16))), h("td", {}, h("a", { href: `/console/${at(id)}/adapter?step=${one.step}`, download: true }, "download")))));
}

function settings(run) {
  const row = (one) => h("tr", {}, h("td", {}, one.name), h("td", { class: "wide" }, value(one.value)), h("td", { class: "quiet" }, one.changed ? value(one.default) : ""));
  const changed = run.settings.filter((one) => one.changed), head = ["Setting", "Value", "Default"];
  return h("div", {}, changed.length ? table("Settings that differ from the defaults", head, changed.map(row)) : h("p", { class: "quiet" }, "All as by default."),
    h("details", {}, h("summary", {}, "All settings"), table("All settings", head, run.settings.map(row))));
}

// A step's own band where each point is one step; else the range of the steps that a point stands for.
function banded(columns) {
  const { mean, low, high } = columns.critic_rewards_mean, half = columns.reward_half_width?.mean ?? [];
  const single = mean.every((one, k) => low[k] === one && high[k] === one);
  if (!single) return { mean, low, high };
  return { mean, low: mean.map((one, k) => (one === null ? null : one - (half[k] ?? 0))), high: mean.map((one, k) => (one === null ? null : one + (half[k] ?? 0))) };
}

function search(id) {
  const words = h("input", { type: "search", placeholder: "Search completions", "aria-label": "Search completions" });
  return h("form", { role: "search", onsubmit: (event) => { event.preventDefault(); if (words.value) location.hash = link(id, `/completions?${query({ text: words.value })}`); } }, words);
}
