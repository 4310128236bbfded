// Keeps the page as the server painted it up to date: one event stream, whole snapshots, rows
// matched by key. Names of tasks, queues and workers are other people's text: only textContent and
// attributes are ever set.

const $ = (id) => document.getElementById(id);
const ICONS = new URL("icons.svg", import.meta.url).pathname;
const STATES = new Set(["queued", "parked", "delayed", "running", "cancelling", "succeeded",
  "failed", "cancelled", "lost", "expired"]);
const SILENCE_MS = 40_000; // The server says something at least every 15 s.

let newest = null;
let skew = 0; // The server's clock less ours, in seconds.

// --- how things are said; creche.dashboard.app has the same for the first paint ------------------

const pad = (n) => String(n).padStart(2, "0");
const count = (n) => n.toLocaleString("en-US");

function duration(s) {
  if (s < 1) return `${Math.round(Math.max(0, s) * 1000)} ms`;
  if (s < 60) return `${s.toFixed(1)} s`;
  const minutes = Math.floor(s / 60);
  if (minutes < 60) return `${minutes} min ${pad(Math.floor(s) % 60)} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${pad(minutes % 60)} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

const clock = (at) => (at === null ? "–" : new Date(at * 1000).toISOString().slice(11, 19));
const now = () => (newest.reachable ? Date.now() / 1000 + skew : newest.seen_at ?? newest.at);

// --- small changes to the document: nothing is touched that is the same --------------------------

function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function show(node, isShown) {
  if (node.hidden === isShown) node.hidden = !isShown;
}

function number(node, n) {
  let span = node.firstElementChild;
  if (!span) node.append((span = document.createElement("span")));
  say(span, count(n));
  span.className = n ? "" : "zero";
}

function icon(holder, name) {
  if (holder.dataset.icon === name) return;
  holder.dataset.icon = name;
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `${ICONS}#${name}`);
  svg.append(use);
  holder.replaceChildren(svg);
}

const field = (row, name) => row.querySelector(`[data-f="${name}"]`);

/** Make the keyed children of `parent` those of `items`, in order, moving as few as possible. */
function sync(parent, selector, template, items, key, fill) {
  const old = new Map();
  for (const row of parent.querySelectorAll(selector)) old.set(row.dataset.key, row);
  const isFirst = old.size === 0;
  let last = null;
  for (const item of items) {
    let row = old.get(key(item));
    if (row) old.delete(key(item));
    else {
      row = template.content.querySelector(selector).cloneNode(true);
      if (!isFirst) row.classList.add("arrived");
    }
    row.dataset.key = key(item);
    fill(row, item);
    const place = last ? last.nextElementSibling : parent.querySelector(selector);
    if (place !== row) {
      if (last) last.after(row);
      else if (place) place.before(row);
      else parent.append(row);
    }
    last = row;
  }
  for (const row of old.values()) row.remove();
}

// --- rows ----------------------------------------------------------------------------------------

function fillQueue(body, queue) {
  say(field(body, "queue"), queue.queue);
  say(field(body, "state"), queue.state);
  number(field(body, "running"), queue.running);
  for (const lane of queue.lanes) {
    const row = body.querySelector(`[data-priority="${lane.priority}"]`);
    number(field(row, "ready"), lane.ready);
    number(field(row, "stored"), lane.stored);
    number(field(row, "parked"), lane.parked);
    const reasons = lane.parked_by.map((by) => `${count(by.jobs)} ${by.reason}`);
    if (lane.parked_by_left_out) reasons.push(`and for ${lane.parked_by_left_out} more reasons`);
    const list = field(row, "parked_by");
    while (list.children.length > reasons.length) list.lastElementChild.remove();
    reasons.forEach((reason, i) => {
      say(list.children[i] ?? list.appendChild(document.createElement("li")), reason);
    });
  }
}

function fillWorker(row, worker) {
  row.dataset.state = worker.state;
  say(field(row, "name"), worker.name);
  const pid = worker.pid ? `, pid ${worker.pid}` : "";
  say(field(row, "where"), worker.host ? worker.host + pid : "");
  const shown = { drained: "draining", leaving: "draining" }[worker.state] ?? worker.state;
  const known = ["connected", "draining", "away"].includes(shown);
  icon(field(row, "icon"), known ? `w-${shown}` : "unknown");
  say(field(row, "state"), worker.state);
  const room = worker.slots + worker.lent;
  const cells = field(row, "slots");
  const wanted = room <= 40 ? Math.max(room, worker.running) : 0;
  while (cells.children.length > wanted) cells.lastElementChild.remove();
  while (cells.children.length < wanted) cells.append(document.createElement("i"));
  [...cells.children].forEach((cell, i) => cell.classList.toggle("busy", i < worker.running));
  const lent = worker.lent ? ` (${worker.lent} lent)` : "";
  say(field(row, "of"), `${worker.running} of ${room}${lent}`);
  say(field(row, "queues"), worker.queues.join(", "));
  number(field(row, "done"), worker.done);
  number(field(row, "failed"), worker.failed);
}

function fillJob(row, job) {
  row.dataset.state = job.state;
  icon(field(row, "icon"), STATES.has(job.state) ? job.state : "unknown");
  say(field(row, "state"), job.state);
  say(field(row, "task"), job.task);
  say(field(row, "parked"), job.parked);
  const id = field(row, "id");
  say(id, `…${job.id.slice(-8)}`);
  id.title = `${job.id}, click to copy`;
  if (["critical", "high", "normal", "low"].includes(job.priority)) {
    icon(field(row, "p_icon"), `p-${job.priority}`);
  }
  say(field(row, "priority"), job.priority);
  say(field(row, "queue"), job.queue);
  say(field(row, "attempt"), job.attempt ? String(job.attempt) : "–");
  say(field(row, "worker"), job.worker || "–");
  say(field(row, "submitted"), clock(job.submitted_at));
  fillTimes(row, job);
}

function fillTimes(row, job) {
  if (job.submitted_at !== null) {
    const until = job.started_at ?? job.ended_at ?? now();
    say(field(row, "waited"), duration(until - job.submitted_at));
  }
  const ran = job.started_at === null ? "–" : duration((job.ended_at ?? now()) - job.started_at);
  say(field(row, "ran"), ran);
}

// --- the page ------------------------------------------------------------------------------------

function fresh(state, text) {
  $("fresh").dataset.fresh = state;
  say($("fresh-text"), text);
}

function planeState(plane) {
  if (!plane) return "–";
  if (plane.failing) return "store failing";
  if (plane.stopping) return "stopping";
  return plane.ready ? "ready" : "recovering";
}

function paint() {
  const { plane, queues, workers, jobs, left_out: leftOut } = newest;
  say($("f-state"), planeState(plane));
  say($("f-epoch"), plane ? String(plane.epoch) : "–");
  say($("f-durability"), (plane && plane.durability) || "–");
  if (plane) say($("f-version"), plane.version || "–");
  show($("away"), !newest.reachable);
  if (!newest.reachable) {
    const why = newest.why ? ` (${newest.why})` : "";
    const seen = newest.seen_at === null ? ""
      : ` Below is what it said at ${clock(newest.seen_at)} UTC.`;
    say($("away-text"), `${newest.url}${why}.${seen}`);
  }
  show($("failing"), Boolean(plane && plane.failing));
  say($("failing-text"), plane ? plane.failing : "");

  for (const item of $("counts").children) {
    const n = (plane && plane.jobs[item.dataset.state]) || 0;
    say(item.querySelector("b"), plane ? count(n) : "–");
    if (n) item.hidden = false; // Once shown it stays: a line that jumps is hard to read.
  }

  sync($("lanes"), "tbody", $("t-queue"), queues, (q) => q.queue, fillQueue);
  sync($("workers"), "tr", $("t-worker"), workers, (w) => w.name, fillWorker);
  sync($("jobs"), "tr", $("t-job"), jobs, (j) => j.id, fillJob);
  // Of a plane that was never seen nothing is known, not even that it has nothing.
  const isSeen = plane !== null;
  show($("no-lanes"), isSeen && queues.length === 0);
  show($("no-workers"), isSeen && workers.length === 0);
  show($("no-jobs"), isSeen && jobs.length === 0);
  show($("more-lanes"), leftOut.queues > 0);
  say($("more-lanes").firstElementChild, String(leftOut.queues));
  show($("more-workers"), leftOut.workers > 0);
  say($("more-workers").firstElementChild, String(leftOut.workers));
  tick();
}

/** What grows with time alone. */
function tick() {
  if (!newest) return;
  const started = newest.plane && newest.plane.started_at;
  say($("f-uptime"), started ? duration(Math.max(0, now() - started)) : "–");
  const rows = $("jobs").children;
  newest.jobs.forEach((job, i) => {
    if (job.ended_at === null && rows[i]) fillTimes(rows[i], job);
  });
}

$("jobs").addEventListener("click", async (event) => {
  const button = event.target.closest(".copy");
  if (!button) return;
  try {
    await navigator.clipboard.writeText(button.closest("tr").dataset.key);
  } catch {
    return; // No clipboard here: the title has the whole id.
  }
  button.classList.add("copied");
  setTimeout(() => button.classList.remove("copied"), 1500);
});

// --- the stream ----------------------------------------------------------------------------------

let stream = null;
let retry = 0;
let heardAt = 0;

function connect() {
  disconnect();
  heardAt = Date.now();
  stream = new EventSource("/api/v1/stream");
  stream.addEventListener("snapshot", (event) => {
    heardAt = Date.now();
    newest = JSON.parse(event.data);
    skew = newest.at - heardAt / 1000;
    paint();
    if (newest.reachable) fresh("live", "live");
    else fresh("away", "plane away");
  });
  stream.addEventListener("beat", () => { heardAt = Date.now(); });
  stream.addEventListener("bye", lost);
  stream.addEventListener("error", lost);
}

function disconnect() {
  clearTimeout(retry);
  if (stream) stream.close();
  stream = null;
}

/** Closed by us, and opened again by us: a browser gives up for good after some errors. */
function lost() {
  disconnect();
  fresh("reconnecting", "reconnecting");
  retry = setTimeout(connect, 1000 + 1000 * Math.random());
}

setInterval(() => {
  if (document.hidden) return;
  if (stream && Date.now() - heardAt > SILENCE_MS) lost();
  if (newest && newest.reachable && $("fresh").dataset.fresh === "live") tick();
}, 1000);

// A tab that nobody sees costs the plane nothing.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    disconnect();
    fresh("still", "paused");
  } else connect();
});

if (document.hidden) fresh("still", "paused");
else connect();
