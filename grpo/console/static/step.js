// One step: its rewards, its groups, one group side by side; one prompt across steps; a search.

import { ask, run as at } from "./api.js";
import { curve } from "./charts.js";
import { crumbs, h, number, show } from "./dom.js";

const BINS = 12;
const link = (id, rest = "") => `#/run/${encodeURIComponent(id)}${rest}`;

export async function oneStep(id, text) {
  const step = Number(text), found = await ask(`${at(id)}/steps/${step - 1}`);
  crumbs(["Runs", "#/"], [id, link(id)], [`Step ${step}`, link(id, `/step/${step}`)]);
  const all = found.groups.flatMap((group) => group.completions.map((completion) => completion.reward)).filter((value) => value !== null);
  const least = Math.min(0, ...all), most = Math.max(1, ...all), width = (most - least) / BINS;
  const bin = (value) => Math.min(BINS - 1, Math.floor((value - least) / width));
  const list = h("tbody"), detail = h("section", { id: "group", "aria-live": "polite" });
  let chosen = null;

  const counts = Array.from({ length: BINS }, (_, k) => all.filter((value) => bin(value) === k).length);
  const bars = counts.map((count, k) => {
    const label = `${count} completions with a reward from ${number(least + k * width, 2)} to ${number(least + (k + 1) * width, 2)}`;
    const bar = h("button", { "aria-label": label, title: label, "aria-pressed": "false", onclick: () => { chosen = chosen === k ? null : k; draw(); } });
    bar.style.height = `${(100 * count) / Math.max(...counts, 1)}%`;
    return bar;
  });
  show(
    h("div", { class: "row end" }, h("h1", {}, `Step ${step}`),
      h("div", { class: "row" }, step > 1 && h("a", { href: link(id, `/step/${step - 1}`) }, "← before"), h("a", { href: link(id, `/step/${step + 1}`) }, "after →"))),
    h("p", { class: "quiet" }, `${found.groups.length} prompts, ${all.length} scored completions. A bar shows the prompts that have such a reward.`),
    h("div", { class: "bars", role: "group", "aria-label": "Histogram of rewards" }, bars),
    h("div", { class: "axis" }, h("span", {}, number(least, 2)), h("span", {}, "reward"), h("span", {}, number(most, 2))),
    h("h2", {}, "Prompts"),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Prompt"), h("th", { scope: "col" }, "Rewards"), h("th", { scope: "col", class: "num" }, "Mean"), h("th", { scope: "col" }, ""))), list)),
    detail,
  );

  function draw() {
    bars.forEach((bar, k) => bar.setAttribute("aria-pressed", String(chosen === k)));
    const shown = found.groups.filter((group) => chosen === null || group.completions.some((c) => c.reward !== null && bin(c.reward) === chosen));
    list.replaceChildren(...shown.map((group) => {
      const values = group.completions.map((c) => c.reward);
      const known = values.filter((value) => value !== null);
      const dots = values.map((value) => h("i", { share: value === null ? 0 : Math.round((100 * (value - least)) / (most - least)), title: number(value) }));
      return h("tr", {},
        h("td", { class: "wide" }, h("button", { onclick: () => open(group) }, words(group.prompt.messages.at(-1)))),
        h("td", {}, h("span", { class: "dots", "aria-hidden": "true" }, dots)),
        h("td", { class: "num" }, known.length ? number(known.reduce((a, b) => a + b, 0) / known.length) : "–"),
        h("td", {}, group.silent ? h("span", { class: "tag", title: "All rewards are equal: nothing to learn from" }, "no signal") : null));
    }));
  }

  function open(group) {
    const answer = group.reference_answer;
    detail.replaceChildren(
      h("h2", {}, "One group ", h("a", { class: "small", href: link(id, `/prompt/${group.prompt.index}`) }, "this prompt across steps")),
      ...group.prompt.messages.map(message),
      ...(answer === null ? [] : [h("p", { class: "small quiet" }, "Reference answer: ", typeof answer === "string" ? answer : JSON.stringify(answer))]),
      h("div", { class: "group" }, group.completions.map(completion)),
    );
    detail.scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  }

  draw();
  if (found.groups.length) open(found.groups[0]);
  scrollTo(0, 0);
}

function completion(c) {
  const gain = c.advantage === null ? null : h("span", { class: c.advantage > 0 ? "gain" : c.advantage < 0 ? "loss" : "quiet" }, `advantage ${number(c.advantage, 2)}`);
  const parts = Object.entries(c.parts).map(([name, value]) => h("span", { class: "tag" }, `${name} ${number(value)}`));
  return h("article", { class: "completion" },
    h("header", {}, h("span", { class: "reward" }, number(c.reward)), gain, h("span", { class: "quiet" }, `${c.tokens} tokens`), c.finish_reason === "length" ? h("span", { class: "tag bad" }, "cut") : null, parts),
    c.error ? h("p", { class: "text loss" }, c.error) : null,
    c.turns.map(message),
    c.reasoning ? h("p", { class: "text thought" }, c.reasoning) : null,
    h("p", { class: "text", dir: "auto", tabindex: "0" }, c.text || "(empty)"));
}

function message(m) {
  return h("div", { class: "message" }, h("b", {}, m.role), h("p", { class: "text", dir: "auto" }, words(m)));
}

function words(m) {
  if (typeof m?.content === "string") return m.content;
  return m?.content ? m.content.map((part) => part.text ?? JSON.stringify(part)).join("\n") : JSON.stringify(m ?? null);
}

export async function onePrompt(id, text) {
  const { steps } = await ask(`${at(id)}/prompts/${text}`);
  crumbs(["Runs", "#/"], [id, link(id)], [`Prompt ${text}`, link(id, `/prompt/${text}`)]);
  const place = h("div", { class: "plot" });
  show(
    h("h1", {}, `Prompt ${text}`), h("p", { class: "quiet" }, `Drawn in ${steps.length} steps; the mean reward of its completions in each.`), place,
    h("ul", {}, steps.map(({ step, reward }) => h("li", {}, h("a", { href: link(id, `/step/${step + 1}`) }, `step ${step + 1}`), `: ${number(reward)}`))),
  );
  if (!steps.length) return null;
  const chart = curve(place, { height: 220, label: `Reward of prompt ${text} by step` });
  const means = steps.map(({ reward }) => reward);
  chart.update(steps.map(({ step }) => step), { mean: means, low: means, high: means });
  return () => chart.destroy();
}

export async function searched(id, text) {
  const { found, more } = await ask(`${at(id)}/search?text=${encodeURIComponent(text)}`);
  crumbs(["Runs", "#/"], [id, link(id)], [`“${text}”`, link(id, `/search/${encodeURIComponent(text)}`)]);
  show(
    h("h1", {}, `${more ? "The newest " : ""}${found.length} completions with “${text}”`),
    h("div", { class: "group" }, found.map((hit) => h("article", { class: "completion" },
      h("header", {}, h("span", { class: "reward" }, number(hit.reward)), h("a", { href: link(id, `/step/${hit.step + 1}`) }, `step ${hit.step + 1}`)),
      h("p", { class: "text", dir: "auto" }, marked(hit.text, text))))),
  );
}

function marked(text, wanted) {
  const parts = [], low = text.toLowerCase(), needle = wanted.toLowerCase();
  let from = 0;
  for (let at = low.indexOf(needle); at >= 0; at = low.indexOf(needle, from)) {
    parts.push(text.slice(from, at), h("mark", {}, text.slice(at, at + wanted.length)));
    from = at + wanted.length;
  }
  return [...parts, text.slice(from)];
}
