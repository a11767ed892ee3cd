"use strict";

const SVG = "http://www.w3.org/2000/svg";
const percent = (value) => `${Math.round(value * 100)} %`;
const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
const clock = (seconds) => {
  const minutes = Math.floor(seconds / 60);
  const rest = seconds - 60 * minutes;
  return minutes ? `${minutes}:${rest.toFixed(1).padStart(4, "0")}` : `${rest.toFixed(1)} s`;
};

function shape(svg, name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  svg.append(element);
  return element;
}

/** Runs [first, last] of indices where `holds` is true. */
function runs(length, holds) {
  const found = [];
  for (let index = 0; index < length; index++) {
    if (!holds(index)) continue;
    if (found.length && found.at(-1)[1] === index - 1) found.at(-1)[1] = index;
    else found.push([index, index]);
  }
  return found;
}

/** Path of the area between two curves over the given runs; y grows downward, a point is one unit wide. */
function areaPath(spans, lower, upper) {
  return spans.map(([first, last]) => {
    const there = [], back = [];
    for (let index = first; index <= last; index++) {
      there.push(`${index} ${1 - upper(index)}`, `${index + 1} ${1 - upper(index)}`);
      back.unshift(`${index + 1} ${1 - lower(index)}`, `${index} ${1 - lower(index)}`);
    }
    return `M${there.join("L")}L${back.join("L")}Z`;
  }).join("");
}

function edgePath(spans, values) {
  return spans.map(([first, last]) => {
    const points = [];
    for (let index = first; index <= last; index++) {
      points.push(`${index} ${1 - values[index]}`, `${index + 1} ${1 - values[index]}`);
    }
    return `M${points.join("L")}`;
  }).join("");
}

/** The lanes of one face: emotions stacked, an area for each action unit, and a cursor that reads them. */
class Timeline {
  constructor(root, data) {
    this.root = root;
    this.data = data;
    this.length = data.times.length;
    this.cursor = root.querySelector(".cursor");
    this.auOutputs = [...root.querySelectorAll(".au output")];
    this.emotionOutput = root.querySelector(".emotions output");
    this.affectOutputs = [...root.querySelectorAll(".affect output")];
    this.plane = root.closest(".view").querySelector(".plane");
    this.index = null;
    this.draw();
    this.drawAffect();
    this.drawAxis();
    this.read(null);
    root.addEventListener("pointermove", (event) => this.read(this.indexAt(event.clientX)));
    root.addEventListener("pointerdown", (event) => this.read(this.indexAt(event.clientX)));
    root.addEventListener("pointerleave", () => this.read(null));
    root.addEventListener("keydown", (event) => this.step(event));
  }

  draw() {
    const { aus, emotions, thresholds, colors } = this.data;
    for (const svg of this.root.querySelectorAll(".plot")) {
      svg.setAttribute("viewBox", `0 0 ${this.length} 1`);
      svg.setAttribute("preserveAspectRatio", "none");
    }
    const stack = this.root.querySelector(".emotions .plot");
    const base = new Array(this.length).fill(0);
    emotions.forEach((values, order) => {
      const top = base.map((value, index) => value + (values[index] ?? 0));
      const low = [...base];
      const spans = runs(this.length, (index) => values[index] !== null);
      const area = shape(stack, "path", { d: areaPath(spans, (i) => low[i], (i) => top[i]) });
      area.style.fill = colors[order];
      top.forEach((value, index) => { base[index] = value; });
    });
    this.root.querySelectorAll(".au .plot").forEach((svg, au) => {
      const values = aus[au];
      const seen = runs(this.length, (index) => values[index] !== null);
      const active = runs(this.length, (index) => values[index] !== null && values[index] >= thresholds[au]);
      shape(svg, "path", { class: "area", d: areaPath(seen, () => 0, (i) => values[i]) });
      shape(svg, "path", { class: "active", d: areaPath(active, () => 0, (i) => values[i]) });
      shape(svg, "path", { class: "edge", d: edgePath(seen, values) });
      const level = 1 - thresholds[au];
      shape(svg, "line", { class: "level", x1: 0, x2: this.length, y1: level, y2: level });
    });
  }

  /** Valence and arousal: a curve around the middle of each lane, and the way through the plane. */
  drawAffect() {
    const affect = this.data.affect ?? [];
    this.root.querySelectorAll(".affect .plot").forEach((svg, dimension) => {
      const level = affect[dimension].map((value) => (value === null ? null : (value + 1) / 2));
      const seen = runs(this.length, (index) => level[index] !== null);
      const low = (index) => Math.min(level[index], 0.5), high = (index) => Math.max(level[index], 0.5);
      shape(svg, "path", { class: "area", d: areaPath(seen, low, high) });
      shape(svg, "path", { class: "edge", d: edgePath(seen, level) });
      shape(svg, "line", { class: "level", x1: 0, x2: this.length, y1: 0.5, y2: 0.5 });
    });
    if (!this.plane || affect.length < 2) return;
    const way = this.plane.querySelector(".way");
    const [valence, arousal] = affect;
    for (let index = 1; index < this.length; index++) {
      if (valence[index - 1] === null || valence[index] === null) continue;
      const step = { x1: valence[index - 1], y1: -arousal[index - 1], x2: valence[index], y2: -arousal[index] };
      shape(way, "line", step).style.opacity = 0.15 + (0.85 * index) / this.length;
    }
    if (this.length === 1) shape(way, "circle", { class: "spot", cx: valence[0], cy: -arousal[0], r: 0.03 });
  }

  drawAxis() {
    const ticks = document.createElement("div");
    ticks.className = "ticks";
    const { times } = this.data;
    const count = Math.min(matchMedia("(max-width: 640px)").matches ? 3 : 6, this.length);
    for (let tick = 0; tick < count; tick++) {
      const share = count > 1 ? tick / (count - 1) : 0;
      const label = document.createElement("span");
      label.textContent = clock(times[Math.round(share * (this.length - 1))]);
      label.style.left = `${share * 100}%`;
      ticks.append(label);
    }
    this.root.querySelector(".axis").append(ticks);
  }

  plotBox() {
    return this.root.querySelector(".plot").getBoundingClientRect();
  }

  indexAt(clientX) {
    const box = this.plotBox();
    const index = Math.floor(((clientX - box.left) / box.width) * this.length);
    return Math.max(0, Math.min(this.length - 1, index));
  }

  indexOf(time) {
    let best = 0;
    this.data.times.forEach((value, index) => {
      if (Math.abs(value - time) < Math.abs(this.data.times[best] - time)) best = index;
    });
    return best;
  }

  step(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    this.read(Math.max(0, Math.min(this.length - 1, (this.index ?? -1) + steps[event.key])));
  }

  readAffect(index) {
    const affect = this.data.affect ?? [];
    const values = affect.map((of) => (index === null ? null : of[index]));
    this.affectOutputs.forEach((output, dimension) => {
      const value = values[dimension];
      output.textContent = value === null ? (index === null ? "" : "no face") : signed(value);
      output.classList.toggle("active", value !== null);
    });
    const now = this.plane?.querySelector(".now");
    if (!now || affect.length < 2) return;
    now.toggleAttribute("hidden", values[0] === null);
    now.setAttribute("cx", values[0] ?? 0);
    now.setAttribute("cy", -(values[1] ?? 0));
  }

  /** Show the values of a point, or each lane's peak without one. */
  read(index) {
    this.index = index;
    const { times, aus, emotions, names, thresholds } = this.data;
    this.cursor.hidden = index === null;
    if (index !== null) {
      const box = this.plotBox(), root = this.root.getBoundingClientRect();
      this.cursor.style.left = `${box.left - root.left + ((index + 0.5) / this.length) * box.width}px`;
      this.cursor.dataset.time = clock(times[index]);
    }
    this.auOutputs.forEach((output, au) => {
      const value = index === null ? Math.max(...aus[au].map((v) => v ?? 0)) : aus[au][index];
      output.textContent = value === null ? "no face" : percent(value);
      output.classList.toggle("active", value !== null && value >= thresholds[au]);
    });
    this.readAffect(index);
    if (!this.emotionOutput) return;
    const values = index === null ? [null] : emotions.map((emotion) => emotion[index]);
    const best = values.indexOf(Math.max(...values));
    this.emotionOutput.textContent = values[0] === null ? "" : `${names[best]} ${percent(values[best])}`;
    this.emotionOutput.classList.toggle("active", values[0] !== null);
  }
}

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  const valueOf = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const numeric = head.classList.contains("number");
      const order = { ascending: "descending", descending: "ascending" }[head.getAttribute("aria-sort")]
        ?? (numeric ? "descending" : "ascending");
      const sign = order === "ascending" ? 1 : -1;
      const compare = numeric ? (a, b) => a - b : (a, b) => a.localeCompare(b, undefined, { numeric: true });
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => sign * compare(valueOf(a, column), valueOf(b, column)));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      table.tBodies[0].append(...rows);
    });
  });
}

function selectView(number) {
  document.querySelectorAll(".view").forEach((view, index) => { view.hidden = index !== number; });
  document.querySelectorAll(".views button").forEach((button, index) => {
    button.setAttribute("aria-pressed", String(index === number));
  });
  const root = document.querySelector(`#view-${number} .timeline`);
  if (root && !root.timeline) root.timeline = new Timeline(root, timelines[number]);
}

const timelines = JSON.parse(document.getElementById("timelines").textContent);
document.querySelectorAll(".views button").forEach((button) => {
  button.addEventListener("click", () => selectView(Number(button.dataset.view)));
});
document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll(".peak[data-time]").forEach((button) => {
  button.addEventListener("click", () => {
    const root = button.closest(".view").querySelector(".timeline");
    root.scrollIntoView({ behavior: "smooth", block: "center" });
    root.timeline.read(root.timeline.indexOf(Number(button.dataset.time)));
  });
});
selectView(0);
