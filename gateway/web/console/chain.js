/* The chain of a port as a picture: the owner of the line, the CPUs behind it, and the links between them.

   The gateway asks other CPUs for it, so it is asked for only while somebody can see it, and never twice at a time. */

import { $, SERVICES, element, visible } from "./text.js";

const PAUSE = 2000;              // milliseconds between an answer and the next question

let inView = false;
let wanted = () => null;         // returns the port that is shown, null where it shares its line with no other CPU
let ask = null;
let drawn = "";
let broken = "";                 // the links that are down, as they were last told

export function follow(asking, port) {
  [ask, wanted] = [asking, port];
  new IntersectionObserver(([entry]) => { inView = entry.isIntersecting; }).observe($("chain-section"));
  look();
}

async function look() {
  const port = wanted();
  $("chain-section").hidden = !port;
  if (port && inView && document.visibilityState === "visible") {
    try {
      const { ports } = await (await ask("/daisyport/chain")).json();
      if (port === wanted()) draw(ports.find((each) => each.port === port)?.chain);
    } catch {
      // The page says at its top that the gateway does not answer.
    }
  }
  setTimeout(look, drawn ? PAUSE : PAUSE / 4);
}

export function forget() {
  drawn = broken = "";
  $("chain").replaceChildren();
}

function draw(owner) {
  const picture = owner ? element("ul", {}, branch(owner, owner)) : element("p", {}, "No other CPU has come yet.");
  if (picture.outerHTML === drawn) return;
  drawn = picture.outerHTML;
  $("chain").replaceChildren(picture);
  const told = downIn(owner).join("; ");
  if (told !== broken) $("chain-told").textContent = told || "All links of the chain stand.";
  broken = told;
}

function branch(cpu, above) {
  const below = cpu.below.length > 0 && element("ul", {}, ...cpu.below.map((each) => branch(each, cpu)));
  const { link } = cpu;
  const hop = link && element("div", { class: `hop ${link.state}`, title: hopInFull(link) },
    element("span", {}, link.state === "up" ? trip(link) : "down"));
  return element("li", { class: link?.state }, ...[hop, box(cpu, above), below].filter(Boolean));
}

function box(cpu, above) {
  const name = element("strong", { title: cpu.node && `node ${cpu.node}` }, nameOf(cpu));
  const place = [cpu.port, cpu.here && "this CPU"].filter(Boolean).join(", ");
  const lines = [
    cpu.state === "down" && cpu.reason !== cpu.link?.reason && element("p", { class: "bad" }, visible(`${cpu.port || "port"} is down: ${cpu.reason}`)),
    cpu.link?.state === "down" && element("p", { class: "bad" }, visible(downInWords(cpu, above))),
    element("p", {}, visible(clientsOf(cpu))),
    lossesOf(cpu) && element("p", {}, lossesOf(cpu)),
    ...cpu.warnings.map((warning) => element("p", { class: "bad" }, visible(warning))),
  ];
  return element("div", { class: `cpu ${cpu.here ? "here" : ""}` },
    element("p", {}, name, " ", element("span", { class: "quiet" }, place)), ...lines.filter(Boolean));
}

function nameOf({ name, node }) {
  return visible(name || (node ? node.slice(0, 8) : "unknown CPU"));
}

function trip({ round_trip_ms: trip }) {
  return trip == null ? "linked" : `${trip} ms`;
}

function hopInFull(link) {
  const at = link.address && (link.told_by === "below" ? `dials ${link.address}` : `comes from ${link.address}`);
  return visible([at, `for ${span(link.seconds)}`, `resumed ${link.resumes} times`, `${link.bytes_lost} bytes lost`].filter(Boolean).join(", "));
}

function downInWords(cpu, above) {
  return `no link to ${nameOf(above)} for ${span(cpu.link.seconds)}${cpu.link.reason && `: ${cpu.link.reason}`}`;
}

// Coarse, so that the picture is drawn anew for news alone.
function span(seconds) {
  if (seconds < 60) return "less than a minute";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return seconds < 86_400 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86_400)} days`;
}

function clientsOf({ answer, clients }) {
  if (answer !== "told") return { silent: "does not answer", older: "an older version", gone: "" }[answer] ?? answer;
  const each = Object.entries(clients).map(([kind, count]) => `${count} ${SERVICES[kind] ?? kind}`);
  return each.length ? each.join(", ") : "no clients";
}

function lossesOf({ bytes_missed: missed, gaps }) {
  return gaps > 0 && `${gaps} gaps in the line, ${missed} bytes missed`;
}

function downIn(cpu, above) {
  if (!cpu) return [];
  const own = cpu.link?.state === "down" ? [`${nameOf(cpu)}: ${visible(downInWords(cpu, above))}`] : [];
  return [...own, ...cpu.below.flatMap((each) => downIn(each, cpu))];
}
