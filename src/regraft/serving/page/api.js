// What the page asks of the server. An error has `status`, and `detail` for people.

let token = "";
/** Send this token from now on. */
export function useToken(value) {
  token = value;
}

export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

const PATIENCE = 4; // times that a busy server is asked again

async function ask(address, options = {}) {
  for (let tries = 1; ; tries++) {
    const headers = { ...options.headers };
    if (token) headers.Authorization = `Bearer ${token}`;
    let response;
    try {
      response = await fetch(address, { ...options, headers });
    } catch {
      throw new Refused(0, "The server cannot be reached.");
    }
    if (response.ok) return response;
    const wait = Number(response.headers.get("Retry-After"));
    if ((response.status === 429 || response.status === 503) && wait && tries < PATIENCE) {
      await new Promise((resolve) => setTimeout(resolve, 1000 * Math.min(wait, 10)));
      continue;
    }
    let detail = `The server answered with ${response.status}.`;
    try {
      detail = (await response.json()).detail ?? detail;
    } catch {
      // no problem body, such as from a proxy
    }
    throw new Refused(response.status, detail);
  }
}

/** The models that are served. */
export async function models() {
  return (await ask("/models")).json();
}

/** A model's card as Markdown. */
export async function card(name) {
  return (await ask(`/models/${encodeURIComponent(name)}/card`)).text();
}

/** The answer for one picture. */
export async function predict(file, model, explain) {
  const query = new URLSearchParams({ model, top_k: "5", explain: String(explain) });
  const answer = await ask(`/predict?${query}`, {
    method: "POST",
    headers: { "Content-Type": "application/octet-stream" },
    body: file,
  });
  return (await answer.json()).images[0];
}
