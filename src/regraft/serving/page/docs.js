// Show the OpenAPI document as a page.

const ROOT = new URL("..", import.meta.url);

function make(name, text, ...children) {
  const element = document.createElement(name);
  if (text) element.textContent = text.replaceAll("`", "");
  element.append(...children);
  return element;
}

function table(titles, rows) {
  const head = make("tr", "", ...titles.map((title) => Object.assign(make("th", title), { scope: "col" })));
  const body = rows.map((cells) => make("tr", "", ...cells.map((cell) => (cell instanceof Node ? make("td", "", cell) : make("td", cell)))));
  const frame = make("div", "", make("table", "", make("thead", "", head), make("tbody", "", ...body)));
  frame.className = "scroll";
  frame.tabIndex = 0; // so that the keyboard can scroll a wide table
  frame.role = "group";
  frame.ariaLabel = `Table of ${titles.join(", ")}`;
  return frame;
}

const code = (text) => make("code", text);

function block(text) {
  const pre = make("pre", text);
  pre.tabIndex = 0;
  return pre;
}

function describeType({ schema }) {
  const kind = schema.type ?? schema.anyOf?.map((one) => one.type).join(" or ") ?? "";
  const bounds = [
    [
      schema.minimum !== undefined ? `from ${schema.minimum}` : "",
      schema.maximum !== undefined ? `to ${schema.maximum}` : "",
    ].join(" ").trim(),
    schema.default !== undefined && schema.default !== null ? `default ${schema.default}` : "",
  ];
  return [kind, ...bounds.filter(Boolean)].join(", ");
}

function field(label, input) {
  const frame = make("label", label);
  frame.append(input);
  return frame;
}

/** A form that sends a request to this server and shows the answer. */
function tryIt(path, method, value) {
  const inputs = (value.parameters ?? [])
    .filter((one) => one.in !== "header")
    .map((one) => [one, Object.assign(make("input"), { required: Boolean(one.required), placeholder: String(one.schema.default ?? "") })]);
  const content = value.requestBody?.content ?? {};
  const files = "multipart/form-data" in content;
  let body = null;
  if (files) body = Object.assign(make("input"), { type: "file", accept: "image/*", multiple: true, required: true });
  else if (value.requestBody) {
    const [example] = Object.values(content["application/json"].examples ?? {});
    body = Object.assign(make("textarea"), { rows: 6, value: JSON.stringify(example?.value ?? {}, null, 1) });
  }
  const status = make("p");
  status.role = "status";
  const answer = block("");
  answer.hidden = true;
  const send = Object.assign(make("button", "Send"), { type: "submit" });
  const fields = inputs.map(([one, input]) => field(one.name, input));
  if (body) fields.push(field(files ? "image files" : "JSON body", body));
  const form = make("form", "", ...fields, send, status, answer);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    send.disabled = true;
    status.textContent = "Sending…";
    let address = path;
    const query = new URLSearchParams();
    for (const [one, input] of inputs) {
      if (one.in === "path") address = address.replace(`{${one.name}}`, encodeURIComponent(input.value));
      else if (input.value) query.set(one.name, input.value);
    }
    const options = { method: method.toUpperCase(), headers: {} };
    const token = document.getElementById("token").value;
    if (token) options.headers.Authorization = `Bearer ${token}`;
    if (files) {
      options.body = new FormData();
      for (const file of body.files) options.body.append("image", file);
    } else if (body) {
      options.headers["Content-Type"] = "application/json";
      options.body = body.value;
    }
    try {
      const response = await fetch(new URL(`${address.slice(1)}${query.size ? `?${query}` : ""}`, ROOT), options);
      const text = await response.text();
      status.textContent = `Status ${response.status}`;
      answer.textContent = /json/.test(response.headers.get("Content-Type")) ? JSON.stringify(JSON.parse(text), null, 1) : text;
      answer.hidden = !text;
    } catch {
      status.textContent = "The server cannot be reached.";
    }
    send.disabled = false;
  });
  const details = make("details", "", make("summary", "Try it out"), form);
  return details;
}

function operation(path, method, value) {
  const badge = make("span", method.toUpperCase());
  badge.className = "method";
  const parts = [make("h3", "", badge, code(path)), make("p", value.summary)];
  if (value.description) parts.push(Object.assign(make("p", value.description), { className: "quiet" }));
  const parameters = value.parameters ?? [];
  if (parameters.length) {
    parts.push(make("h4", "Parameters"));
    parts.push(table(["name", "in", "type", "meaning"], parameters.map((p) => [code(p.name), p.in, describeType(p), p.description ?? ""])));
  }
  const bodies = Object.keys(value.requestBody?.content ?? {});
  if (bodies.length) {
    parts.push(make("h4", "Body"));
    parts.push(make("p", `${value.requestBody.description ?? ""} As ${bodies.join(", ")}.`));
  }
  for (const sample of value["x-codeSamples"] ?? []) {
    parts.push(make("h4", sample.label));
    parts.push(block(sample.source.replaceAll("http://127.0.0.1:8000/", ROOT.href)));
  }
  parts.push(make("h4", "Responses"));
  parts.push(table(["status", "meaning", "type"], Object.entries(value.responses).map(([status, one]) => [status, one.description, Object.keys(one.content ?? {}).join(", ").replaceAll("/", "/\u200b")])));
  parts.push(tryIt(path, method, value));
  const section = make("section", "", ...parts);
  section.className = "panel operation";
  return section;
}

const answer = await fetch(new URL("openapi.json", ROOT));
const spec = await answer.json();
document.getElementById("about-text").textContent = `${spec.info.description} Version ${spec.info.version}.`.replaceAll("`", "");
document.getElementById("access").hidden = !spec.components.securitySchemes;
const groups = new Map();
for (const [path, methods] of Object.entries(spec.paths)) {
  for (const [method, value] of Object.entries(methods)) {
    const tag = value.tags?.[0] ?? "other";
    if (!groups.has(tag)) groups.set(tag, [make("h2", tag)]);
    groups.get(tag).push(operation(path, method, value));
  }
}
document.getElementById("operations").append(...[...groups.values()].flat());
