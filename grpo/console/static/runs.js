// The table of runs.

import { ask } from "./api.js";
import { crumbs, duration, h, number, show, status } from "./dom.js";

const COLUMNS = [
  ["name", "Run"], ["status", "Status"], ["reward", "Reward"], ["steps", "Steps"], ["left", "Left"], ["model", "Model"], ["created_at", "Started"],
];

export async function runs() {
  crumbs(["Runs", "#/"]);
  let found = await ask("api/runs");
  let order = ["created_at", -1];
  const filter = h("input", { type: "search", placeholder: "Filter by name, status, model", "aria-label": "Filter runs", oninput: draw });
  const body = h("tbody"), head = h("tr"), count = h("span", { class: "quiet small" });
  show(
    h("div", { class: "row end" }, h("h1", {}, "Runs"), h("div", { class: "row" }, count, filter)),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table" }, h("table", {}, h("thead", {}, head), body)),
  );

  function draw() {
    const wanted = filter.value.toLowerCase();
    const rows = found.filter((run) => `${run.name} ${run.status} ${run.model}`.toLowerCase().includes(wanted)).map((run) => ({ ...run, left: left(run) }));
    rows.sort((a, b) => order[1] * compare(a[order[0]], b[order[0]]));
    head.replaceChildren(...COLUMNS.map(([name, text]) =>
      h("th", { scope: "col", class: ["reward", "left"].includes(name) ? "num" : null, "aria-sort": order[0] === name ? (order[1] > 0 ? "ascending" : "descending") : null },
        h("button", { onclick: () => { order = [name, order[0] === name ? -order[1] : 1]; draw(); } }, text))));
    body.replaceChildren(...rows.map(line));
    if (!rows.length) body.append(h("tr", {}, h("td", { colspan: COLUMNS.length, class: "quiet" }, found.length ? "No run matches." : "No run yet: start one, and it appears here.")));
    count.textContent = `${rows.length} of ${found.length}`;
  }

  draw();
  const timer = setInterval(async () => {
    found = await ask("api/runs").catch(() => found);
    draw();
  }, 2000);
  return () => clearInterval(timer);
}

const left = (run) => (["running", "starting"].includes(run.status) && run.total_steps && run.seconds_per_step ? (run.total_steps - run.steps) * run.seconds_per_step : null);

function compare(a, b) {
  if (a === b) return 0;
  if (a === null || a === undefined) return 1;
  if (b === null || b === undefined) return -1;
  return a < b ? -1 : 1;
}

function line(run) {
  return h("tr", {},
    h("td", { class: "wide" }, h("a", { href: `#/run/${encodeURIComponent(run.id)}` }, run.name)),
    h("td", {}, status(run.status)),
    h("td", { class: "num" }, number(run.reward)),
    h("td", {}, h("span", { class: "row" }, h("progress", { max: run.total_steps || 1, value: run.steps, "aria-label": "Steps done" }), `${run.steps} / ${run.total_steps ?? "?"}`)),
    h("td", { class: "num" }, duration(run.left)),
    h("td", {}, run.model || "–"),
    h("td", {}, new Date(run.created_at * 1000).toLocaleString()));
}
