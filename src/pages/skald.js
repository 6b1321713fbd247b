// What pages do beyond showing: the live tail, and buttons that ask before they call the API.
"use strict";

const told = document.getElementById("told");
const tell = (text, wrong) => {
  told.textContent = text;
  told.className = wrong ? "wrong" : "";
};

document.addEventListener("click", async (click) => {
  const button = click.target.closest("button[data-call]");
  if (!button || !window.confirm(button.dataset.ask)) return;
  button.disabled = true;
  try {
    const answer = await fetch(button.dataset.call, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: button.dataset.body || "{}",
    });
    const text = await answer.text();
    const body = text ? JSON.parse(text) : {};
    if (!answer.ok) throw new Error(body.detail || body.title || answer.statusText);
    tell("Done. The page is read again.", false);
    setTimeout(() => location.reload(), 1000);
  } catch (error) {
    tell(String(error.message || error), true);
    button.disabled = false;
  }
});

const table = document.querySelector("table#events[data-newest]");
const live = document.getElementById("live");
const ROWS_MAX = 200;
let stream = null;

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
  cell(item.recorded_at.replace("T", " ").replace("Z", ""));
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
  while (body.rows.length > ROWS_MAX) body.deleteRow(-1);
};

const follow = () => {
  stream?.close();
  stream = null;
  if (!table || !live?.checked) return;
  const query = new URLSearchParams({ after: table.dataset.newest });
  if (table.dataset.type) query.set("type", table.dataset.type);
  stream = new EventSource(`/v1/events/stream?${query}`);
  stream.onmessage = arrive;
};

live?.addEventListener("change", follow);
if (table) follow();
