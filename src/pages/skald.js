// What pages do beyond showing: the live tail, and buttons that ask before they call the API.
"use strict";

const told = document.getElementById("told");
const AWAY = "The server does not answer.";
const tell = (text, wrong) => {
  if (told.textContent === text) return; // It is read aloud once.
  told.textContent = text;
  told.className = wrong ? "wrong" : "";
};

document.addEventListener("click", async (click) => {
  const button = click.target.closest("button[data-call]");
  if (!button || !window.confirm(button.dataset.ask)) return;
  button.disabled = true;
  const refused = await post(button.dataset.call, button.dataset.body || "{}");
  if (refused) {
    tell(refused, true);
    button.disabled = false;
    return;
  }
  tell("Done. The page is read again.", false);
  setTimeout(() => location.reload(), 1000);
});

// Why the call was refused; nothing when it was not.
const post = async (address, body) => {
  let answer, text;
  try {
    const headers = { "content-type": "application/json" };
    answer = await fetch(address, { method: "POST", headers, body });
    text = await answer.text();
  } catch {
    return AWAY;
  }
  if (answer.ok) return "";
  try {
    const problem = JSON.parse(text);
    const faults = (problem.errors || []).map((fault) => `${fault.pointer.slice(1) || "the request"}: ${fault.detail}`);
    return faults.join("; ") || problem.detail || problem.title;
  } catch {
    return `The server answered ${answer.status}.`;
  }
};

const table = document.querySelector("table#events[data-newest]");
const live = document.getElementById("live");
const ROWS_MAX = 200;
const RETRY = 3000;
const older = document.getElementById("older");
let stream = null;
let retry = 0;

const row = (seq, item) => {
  const line = document.createElement("tr");
  line.className = "new";
  const cell = (text, kind) => {
    const cell = line.insertCell();
    cell.textContent = text;
    if (kind) cell.className = kind;
    return cell;
  };
  const link = document.createElement("a");
  link.href = `/events/${seq}`;
  link.textContent = seq;
  cell("", "number").append(link);
  cell(item.event.type);
  cell(item.event.subject || "");
  cell(item.event.source);
  cell(item.recorded_at.replace("T", " ").replace("Z", " UTC"));
  return line;
};

const arrive = (message) => {
  const item = JSON.parse(message.data);
  const { subject, source } = table.dataset;
  if (subject && item.event.subject !== subject) return;
  if (source && item.event.source !== source) return;
  if (item.seq <= Number(table.dataset.newest)) return;
  table.dataset.newest = item.seq;
  const body = table.tBodies[0];
  body.querySelector(".none")?.remove();
  body.prepend(row(item.seq, item));
  if (body.rows.length <= ROWS_MAX) return;
  while (body.rows.length > ROWS_MAX) body.deleteRow(-1);
  // Older begins below what is shown now.
  const query = new URLSearchParams(older.dataset.filter);
  query.set("cursor", body.rows[body.rows.length - 1].cells[0].textContent);
  older.href = `/events?${query}`;
  older.hidden = false;
};

// Nothing is missing any more.
const back = () => {
  if (told.textContent.startsWith(AWAY)) tell("", false);
};

const follow = () => {
  stream?.close();
  stream = null;
  clearTimeout(retry);
  if (!live?.checked) return back();
  const query = new URLSearchParams({ after: table.dataset.newest });
  if (table.dataset.type) query.set("type", table.dataset.type);
  stream = new EventSource(`/v1/events/stream?${query}`);
  stream.onmessage = arrive;
  stream.onopen = back;
  stream.onerror = () => {
    tell(`${AWAY} It is tried again.`, true);
    // A stream that was refused is not tried again by itself.
    if (stream.readyState === EventSource.CLOSED) retry = setTimeout(follow, RETRY);
  };
};

live?.addEventListener("change", follow);
if (table) follow();
