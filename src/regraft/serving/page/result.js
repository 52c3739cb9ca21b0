// An image and its result.

import { predict } from "./api.js";

const template = document.getElementById("result");
const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;
const digits = (value) => String(Number(value.toPrecision(4)));
const MAX_CLASSES = 1000; // of an answer of the server
const SHOWN = 8; // bars at first, beside those of all labels
const MAPS = 8; // labels with a heat map, as in the server

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
    this.several = model.task === "multilabel";
    this.which = this.find(".which select");
    this.which.addEventListener("change", () => this.showHeatMap());
    this.find(".more button").addEventListener("click", () => this.showAll());
    this.heat = null;
  }

  find(selector) {
    return this.element.querySelector(selector);
  }

  /** Request the prediction and show it; returns a sentence for screen readers. */
  async answer() {
    let answer;
    try {
      const count = this.several ? Math.min(this.model.classes.length, MAX_CLASSES) : 5;
      answer = await predict(this.file, this.model.name, false, count);
    } catch (error) {
      this.state("failed", error.status === 422 ? "Unreadable image" : "No result", error.message);
      if (error.status === 401) throw error;
      return `${this.name}: ${error.message}`;
    }
    const show = { multilabel: this.showLabels, regression: this.showNumber }[this.model.task] ?? this.showClass;
    const text = show.call(this, answer);
    this.find(".evidence").hidden = !this.model.explains;
    this.slider.setAttribute("aria-valuetext", "hidden");
    return text;
  }

  /** Show the most likely class, or the node of a tree that is sure, and the way to it from the top. */
  showClass(answer) {
    const best = `${answer.top[0].label}, ${percent(answer.top[0].probability)}`;
    const path = (answer.levels ?? []).map(({ label, probability }) => `${label} ${percent(probability)}`).join(" › ");
    let text = `${this.name}: ${answer.label}, ${percent(answer.confidence)}.`;
    if (answer.out_of_distribution) {
      this.state("rejected", "Out of distribution", "This image is unlike the training images, so the classes below mean little.");
      text = `${this.name}: out of distribution.`;
    } else if (answer.accepted === false) {
      this.state("rejected", "Not sure", `It may be “${answer.top[0].label}”, but the confidence is below the threshold.`);
      text = `${this.name}: not sure, perhaps ${best}.`;
    } else {
      this.state("", answer.label, path);
    }
    this.bars(answer.top.map((row, place) => ({ ...row, chosen: place === 0 })));
    return text;
  }

  /** Show a number with its interval. */
  showNumber(answer) {
    const number = `${digits(answer.value)}`;
    const between = answer.interval ? `Probably between ${digits(answer.interval[0])} and ${digits(answer.interval[1])}.` : "";
    let text = `${this.name}: ${answer.quantity} ${number}. ${between}`;
    if (answer.out_of_distribution) {
      this.state("rejected", "Out of distribution", `This image is unlike the training images, so ${number} means little.`);
      text = `${this.name}: out of distribution.`;
    } else {
      this.state("", `${answer.quantity}: ${number}`, between);
    }
    this.which.replaceChildren(...["higher", "lower"].map((way) => new Option(`${way} ${answer.quantity}`, way)));
    this.find(".which").hidden = false;
    return text;
  }

  /** Show the labels of an image that may have any number, and how near the others are to their thresholds. */
  showLabels(answer) {
    const chosen = answer.labels ?? answer.top.filter(({ probability, threshold }) => probability >= threshold);
    const labels = chosen.map(({ label }) => label);
    const names = labels.join(", ") || "None of the labels";
    let text = `${this.name}: ${names}.`;
    if (answer.out_of_distribution) {
      this.state("rejected", "Out of distribution", "This image is unlike the training images, so the labels below mean little.");
      text = `${this.name}: out of distribution.`;
    } else {
      this.state("", names, "");
    }
    const others = answer.top.filter(({ label }) => !labels.includes(label));
    this.bars([...chosen.map((row) => ({ ...row, chosen: true })), ...others.map((row) => ({ ...row, chosen: false }))]);
    this.find(".legend").hidden = false;
    const explained = labels.length ? labels.slice(0, MAPS) : [answer.top[0].label];
    this.which.replaceChildren(...explained.map((name) => new Option(name, name)));
    this.find(".which").hidden = explained.length < 2;
    return text;
  }

  /** Show the bars of all classes. */
  showAll() {
    for (const row of this.find(".bars").children) row.hidden = false;
    this.find(".more").hidden = true;
  }

  state(kind, headline, note) {
    const article = this.find("article");
    article.classList.remove("rejected", "failed");
    if (kind) article.classList.add(kind);
    this.find(".headline").textContent = headline;
    this.find(".note").textContent = note;
  }

  bars(rows) {
    const list = this.find(".bars");
    list.replaceChildren(
      ...rows.map(({ label, probability, threshold, chosen }, place) => {
        const row = document.createElement("li");
        row.classList.toggle("chosen", chosen);
        row.hidden = place >= SHOWN && !chosen;
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
        if (threshold !== undefined) {
          const limit = document.createElement("span");
          limit.className = "limit";
          limit.style.left = `${100 * Math.min(threshold, 1)}%`;
          track.append(limit);
          const spoken = document.createElement("span");
          spoken.className = "spoken";
          spoken.textContent = `, threshold ${percent(threshold)}`;
          value.append(spoken);
          row.title = `Threshold ${percent(threshold)}`;
        }
        fill.style.width = "0";
        requestAnimationFrame(() => (fill.style.width = `${100 * probability}%`));
        return row;
      }),
    );
    const hidden = [...list.children].filter((row) => row.hidden).length;
    this.find(".more").hidden = !hidden;
    this.find(".more button").textContent = `Show all ${rows.length} labels`;
  }

  async showHeatMap() {
    const opacity = Number(this.slider.value);
    this.slider.setAttribute("aria-valuetext", opacity ? `${opacity} percent` : "hidden");
    const over = this.find(".heat");
    const show = () => (over.hidden = Number(this.slider.value) === 0 || !over.src);
    show();
    over.style.opacity = String(opacity / 100);
    const map = await this.heatMap();
    const wanted = [map, ...(map?.others ?? [])].find((one) => one && (!this.which.options.length || one.label === this.which.value));
    if (wanted && over.alt !== `Heat map for ${wanted.label}`) {
      over.src = `data:image/png;base64,${wanted.heat}`;
      over.alt = `Heat map for ${wanted.label}`;
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
