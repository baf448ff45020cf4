// Which page: by what stands behind the # of the address.

import { ask, login, Problem, turnedOver } from "./api.js";
import { comparison } from "./compare.js";
import { completions } from "./completions.js";
import { crumbs, h, say, show } from "./dom.js";
import { grader } from "./grader.js";
import { newJob } from "./job.js";
import { playground } from "./play.js";
import { oneRun } from "./run.js";
import { runs } from "./runs.js";
import { onePrompt, oneStep } from "./step.js";

const PAGES = [
  [/^#?\/?$/, runs],
  [/^#\/new$/, newJob],
  [/^#\/play$/, playground],
  [/^#\/grader$/, grader],
  [/^#\/compare\?(?<query>.+)$/, comparison],
  [/^#\/run\/([^/]+)$/, oneRun],
  [/^#\/run\/([^/]+)\/step\/(\d+)(?:\?(?<query>.*))?$/, oneStep],
  [/^#\/run\/([^/]+)\/prompt\/(\d+)$/, onePrompt],
  [/^#\/run\/([^/]+)\/completions(?:\?(?<query>.*))?$/, completions],
];
const SERVED = [["#/new", "New job"], ["#/play", "Playground"], ["#/grader", "Grader"]];
let leave = null, turns = 0;

async function open() {
  const turn = ++turns;
  turnedOver();
  leave?.();
  leave = null;
  const code = location.hash.match(/^#login=(.+)$/);
  if (code) {
    history.replaceState(null, "", location.pathname);
    await login(code[1]);
  }
  const place = await ask("api/place");
  const tools = (place.server ? SERVED : []).map(([target, text]) => h("a", { href: target, "aria-current": location.hash === target ? "page" : null }, text));
  document.getElementById("tools").replaceChildren(...tools);
  for (const [pattern, page] of PAGES) {
    const match = location.hash.match(pattern);
    if (!match) continue;
    const { query } = match.groups ?? {}, parts = match.slice(1).filter((part) => part !== undefined && part !== query).map(decodeURIComponent);
    const left = (await page(place, ...parts, query ?? "")) ?? null;
    if (turn === turns) leave = left; else left?.();
    return;
  }
  crumbs(["Not found", "#/"]);
  show(h("h1", {}, "There is no such page"), h("p", {}, h("a", { href: "#/" }, "All runs")));
}

function failed(error) {
  if (error.name === "AbortError") return; // of a page that was left
  if (error instanceof Problem && error.status === 401) {
    crumbs(["Log in", "#/"]);
    show(h("h1", {}, "Log in"), h("p", {}, "Open the link that the server printed when it started, or make a new one:"), h("pre", { class: "config" }, "grpo console"));
  } else {
    crumbs(["Error", "#/"]);
    show(h("h1", {}, "This did not work"), h("p", { class: "alarm", role: "alert" }, error.message), h("p", {}, h("a", { href: "#/" }, "All runs")));
    say("an error");
  }
}

const turn = () => open().catch(failed);
addEventListener("hashchange", turn);
turn();
