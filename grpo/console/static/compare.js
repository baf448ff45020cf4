// Two to four runs in one picture, and what differs in their configuration.

import { ask, query, run as at } from "./api.js";
import { overlay } from "./charts.js";
import { crumbs, h, number, show, status, table, value } from "./dom.js";

const DRAWN = [
  ["critic_rewards_mean", "Reward"], ["response_length_mean", "Completion length, tokens"], ["actor_entropy", "Entropy, nats"], ["kl", "KL to the base model, nats"],
  ["zero_variance_share", "Groups without signal, share"], ["tokens_per_second", "Tokens a second"],
];

export async function comparison(_, given) {
  const { runs, differences } = await ask(`api/compare?${given}`);
  crumbs(["Runs", "#/"], ["Compare", location.hash]);
  const name = DRAWN.map(([one]) => one);
  const series = await Promise.all(runs.map((run) => ask(`${at(run.id)}/series?${query({ name, points: 400 })}`)));
  const key = (k) => h("i", { class: `swatch c${k}`, "aria-hidden": "true" });
  const places = DRAWN.map(([name, title]) => ({ name, title, place: h("div", { class: "plot" }) })).filter(({ name }) => series.some((one) => one.columns[name]));
  show(
    h("h1", {}, "Runs compared"),
    table("The runs", ["Run", "Status", "Reward", "Steps", "Why it ended"], runs.map((run, k) => h("tr", {},
      h("td", {}, key(k), h("a", { href: `#/run/${encodeURIComponent(run.id)}` }, run.name)), h("td", {}, status(run.status)), h("td", {}, number(run.reward)), h("td", {}, `${run.steps} / ${run.total_steps ?? "?"}`), h("td", { class: "wide small" }, run.reason ?? "–")))),
    h("h2", {}, places[0]?.title ?? "Nothing to draw yet"), places[0]?.place ?? null,
    h("div", { class: "grid two" }, places.slice(1).map(({ title, place }) => h("section", { class: "card" }, h("h3", {}, title), place))),
    h("h2", {}, "What differs in their configuration"),
    differences.length
      ? table("Differences", ["Setting", ...runs.map((run, k) => h("span", {}, key(k), run.name))], differences.map((row) => h("tr", {}, h("td", {}, row.name), row.values.map((one) => h("td", { class: "wide" }, value(one))))))
      : h("p", { class: "quiet" }, "Nothing."),
  );
  const charts = places.map(({ name, title, place }, k) => {
    const chart = overlay(place, { height: k ? 160 : 300, label: `${title} of ${runs.map((run) => run.name).join(", ")}` });
    chart.update(series.map((one) => ({ step: one.step, values: one.columns[name]?.mean ?? one.step.map(() => null) })));
    return chart;
  });
  return () => charts.forEach((chart) => chart.destroy());
}

