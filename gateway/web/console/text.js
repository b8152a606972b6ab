/* What others say, as text: it never becomes markup, and nothing in it hides, or turns round, what stands beside it.

   Bytes of the line, names of clients and of CPUs, and reasons are made by whoever is there, and may lie. So elements are
   made by the DOM and filled with strings, and characters that cannot be seen are written as escapes: a right-to-left
   mark in a name must not turn the row that it stands in. */

export const $ = (id) => document.getElementById(id);

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

const UNSEEN = /([\p{Cc}\p{Cf}\p{Zl}\p{Zp}]+)/u;

function escaped(character) {
  const short = { "\t": "\\t", "\n": "\\n", "\r": "\\r" }[character];
  const hex = character.codePointAt().toString(16);
  return short ?? (hex.length > 2 ? `\\u{${hex}}` : `\\x${hex.padStart(2, "0")}`);
}

// Every second part is what cannot be seen, as escapes.
function parts(text) {
  return text.split(UNSEEN).map((part, index) => (index % 2 ? [...part].map(escaped).join("") : part));
}

export function visible(text) {
  return parts(String(text)).join("");
}

// What is no UTF-8 is a dot.
function decoded(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(new Uint8Array(bytes));
  } catch {
    return String.fromCharCode(...bytes.map((byte) => (byte < 0x80 ? byte : 0xb7)));
  }
}

export function inWords(bytes) {
  return visible(decoded(bytes));
}

// The same for the page, where escapes are paler than the text.
export function inSpans(bytes) {
  return parts(decoded(bytes)).map((part, index) => (index % 2 ? element("span", { class: "control" }, part) : part))
    .filter((part) => part !== "");
}

export function inHex(bytes) {
  return bytes.map((byte) => byte.toString(16).padStart(2, "0")).join(" ").toUpperCase();
}

// The services as the status names them, in fewer letters.
export const SERVICES = {
  GenericTCPServer: "TCP", ListenOnly: "TCP, listening", PTZServer: "PTZ", SerialCGI: "serial.cgi", WebSocket: "Browser",
  TLS: "TLS", Tty: "tty", RFC2217: "RFC 2217", ModbusTCP: "Modbus TCP", Trace: "Trace",
};

export function amount(bytes) {
  if (bytes < 10_000) return `${Math.round(bytes)} B`;
  return bytes < 10_000_000 ? `${(bytes / 1000).toFixed(0)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

// A trace names writers in full: "anna at 192.0.2.7:40000", "192.0.2.7:40000 (cpu2 64646464, R0) PTZ". What came from
// another CPU is "via" it, since a CPU chooses its name itself, and could take that of a user.
export function shortName(holder) {
  const node = holder.match(/ \((.*?) ?([0-9a-f]{8}), R\d+\)( [\w ]+)?$/);
  return visible(node ? `via ${node[1] || node[2]}${node[3] ?? ""}` : holder.replace(/ at \S+$/, ""));
}
