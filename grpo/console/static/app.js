// Which page: by what stands behind the # of the address.

import { login, Problem } from "./api.js";
import { crumbs, h, say, show } from "./dom.js";
import { runs } from "./runs.js";
import { oneRun } from "./run.js";
import { onePrompt, oneStep, searched } from "./step.js";

const PAGES = [
  [/^(#\/?)?$/, runs],
  [/^#\/run\/([^/]+)$/, oneRun],
  [/^#\/run\/([^/]+)\/step\/(\d+)$/, oneStep],
  [/^#\/run\/([^/]+)\/prompt\/(\d+)$/, onePrompt],
  [/^#\/run\/([^/]+)\/search\/(.+)$/, searched],
];
let leave = null;

async function open() {
  leave?.();
  leave = null;
  const code = location.hash.match(/^#login=(.+)$/);
  if (code) {
    history.replaceState(null, "", location.pathname);
    await login(code[1]);
  }
  for (const [pattern, page] of PAGES) {
    const match = location.hash.match(pattern);
    if (match) {
      const given = page === runs ? [] : match.slice(1).map(decodeURIComponent);
      leave = (await page(...given)) ?? null;
      return;
    }
  }
  crumbs(["Not found", "#/"]);
  show(h("h1", {}, "There is no such page"), h("p", {}, h("a", { href: "#/" }, "All runs")));
}

function failed(error) {
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
