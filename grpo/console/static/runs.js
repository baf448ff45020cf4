// The table of runs.

import { ask, query } from "./api.js";
import { crumbs, duration, h, number, remaining, say, show, status } from "./dom.js";

const COLUMNS = [
  ["name", "Run"], ["status", "Status"], ["reward", "Reward"], ["steps", "Steps"], ["left", "Left"], ["model", "Model"], ["created_at", "Started"],
];
const NUMBERS = ["reward", "left"];

export async function runs(place) {
  crumbs(["Runs", "#/"]);
  let found = await ask("api/runs"), order = ["created_at", -1];
  const chosen = new Set();
  const filter = h("input", { type: "search", placeholder: "Filter by name, status, model", "aria-label": "Filter runs", oninput: draw });
  const compare = h("button", { disabled: true, onclick: () => { location.hash = `#/compare?${query({ run: [...chosen] })}`; } }, "Compare");
  const body = h("tbody"), known = new Map(), count = h("span", { class: "quiet small" });
  const heads = COLUMNS.map(([name, text]) => {
    const arrow = h("span", { "aria-hidden": "true" });
    const sort = h("button", { onclick: () => { order = [name, order[0] === name ? -order[1] : 1]; draw(); } }, text, arrow);
    return [name, h("th", { scope: "col", class: NUMBERS.includes(name) ? "num" : null }, sort), arrow];
  });
  show(
    h("div", { class: "row end" }, h("h1", {}, "Runs"), h("div", { class: "row" }, count, filter, compare, place.server && h("a", { class: "button", href: "#/new" }, "New job"))),
    h("p", { class: "quiet small" }, "Tick two to four runs to see them in one picture, with what differs in their configuration."),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, h("span", { class: "unseen" }, "Compare")), heads.map(([, cell]) => cell))), body)),
  );

  function draw() {
    const wanted = filter.value.toLowerCase();
    const rows = found.filter((run) => `${run.name} ${run.status} ${run.model}`.toLowerCase().includes(wanted)).map((run) => ({ ...run, left: remaining(run) }));
    rows.sort((a, b) => order[1] * sooner(a[order[0]], b[order[0]]));
    for (const [name, cell, arrow] of heads) {
      const mine = order[0] === name;
      if (mine) cell.setAttribute("aria-sort", order[1] > 0 ? "ascending" : "descending"); else cell.removeAttribute("aria-sort");
      arrow.textContent = mine ? (order[1] > 0 ? " ↑" : " ↓") : "";
    }
    lines(body, rows, known, (run) => line(run, chosen, tick));
    if (!rows.length) body.replaceChildren(h("tr", {}, h("td", { colspan: COLUMNS.length + 1, class: "quiet" }, found.length ? "No run matches." : "No run yet: start one, and it appears here.")));
    count.textContent = `${rows.length} of ${found.length}`;
  }

  function tick(id, on) {
    if (on) chosen.add(id); else chosen.delete(id);
    compare.disabled = chosen.size < 2 || chosen.size > 4;
  }

  draw();
  const timer = setInterval(async () => {
    try {
      found = await ask("api/runs");
      draw();
    } catch (error) {
      if (error.name === "AbortError") return;
      clearInterval(timer);
      say(`${error.message}: the table is not renewed any more`);
    }
  }, 2000);
  return () => clearInterval(timer);
}

// A row is made anew only where something in it is new, and none is moved while somebody stands in it.
function lines(body, rows, known, make) {
  const shown = rows.map((run) => {
    const told = JSON.stringify(run), before = known.get(run.id);
    if (before && (before.told === told || before.row.contains(document.activeElement))) return before.row;
    const row = make(run);
    known.set(run.id, { told, row });
    return row;
  });
  shown.forEach((row, k) => {
    const there = body.children[k];
    if (row === there) return;
    if (!there) body.append(row);
    else if (there.contains(document.activeElement)) body.insertBefore(row, there);
    else if (shown.includes(there)) body.insertBefore(row, there);
    else there.replaceWith(row);
  });
  while (body.children.length > shown.length) body.lastChild.remove();
}

function sooner(a, b) {
  if (a === b) return 0;
  if (a === null || a === undefined) return 1;
  if (b === null || b === undefined) return -1;
  return a < b ? -1 : 1;
}

function line(run, chosen, tick) {
  return h("tr", {},
    h("td", {}, h("input", { type: "checkbox", "aria-label": `Compare ${run.name}`, checked: chosen.has(run.id), onchange: (event) => tick(run.id, event.target.checked) })),
    h("td", { class: "wide" }, h("a", { href: `#/run/${encodeURIComponent(run.id)}` }, run.name)),
    h("td", {}, status(run.status)),
    h("td", { class: "num" }, number(run.reward)),
    h("td", {}, h("span", { class: "row" }, h("progress", { max: run.total_steps || 1, value: run.steps, "aria-label": "Steps done" }), `${run.steps} / ${run.total_steps ?? "?"}`)),
    h("td", { class: "num" }, duration(run.left)),
    h("td", {}, run.model || "–"),
    h("td", {}, new Date(run.created_at * 1000).toLocaleString()));
}
