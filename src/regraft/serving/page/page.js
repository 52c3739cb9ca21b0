// The page: pictures come in by the buttons, by drag and drop, by paste or from the camera; answers go out as a list.

import * as api from "./api.js";
import { setUpCamera } from "./camera.js";
import { Result } from "./result.js";

const $ = (id) => document.getElementById(id);
const AT_ONCE = 2; // requests
const KEPT = 60; // answers
let known = [];
let shown = [];
let waiting = [];
let running = 0;
let taken = 0;

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

const chosen = () => known.find((model) => model.name === $("model").value) ?? known[0];

async function start() {
  try {
    const answer = await api.models();
    known = answer.models;
  } catch (error) {
    $("token-form").hidden = error.status !== 401;
    $("model-line").textContent = error.status === 401 ? "" : error.message;
    return;
  }
  $("token-form").hidden = true;
  $("model").replaceChildren(...known.map(({ name }) => new Option(name, name)));
  $("model-choice").hidden = known.length < 2;
  about();
  next();
}

function about() {
  const model = chosen();
  const few = model.classes.slice(0, 4).join(", ");
  const rest = model.classes.length - 4;
  $("model-line").textContent = `${model.name} tells apart: ${few}${rest > 0 ? ` and ${rest} more` : ""}.`;
  const rows = [...model.facts, { title: "Version", text: model.version }];
  $("facts").replaceChildren(
    ...rows.flatMap(({ title, text }) => {
      const [term, value] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = title;
      value.textContent = text;
      return [term, value];
    }),
  );
  $("classes").replaceChildren(
    ...model.classes.map((name) => {
      const item = document.createElement("li");
      item.textContent = name;
      return item;
    }),
  );
  $("card").hidden = !model.has_card;
  $("card").open = false;
  $("card-text").textContent = "";
  $("about").hidden = false;
}

function add(files) {
  const pictures = [...files];
  if (!pictures.length) return;
  if (!known.length) {
    say("The server has no model ready. Try again in a moment.", true);
    return;
  }
  for (const file of pictures) {
    const result = new Result(file, file.name || `picture ${++taken}`, chosen());
    shown.unshift(result);
    waiting.push(result);
    $("results").prepend(result.element);
  }
  for (const result of shown.splice(KEPT)) result.leave();
  $("session").hidden = false;
  next();
}

async function next() {
  while (running < AT_ONCE && waiting.length) {
    const result = waiting.shift();
    if (!shown.includes(result)) continue;
    running++;
    result
      .answer()
      .then(
        (told) => say(waiting.length ? `${told}. ${waiting.length} more to go.` : told),
        () => {
          waiting.unshift(result);
          $("token-form").hidden = false;
          known = [];
        },
      )
      .finally(() => {
        running--;
        if (known.length) next();
      });
  }
}

$("choose").addEventListener("click", () => $("files").click());
for (const id of ["files", "capture"]) {
  $(id).addEventListener("change", ({ target }) => {
    add(target.files);
    target.value = ""; // the same file may be chosen again
  });
}
$("clear").addEventListener("click", () => {
  for (const result of shown) result.leave();
  shown = [];
  waiting = [];
  $("session").hidden = true;
  say("The answers are gone.");
  $("choose").focus();
});
$("model").addEventListener("change", about);
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  api.useToken($("token").value);
  start();
});
$("card").addEventListener("toggle", async () => {
  if (!$("card").open || $("card-text").textContent) return;
  try {
    // Without what stands in front for programs.
    $("card-text").textContent = (await api.card(chosen().name)).replace(/^---\n[^]*?\n---\n+/, "");
  } catch (error) {
    $("card-text").textContent = error.message;
  }
});

// The whole window takes what is dropped, so that a picture that misses the frame does not replace the page.
let depth = 0;
const carries = (event) => event.dataTransfer?.types.includes("Files");
window.addEventListener("dragenter", (event) => {
  if (carries(event)) $("drop").classList.toggle("over", ++depth > 0);
});
window.addEventListener("dragleave", (event) => {
  if (carries(event)) $("drop").classList.toggle("over", --depth > 0);
});
window.addEventListener("dragover", (event) => {
  if (carries(event)) event.preventDefault();
});
window.addEventListener("drop", (event) => {
  if (!carries(event)) return;
  event.preventDefault();
  depth = 0;
  $("drop").classList.remove("over");
  add(event.dataTransfer.files);
});
window.addEventListener("paste", (event) => add(event.clipboardData?.files ?? []));
setUpCamera($("take"), $("capture"), (blob) => add([blob]), (text) => say(text, true));
start();
