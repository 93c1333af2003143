// What the server samples of itself while somebody looks. One stream for the page; it ends while the tab is hidden, and
// what was missed comes when it is seen again.

import { stream } from "./api.js";
import { parse } from "./json.js";
import { useEffect, useState } from "./hooks.js";

/** How long samples are kept, in milliseconds. */
const KEPT = 60 * 60 * 1000;
const AGAIN = 3000;

/** A sample comes every two seconds. Without one for so long, the stream is opened again. */
const MAX_SILENCE = 8000;

const live = { fields: [], samples: [], services: null, last: null, problem: null };
const readers = new Set();
let ends = null;
let timer = 0;
let heard = null;

function tell() {
  readers.forEach((reader) => reader());
}

function add(sample) {
  const newest = live.samples[live.samples.length - 1];
  if (newest && sample[0] <= newest[0]) return;
  live.samples.push(sample);
  const oldest = sample[0] - KEPT;
  if (live.samples[0][0] < oldest) live.samples = live.samples.filter((one) => one[0] >= oldest);
  live.last = Object.fromEntries(live.fields.map((name, at) => [name, sample[at]]));
}

function received(event, data) {
  if (!data) return;
  live.problem = null;
  const value = parse(data);
  if (event === "begin") {
    live.fields = value.fields;
    value.samples.forEach(add);
  } else if (event === "sample") add(value);
  else if (event === "services") live.services = value;
  tell();
}

async function run() {
  clearTimeout(timer);
  if (ends || document.hidden || !readers.size) return;
  const mine = (ends = new AbortController());
  const some = (event, data) => {
    heard = Date.now();
    received(event, data);
  };
  try {
    await stream("/admin/samples", {}, mine.signal, some, { silence: MAX_SILENCE });
    if (!mine.signal.aborted) live.problem = silence("the stream has ended");
  } catch (error) {
    if (!mine.signal.aborted) live.problem = silence(error.message);
  }
  if (ends === mine) ends = null;
  tell();
  if (!mine.signal.aborted) timer = setTimeout(run, AGAIN);
}

function silence(why) {
  const since = heard === null ? "" : ` since ${new Date(heard).toTimeString().slice(0, 8)}`;
  return `Nothing is heard from the server${since}: ${why}.`;
}

function end() {
  ends?.abort();
  ends = null;
  clearTimeout(timer);
}

document.addEventListener("visibilitychange", () => (document.hidden ? end() : run()));

/** The samples, and the state of the services. The stream is open while a view uses them. */
export function useSamples() {
  const [, turn] = useState(0);
  useEffect(() => {
    const reader = () => turn((last) => last + 1);
    readers.add(reader);
    run();
    return () => {
      readers.delete(reader);
      if (!readers.size) end();
    };
  }, []);
  return live;
}
