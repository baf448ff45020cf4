// One step: its rewards, its groups, one group side by side with its tokens; one prompt across steps.

import { ask, query, run as at } from "./api.js";
import { curve } from "./charts.js";
import { crumbs, field, h, number, options, say, show } from "./dom.js";

const BINS = 12;
const SHADES = [["none", "nothing"], ["probability", "how improbable each was"], ["push", "how far the update moves each"]];
const link = (id, rest = "") => `#/run/${encodeURIComponent(id)}${rest}`;

export async function oneStep(_, id, text, given) {
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
      h("div", { class: "row" }, step > 1 && h("a", { href: link(id, `/step/${step - 1}`) }, "← before"), step < found.steps && h("a", { href: link(id, `/step/${step + 1}`) }, "after →"))),
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
    const completions = group.completions.map(completion), place = found.groups.indexOf(group);
    const shade = h("select", { onchange: () => coloured(id, step, place, group, completions, shade.value).catch((error) => { shade.value = "none"; if (error.name !== "AbortError") say(error.message); }) }, options(SHADES));
    detail.replaceChildren(
      h("h2", {}, "One group ", h("a", { class: "small", href: link(id, `/prompt/${group.prompt.index}`) }, "this prompt across steps")),
      ...group.prompt.messages.map(message),
      ...(answer === null ? [] : [h("p", { class: "small quiet" }, "Reference answer: ", typeof answer === "string" ? answer : JSON.stringify(answer))]),
      field("Colour tokens by", shade, "probable tokens are pale; an update raises green ones and lowers red ones"),
      h("div", { class: "group" }, completions),
    );
    detail.scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  }

  draw();
  const asked = new URLSearchParams(given).get("group");
  if (found.groups.length) open(found.groups[Number(asked ?? 0)] ?? found.groups[0]);
  if (asked === null) scrollTo(0, 0);
}

function completion(c) {
  const gain = c.advantage === null ? null : h("span", { class: c.advantage > 0 ? "gain" : c.advantage < 0 ? "loss" : "quiet" }, `advantage ${number(c.advantage, 2)}`);
  const parts = Object.entries(c.parts).map(([name, value]) => h("span", { class: "tag" }, `${name} ${number(value)}`));
  return h("article", { class: "completion" },
    h("header", {}, h("span", { class: "reward" }, number(c.reward)), gain, h("span", { class: "quiet" }, `${c.tokens} tokens`), c.finish_reason === "length" ? h("span", { class: "tag bad" }, "cut") : null, parts),
    c.error ? h("p", { class: "text loss" }, c.error) : null,
    c.turns.map(message),
    c.reasoning ? h("p", { class: "text thought" }, c.reasoning) : null,
    h("p", { class: "text answer", dir: "auto", tabindex: "0" }, c.text || "(empty)"));
}

function message(m) {
  return h("div", { class: "message" }, h("b", {}, m.role), h("p", { class: "text", dir: "auto" }, words(m)));
}

function words(m) {
  if (typeof m?.content === "string") return m.content;
  return m?.content ? m.content.map((part) => part.text ?? JSON.stringify(part)).join("\n") : JSON.stringify(m ?? null);
}

// The answer's text again, token by token. An update moves a token by its advantage times the probability it lacked.
async function coloured(id, step, place, group, articles, by) {
  articles.forEach((article) => { article.dataset.by = by; });
  const found = by === "none" ? null : (await ask(`${at(id)}/steps/${step - 1}/tokens?${query({ place: String(place) })}`)).completions;
  if (articles.length && articles[0].dataset.by !== by) return; // another was chosen meanwhile
  const most = Math.max(1e-9, ...group.completions.map((c) => Math.abs(c.advantage ?? 0)));
  articles.forEach((article, k) => {
    const text = article.querySelector(".answer"), c = group.completions[k];
    if (!found) { text.replaceChildren(c.text || "(empty)"); return; }
    text.replaceChildren(...found[k].map((piece) => {
      const lacked = 1 - Math.exp(piece.logprob), push = ((c.advantage ?? 0) / most) * lacked;
      const told = piece.foreign ? "written by the environment" : `probability ${number(Math.exp(piece.logprob))}, ${number(piece.logprob)} nats${piece.tokens > 1 ? `, ${piece.tokens} tokens` : ""}`;
      const kind = piece.foreign ? "token foreign" : by === "push" ? (push < 0 ? "token lowered" : "token raised") : "token improbable";
      return h("span", { class: kind, share: piece.foreign ? 0 : Math.round(100 * (by === "push" ? Math.abs(push) : lacked)), title: told }, piece.text);
    }));
  });
}

export async function onePrompt(_, id, text) {
  crumbs(["Runs", "#/"], [id, link(id)], [`Prompt ${text}`, link(id, `/prompt/${text}`)]);
  const place = h("div", { class: "plot" }), said = h("p", { class: "quiet", role: "status" });
  const chart = curve(place, { height: 220, label: `Reward of prompt ${text} by step`, onstep: (step) => { location.hash = link(id, `/step/${step}`); } });
  show(h("div", { class: "row end" }, h("h1", {}, `Prompt ${text}`), h("a", { class: "button", href: link(id, `/completions?${query({ prompt: text })}`) }, "Its completions")), said, place);
  let left = false;
  async function draw() {
    const { means, indexed, steps } = await ask(`${at(id)}/prompts/${text}`);
    if (left) return;
    const known = means.filter((one) => one.reward !== null), values = known.map((one) => one.reward);
    said.textContent = `Drawn in ${means.length} steps; the mean reward of its completions in each.${indexed < steps ? ` Reading step ${indexed} of ${steps} …` : ""}`;
    if (known.length) chart.update(known.map((one) => one.step), { mean: values, low: values, high: values });
    if (indexed < steps) setTimeout(() => left || draw().catch((error) => error.name !== "AbortError" && say(error.message)), 200);
  }
  await draw();
  return () => { left = true; chart.destroy(); };
}
