// What the pages ask the server.

export class Problem extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

export async function ask(path, options = {}) {
  const answer = await fetch(`/console/${path}`, { credentials: "same-origin", ...options });
  if (!answer.ok) throw new Problem(answer.status, await reason(answer));
  return answer.json();
}

async function reason(answer) {
  const text = await answer.text();
  try {
    const content = JSON.parse(text);
    return content.error?.message ?? content.detail ?? text;
  } catch {
    return text || `HTTP ${answer.status}`;
  }
}

export function login(code) {
  return ask("login", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ code }) });
}

export const run = (id) => `api/runs/${encodeURIComponent(id)}`;

// Calls `told` with the run's summary whenever it has more steps. The browser goes on where it was cut off.
export function follow(id, told) {
  const events = new EventSource(`/console/${run(id)}/live`);
  events.onmessage = (event) => told(JSON.parse(event.data));
  return () => events.close();
}
