"use strict";

const $ = (id) => document.getElementById(id);
const hue = (generation) => (160 + generation * 67) % 360;

let serving = Number(document.body.dataset.generation);
document.documentElement.style.setProperty("--hue", hue(serving));

let last = serving;

// Twice in a row: an old generation answers each connection that the browser kept open once more.
function seen(who) {
  const twice = who.generation === last;
  last = who.generation;
  if (!twice || who.generation === serving) return;
  serving = who.generation;
  document.documentElement.style.setProperty("--hue", hue(serving));
  $("badge").querySelector(".number").textContent = serving;
  $("greeting").textContent = who.greeting;
  $("badge").classList.remove("moult");
  void $("badge").offsetWidth;
  $("badge").classList.add("moult");
}

// --- one request after the other, counted ---

const strip = $("strip");
for (let i = 0; i < 60; i++) strip.append(document.createElement("i"));
let answered = 0, lost = 0, slowest = 0;

async function ask() {
  const block = document.createElement("i");
  const started = performance.now();
  try {
    const response = await fetch("/whoami", { cache: "no-store" });
    if (!response.ok) throw new Error(response.status);
    const who = await response.json();
    slowest = Math.max(slowest, performance.now() - started);
    answered++;
    block.className = "ok";
    block.style.setProperty("--g", hue(who.generation));
    $("worker").textContent = who.worker;
    seen(who);
  } catch {
    lost++;
    block.className = "lost";
    $("lost").classList.add("bad");
  }
  strip.prepend(block);
  strip.lastChild.remove();
  $("answered").textContent = answered;
  $("lost").textContent = lost;
  $("slowest").textContent = `${Math.round(slowest)} ms`;
  setTimeout(ask, 200);
}
ask();

// --- the list of notes ---

function link(id, open, who) {
  $(id).classList.toggle("open", open);
  $(id).textContent = open ? `live from generation ${who.generation}` : "connecting";
}

function show(notes) {
  $("notes").replaceChildren(...notes.map((note) => {
    const item = document.createElement("li");
    const text = document.createElement("span");
    const when = document.createElement("small");
    text.textContent = note.text;
    when.textContent = `${note.clock} · g${note.generation}`;
    item.append(text, when);
    return item;
  }));
  if (!notes.length) {
    const item = document.createElement("li");
    item.className = "empty";
    item.textContent = "Nothing here yet.";
    $("notes").append(item);
  }
}

// --- handlers: who has which name ---

function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

function away(history) {
  if (history.length < 2) return "";
  if (!history[1].until) return "taken over";
  const milliseconds = Math.max(0, history[0].since - history[1].until) * 1000;
  return `passed on in ${milliseconds < 10 ? milliseconds.toFixed(1) : Math.round(milliseconds)} ms`;
}

function showHandlers(terms) {
  const names = Object.entries(terms);
  if (!names.length) return;
  $("handlers").replaceChildren(...names.map(([name, history]) => {
    const [now] = history;
    const tile = make("article", undefined, now.until ? "nobody" : "");
    tile.style.setProperty("--g", hue(now.generation));
    const head = make("header");
    head.append(make("b", name), make("span", `epoch ${now.epoch} · g${now.generation}`));
    const past = make("div", undefined, "terms");
    for (const term of [...history].reverse()) {
      const block = make("i");
      block.style.setProperty("--g", hue(term.generation));
      block.title = `epoch ${term.epoch}, generation ${term.generation}`;
      past.append(block);
    }
    const task = make("p", now.until ? "nobody has this name now" : now.task ? `reads “${now.task}”` : "waits for work");
    task.className = now.task ? "task busy" : "task";
    const facts = [`${now.reports} reports`, away(history)].filter(Boolean);
    tile.append(head, past, task, make("small", facts.join(" · ")));
    return tile;
  }));
}

// A small picture of a digest: five columns, the right ones mirrored.
function picture(digest) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 5 5");
  for (let i = 0; i < 15; i++) {
    if (parseInt(digest[i], 16) % 2) continue;
    for (const x of new Set([i % 3, 4 - (i % 3)])) {
      const cell = document.createElementNS("http://www.w3.org/2000/svg", "path");
      cell.setAttribute("d", `M${x} ${Math.floor(i / 3)}h1v1h-1z`);
      svg.append(cell);
    }
  }
  return svg;
}

function showReports(reports) {
  $("reports").replaceChildren(...reports.map((report) => {
    const item = make("li");
    item.style.setProperty("--g", hue(report.generation));
    const text = make("span", report.text);
    const words = `${report.words} ${report.words === 1 ? "word" : "words"}, longest “${report.longest.slice(0, 24)}”`;
    text.append(make("small", words));
    item.append(picture(report.digest), text, make("small", `${report.name} · epoch ${report.epoch} · g${report.generation}`, "by"));
    return item;
  }));
}

$("order").addEventListener("click", async () => {
  const { taken } = await (await fetch("/reports", { method: "POST" })).json();
  $("order").textContent = taken ? `Order 20 reports (${taken} sent)` : "Write a note first";
});

// --- jobs: programs that outlive a restart ---

function showJobs(jobs) {
  if (!jobs.length) return;
  $("jobs").replaceChildren(...jobs.map((job) => {
    const item = make("li", undefined, job.state);
    const bar = make("progress");
    bar.max = job.total || 1;
    if (job.state === "ok") bar.value = bar.max;
    else if (job.total) bar.value = job.done;
    else if (job.state !== "running") bar.value = 0;
    const said = job.state === "ok" ? `${job.result?.pages ?? job.done} pages, ${job.result?.lines ?? "?"} lines`
      : job.error || (job.total ? `${job.done} of ${job.total}` : "");
    item.append(make("b", `job ${job.id}`), bar, make("span", said), make("small", `${job.state} · ${job.handler}`, "by"));
    return item;
  }));
}

$("print").addEventListener("click", async () => {
  const response = await fetch("/booklets", { method: "POST" });
  const sent = response.ok ? `job ${(await response.json()).job} is stored` : "not possible";
  $("print").textContent = `Print a booklet (${sent})`;
});

function connect(wait = 100) {
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/live`);
  socket.onmessage = (message) => {
    const { who, notes, reports, terms, jobs } = JSON.parse(message.data);
    wait = 100;
    link("socket", true, who);
    show(notes);
    showHandlers(terms);
    showReports(reports);
    showJobs(jobs);
  };
  // 1012: the generation that held this connection is going; the next one is there already.
  socket.onclose = (event) => {
    link("socket", false);
    setTimeout(connect, event.code === 1012 ? 50 : wait, Math.min(wait * 2, 3000));
  };
}
connect();

$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = event.target.elements.text;
  const response = await fetch("/notes", { method: "POST", body: new URLSearchParams({ text: field.value }) });
  if (response.ok) field.value = "";
});

// --- the clock: an EventSource connects again by itself ---

const events = new EventSource("/events");
events.onmessage = (message) => {
  const who = JSON.parse(message.data);
  link("stream", true, who);
  $("clock").textContent = new Date(who.time * 1000).toLocaleTimeString("en-GB");
};
events.onerror = () => link("stream", false);

// --- a slow request ---

$("slow").addEventListener("click", async () => {
  const line = document.createElement("li");
  line.textContent = `waiting (sent while generation ${serving} served) …`;
  $("slowlog").prepend(line);
  while ($("slowlog").children.length > 4) $("slowlog").lastChild.remove();
  try {
    const who = await (await fetch("/slow?seconds=5", { cache: "no-store" })).json();
    line.textContent = `answered by generation ${who.generation} after ${who.seconds} s; generation ${serving} serves now`;
  } catch {
    line.textContent = "failed";
  }
});
