// One picture with its answer.

import { predict } from "./api.js";

const template = document.getElementById("result");
const percent = new Intl.NumberFormat("en", { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });

export class Result {
  constructor(file, name, model) {
    this.file = file;
    this.name = name;
    this.model = model;
    this.address = URL.createObjectURL(file);
    this.element = template.content.firstElementChild.cloneNode(true);
    this.shown = this.find(".shown");
    this.shown.alt = `Picture ${name}`;
    this.shown.addEventListener("error", () => this.cannotShow(), { once: true });
    this.shown.src = this.address;
    this.find(".file").textContent = name;
    this.find(".file").title = name;
    this.slider = this.find("input");
    this.slider.addEventListener("input", () => this.showEvidence());
    this.heat = null;
  }

  find(selector) {
    return this.element.querySelector(selector);
  }

  /** Ask for the answer and show it; gives what a screen reader is told. */
  async answer() {
    let answer;
    try {
      answer = await predict(this.file, this.model.name, false);
    } catch (error) {
      this.state("failed", error.status === 422 ? "This cannot be read" : "No answer", error.message);
      if (error.status === 401) throw error;
      return `${this.name}: ${error.message}`;
    }
    const best = `${answer.top[0].label}, ${percent.format(answer.confidence)}`;
    let told = `${this.name}: ${best}`;
    if (answer.unknown) {
      this.state("doubtful", "Something else", "This looks like nothing that the model has learnt, so its classes mean little here.");
      told = `${this.name}: something else`;
    } else if (answer.sure === false) {
      this.state("doubtful", "Not sure", `It may be “${answer.top[0].label}”, but answers of this confidence are wrong too often.`);
      told = `${this.name}: not sure, maybe ${best}`;
    } else {
      this.state("", answer.top[0].label, "");
    }
    this.bars(answer.top);
    this.find(".evidence").hidden = !this.model.explains;
    this.slider.setAttribute("aria-valuetext", "hidden");
    return told;
  }

  state(kind, headline, note) {
    const article = this.find("article");
    article.classList.remove("doubtful", "failed");
    if (kind) article.classList.add(kind);
    this.find(".headline").textContent = headline;
    this.find(".note").textContent = note;
  }

  bars(top) {
    const list = this.find(".bars");
    list.replaceChildren(
      ...top.map(({ label, probability }) => {
        const row = document.createElement("li");
        const [name, value, track, fill] = ["name", "value", "track", "fill"].map((kind) => {
          const part = document.createElement("span");
          part.className = kind;
          return part;
        });
        name.textContent = label;
        value.textContent = percent.format(probability);
        track.setAttribute("aria-hidden", "true");
        track.append(fill);
        row.append(name, value, track);
        fill.style.width = "0";
        requestAnimationFrame(() => (fill.style.width = `${100 * probability}%`));
        return row;
      }),
    );
  }

  async showEvidence() {
    const share = Number(this.slider.value);
    this.slider.setAttribute("aria-valuetext", share ? `${share} percent` : "hidden");
    const over = this.find(".heat");
    over.hidden = share === 0;
    over.style.opacity = String(share / 100);
    const map = await this.explained();
    if (map && !over.src) {
      over.src = `data:image/png;base64,${map.heat}`;
      over.alt = `Bright where the evidence for ${map.label} lies`;
    }
  }

  /** The heat map, asked for once. */
  explained() {
    this.heat ??= (async () => {
      const wait = this.find(".wait");
      wait.textContent = "(asking…)";
      try {
        return (await predict(this.file, this.model.name, true)).heat_map;
      } catch (error) {
        this.find(".note").textContent = error.message;
        this.heat = null;
        return null;
      } finally {
        wait.textContent = "";
      }
    })();
    return this.heat;
  }

  /** The browser does not know the format, such as TIFF; the server does. */
  async cannotShow() {
    this.shown.alt = `${this.name}, which this browser cannot show`;
    const map = this.model.explains ? await this.explained() : null;
    if (map) this.shown.src = `data:image/jpeg;base64,${map.image}`;
    else this.shown.classList.add("blank");
  }

  /** Forget the picture. */
  leave() {
    URL.revokeObjectURL(this.address);
    this.element.remove();
  }
}
