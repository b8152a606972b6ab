/* The console: the ports of one node, live. Plain DOM; what the gateway says is text here, never markup. */

import * as chain from "./console/chain.js";
import * as chart from "./console/chart.js";
import * as log from "./console/log.js";
import { $, SERVICES, amount, element, shortName, visible } from "./console/text.js";

const OPERATOR = 4;
const MESSAGE_LIMIT = 4096;
const LOOK = 1000;               // milliseconds between looks at the status
const AGAIN = 10_000;            // milliseconds before a trace that ended is asked for again

/* -- asking the gateway */

async function ask(path) {
  const answer = await fetch(path, { headers: { "X-Daisyport-Console": "1" } });
  if (!answer.ok) throw new Error(await answer.text());
  return answer;
}

// A POST with a header of its own: no foreign page can make a browser send that.
async function update(assignments) {
  const answer = await fetch("/axis-cgi/param.cgi", {
    method: "POST",
    headers: { "X-Daisyport-Console": "1" },
    body: new URLSearchParams({ action: "update", ...assignments }),
  });
  return answer.text();
}

// A TypeError is how fetch says that nobody is there; every browser in other words.
function inShort(error) {
  return error instanceof TypeError ? "" : error.message;
}

/* -- the node and its ports */

const node = { level: 0, ports: [] };
let port = null;                 // the name of the one that is shown

async function look() {
  try {
    const detailed = node.level >= OPERATOR;
    const seen = await (await ask(detailed ? "/daisyport/status" : "/daisyport/ports")).json();
    node.ports = seen.ports;
    $("trouble").textContent = "";
    showPorts();
    if (detailed) {
      showClients();
      for (const each of seen.ports) chart.count(each.name, seen.uptime_seconds, carried(each));
      chart.draw(port);
    }
  } catch (error) {
    $("trouble").textContent = `The gateway does not answer; trying again. ${inShort(error)}`;
  }
}

// Of the line of another CPU, what came to its tty from here.
function carried({ bytes_from_line: from, bytes_to_line: to, remote_port_client: link }) {
  return [from, to ?? link?.bytes_written ?? 0];
}

function showPorts() {
  const links = node.ports.map(({ name, state }) => {
    const link = element("a", { href: `#${name}`, class: state, "aria-current": name === port && "page" }, name);
    link.append(element("span", { class: "unseen" }, ` ${state}`));
    return link;
  });
  const shown = [...$("ports").querySelectorAll("a")];
  // Left alone while nothing changes, so that the focus stays where it is.
  if (shown.map((link) => link.outerHTML).join() !== links.map((link) => link.outerHTML).join()) {
    const focused = shown.indexOf(document.activeElement);
    $("ports").replaceChildren(...links.map((link) => element("li", {}, link)));
    links[focused]?.focus();
  }
  showFacts();
}

function showFacts() {
  const now = node.ports.find(({ name }) => name === port);
  if (!now || now.bytes_from_line === undefined) return;
  $("device").textContent = now.type === "RemotePort" ? `remote port R${now.remote_port}` : visible(now.device ?? "");
  const line = now.type === "Serial" && now.settings_in_force;
  const facts = {
    Line: line && lineInWords(line),
    ...server(now),
    "From the line": amount(now.bytes_from_line),
    "To the line": amount(carried(now)[1]),
    Missed: now.bytes_missed > 0 && amount(now.bytes_missed),
    Discarded: now.bytes_discarded > 0 && amount(now.bytes_discarded),
    "Turned away": now.clients_turned_away > 0 && String(now.clients_turned_away),
    ...driverErrors(now.driver_counters),
    ...troubled(now),
  };
  const shown = Object.entries(facts).filter(([, value]) => value);
  $("facts").replaceChildren(...shown.map(([name, value]) => {
    const { text, title } = typeof value === "string" ? { text: value } : value;
    return element("div", {}, element("dt", {}, name), element("dd", { title }, visible(text)));
  }));
}

function lineInWords(line) {
  const frame = `${line.DataBits}${line.Parity[0]}${line.StopBits}`;
  const flow = [line.FlowControlXONXOFF && "XON/XOFF", line.FlowControlRTSCTS && "RTS/CTS"];
  return [line.PortMode, line.BaudRate, frame, ...flow].filter(Boolean).join(" ");
}

// Where the line is another CPU's: who leads to it.
function server({ remote_port_client: link }) {
  if (!link) return {};
  const place = `${link.server_port} of ${link.server_name || link.server_node.slice(0, 8)}`;
  const text = link.linked ? `${place}, ${link.round_trip_ms ?? "?"} ms away` : `${place}, not linked`;
  const title = [`node ${link.server_node}`, link.server_chassis && `chassis ${link.server_chassis}`].filter(Boolean).join(", ");
  return { Server: { text, title: visible(title) }, Warning: link.warning };
}

function driverErrors(counters) {
  const errors = Object.entries(counters ?? {}).filter(([name, count]) => count && !["received", "sent"].includes(name));
  return { "Line errors": errors.map(([name, count]) => `${count} ${name.replace("_", " ")}`).join(", ") };
}

// What should run and does not, and what the device refused: listeners, services, links of the chain.
function troubled(now) {
  const services = Object.entries(now.services).filter(([, state]) => !["up", now.reason].includes(state));
  return Object.fromEntries([...services, ...Object.entries(now.settings_refused ?? {})]);
}

function choose() {
  const wanted = location.hash.slice(1);
  const chosen = node.ports.find(({ name }) => name === wanted) ?? node.ports[0];
  if (!chosen || chosen.name === port) return;
  port = chosen.name;
  $("port").textContent = port;
  document.title = `${port} · ${visible(node.name)} · Daisyport`;
  for (const id of ["device", "facts", "clients"]) $(id).replaceChildren();
  log.clear();
  chain.forget();
  noteSettings("", "");
  showPorts();
  if (node.level >= OPERATOR) {
    showClients();
    chart.draw(port);
  }
  connect();
  loadSettings();
}

/* -- the line, live

   A trace tells what passes, with its times and, to operators, who wrote it; it may not write, so an operator has a second
   WebSocket beside it. They are two, for a trace takes none of the port's places, and hears the replies to everybody where
   turns are taken: who finds all places taken still sees all that passes, and asks for one again and again. The writer is
   opened once the trace has begun: then no byte is shown by both of them. Where a trace cannot be had, the writer's own
   ear has to do. */

let socket = null;               // writes, and hears the port's events; a viewer's is the trace
let monitor = null;              // an operator's trace ...
let traced = false;              // ... which has begun
let patience = 500;              // milliseconds before the next try to connect

function open(query) {
  const opened = new WebSocket(`${location.protocol.replace("http", "ws")}//${location.host}/daisyport/ports/${port}${query}`);
  opened.binaryType = "arraybuffer";
  return opened;
}

function connect() {
  for (const old of [socket, monitor]) old?.close();
  socket = monitor = null;
  traced = false;
  if (node.level < OPERATOR) join("?trace=1");
  else watch();
}

function watch() {
  const mine = open("?trace=1");
  mine.onmessage = ({ data }) => {
    if (mine !== monitor) return;
    const message = JSON.parse(data);
    if (message.event === "trace") {
      traced = true;
      log.showPieces(message);
      if (!socket) join("");
    } else if (message.event === "history") {
      showHistory(message);
    }
  };
  mine.onclose = () => {
    if (mine !== monitor) return;
    traced = false;
    if (!socket) join("");
    setTimeout(() => mine === monitor && watch(), AGAIN);
  };
  monitor = mine;
}

function join(query) {
  const mine = open(query);
  mine.onmessage = ({ data }) => {
    if (mine !== socket) return;
    patience = 500;              // it has a place; one that is refused was opened, too
    if (typeof data === "string") hear(JSON.parse(data));
    else if (!traced) log.show("received", new Uint8Array(data));
  };
  mine.onclose = ({ reason }) => {
    if (mine !== socket) return;
    showState(false, `not connected${reason && `: ${reason}`}`);
    setTimeout(() => mine === socket && (monitor ? join("") : connect()), patience);
    patience = Math.min(patience * 2, 10_000);
  };
  socket = mine;
}

// What the port remembers was said before anybody here could hear it, at a time that nobody knows.
function showHistory({ data }) {
  if (!log.isEmpty()) return;
  log.note("Said before");
  log.show("received", log.fromHex(data));
  log.note("From now on");
}

function hear(message) {
  if (message.event === "port") {
    const up = message.state === "up";
    showState(up, up ? "up" : `${message.state}: ${message.reason}`);
    if (up && node.level >= OPERATOR) request({ request: "modem" });
  } else if (message.event === "line") {
    log.note(`The line is set to ${message.words}`);
    if (!changedFields().length) loadSettings();
  } else if (message.event === "trace") {
    log.showPieces(message);
  } else if (message.event === "history") {
    showHistory(message);
  } else if (message.event === "cut") {
    log.note(`A slow client was cut: ${message.reason}`);
  } else if (message.event === "refused") {
    log.note(message.reason);
  } else if (message.event === "gap") {
    log.note(`${message.count} bytes not shown`);
  } else if (message.event === "break") {
    log.note("A break came from the line");
  } else if (message.event === "modem") {
    log.note(`${message.by ? shortName(message.by) : "A client"} moved DTR or RTS`);
  } else if ("answer" in message) {
    answered(message);
  }
}

function showState(up, text) {
  if ($("state").textContent === visible(text)) return;
  $("state").textContent = visible(text);
  $("state").className = up ? "up" : "down";
  for (const button of document.querySelectorAll(".writes button")) button.disabled = !up;
  log.note(`${port} is ${text}`);
}

$("download").onclick = () => {
  const text = log.inFile(`${port} of ${node.name}`, log.isPressed($("hex")));
  const url = URL.createObjectURL(new Blob([text], { type: "text/plain;charset=utf-8" }));
  const time = new Date().toISOString().slice(0, 19).replaceAll(":", "-");
  element("a", { href: url, download: `${node.name}-${port}-${time}.txt`.replace(/[^\w.-]/g, "_") }).click();
  setTimeout(() => URL.revokeObjectURL(url));
};

/* -- sending */

const sent = { lines: [], at: 0 };

function toBytes(text, as, ending) {
  const body = as === "hex" ? fromTyped(text) : new TextEncoder().encode(text);
  return Uint8Array.from([...body, ...(as === "hex" ? [] : log.fromHex(ending))]);
}

function fromTyped(text) {
  const digits = text.replace(/0x|[\s,:]/gi, "");
  const wrong = digits.match(/[^0-9a-f]/i);
  if (wrong) throw new Error(`“${wrong[0]}” is not a hexadecimal digit.`);
  if (digits.length % 2) throw new Error("Each byte must have two hexadecimal digits.");
  return [...log.fromHex(digits)];
}

$("send").onsubmit = (event) => {
  event.preventDefault();
  const field = $("what");
  complain("");
  try {
    const bytes = toBytes(field.value, $("as").value, $("ending").value);
    if (!bytes.length) return;
    if (bytes.length > MESSAGE_LIMIT) throw new Error(`That is ${bytes.length} bytes; one message has at most ${MESSAGE_LIMIT}.`);
    if (socket.readyState !== WebSocket.OPEN) throw new Error("Not connected: nothing was sent.");
    socket.send(bytes);
    if (!traced) log.showSent(bytes);
  } catch (error) {
    complain(error.message);
    return;
  }
  if (field.value && sent.lines.at(-1) !== field.value) sent.lines = [...sent.lines.slice(-99), field.value];
  sent.at = sent.lines.length;
  field.value = "";
};

function complain(text) {
  $("send-error").textContent = text;
  $("what").setAttribute("aria-invalid", Boolean(text));
}

// Up and down bring back what was sent, as a terminal does.
$("what").onkeydown = (event) => {
  const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (!step || !sent.lines.length) return;
  event.preventDefault();
  sent.at = Math.max(0, Math.min(sent.lines.length, sent.at + step));
  $("what").value = sent.lines[sent.at] ?? "";
};
$("as").onchange = () => { $("ending").hidden = $("as").value === "hex"; complain(""); };

/* -- beside the data: break and modem lines */

function request(message) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

$("break").onsubmit = (event) => {
  event.preventDefault();
  if ($("break").reportValidity()) request({ request: "break", milliseconds: $("break-length").valueAsNumber });
};

function answered(message) {
  if (message.answer === "break") {
    log.note(message.error ? `No break: ${message.error}` : `A break of ${message.milliseconds} ms was sent`);
    return;
  }
  const modem = $("modem");
  modem.hidden = Boolean(message.error);
  $("break").hidden = Boolean(message.error);
  $("beside-note").textContent = message.error ?? "";
  if (message.error || modem.dataset.shown === JSON.stringify(message.lines)) return;
  modem.dataset.shown = JSON.stringify(message.lines);
  const outputs = ["dtr", "rts"].map((name) => {
    const button = element("button", { type: "button", "aria-pressed": String(message.lines[name]) }, name.toUpperCase());
    button.onclick = () => request({ request: "set", [name]: !message.lines[name] });
    return button;
  });
  const inputs = ["cts", "dsr", "ri", "dcd"].map((name) => {
    const on = message.lines[name];
    return element("span", { class: on && "on" }, name.toUpperCase(), element("span", { class: "unseen" }, on ? " on" : " off"));
  });
  const focused = [...modem.querySelectorAll("button")].indexOf(document.activeElement);
  modem.replaceChildren(...outputs, ...inputs);
  outputs[focused]?.focus();
}

/* -- clients */

// The port, where other CPUs may share its line.
function chained() {
  const now = node.ports.find(({ name }) => name === port);
  return now?.type === "RemotePort" || now?.remote_port_server ? port : null;
}

function showClients() {
  const now = node.ports.find(({ name }) => name === port);
  const links = now?.remote_port_server?.links ?? [];
  const rows = [...(now?.clients ?? []), ...links].map((client) => {
    const cells = [
      ["Client", clientInWords(client)],
      ["By", client.linked === false ? "Remote port, not linked" : SERVICES[client.service] ?? "Remote port"],
      ["Since", client.since === undefined ? "" : timeOf(new Date(client.since * 1000))],
      ["In", amount(client.bytes_in), "number"],
      ["Out", amount(client.bytes_out), "number"],
      ["Waiting", client.queue === undefined ? "" : amount(client.queue), "number"],
      ["Dropped", amount(client.dropped), "number"],
    ];
    return element("tr", {}, ...cells.map(([label, text, kind]) =>
      element("td", { "data-label": label, class: kind, title: label === "Client" && client.node && `node ${client.node}` }, text)));
  });
  const nobody = element("tr", {}, element("td", { class: "none", colspan: 7 }, "Nobody is connected."));
  $("clients").replaceChildren(...(rows.length ? rows : [nobody]));
}

// A link's holder has the id of its CPU, which is for the title.
function clientInWords({ holder, node: id, name, remote_port: remote }) {
  return visible(id ? `${name || id.slice(0, 8)} (${remote}) at ${holder.split(" ")[0]}` : holder);
}

function timeOf(date) {
  const today = date.toDateString() === new Date().toDateString();
  return today ? date.toLocaleTimeString("en-GB") : date.toLocaleString("en-GB");
}

/* -- settings: a form made from the definitions, which hold only what the hardware has */

const TITLES = {
  Serial: "Serial line", PortManager: "Port", GenericTCPServer: "TCP server", Listener: "Listener", ConnectTo: "Connect to",
  PTZServer: "PTZ server", SerialCGI: "serial.cgi", RemotePortServer: "Remote port server", RemotePort: "Remote port",
  CamPorts: "Video sources", HTTP: "Web server",
};

async function loadSettings() {
  if (node.level < OPERATOR) return;
  const mine = port;
  const shown = node.ports.find(({ name }) => name === mine);
  const line = shown.serial_port != null && `Serial.Ser${shown.serial_port}`;
  const remote = shown.remote_port != null && `RemotePort.R${shown.remote_port}`;
  // What the port is made of comes first.
  const [first, last] = shown.type === "Serial" ? [line, remote] : [remote, line];
  const groups = [first, `PortManager.${mine}`, last, "PTZ.CamPorts", "Network.HTTP"].filter(Boolean);
  const query = new URLSearchParams({ action: "listdefinitions", listformat: "xmlschema", group: groups.join(",") });
  try {
    const xml = await (await ask(`/axis-cgi/param.cgi?${query}`)).text();
    if (mine === port) showSettings(new DOMParser().parseFromString(xml, "text/xml"), groups);
  } catch (error) {
    noteSettings(`They could not be read. ${inShort(error)}`, "bad");
  }
}

function showSettings(definitions, groups) {
  const open = new Set([...$("fields").querySelectorAll("details[open]")].map(({ firstChild }) => firstChild.textContent));
  const sheets = groups.flatMap((path) => {
    const group = path.split(".").reduce(below, definitions.querySelector('group[name="root"]'));
    return group ? sheetsOf(group, path) : [];
  });
  // What the port is made of is what people come for; the rest is a click away.
  sheets.forEach((sheet, index) => { sheet.open = open.size ? open.has(sheet.firstChild.textContent) : index < 2; });
  $("fields").replaceChildren(...sheets);
  markChanges();
}

// The definitions come by the alphabet; people look for these first.
const FIRST = ["Enabled", "PortEnabled", "PortMode", "BaudRate", "DataBits", "Parity", "StopBits"];

function byUse(one, other) {
  const [a, b] = [one, other].map((parameter) => FIRST.indexOf(parameter.getAttribute("name")) + 1 || FIRST.length + 1);
  return a - b;
}

function below(group, name) {
  return group && [...group.children].find((child) => child.getAttribute("name") === name);
}

function titleOf(path) {
  const parts = path.split(".");
  const title = /^(Ser|R|P)\d+$/.test(parts.at(-1)) ? parts.at(-2) : parts.at(-1);
  return TITLES[title] ?? title;
}

function parts(group, path) {
  const children = [...group.children];
  const groups = children.filter(({ tagName }) => tagName === "group");
  return {
    fields: children.filter(({ tagName }) => tagName === "parameter").sort(byUse).map((parameter) => fieldOf(parameter, path)),
    groups: groups.map((child) => [child, `${path}.${child.getAttribute("name")}`]),
  };
}

// The groups of a port get a sheet each, the groups within these a heading.
function sheetsOf(group, path) {
  const { fields, groups } = parts(group, path);
  const splits = path.startsWith("PortManager.") && path.split(".").length === 2;
  const within = splits ? [] : groups.map(([child, its]) =>
    element("fieldset", {}, element("legend", {}, titleOf(its)), ...parts(child, its).fields));
  const sheet = element("details", {}, element("summary", {}, titleOf(path)),
    element("fieldset", { "aria-label": titleOf(path) }, ...fields), ...within);
  return [sheet, ...(splits ? groups.flatMap(([child, its]) => sheetsOf(child, its)) : [])];
}

function fieldOf(parameter, path) {
  const name = `${path}.${parameter.getAttribute("name")}`;
  const value = parameter.getAttribute("value");
  const type = parameter.querySelector("type");
  const writes = Number(parameter.getAttribute("securityLevel")[3]) <= node.level && type.getAttribute("readonly") !== "true";
  const control = controlOf(type.firstElementChild, value);
  Object.assign(control, { id: name, name, disabled: !writes });
  control.setAttribute("aria-describedby", `${name}-error`);
  control.dataset.was = valueOf(control);
  return element("div", { class: "field" },
    element("label", { for: name, title: name }, parameter.getAttribute("niceName")), control,
    element("p", { class: "error", id: `${name}-error`, role: "alert" }));
}

function controlOf(kind, value) {
  if (kind.tagName === "bool") {
    const box = element("input", { type: "checkbox", checked: value === kind.getAttribute("true") });
    Object.assign(box.dataset, { yes: kind.getAttribute("true"), no: kind.getAttribute("false") });
    return box;
  }
  if (kind.tagName === "enum") {
    const options = [...kind.children].map((entry) => element("option",
      { value: entry.getAttribute("value"), selected: entry.getAttribute("value") === value }, entry.getAttribute("niceValue")));
    return element("select", {}, ...options);
  }
  if (kind.tagName === "int") {
    return element("input", { type: "number", min: kind.getAttribute("min"), max: kind.getAttribute("max"), value });
  }
  const secret = kind.tagName === "password";
  return element("input", {
    type: secret ? "password" : "text", maxlength: kind.getAttribute("maxlen"), value,
    autocomplete: secret ? "new-password" : "off", autocapitalize: "off", spellcheck: "false",
    placeholder: kind.tagName === "ipList" && "everyone",
  });
}

function valueOf(control) {
  if (control.type === "checkbox") return control.checked ? control.dataset.yes : control.dataset.no;
  return control.value;
}

function changedFields() {
  return [...$("fields").querySelectorAll("[name]")].filter((control) => valueOf(control) !== control.dataset.was);
}

function markChanges() {
  const changed = changedFields();
  for (const control of $("fields").querySelectorAll("[name]")) {
    control.parentElement.classList.toggle("changed", changed.includes(control));
  }
  for (const button of $("settings").querySelectorAll(".tools button")) button.disabled = !changed.length;
  const own = [...$("fields").querySelectorAll("[name]")].some(({ disabled }) => !disabled);
  if (!own) noteSettings("These can be changed by an admin.", "");
}

function noteSettings(text, kind) {
  $("settings-note").textContent = text;
  $("settings-note").className = kind;
}

$("settings").oninput = () => { noteSettings("", ""); markChanges(); };
$("settings").onreset = () => setTimeout(() => { blame(new Map()); noteSettings("", ""); markChanges(); });
$("settings").onsubmit = async (event) => {
  event.preventDefault();
  const changed = changedFields();
  if (!changed.length) return;
  noteSettings("Saving…", "");
  try {
    const answer = await update(Object.fromEntries(changed.map((control) => [control.name, valueOf(control)])));
    const refused = refusals(answer);
    for (const control of changed) if (!refused.has(control.name)) keep(control);
    blame(refused);
    if (answer === "OK") noteSettings("Saved.", "good");
    else if (!refused.size) noteSettings(answer, "bad");
    else noteSettings(refused.size < changed.length ? "Refused in part; the rest is saved." : "Refused; nothing was changed.", "bad");
  } catch (error) {
    noteSettings(`Not saved: the gateway does not answer. ${inShort(error)}`, "bad");
  }
  markChanges();
};

function refusals(answer) {
  const lines = answer.matchAll(/^# Error: Error setting 'root\.([^']*)' to '(.*)'!$/gm);
  return new Map([...lines].map(([, name, value]) => [name, value]));
}

function blame(refused) {
  for (const control of $("fields").querySelectorAll("[name]")) {
    const wrong = refused.has(control.name);
    control.setAttribute("aria-invalid", wrong);
    $(`${control.name}-error`).textContent = wrong
      ? `${refused.get(control.name) || "An empty value"} was refused: it is no value for this, does not go with another setting, or is more than the device can do.` : "";
    if (wrong) control.closest("details").open = true;
  }
}

// What was saved is what Undo goes back to.
function keep(control) {
  control.dataset.was = valueOf(control);
  if (control.type === "checkbox") control.defaultChecked = control.checked;
  else if (control.tagName === "SELECT") for (const option of control.options) option.defaultSelected = option.selected;
  else control.defaultValue = control.value;
}

/* -- begin */

async function begin() {
  try {
    const { node: name, user, role, level, ports } = await (await ask("/daisyport/ports")).json();
    Object.assign(node, { name, level, ports });
    $("node").textContent = visible(name);
    $("user").textContent = user === role ? user : `${user} (${role})`;
    document.querySelector("main").classList.toggle("viewer", level < OPERATOR);
    for (const id of ["clients-section", "settings-section", "throughput", "written"]) $(id).hidden = level < OPERATOR;
    for (const writes of document.querySelectorAll(".writes")) writes.hidden = level < OPERATOR;
    $("reads-only").hidden = level >= OPERATOR;
    await look();
  } catch (error) {
    $("trouble").textContent = `The gateway does not answer. ${inShort(error)} Reload the page to try again.`;
    return;
  }
  document.querySelector("main").hidden = false;
  addEventListener("hashchange", choose);
  choose();
  if (node.level >= OPERATOR) chain.follow(ask, chained);
  setInterval(() => {
    if (document.visibilityState !== "visible") return;
    look();
    if (!$("modem").hidden) request({ request: "modem" });
  }, LOOK);
}

begin();
