// The page: images arrive by buttons, drag and drop, paste or camera; results are listed.

import * as api from "./api.js";
import { setUpCamera } from "./camera.js";
import { Result } from "./result.js";

const $ = (id) => document.getElementById(id);
const MAX_REQUESTS = 2; // at the same time
const MAX_RESULTS = 60;
let models = [];
let results = [];
let waiting = [];
let running = 0;
let photos = 0;

function showStatus(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

const chosenModel = () => models.find((model) => model.name === $("model").value) ?? models[0];

async function start() {
  try {
    const answer = await api.models();
    models = answer.models;
  } catch (error) {
    $("token-form").hidden = error.status !== 401;
    $("model-line").textContent = error.status === 401 ? "" : error.message;
    return;
  }
  $("token-form").hidden = true;
  $("model").replaceChildren(...models.map(({ name }) => new Option(name, name)));
  $("model-choice").hidden = models.length < 2;
  about();
  next();
}

function about() {
  const model = chosenModel();
  const names = model.classes.slice(0, 4).join(", ");
  const rest = model.classes.length - 4;
  const verb = { multilabel: "finds any of", regression: "predicts" }[model.task] ?? "classifies";
  $("model-line").textContent = `${model.name} ${verb}: ${names}${rest > 0 ? ` and ${rest} more` : ""}.`;
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
  const images = [...files];
  if (!images.length) return;
  if (!models.length) {
    showStatus("The server has no model yet. Try again in a moment.", true);
    return;
  }
  for (const file of images) {
    const result = new Result(file, file.name || `photo ${++photos}`, chosenModel());
    results.unshift(result);
    waiting.push(result);
    $("results").prepend(result.element);
  }
  for (const result of results.splice(MAX_RESULTS)) result.remove();
  $("session").hidden = false;
  next();
}

async function next() {
  while (running < MAX_REQUESTS && waiting.length) {
    const result = waiting.shift();
    if (!results.includes(result)) continue;
    running++;
    result
      .answer()
      .then(
        (text) => showStatus(waiting.length ? `${text} ${waiting.length} remaining.` : text),
        () => {
          waiting.unshift(result);
          $("token-form").hidden = false;
          models = [];
        },
      )
      .finally(() => {
        running--;
        if (models.length) next();
      });
  }
}

$("choose").addEventListener("click", () => $("files").click());
for (const id of ["files", "capture"]) {
  $(id).addEventListener("change", ({ target }) => {
    add(target.files);
    target.value = ""; // so that the same file can be chosen again
  });
}
$("clear").addEventListener("click", () => {
  for (const result of results) result.remove();
  results = [];
  waiting = [];
  $("session").hidden = true;
  showStatus("Results cleared.");
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
    // Without the metadata block.
    $("card-text").textContent = (await api.card(chosenModel().name)).replace(/^---\n[^]*?\n---\n+/, "");
  } catch (error) {
    $("card-text").textContent = error.message;
  }
});

// The whole window accepts drops, so that an image dropped beside the frame does not replace the page.
let depth = 0;
const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
window.addEventListener("dragenter", (event) => {
  if (hasFiles(event)) $("drop").classList.toggle("over", ++depth > 0);
});
window.addEventListener("dragleave", (event) => {
  if (hasFiles(event)) $("drop").classList.toggle("over", --depth > 0);
});
window.addEventListener("dragover", (event) => {
  if (hasFiles(event)) event.preventDefault();
});
window.addEventListener("drop", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  depth = 0;
  $("drop").classList.remove("over");
  add(event.dataTransfer.files);
});
window.addEventListener("paste", (event) => add(event.clipboardData?.files ?? []));
setUpCamera($("take"), $("capture"), (blob) => add([blob]), (text) => showStatus(text, true));
start();
