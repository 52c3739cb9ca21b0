// Requests to the server. An error has a `status` and a message.

let token = "";
/** Set the token that requests send. */
export function useToken(value) {
  token = value;
}

export class RequestError extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

const MAX_TRIES = 4; // requests to a busy server
const ROOT = new URL("..", import.meta.url); // behind a proxy, this server may have a path of its own

async function request(address, options = {}) {
  for (let tries = 1; ; tries++) {
    const headers = { ...options.headers };
    if (token) headers.Authorization = `Bearer ${token}`;
    let response;
    try {
      response = await fetch(new URL(address, ROOT), { ...options, headers });
    } catch {
      throw new RequestError(0, "The server cannot be reached.");
    }
    if (response.ok) return response;
    const wait = Number(response.headers.get("Retry-After"));
    if ((response.status === 429 || response.status === 503) && wait && tries < MAX_TRIES) {
      await new Promise((resolve) => setTimeout(resolve, 1000 * Math.min(wait, 10)));
      continue;
    }
    let detail = `The server responded with status ${response.status}.`;
    try {
      detail = (await response.json()).detail ?? detail;
    } catch {
      // no problem details, such as from a proxy
    }
    throw new RequestError(response.status, detail);
  }
}

/** The served models. */
export async function models() {
  return (await request("models")).json();
}

/** The model card as Markdown. */
export async function card(name) {
  return (await request(`models/${encodeURIComponent(name)}/card`)).text();
}

/** The prediction for an image, with so many classes. */
export async function predict(file, model, explain, count = 5) {
  const query = new URLSearchParams({ model, top_k: String(count), explain: String(explain) });
  const answer = await request(`predict?${query}`, {
    method: "POST",
    headers: { "Content-Type": "application/octet-stream" },
    body: file,
  });
  return (await answer.json()).images[0];
}
