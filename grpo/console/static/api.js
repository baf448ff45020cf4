// What the pages ask the server.

export class Problem extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

let page = new AbortController();

// A page is left: what it still waits for is nobody's business any more.
export function turnedOver() {
  page.abort();
  page = new AbortController();
}

export async function reach(path, options = null) {
  const answer = await fetch(`/console/${path}`, { credentials: "same-origin", ...(options ?? { signal: page.signal }) });
  if (!answer.ok) throw new Problem(answer.status, await reason(answer));
  return answer;
}

export const ask = async (path, options) => (await reach(path, options)).json();
export const asJson = (content, method = "POST") => ({ method, headers: { "content-type": "application/json" }, body: JSON.stringify(content) });
export const login = (code) => ask("login", asJson({ code }));
export const run = (id) => `api/runs/${encodeURIComponent(id)}`;

// Lists are repeated; what is empty is left out.
export const query = (values) => new URLSearchParams(Object.entries(values).flatMap(([name, value]) => [value].flat().map((one) => [name, one]))
  .filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== false)).toString();

async function reason(answer) {
  const text = await answer.text();
  try {
    const { error, detail } = JSON.parse(text);
    return error ? `${error.param ? `${error.param}: ` : ""}${error.message}` : detail ?? text;
  } catch {
    return text || `HTTP ${answer.status}`;
  }
}

// Calls `told` with the run's summary whenever its steps or its status change. The browser goes on where it was cut off.
// A tab that nobody sees listens to nothing: a browser has six connections to a server.
export function follow(id, told, lost) {
  let events = null;
  const listen = () => {
    events?.close();
    if (document.hidden) return;
    events = new EventSource(`/console/${run(id)}/live`);
    events.onmessage = (event) => told(JSON.parse(event.data));
    events.onerror = () => { if (events.readyState === EventSource.CLOSED) lost(); };
  };
  document.addEventListener("visibilitychange", listen);
  listen();
  return () => { document.removeEventListener("visibilitychange", listen); events?.close(); };
}

// The parts of an answer that an engine streams.
export async function* streamed(path, body, signal) {
  const answer = await reach(path, { ...asJson({ ...body, stream: true }), signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const part = JSON.parse(line.slice(6));
      if (part.error) throw new Problem(500, part.error.message);
      yield part;
    }
  }
}
