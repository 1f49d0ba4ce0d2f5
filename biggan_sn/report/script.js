"use strict";
// The page can be read without this. It reads values off curves, and shows one point of a sweep.
document.documentElement.classList.add("js");

const SVG = "http://www.w3.org/2000/svg";

function written(value) {
  return Number.isFinite(value) ? String(Number(value.toPrecision(4))) : "not finite";
}

function nearest(points, step) {
  return points.reduce((a, b) => (Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a));
}

function readable(plot) {
  const svg = plot.querySelector("svg");
  const figure = plot.closest("figure");
  const values = [...figure.querySelectorAll(".legend b")]; // one for each line
  const last = values.map((value) => value.textContent);
  const lines = [...svg.querySelectorAll("path.line")].map((path) => ({
    name: path.dataset.name,
    points: path.dataset.values.split(";").map((pair) => pair.split(",").map(Number)),
  }));
  const [left, right, top, bottom, width] = plot.dataset.frame.split(" ").map(Number);
  const readout = figure.querySelector(".readout");
  const aloud = document.createElement("span");
  aloud.className = "aloud";
  const steps = [...new Set(lines.flatMap((line) => line.points.map((point) => point[0])))];
  steps.sort((a, b) => a - b);
  const [low, high] = [Number(plot.dataset.low), Number(plot.dataset.high)];
  const cursor = document.createElementNS(SVG, "line");
  cursor.setAttribute("class", "cursor");
  cursor.setAttribute("y1", top);
  cursor.setAttribute("y2", bottom);
  let at = null;

  function show(index) {
    at = Math.max(0, Math.min(steps.length - 1, index));
    const x = left + ((right - left) * (steps[at] - low)) / (high - low);
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    svg.append(cursor);
    const words = lines.map((line, number) => {
      const [step, value] = nearest(line.points, steps[at]);
      const told = written(value) + (step === steps[at] ? "" : ` (at ${step})`);
      values[number].textContent = told;
      return `${line.name} ${told}`;
    });
    aloud.textContent = `: ${words.join(", ")}`;
    readout.replaceChildren(`step ${steps[at]}`, aloud);
  }

  function leave() {
    at = null;
    cursor.remove();
    readout.replaceChildren();
    values.forEach((value, number) => (value.textContent = last[number]));
  }

  function follow(event) {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * width;
    const step = low + ((high - low) * (x - left)) / (right - left);
    show(steps.indexOf(nearest(steps.map((known) => [known]), step)[0]));
  }

  const moves = {
    ArrowLeft: () => show(at === null ? steps.length - 1 : at - 1),
    ArrowRight: () => show(at === null ? 0 : at + 1),
    Home: () => show(0),
    End: () => show(steps.length - 1),
    Escape: leave,
  };
  plot.addEventListener("pointermove", follow);
  plot.addEventListener("pointerdown", follow);
  plot.addEventListener("pointerleave", leave);
  plot.addEventListener("focus", () => show(at === null ? steps.length - 1 : at));
  plot.addEventListener("blur", leave);
  plot.addEventListener("keydown", (event) => {
    if (!(event.key in moves)) return;
    event.preventDefault();
    moves[event.key]();
  });
}

function sliding(viewer) {
  const figures = [...viewer.querySelectorAll(".point")];
  const slides = [...viewer.querySelectorAll(".slide")].map((slide) => {
    const input = slide.querySelector("input");
    return {
      slide,
      input,
      output: slide.querySelector("output"),
      points: input.dataset.points.split(" "),
      names: input.dataset.names.split(";"),
    };
  });
  const modes = [...viewer.querySelectorAll(".modes input")];
  const now = { name: "" };

  function choose(mode, place) {
    const { input, output, points, names } = slides[mode];
    const number = points[place];
    now.name = names[place];
    slides.forEach((other, index) => (other.slide.hidden = index !== mode));
    modes.forEach((choice, index) => (choice.checked = index === mode));
    input.value = place;
    input.setAttribute("aria-valuetext", now.name);
    output.textContent = now.name;
    figures.forEach((figure) => (figure.hidden = figure.id !== `point-${number}`));
    viewer.querySelectorAll(".jump").forEach((jump) =>
      jump.toggleAttribute("aria-current", jump.getAttribute("href") === `#point-${number}`));
  }

  function find(number) {
    const mode = slides.findIndex((slide) => slide.points.includes(number));
    if (mode >= 0) choose(mode, slides[mode].points.indexOf(number));
    return mode >= 0;
  }

  function jump(hash) {
    const number = /^#point-(\d+)$/.exec(hash);
    if (number && find(number[1])) viewer.scrollIntoView({ block: "start" });
  }

  slides.forEach((slide, mode) =>
    slide.input.addEventListener("input", () => choose(mode, Number(slide.input.value))));
  modes.forEach((choice, mode) =>
    choice.addEventListener("change", () => {
      const same = slides[mode].names.indexOf(now.name); // the same truncation, where it is there
      choose(mode, same >= 0 ? same : Number(slides[mode].input.value));
    }));
  document.querySelectorAll('a[href^="#point-"]').forEach((link) =>
    link.addEventListener("click", (event) => {
      event.preventDefault();
      jump(link.getAttribute("href"));
    }));
  window.addEventListener("hashchange", () => jump(location.hash));
  viewer.querySelector(".controls").hidden = false;
  find(viewer.dataset.first);
  jump(location.hash);
}

window.addEventListener("error", (event) => {
  document.documentElement.dataset.error = event.message;
});
document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".plot[data-low]").forEach(readable);
  document.querySelectorAll("#viewer").forEach(sliding);
  document.documentElement.dataset.ready = "yes";
});
