// How the figures went: plots of the last hour, as far as it was seen.

import uPlot from "./uplot.js";
import { html, useEffect, useRef } from "./parts.js";

const HEIGHT = 150;

/** Title, unit, and the fields with their names. */
const PLOTS = [
  ["Events", "/s", [["published", "published"], ["pushed", "pushed"]]],
  ["Deliveries", "/s", [["delivered", "delivered"], ["failed", "failed attempts"]]],
  ["Publish to commit", " ms", [["publish_p50", "half within"], ["publish_p99", "99 % within"]]],
  ["Waiting and dead", "", [["pending", "waiting"], ["dead", "dead"]]],
];

const isDark = matchMedia("(prefers-color-scheme: dark)");

const colours = () => isDark.matches
  ? { text: "#a0a9b5", grid: "#343b46", lines: ["#7fb7ff", "#6fd391", "#ff938a"] }
  : { text: "#57606a", grid: "#d5dae1", lines: ["#0a5cc2", "#1a7f4b", "#b3261e"] };

function Plot({ title, unit, fields, live }) {
  const place = useRef(null);
  const plot = useRef(null);
  const at = fields.map(([name]) => live.fields.indexOf(name));
  const last = live.samples[live.samples.length - 1];
  const data = () => [live.samples.map((one) => one[0] / 1000), ...at.map((column) => live.samples.map((one) => one[column] ?? null))];
  useEffect(() => {
    const box = place.current;
    const { text, grid, lines } = colours();
    const axis = { stroke: text, grid: { stroke: grid, width: 1 }, ticks: { show: false }, font: "11px system-ui", size: 44 };
    plot.current = new uPlot({
      width: box.clientWidth, height: HEIGHT, legend: { show: false }, cursor: { show: false },
      scales: { y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
      axes: [{ ...axis, size: 24, space: 70, values: (_, times) => times.map(clock) }, { ...axis, values: (_, values) => values.map(short) }],
      series: [{}, ...lines.slice(0, fields.length).map((stroke) => ({ stroke, width: 1.5, points: { show: false } }))],
    }, data(), box);
    const sizes = new ResizeObserver(() => box.isConnected && plot.current.setSize({ width: box.clientWidth, height: HEIGHT }));
    sizes.observe(box);
    return () => {
      sizes.disconnect();
      plot.current.destroy();
    };
  }, []);
  useEffect(() => plot.current.setData(data()), [last?.[0]]);
  const told = fields.map(([, name], field) => `${name} ${short(last?.[at[field]] ?? 0)}${unit}`);
  return html`<div class="plot">
    <h2>${title} ${fields.map(([, name], field) => html`<span class="legend"><i class=${`c${field}`}></i>${name}</span>`)}</h2>
    <div ref=${place} role="img" aria-label=${`${title}: ${told.join(", ")}`}></div>
  </div>`;
}

/** The time of day in the zone of the reader. */
const clock = (seconds) => new Date(seconds * 1000).toTimeString().slice(0, 8);

function short(value) {
  if (value >= 1e6) return `${Number((value / 1e6).toFixed(1))}M`;
  if (value >= 1e3) return `${Number((value / 1e3).toFixed(1))}k`;
  return String(Number(value.toFixed(value < 10 ? 1 : 0)));
}

export function Plots({ live }) {
  if (live.samples.length < 2) return html`<p class="soft">Plots come with the second sample.</p>`;
  return html`<section class="plots" aria-label="Plots">${PLOTS.map(([title, unit, fields]) =>
    html`<${Plot} key=${title} title=${title} unit=${unit} fields=${fields} live=${live} />`)}</section>`;
}
