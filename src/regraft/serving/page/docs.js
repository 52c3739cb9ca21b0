// The OpenAPI document as a page.

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
  frame.tabIndex = 0; // so that keys can move what is wider than a phone
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

function shape({ schema }) {
  const kind = schema.type ?? schema.anyOf?.map((one) => one.type).join(" or ") ?? "";
  const bounds = [
    schema.minimum !== undefined ? `from ${schema.minimum}` : "",
    schema.maximum !== undefined ? `to ${schema.maximum}` : "",
    schema.default !== undefined && schema.default !== null ? `default ${schema.default}` : "",
  ];
  return [kind, ...bounds.filter(Boolean)].join(", ");
}

function operation(path, method, value) {
  const badge = make("span", method.toUpperCase());
  badge.className = "method";
  const parts = [make("h3", "", badge, code(path)), make("p", value.summary)];
  if (value.description) parts.push(Object.assign(make("p", value.description), { className: "quiet" }));
  const parameters = value.parameters ?? [];
  if (parameters.length) {
    parts.push(make("h4", "Parameters"));
    parts.push(table(["name", "in", "type", "meaning"], parameters.map((p) => [code(p.name), p.in, shape(p), p.description ?? ""])));
  }
  const bodies = Object.keys(value.requestBody?.content ?? {});
  if (bodies.length) {
    parts.push(make("h4", "Body"));
    parts.push(make("p", `${value.requestBody.description ?? ""} As ${bodies.join(", ")}.`));
  }
  for (const sample of value["x-codeSamples"] ?? []) {
    parts.push(make("h4", sample.label));
    parts.push(block(sample.source.replaceAll("http://127.0.0.1:8000", location.origin)));
  }
  parts.push(make("h4", "Answers"));
  parts.push(table(["status", "meaning", "type"], Object.entries(value.responses).map(([status, one]) => [status, one.description, Object.keys(one.content ?? {}).join(", ")])));
  const section = make("section", "", ...parts);
  section.className = "panel operation";
  return section;
}

const answer = await fetch("/openapi.json");
const described = await answer.json();
document.getElementById("about-text").textContent = `${described.info.description} Version ${described.info.version}.`.replaceAll("`", "");
const groups = new Map();
for (const [path, methods] of Object.entries(described.paths)) {
  for (const [method, value] of Object.entries(methods)) {
    const tag = value.tags?.[0] ?? "other";
    if (!groups.has(tag)) groups.set(tag, [make("h2", tag)]);
    groups.get(tag).push(operation(path, method, value));
  }
}
document.getElementById("operations").append(...[...groups.values()].flat());
