// Shows what /events tells. Curves are drawn by the server; everything else is built here, as nodes and never from text
// that is taken for markup, for names of workers and classes come from elsewhere.
"use strict";

const DRAW_EVERY = 2000;
const by = (id) => document.getElementById(id);
let scale = "fitting";
let held = false;
let drawn = { key: "", at: 0 };
let last = null;

function element(name, text, attributes = {}) {
  const space = ["svg", "rect", "text", "line", "g", "title"].includes(name) ? "http://www.w3.org/2000/svg" : null;
  const made = space ? document.createElementNS(space, name) : document.createElement(name);
  if (text !== null && text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

const count = (value) => Math.round(value).toLocaleString("en");
const percent = (share) => (100 * share).toFixed(2) + " %";
function short(value) {
  if (value === 0 || (Math.abs(value) >= 0.001 && Math.abs(value) < 1e5)) return value.toFixed(4);
  return value.toExponential(2);
}
function time(seconds) {
  if (seconds < 0.1) return (1000 * seconds).toFixed(seconds < 0.01 ? 2 : 1) + " ms";
  if (seconds < 120) return seconds.toFixed(seconds < 10 ? 2 : 1) + " s";
  if (seconds < 7200) return Math.floor(seconds / 60) + " min " + Math.floor(seconds % 60) + " s";
  return Math.floor(seconds / 3600) + " h " + Math.floor((seconds / 60) % 60) + " min";
}

function show(run) {
  last = run;
  const { about } = run;
  by("name").textContent = about.name;
  document.title = `${run.step === about.steps ? "done" : Math.floor((100 * run.step) / about.steps) + " %"} · ${about.name} · Downhill`;
  by("about").textContent =
    `${about.model}, ${count(about.parameters)} parameters, ${count(about.samples)} training samples; ` +
    `step ${count(run.step)} of ${count(about.steps)}, epoch ${run.epoch} of ${about.epochs}`;
  by("progress").value = run.step / about.steps;
  const left = run.seconds_left && !run.ended ? `; about ${time(run.seconds_left)} left` : "";
  by("state").textContent = (run.ended ? `The run is over: ${run.ended}` : run.state + (run.waited >= 1 ? `, for ${time(run.waited)}` : "")) + left;
  tiles(run);
  workers(run.workers);
  if (!held) rounds(run.rounds);
  confusion(run);
  events(run.events);
  by("results-card").hidden = !run.results;
  draw(run);
}

function tiles(run) {
  const validation = run.validation;
  const shown = [
    ["loss", run.loss, short],
    ["accuracy", run.accuracy, percent],
    ["validation loss", validation && validation.loss, short],
    ["validation accuracy", validation && validation.accuracy, percent],
    ["validation R²", validation && validation.r_squared, short],
    ["learning rate", run.learning_rate, short],
    ["samples a second", run.samples_per_second, count],
    ["trained for", run.seconds, time],
    ["last checkpoint", run.checkpoint && run.checkpoint.step, (step) => "step " + count(step)],
    ["leaves rescued", run.rescued || null, count],
  ];
  const tiles = shown.filter(([, value]) => value !== null && value !== undefined).map(([name, value, text]) => {
    const tile = element("div", null, { class: "tile" });
    tile.append(element("b", text(value)), element("span", name));
    return tile;
  });
  by("tiles").replaceChildren(...tiles);
}

function workers(rows) {
  const columns = ["worker", "address", "state", "leaves to do", "sums", "leaves/s", "silent for", "waited for alone"];
  const head = element("tr");
  columns.forEach((name, index) => head.append(element("th", name, index > 2 ? { class: "number" } : {})));
  const body = rows.map((row) => {
    const line = element("tr");
    const state = element("td");
    state.append(element("span", null, { class: "dot " + row.state.split(" ")[0] }), row.state);
    line.append(element("td", row.name), element("td", row.address), state);
    const numbers = [count(row.leaves), count(row.sums), count(row.speed), time(row.silent_ms / 1000), time(row.held_up_ms / 1000)];
    numbers.forEach((text) => line.append(element("td", text, { class: "number" })));
    return line;
  });
  if (!rows.length) {
    const line = element("tr");
    line.append(element("td", "Nobody but this process.", { colspan: columns.length, class: "none" }));
    body.push(line);
  }
  by("workers").replaceChildren(head, ...body);
}

// A lane for each worker: its work, and behind it the time until the round was over, in which it waited for others.
function rounds(list) {
  if (!list.length) return;
  const lanes = [...new Set(list.flatMap((round) => round.spans.map((span) => span.lane)))].sort();
  const began = list[0].began, ended = list[list.length - 1].ended;
  const left = 150, width = 1000, height = 24;
  const x = (at) => left + ((at - began) / Math.max(ended - began, 1e-9)) * (width - left - 10);
  const picture = element("svg", null, { viewBox: `0 0 ${width} ${lanes.length * height + 26}`, role: "img" });
  picture.setAttribute("aria-label", "who worked when in the last rounds");
  const bar = (kind, lane, from, until, words) => {
    const rect = element("rect", null, {
      class: kind, x: x(from), y: lanes.indexOf(lane) * height + 4, width: Math.max(x(until) - x(from), 0.8), height: height - 8, rx: 2,
    });
    rect.append(element("title", words));
    picture.append(rect);
  };
  let slowest = null;
  for (const round of list) {
    picture.append(element("line", null, { x1: x(round.ended), x2: x(round.ended), y1: 0, y2: lanes.length * height }));
    const work = round.spans.filter((span) => span.what === "gradient");
    for (const span of work) {
      const took = time(span.until - span.from), waits = time(round.ended - span.until);
      bar("idle", span.lane, span.until, round.ended, `${span.lane} waited ${waits} in step ${round.step}`);
      bar("gradient", span.lane, span.from, span.until, `${span.lane}: ${span.detail} of step ${round.step} in ${took}`);
    }
    for (const span of round.spans.filter((span) => span.what === "update"))
      bar("update", span.lane, span.from, span.until, `update of step ${round.step} in ${time(span.until - span.from)}`);
    if (work.length > 1) {
      const order = [...work].sort((a, b) => b.until - a.until);
      const wait = order[0].until - order[1].until;
      if (!slowest || wait > slowest.wait) slowest = { wait, lane: order[0].lane, step: round.step };
    }
  }
  lanes.forEach((lane, index) => {
    picture.append(element("text", lane.length > 22 ? lane.slice(0, 21) + "…" : lane, { x: 0, y: index * height + 16 }));
  });
  const axis = lanes.length * height + 18;
  picture.append(element("text", `steps ${list[0].step} to ${list[list.length - 1].step}`, { x: left, y: axis, class: "axis" }));
  picture.append(element("text", time(ended - began), { x: width - 10, y: axis, class: "axis", "text-anchor": "end" }));
  by("rounds").replaceChildren(picture);
  by("waited").textContent = slowest
    ? `The longest wait of these rounds: ${time(slowest.wait)} for ${slowest.lane} alone, in step ${slowest.step}.` : "";
}

function confusion(run) {
  const seen = run.confusion;
  by("confusion-card").hidden = !seen;
  if (!seen || seen.counts.length > 40) return;
  const names = run.about.classes;
  const wrong = seen.counts.flatMap((row, index) => row.filter((_, other) => other !== index));
  const most = Math.max(1, ...wrong), all = seen.counts.flat().reduce((sum, n) => sum + n, 0);
  const right = seen.counts.reduce((sum, row, index) => sum + row[index], 0);
  by("confusion-about").textContent =
    `After ${count(seen.step)} steps ${percent(right / Math.max(all, 1))} of ${count(all)} samples were predicted right. ` +
    "A row is a class, a column what its samples were taken for.";
  const head = element("tr");
  head.append(element("th", ""), ...names.map((name) => element("th", name)));
  const rows = seen.counts.map((row, index) => {
    const line = element("tr");
    line.append(element("th", names[index]));
    row.forEach((n, other) => {
      const cell = element("td", n ? count(n) : "·", n ? {} : { class: "zero" });
      if (n) cell.style.backgroundColor = index === other
        ? "color-mix(in srgb, var(--green) 35%, transparent)"
        : `color-mix(in srgb, var(--bad) ${Math.round(15 + (60 * n) / most)}%, transparent)`;
      cell.title = `${n} of class ${names[index]} taken for ${names[other]}`;
      line.append(cell);
    });
    return line;
  });
  by("confusion").replaceChildren(head, ...rows);
}

function events(list) {
  by("events-card").hidden = !list.length;
  by("events").replaceChildren(...list.map((event) => element("li", `step ${count(event.step)}: ${event.text}`)));
}

async function draw(run) {
  const key = [run.drawn, scale, run.charts.join("|"), innerWidth].join();
  const now = Date.now();
  if (!run.charts.length || key === drawn.key || (drawn.key && now - drawn.at < DRAW_EVERY && !run.ended && !drawn.force)) return;
  drawn = { key, at: now, force: false };
  const width = Math.round(by("charts").clientWidth / Math.max(1, Math.floor(by("charts").clientWidth / 432))) - 12;
  const figures = await Promise.all(run.charts.map(async (title, number) => {
    const answer = await fetch(`/chart/${number}?width=${width}&scale=${scale}`);
    if (!answer.ok) return null;
    const svg = new DOMParser().parseFromString(await answer.text(), "image/svg+xml").documentElement;
    svg.setAttribute("viewBox", `0 0 ${svg.getAttribute("width")} ${svg.getAttribute("height")}`);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", title);
    const figure = element("figure");
    figure.append(element("figcaption", title), svg);
    return figure;
  }));
  by("charts").replaceChildren(...figures.filter(Boolean));
}

function badge(text, kind) {
  by("live").textContent = text;
  by("live").className = "badge " + kind;
}

document.querySelectorAll("[data-scale]").forEach((button) => button.addEventListener("click", () => {
  scale = button.dataset.scale;
  document.querySelectorAll("[data-scale]").forEach((other) => other.setAttribute("aria-pressed", other === button));
  drawn.force = true;
  if (last) draw(last);
}));
by("pause").addEventListener("click", () => {
  held = !held;
  by("pause").setAttribute("aria-pressed", held);
});
// Once it has come to rest.
let resized = 0;
addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => {
    drawn.force = true;
    if (last) draw(last);
  }, 200);
});

const source = new EventSource("/events");
source.onmessage = (event) => {
  const run = JSON.parse(event.data);
  badge(run.ended ? "over" : "live", run.ended ? "" : "live");
  show(run);
};
source.onerror = () => badge(last && last.ended ? "over" : "not reached", last && last.ended ? "" : "lost");
