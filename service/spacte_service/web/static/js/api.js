// Speaks to the gateway that served this page, and to nothing else.

const KEY = "spacte-api-key";

export const apiKey = {
  get: () => sessionStorage.getItem(KEY),
  set: (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY)),
};

/** A problem document that the gateway answered with, or a failure to reach it. */
export class ProblemError extends Error {
  constructor(status, problem) {
    super(problem?.detail ?? "The service could not be reached; check that it is running.");
    this.status = status;
    this.code = problem?.code ?? null;
  }
}

/** Fetch a path of this origin; throws ProblemError for anything that is not a success. */
export async function call(path, options = {}) {
  const headers = new Headers(options.headers);
  if (apiKey.get()) headers.set("Authorization", `Bearer ${apiKey.get()}`);
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ProblemError(0, null);
  }
  if (!response.ok) throw new ProblemError(response.status, await response.json().catch(() => null));
  return response;
}

export const getJson = async (path) => (await call(path)).json();

/** Events of a server-sent event stream, which may be the answer to a POST: yields {event, data}. */
export async function* events(path, options) {
  const response = await call(path, options);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      const event = parse(block);
      if (event !== null) yield event;
    }
  }
}

function parse(block) {
  let event = "message";
  const data = [];
  for (const line of block.split(/\r?\n/)) {
    if (line.startsWith("event:")) event = line.slice(6).trim();
    if (line.startsWith("data:")) data.push(line.slice(5).trim());
  }
  return data.length ? { event, data: JSON.parse(data.join("\n")) } : null;
}

/** Lines of an NDJSON answer. */
export async function* lines(path) {
  const response = await call(path);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    const parts = (rest + (value ?? "")).split("\n");
    rest = done ? "" : parts.pop();
    for (const part of parts) if (part.trim()) yield JSON.parse(part);
    if (done) return;
  }
}
