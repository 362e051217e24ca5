// Shows the state of the run that /events sends. The server draws the curves. Everything else is built here from DOM
// nodes, never from markup, because names of workers and classes are not trusted.
"use strict";

const DRAW_EVERY = 2000;
const RETRY_AFTER = 5000;
const by = (id) => document.getElementById(id);
let scale = "fitting";
let held = false;
let drawn = { key: "", at: 0, done: Promise.resolve() };
let last = null;
let lastAt = null;
let source = null;

function element(name, text, attributes = {}) {
  const space = ["svg", "rect", "text", "line", "g", "title"].includes(name) ? "http://www.w3.org/2000/svg" : null;
  const made = space ? document.createElementNS(space, name) : document.createElement(name);
  if (text !== null && text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

const known = (value) => value !== null && value !== undefined;
const count = (value) => Math.round(value).toLocaleString("en");
const percent = (share) => (100 * share).toFixed(2) + "\u00a0%";
const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (text ? "." : "");
function short(value) {
  const size = Math.abs(value);
  if (size >= 1000 && size < 1e6) return value.toLocaleString("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
  return value === 0 || (size >= 0.001 && size < 1000) ? value.toFixed(4) : value.toExponential(2);
}
function time(seconds) {
  const ms = 1000 * seconds;
  if (ms < 0.005) return "0 s";
  if (ms < 100) return ms.toFixed(ms < 1 ? 2 : ms < 10 ? 1 : 0) + " ms";
  if (seconds < 120) return seconds.toFixed(seconds < 10 ? 2 : 1) + " s";
  if (seconds < 7200) return Math.floor(seconds / 60) + " min " + Math.floor(seconds % 60) + " s";
  return count(Math.floor(seconds / 3600)) + " h " + Math.floor((seconds / 60) % 60) + " min";
}

const roughly = (seconds) => (seconds < 120 ? Math.max(1, Math.round(seconds)) + " s" : time(seconds));

// Shows a state of the run. The promise is fulfilled once the curves are drawn.
function show(run) {
  last = run;
  lastAt = new Date();
  const { about } = run;
  const share = run.phase === "done" ? 1 : run.step / about.steps;
  by("name").textContent = about.name;
  document.title = `${run.phase === "training" ? Math.floor(100 * share) + " %" : run.phase} · ${about.name} · Downhill`;
  by("phase").textContent = run.phase;
  by("phase").className = "badge " + run.phase;
  by("about").textContent = [
    about.model, `${count(about.parameters)} parameters`, `${count(about.samples)} training samples`,
    `step ${count(run.step)} of ${count(about.steps)}`, `epoch ${count(run.epoch)} of ${count(about.epochs)}`,
  ].join(" · ");
  by("progress").value = share;
  const left = known(run.seconds_left) ? `${about.may_end_early ? "at most " : ""}about ${roughly(run.seconds_left)} left` : "";
  by("state").textContent = sentence([run.state, left].filter(Boolean).join("; "));
  by("link").hidden = true;
  result(run);
  tiles(run);
  workers(run);
  by("tainted").hidden = !run.tainted;
  by("bans-card").hidden = !run.bans.length;
  by("bans").replaceChildren(...run.bans.map((ban) => element("li", ban)));
  if (!held) rounds(run.rounds);
  confusion(run);
  events(run.events);
  return draw(run);
}

function result({ about, files, over, phase, summary }) {
  by("result-card").hidden = !over || !(summary || files.length);
  by("result-title").textContent = summary ? "Result" : "Files";
  const rows = summary ? [
    ["Training time", time(summary.seconds)],
    ["Throughput", `${count(summary.samples_per_second)} samples/s`],
    ["Slowest worker", summary.slowest && `${summary.slowest.worker}: steps waited ${time(summary.slowest.waited_seconds)} for this worker alone`],
    ["Step size", summary.steps_taken && summary.steps_taken.verdict],
    ["Weights SHA-256", summary.weights_sha256],
  ] : [];
  rows.push(["Folder", about.folder]);
  by("result").replaceChildren(...rows.filter(([, value]) => value).flatMap(([name, value]) => [element("dt", name), element("dd", value, name === "Weights SHA-256" ? { class: "hash" } : {})]));
  by("files").replaceChildren(...files.map((file) => element("a", file, { href: "/results/" + file })));
  const parts = summary ? ["train", "validation", "test"].filter((part) => summary[part]) : [];
  const columns = [["samples", "samples", count], ["loss", "loss", short], ["accuracy", "accuracy", percent], ["R²", "r_squared", short]]
    .filter(([, key]) => parts.some((part) => known(summary[part][key])));
  const head = element("tr");
  head.append(element("th", ""), ...columns.map(([name]) => element("th", name, { class: "number" })));
  const lines = parts.map((part) => {
    const line = element("tr");
    const name = part === "train" ? "training" : part;
    line.append(element("th", name), ...columns.map(([, key, text]) =>
      element("td", known(summary[part][key]) ? text(summary[part][key]) : "–", { class: "number" })));
    return line;
  });
  by("measures").replaceChildren(...(lines.length ? [head, ...lines] : []));
}

function tiles(run) {
  const { summary, validation } = run;
  by("tiles").hidden = Boolean(summary);
  const shown = [
    ["loss of the last batch", run.loss, short],
    ["accuracy of the last batch", run.accuracy, percent],
    ["validation loss", validation && validation.loss, short],
    ["validation accuracy", validation && validation.accuracy, percent],
    ["validation R²", validation && validation.r_squared, short],
    ["learning rate", run.learning_rate, short],
    ["samples/s", run.samples_per_second, count],
    ["training time", run.seconds, time],
    ["step of the last checkpoint", run.checkpoint && run.checkpoint.step, count],
    ["leaves reassigned", run.rescued || null, count],
  ];
  const made = shown.filter(([, value]) => known(value)).map(([name, value, text]) => {
    const tile = element("div", null, { class: "tile" });
    tile.append(element("b", text(value)), element("span", name));
    return tile;
  });
  by("tiles").replaceChildren(...made);
}

function workers({ about, over, workers: rows }) {
  by("workers-card").hidden = !rows.length && (over || about.trains_alone);
  const columns = [
    ["worker", (row) => row.name],
    ["address", (row) => row.address],
    ["state", (row) => row.state],
    ["leaves pending", (row) => count(row.leaves), "live"],
    ["sums sent", (row) => count(row.sums)],
    ["leaves/s", (row) => count(row.speed)],
    ["last heard from", (row) => (row.silent_ms < 1000 ? "now" : time(row.silent_ms / 1000) + " ago"), "live"],
    ["steps waited for it", (row) => time(row.held_up_ms / 1000)],
  ].filter(([, , live]) => !(live && over));
  const head = element("tr");
  const kind = (index) => (index > 2 ? { class: "number" } : {});
  columns.forEach(([name], index) => head.append(element("th", name, kind(index))));
  const body = rows.map((row) => {
    const line = element("tr");
    columns.forEach(([name, text], index) => {
      // On a narrow screen, each cell is on its own line after its heading.
      const cell = element("td", null, { ...kind(index), "data-name": name });
      const value = element("span", text(row));
      if (name === "state") value.prepend(element("span", null, { class: "dot " + row.standing }));
      cell.append(value);
      line.append(cell);
    });
    return line;
  });
  if (!rows.length) {
    const line = element("tr");
    line.append(element("td", "No worker is connected.", { colspan: columns.length, class: "none" }));
    body.push(line);
  }
  by("workers").replaceChildren(head, ...body);
}

// Draws a lane for each worker: its work, followed by the time it waited for others until the round was over.
function rounds(list) {
  by("rounds-card").hidden = !list.length;
  if (!list.length) return;
  const lanes = [...new Set(list.flatMap((round) => round.spans.map((span) => span.lane)))].sort();
  const began = list[0].began, ended = list[list.length - 1].ended;
  const width = Math.max(by("rounds").clientWidth, 240), height = 24, isNarrow = width < 560;
  const left = isNarrow ? 84 : 150, letters = isNarrow ? 11 : 22;
  const x = (at) => left + ((at - began) / Math.max(ended - began, 1e-9)) * (width - left - 4);
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
      bar("idle", span.lane, span.until, round.ended, `${span.lane} waited ${waits} in step ${count(round.step)}`);
      bar("gradient", span.lane, span.from, span.until, `${span.lane}: ${span.detail} of step ${count(round.step)} in ${took}`);
    }
    for (const span of round.spans.filter((span) => span.what === "update"))
      bar("update", span.lane, span.from, span.until, `update of step ${count(round.step)} in ${time(span.until - span.from)}`);
    if (work.length > 1) {
      const order = [...work].sort((a, b) => b.until - a.until);
      const wait = order[0].until - order[1].until;
      if (!slowest || wait > slowest.wait) slowest = { wait, lane: order[0].lane, step: round.step };
    }
  }
  lanes.forEach((lane, index) => {
    const text = lane.length > letters ? lane.slice(0, letters - 1) + "…" : lane;
    picture.append(element("text", text, { x: 0, y: index * height + 16 }));
  });
  const axis = lanes.length * height + 18;
  const [first, final] = [list[0].step, list[list.length - 1].step];
  const steps = first === final ? `step ${count(first)}` : `steps ${count(first)} to ${count(final)}`;
  picture.append(element("text", steps, { x: left, y: axis, class: "axis" }));
  picture.append(element("text", time(ended - began), { x: width - 4, y: axis, class: "axis", "text-anchor": "end" }));
  by("rounds").replaceChildren(picture);
  by("waited").textContent = slowest
    ? `The longest wait in these rounds: ${time(slowest.wait)} for ${slowest.lane} alone, in step ${count(slowest.step)}.` : "";
}

function confusion(run) {
  const seen = run.confusion;
  by("confusion-card").hidden = !seen || seen.counts.length > 40;
  if (by("confusion-card").hidden) return;
  const names = run.about.classes;
  const total = seen.counts.flat().reduce((sum, n) => sum + n, 0);
  const right = seen.counts.reduce((sum, row, index) => sum + row[index], 0);
  const most = Math.max(1, ...seen.counts.flatMap((row, index) => row.filter((_, other) => other !== index)));
  by("confusion-about").textContent =
    `${percent(right / Math.max(total, 1))} of ${count(total)} samples predicted correctly after step ${count(seen.step)}. ` +
    "Rows: true class; columns: predicted class.";
  const head = element("tr");
  head.append(element("th", ""), ...names.map((name) => element("th", name)));
  const rows = seen.counts.map((row, index) => {
    const line = element("tr");
    line.append(element("th", names[index]));
    row.forEach((n, other) => {
      const cell = element("td", n ? (n < 10000 ? n : count(n)) : "·", n ? {} : { class: "zero" });
      if (n) cell.style.backgroundColor = index === other
        ? "color-mix(in srgb, var(--green) 35%, transparent)"
        : `color-mix(in srgb, var(--bad) ${Math.round(15 + (60 * n) / most)}%, transparent)`;
      cell.title = `${count(n)} of class ${names[index]} predicted as ${names[other]}`;
      line.append(cell);
    });
    return line;
  });
  by("confusion").style.minWidth = `${26 * (names.length + 1)}px`;
  by("confusion").replaceChildren(head, ...rows);
}

function events(list) {
  by("events-card").hidden = !list.length;
  by("events").replaceChildren(...list.map((event) => element("li", `step ${count(event.step)}: ${event.text}`)));
}

function draw(run) {
  const key = [run.process, run.drawn, scale, run.charts.join("|"), innerWidth].join();
  const now = Date.now();
  const isDue = !drawn.key || drawn.force || run.over || now - drawn.at >= DRAW_EVERY;
  if (run.charts.length && key !== drawn.key && isDue) drawn = { key, at: now, force: false, done: fetchCharts(run, key) };
  return drawn.done;
}

async function fetchCharts(run, key) {
  const whole = by("charts").clientWidth;
  const width = Math.round(whole / Math.max(1, Math.floor((whole + 12) / 392))) - 12;
  const drawings = run.charts.map(async (title, number) => {
    const answer = await fetch(`/chart/${number}?width=${width}&scale=${scale}`);
    if (!answer.ok) return null;
    const svg = new DOMParser().parseFromString(await answer.text(), "image/svg+xml").documentElement;
    svg.setAttribute("viewBox", `0 0 ${svg.getAttribute("width")} ${svg.getAttribute("height")}`);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", title);
    const figure = element("figure");
    figure.append(element("figcaption", title), svg);
    return figure;
  });
  try {
    const figures = await Promise.all(drawings);
    // A newer drawing may have begun in the meantime.
    if (key === drawn.key) by("charts").replaceChildren(...figures.filter(Boolean));
  } catch {
    // The process has exited; the existing curves are kept.
  }
}

// Before it exits, the server waits a few seconds for its open streams to be closed. Once the page shows the end of the
// run, a stream that the server does not wait for detects when the process exits.
function listen(isAfterEnd) {
  if (source) source.close();
  const mine = source = new EventSource(isAfterEnd ? "/events?after_end=yes" : "/events");
  mine.onmessage = async (event) => {
    const run = JSON.parse(event.data);
    // Another process now serves its run at this address.
    if (isAfterEnd && !run.over) return listen(false);
    await show(run);
    if (run.over && !isAfterEnd && mine === source) listen(true);
  };
  mine.onerror = () => {
    lost();
    if (mine.readyState === EventSource.CLOSED && mine === source) setTimeout(() => mine === source && listen(isAfterEnd), RETRY_AFTER);
  };
}

function lost() {
  const notice = by("link");
  if (!notice.hidden) return;
  notice.hidden = false;
  if (!last) {
    notice.textContent = "No connection to the process.";
    return;
  }
  notice.classList.toggle("bad", !last.over);
  if (last.over) {
    notice.textContent = `The process has ended. Last state received: ${last.phase}.`;
    by("files").replaceChildren();
    return;
  }
  by("phase").textContent = "no connection";
  by("phase").className = "badge lost";
  // The remaining time is no longer known.
  by("state").textContent = "";
  document.title = `no connection · ${last.about.name} · Downhill`;
  notice.textContent =
    "No connection: the process has ended or cannot be reached. " +
    `Last state received at ${lastAt.toLocaleTimeString("en", { hour12: false })}: ${last.phase}, ` +
    `step ${count(last.step)} of ${count(last.about.steps)}.`;
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
// Redraws once the window has kept its size for a moment.
let resized = 0;
addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => {
    drawn.force = true;
    if (!last) return;
    rounds(last.rounds);
    draw(last);
  }, 200);
});
listen(false);
