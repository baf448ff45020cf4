// All completions of a run: filtered, ordered, a window of rows over however many there are, and taken away.

import { ask, query, run as at } from "./api.js";
import { crumbs, field, h, number, options, show } from "./dom.js";

const ROW = 46, PAGE = 60, TALLEST = 15_000_000;
const ORDERS = [["newest", "Newest first"], ["oldest", "Oldest first"], ["best", "Best first"], ["worst", "Worst first"]];
const link = (id, rest = "") => `#/run/${encodeURIComponent(id)}${rest}`;

export async function completions(_, id, given) {
  crumbs(["Runs", "#/"], [id, link(id)], ["Completions", location.hash]);
  const start = Object.fromEntries(new URLSearchParams(given));
  const input = (name, type, more = {}) => h("input", { type, name, value: start[name] ?? "", ...more });
  const form = h("form", { class: "filters", role: "search", onsubmit: (event) => { event.preventDefault(); changed(); }, onchange: () => changed() },
    field("Contains", input("text", "search")), field("Reward from", input("least", "number", { step: "any" })), field("Reward to", input("most", "number", { step: "any" })),
    field("Step from", input("first", "number", { min: 1 })), field("Step to", input("last", "number", { min: 1 })), field("Prompt", input("prompt", "number", { min: 0 })),
    field("Order", h("select", { name: "order" }, options(ORDERS, start.order))),
    h("label", { class: "tick" }, h("input", { type: "checkbox", name: "cut", value: "1", checked: start.cut === "1" }), "cut at the limit"),
    h("label", { class: "tick" }, h("input", { type: "checkbox", name: "failed", value: "1", checked: start.failed === "1" }), "not scored"),
    h("button", {}, "Show"));
  const count = h("p", { class: "quiet", role: "status" }), save = h("span", { class: "row" });
  const space = h("div", { class: "space" }), view = h("div", { class: "rows", tabindex: "0", role: "region", "aria-label": "Completions", onscroll: () => fill() }, space);
  show(h("div", { class: "row end" }, h("h1", {}, "Completions"), save), form, count, view);
  let total = 0, pages = new Map(), left = false, timer = null, turn = 0, newest = null;

  const wanted = () => {
    const told = Object.fromEntries(new FormData(form));
    return { ...told, first: told.first && told.first - 1, last: told.last && told.last - 1 };
  };

  async function load(page) {
    const now = turn;
    pages.set(page, null);
    const found = await ask(`${at(id)}/completions?${query({ ...wanted(), upto: newest, offset: page * PAGE, limit: PAGE })}`).catch((error) => { pages.delete(page); throw error; });
    if (now !== turn || left) return;
    total = found.total;
    newest = found.newest;
    pages.set(page, found.rows);
    space.style.height = `${Math.min(total * ROW, TALLEST)}px`;
    count.textContent = `${total.toLocaleString("en")} completions${found.indexed < found.steps ? `; reading step ${found.indexed.toLocaleString("en")} of ${found.steps.toLocaleString("en")} …` : ""}`;
    fill();
    if (found.indexed < found.steps && page === 0) timer = setTimeout(() => { turn += 1; pages = new Map(); newest = null; load(0).catch(failed); }, 200);
  }

  const failed = (error) => { if (error.name !== "AbortError") count.textContent = error.message; };

  // Rows that can be seen; beyond what a browser can scroll, a pixel stands for more than one of them.
  function fill() {
    const most = view.scrollHeight - view.clientHeight, seen = view.clientHeight / ROW;
    const first = total * ROW <= TALLEST || most <= 0 ? view.scrollTop / ROW : (view.scrollTop / most) * (total - seen);
    const top = Math.floor(first), shown = Math.ceil(seen) + 1;
    const rows = [];
    for (let k = top; k < Math.min(total, top + shown); k++) {
      const page = Math.floor(k / PAGE);
      if (!pages.has(page)) load(page).catch(failed);
      const row = pages.get(page)?.[k % PAGE];
      rows.push(row ? line(id, row, wanted().text) : h("div", { class: "completionrow quiet" }, "…"));
    }
    const list = h("div", { class: "window", role: "list" }, rows);
    list.style.transform = `translateY(${view.scrollTop - (first - top) * ROW}px)`;
    space.replaceChildren(list);
  }

  function changed() {
    clearTimeout(timer);
    turn += 1;
    newest = null;
    pages = new Map();
    view.scrollTop = 0;
    const told = query(Object.fromEntries(new FormData(form)));
    history.replaceState(null, "", link(id, `/completions${told ? `?${told}` : ""}`));
    save.replaceChildren(...["jsonl", "csv"].map((form) => h("a", { class: "button", download: true, href: `/console/${at(id)}/export?${query({ ...wanted(), order: "", form })}` }, `Save as ${form.toUpperCase()}`)));
    load(0).catch(failed);
  }

  changed();
  return () => { left = true; clearTimeout(timer); };
}

function line(id, row, text) {
  const error = row.error ? h("span", { class: "tag bad" }, "not scored") : null;
  return h("div", { class: "completionrow", role: "listitem" },
    h("span", { class: "reward" }, number(row.reward, 2)),
    h("span", { class: `advantage ${row.advantage > 0 ? "gain" : row.advantage < 0 ? "loss" : "quiet"}` }, row.advantage === null ? "–" : `${row.advantage > 0 ? "+" : ""}${number(row.advantage, 2)}`),
    h("a", { href: link(id, `/step/${row.step + 1}?group=${row.place}`) }, `step ${row.step + 1}`),
    h("a", { href: link(id, `/prompt/${row.prompt}`) }, `prompt ${row.prompt}`),
    h("span", { class: "quiet length" }, `${row.tokens} tok${row.finish === "length" ? ", cut" : ""}`), error,
    h("p", { dir: "auto", title: row.error ?? "" }, marked(row.text.length > 600 ? around(row.text, text) : row.text, text)));
}

function around(text, wanted) {
  const place = wanted ? Math.max(0, text.toLowerCase().indexOf(wanted.toLowerCase()) - 80) : 0;
  return `${place ? "…" : ""}${text.slice(place, place + 600)}…`;
}

function marked(text, wanted) {
  if (!wanted) return [text];
  const parts = [], low = text.toLowerCase(), needle = wanted.toLowerCase();
  let from = 0;
  for (let place = low.indexOf(needle); place >= 0; place = low.indexOf(needle, from)) {
    parts.push(text.slice(from, place), h("mark", {}, text.slice(place, place + wanted.length)));
    from = place + wanted.length;
  }
  return [...parts, text.slice(from)];
}
