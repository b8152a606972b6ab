/* Throughput, both ways, of the last minutes: drawn from the counters of the status, which miss nothing while the page is
   hidden or another port is shown. */

import { $, amount } from "./text.js";

const SECONDS = 180;
const WIDTH = 600;
const HEIGHT = 60;
const LEAST = 100;               // bytes a second that the scale reaches, at least

const seen = new Map();          // by port, the oldest first: [{ at, counts }], with at in seconds of the gateway's uptime

export function count(name, at, counts) {
  const samples = seen.get(name) ?? [];
  const before = samples.at(-1);
  // Anew where it cannot go on: the gateway was restarted, or the port manager was.
  if (before && (at < before.at || counts.some((bytes, way) => bytes < before.counts[way]))) samples.length = 0;
  if (before?.at !== at) samples.push({ at, counts });
  while (samples.length > 2 && samples[1].at < at - SECONDS) samples.shift();
  seen.set(name, samples);
}

export function draw(name) {
  const samples = seen.get(name) ?? [];
  const rates = samples.slice(1).map(({ at, counts }, index) => {
    const before = samples[index];
    return { at, rates: counts.map((bytes, way) => (bytes - before.counts[way]) / (at - before.at)) };
  });
  const peak = niceAbove(Math.max(LEAST, ...rates.flatMap((sample) => sample.rates)));
  const last = samples.at(-1)?.at ?? 0;
  const points = (way) => rates.map(({ at, rates: of }) =>
    `${(WIDTH * (1 - (last - at) / SECONDS)).toFixed(1)},${(HEIGHT * (1 - of[way] / peak)).toFixed(1)}`);
  const from = points(0);
  $("from-line").setAttribute("points", from.length
    ? [`${from[0].split(",")[0]},${HEIGHT}`, ...from, `${WIDTH},${HEIGHT}`].join(" ") : "");
  $("to-line").setAttribute("points", points(1).join(" "));
  const [now, most] = [rates.at(-1)?.rates ?? [0, 0], [0, 1].map((way) => Math.max(0, ...rates.map((of) => of.rates[way])))];
  $("from-rate").textContent = `${amount(now[0])}/s`;
  $("to-rate").textContent = `${amount(now[1])}/s`;
  $("peak").textContent = `${amount(peak)}/s`;
  $("chart").setAttribute("aria-label",
    `Throughput of the last 3 minutes: from the line at most ${amount(most[0])}, to the line at most ${amount(most[1])} a second`);
}

// 1, 2 or 5 with zeros: a scale that moves seldom.
function niceAbove(value) {
  const unit = 10 ** Math.floor(Math.log10(value));
  return unit * [1, 2, 5, 10].find((times) => times * unit >= value);
}
