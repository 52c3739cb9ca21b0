// An image and its result.

import { predict } from "./api.js";

const template = document.getElementById("result");
const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;

export class Result {
  constructor(file, name, model) {
    this.file = file;
    this.name = name;
    this.model = model;
    this.address = URL.createObjectURL(file);
    this.element = template.content.firstElementChild.cloneNode(true);
    this.original = this.find(".original");
    this.original.alt = `Image ${name}`;
    this.original.addEventListener("error", () => this.showConverted(), { once: true });
    this.original.src = this.address;
    this.find(".file").textContent = name;
    this.find(".file").title = name;
    this.slider = this.find("input");
    this.slider.addEventListener("input", () => this.showHeatMap());
    this.heat = null;
  }

  find(selector) {
    return this.element.querySelector(selector);
  }

  /** Request the prediction and show it; returns a sentence for screen readers. */
  async answer() {
    let answer;
    try {
      answer = await predict(this.file, this.model.name, false);
    } catch (error) {
      this.state("failed", error.status === 422 ? "Unreadable image" : "No result", error.message);
      if (error.status === 401) throw error;
      return `${this.name}: ${error.message}`;
    }
    const best = `${answer.top[0].label}, ${percent(answer.confidence)}`;
    let text = `${this.name}: ${best}.`;
    if (answer.out_of_distribution) {
      this.state("rejected", "Out of distribution", "This image is unlike the training images, so the classes below mean little.");
      text = `${this.name}: out of distribution.`;
    } else if (answer.accepted === false) {
      this.state("rejected", "Not sure", `It may be “${answer.top[0].label}”, but the confidence is below the threshold.`);
      text = `${this.name}: not sure, perhaps ${best}.`;
    } else {
      this.state("", answer.top[0].label, "");
    }
    this.bars(answer.top);
    this.find(".evidence").hidden = !this.model.explains;
    this.slider.setAttribute("aria-valuetext", "hidden");
    return text;
  }

  state(kind, headline, note) {
    const article = this.find("article");
    article.classList.remove("rejected", "failed");
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
        value.textContent = percent(probability);
        track.setAttribute("aria-hidden", "true");
        track.append(fill);
        row.append(name, value, track);
        fill.style.width = "0";
        requestAnimationFrame(() => (fill.style.width = `${100 * probability}%`));
        return row;
      }),
    );
  }

  async showHeatMap() {
    const opacity = Number(this.slider.value);
    this.slider.setAttribute("aria-valuetext", opacity ? `${opacity} percent` : "hidden");
    const over = this.find(".heat");
    const show = () => (over.hidden = Number(this.slider.value) === 0 || !over.src);
    show();
    over.style.opacity = String(opacity / 100);
    const map = await this.heatMap();
    if (map && !over.src) {
      over.src = `data:image/png;base64,${map.heat}`;
      over.alt = `Heat map for ${map.label}`;
    }
    show();
  }

  /** The heat map, requested once. */
  heatMap() {
    this.heat ??= (async () => {
      const wait = this.find(".wait");
      wait.textContent = "(loading…)";
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

  /** Show a format that the browser cannot, such as TIFF: the server converts it. */
  async showConverted() {
    const show = (isShown) => {
      this.original.hidden = !isShown; // no icon of a broken image
      this.find(".missing").hidden = isShown;
    };
    show(false);
    const map = this.model.explains ? await this.heatMap() : null;
    if (!map) return;
    this.original.src = `data:image/jpeg;base64,${map.image}`;
    show(true);
  }

  /** Remove the result from the page. */
  remove() {
    URL.revokeObjectURL(this.address);
    this.element.remove();
  }
}
