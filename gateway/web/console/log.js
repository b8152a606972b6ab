/* The log of a line: rows of bytes, each with its time, its way and its writer, and notes between them.

   Times are those of the gateway, in microseconds since 1970: its clock may be another than the browser's. What is kept
   is bounded, and is what a file is made of. */

import { $, element, inHex, inSpans, inWords, shortName, visible } from "./text.js";

const ROWS = 1000;               // older ones go
const ROW_BYTES = 128;
const ROW_PAUSE = 200_000;       // microseconds of silence that end a row
const SIGNS = { received: "←", sent: "→", note: "" };

let rows = [];                   // the oldest first: { way, time, who, bytes, text, line }
let filling = null;              // the row that may still grow

/* -- the gateway's clock */

let ahead = 0;                   // milliseconds, of the browser's clock

export function setClock(microseconds) {
  ahead = microseconds / 1000 - Date.now();
}

function now() {
  return Math.round((Date.now() + ahead) * 1000);
}

// A Date holds milliseconds; what is below them is written behind it.
function timeOf(microseconds) {
  const date = new Date(microseconds / 1000);
  const below = String(Math.floor(microseconds % 1000)).padStart(3, "0");
  return { full: date.toISOString().replace("Z", `${below}Z`),
           short: `${date.toLocaleTimeString("en-GB", { hour12: false })}.${String(date.getMilliseconds()).padStart(3, "0")}` };
}

/* -- rows */

export function show(way, bytes, { time = now(), who = "" } = {}) {
  if (isPressed($("pause")) || (way === "sent" && !isPressed($("written")))) return;
  let rest = bytes;
  while (rest.length) {
    if (!goesOn(way, who, time, bytes.length)) filling = newRow(way, time, who);
    const end = lineEnd(rest, ROW_BYTES - filling.bytes.length);
    filling.bytes.push(...rest.subarray(0, end));
    filling.last = time;
    filling.text.replaceChildren(...inSpans(filling.bytes));
    filling.hex.textContent = inHex(filling.bytes);
    rest = rest.subarray(end);
  }
}

// What is written is a message, and begins a row; what is typed comes as single characters, and is easier to read in one.
function goesOn(way, who, time, size) {
  if (filling?.way !== way || filling.who !== who || time - filling.last >= ROW_PAUSE) return false;
  if (filling.bytes.length === ROW_BYTES || filling.bytes.at(-1) === 0x0a) return false;
  return way === "received" || size === 1;
}

function lineEnd(bytes, most) {
  const feed = bytes.indexOf(0x0a);
  return Math.min(feed < 0 ? bytes.length : feed + 1, most);
}

function newRow(way, time, who) {
  const text = element("span", { class: "text" });
  const hex = element("span", { class: "hex" });
  const direction = element("span", { class: "direction" }, SIGNS[way], element("span", { class: "unseen" }, ` ${way}`));
  const name = element("bdi", { class: "who", title: visible(who) }, shortName(who));
  const row = { way, time, who, bytes: [], text, hex, last: time };
  append(row, direction, name, text, hex);
  return row;
}

export function note(text, time = now()) {
  append({ way: "note", time, who: "", bytes: [], note: visible(text) },
    element("span"), element("span", { class: "text" }, visible(text)));
  filling = null;
}

function append(row, ...cells) {
  const log = $("log");
  const { full, short } = timeOf(row.time);
  row.line = element("div", { class: `row ${row.way}` }, element("time", { datetime: full, title: full }, short), ...cells);
  const following = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  log.append(row.line);
  rows.push(row);
  while (rows.length > ROWS) rows.shift().line.remove();
  if (following) requestAnimationFrame(() => { log.scrollTop = log.scrollHeight; });
}

export function clear() {
  rows = [];
  filling = null;
  $("log").replaceChildren();
}

export const isEmpty = () => !rows.some(({ way }) => way !== "note");

// What is sent from here is a row of its own, where no trace tells of it.
export function showSent(bytes) {
  filling = null;
  show("sent", bytes);
  filling = null;
}

/* -- pieces of a trace, as docs/api.md describes them */

const WAYS = { "from line": "received", "to line": "sent" };

export function showPieces({ time, pieces }) {
  setClock(time);
  for (const piece of pieces) {
    if (piece.way === "note") note(piece.text, piece.time);
    else if (WAYS[piece.way]) show(WAYS[piece.way], fromHex(piece.data), { time: piece.time, who: piece.text });
  }
}

export function fromHex(digits) {
  return Uint8Array.from(digits.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

/* -- the tools */

export function inFile(place, withHex) {
  const lines = rows.map((row) => {
    const { full } = timeOf(row.time);
    if (row.way === "note") return `${full} - ${row.note}`;
    const who = row.who && `[${visible(row.who)}] `;
    const hex = withHex ? `${inHex(row.bytes)}  ` : "";
    return `${full} ${row.way === "sent" ? ">" : "<"} ${who}${hex}${inWords(row.bytes)}`;
  });
  const head = `# ${visible(place)}: < is from the line, > to it, - a note; times in UTC, by the clock of the gateway`;
  return `${[head, ...lines].join("\n")}\n`;
}

export const isPressed = (button) => button.getAttribute("aria-pressed") === "true";

function toggled(button) {
  button.setAttribute("aria-pressed", !isPressed(button));
  return isPressed(button);
}

$("pause").onclick = ({ currentTarget }) => {
  note(toggled(currentTarget) ? "Paused: what comes now is not shown" : "Shown again");
};
$("written").onclick = ({ currentTarget }) => {
  note(toggled(currentTarget) ? "What is written is shown again" : "What is written is not shown now");
};
$("hex").onclick = ({ currentTarget }) => { document.querySelector(".line").classList.toggle("no-hex", !toggled(currentTarget)); };
$("clear").onclick = clear;
