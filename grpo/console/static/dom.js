// Elements from names, attributes and children. Text is always textContent: what a model wrote is never markup.

export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "share") element.style.setProperty("--share", `${value}%`);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...there(children));
  return element;
}

const there = (children) => children.flat().filter((child) => child !== null && child !== undefined && child !== false);

export function show(...children) {
  document.getElementById("main").replaceChildren(...there(children));
}

export function crumbs(...pairs) {
  const links = pairs.map(([text, target], at) =>
    h("a", { href: target, "aria-current": at === pairs.length - 1 ? "page" : null }, text));
  document.getElementById("crumbs").replaceChildren(...links);
  document.title = [...pairs.map(([text]) => text)].reverse().concat("grpo").join(" · ");
}

export function say(text) {
  const place = document.getElementById("said");
  place.textContent = text;
  place.classList.remove("hidden");
  clearTimeout(say.timer);
  say.timer = setTimeout(() => place.classList.add("hidden"), 6000);
}

export function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 10000) return Math.round(value).toLocaleString("en");
  if (size < 0.001) return value.toExponential(1);
  return String(Number(value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : digits)));
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

const KINDS = {
  live: ["running", "starting", "queued", "validating_files", "improving"],
  good: ["plateau", "converged", "converged_ceiling", "succeeded"],
  bad: ["collapsed", "regressed", "no_signal", "failed"],
};

export function status(name) {
  const kind = Object.keys(KINDS).find((one) => KINDS[one].includes(name)) ?? "plain";
  return h("span", { class: `status ${kind}` }, name.replaceAll("_", " "));
}

// Children are made anew only where what they are made of is: a button keeps its focus, an alarm is said once.
const told = new WeakMap();

export function renew(place, of, make) {
  const now = JSON.stringify(of);
  if (told.get(place) === now) return;
  told.set(place, now);
  place.replaceChildren(...there([make()]));
}

export const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}.`;

export const ended = (run) => !KINDS.live.includes(run.status) && run.status !== "paused";

// Seconds that a run takes at most from here.
export const remaining = (run) => (["running", "starting"].includes(run.status) && run.total_steps && run.seconds_per_step ? (run.total_steps - run.steps) * run.seconds_per_step : null);

// A setting, as a configuration file has it.
export const value = (one) => (one === null || one === undefined ? "–" : typeof one === "object" ? JSON.stringify(one) : String(one));

let fields = 0;

// A control with its label, and what else is to be known of it.
export function field(label, control, hint) {
  const id = `field-${++fields}`;
  control.id = id;
  if (hint) control.setAttribute("aria-describedby", `${id}-hint`);
  return h("div", { class: "field" }, h("label", { for: id }, label), control, hint && h("small", { class: "quiet", id: `${id}-hint` }, hint));
}

export const options = (pairs, chosen) => pairs.map(([name, text]) => h("option", { value: name, selected: name === chosen }, text ?? name));

export function table(caption, head, rows) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {}, h("thead", {}, h("tr", {}, head.map((cell) => h("th", { scope: "col" }, cell)))), h("tbody", {}, rows)));
}

// What was done, or why it was not.
export async function attempt(button, action) {
  button.disabled = true;
  try {
    return await action();
  } catch (error) {
    if (error.name !== "AbortError") say(error.message);
    return null;
  } finally {
    button.disabled = false;
  }
}
