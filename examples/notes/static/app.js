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

function connect(wait = 100) {
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/live`);
  socket.onmessage = (message) => {
    const { who, notes } = JSON.parse(message.data);
    wait = 100;
    link("socket", true, who);
    show(notes);
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
