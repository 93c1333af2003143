// What the views are made of. Whatever comes from the server is shown as text.

import { act, search } from "./api.js";
import { useEffect, useRef, useState } from "./hooks.js";
import htm from "./htm.js";
import { indented } from "./json.js";
import { h } from "./preact.js";

export { useEffect, useRef, useState };

/** Elements of a template. */
export const html = htm.bind(h);

/** The address of a view: its name, what it is of, and its parameters. */
export function href(view, of = [], query = {}) {
  const path = [view, ...of].map((part) => encodeURIComponent(part)).join("/");
  const parameters = typeof query === "string" ? query : search(query);
  return `#/${path}${parameters ? `?${parameters}` : ""}`;
}

/** What the address names: the view, what it is of, and the parameters. */
export function route() {
  const [path, parameters = ""] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const parts = path.split("/").filter(Boolean).map((part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  });
  return { view: parts[0] ?? "overview", of: parts.slice(1), query: Object.fromEntries(lists(parameters)), parameters };
}

function lists(parameters) {
  const all = new Map();
  for (const [name, value] of new URLSearchParams(parameters)) all.set(name, [...(all.get(name) ?? []), value]);
  return [...all].map(([name, values]) => [name, values.length === 1 ? values[0] : values]);
}

export function go(view, of, query) {
  location.hash = href(view, of, query);
}

/**
 * What `load(signal)` answers: `{ value, error, again }`. It is asked again every `every` milliseconds while the tab is
 * seen, when `inputs` change, and by `again()`.
 */
export function useAsked(load, inputs, every = 0) {
  const [state, set] = useState({ value: null, error: null });
  const [turn, next] = useState(0);
  useEffect(() => {
    const ends = new AbortController();
    let timer = 0;
    const ask = async () => {
      clearTimeout(timer);
      try {
        const value = await load(ends.signal);
        if (!ends.signal.aborted) set({ value, error: null });
      } catch (error) {
        if (!ends.signal.aborted) set((last) => ({ value: last.value, error }));
      }
      if (every && !ends.signal.aborted && !document.hidden) timer = setTimeout(ask, every);
    };
    const seen = () => {
      clearTimeout(timer);
      if (!document.hidden) ask();
    };
    ask();
    if (every) document.addEventListener("visibilitychange", seen);
    return () => {
      ends.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
    };
  }, [...inputs, turn]);
  return { ...state, again: () => next((last) => last + 1) };
}

/** What is shown until an answer is there, or instead of it. */
export function Waiting({ asked }) {
  if (asked.error) return html`<p class="bad" role="alert">${asked.error.message}</p>`;
  return asked.value === null ? html`<p class="soft">Loading</p>` : null;
}

const pad = (number, width = 2) => String(number).padStart(width, "0");

/** A time in the zone of the reader, with UTC where one points at it. */
export function Time({ at }) {
  if (at === null || at === undefined || at === "") return html`<span class="soft">–</span>`;
  const then = new Date(at);
  if (Number.isNaN(then.getTime())) return html`<span>${String(at)}</span>`;
  const day = `${then.getFullYear()}-${pad(then.getMonth() + 1)}-${pad(then.getDate())}`;
  const clock = `${pad(then.getHours())}:${pad(then.getMinutes())}:${pad(then.getSeconds())}`;
  const isToday = then.toDateString() === new Date().toDateString();
  return html`<time dateTime=${String(at)} title=${typeof at === "string" ? at : then.toISOString()}>${isToday ? clock : `${day} ${clock}`}</time>`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const value = Number(seconds);
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 120) return `${value.toFixed(value < 10 ? 1 : 0)} s`;
  if (value < 7200) return `${Math.round(value / 60)} min`;
  return value < 172800 ? `${Math.round(value / 3600)} h` : `${Math.round(value / 86400)} d`;
}

/** A count with separators between thousands; what is no number stays as it is. */
export const count = (value) => (typeof value === "number" ? value.toLocaleString("en") : String(value ?? "–"));

export function bytes(value) {
  if (typeof value !== "number") return String(value ?? "–");
  const units = ["B", "KiB", "MiB", "GiB"];
  let at = 0;
  while (value >= 1024 && at < 3) [value, at] = [value / 1024, at + 1];
  return `${at ? value.toFixed(1) : value} ${units[at]}`;
}

const KINDS = {
  good: ["closed", "forced_closed", "active", "running", "up", "ok", "processed", "delivered", "completed", "synced", "succeeded", "done", "settled", "enforce"],
  bad: ["open", "forced_open", "dead", "failed", "lost", "needs_operator", "diverged", "stopped", "compensation_failed", "unavailable", "down", "unknown"],
};

/** The name of a state; its colour says nothing that the name does not. */
export function State({ of, kind }) {
  const text = String(of ?? "–");
  const found = kind ?? Object.keys(KINDS).find((known) => KINDS[known].includes(text)) ?? "plain";
  return html`<span class=${`state ${found}`}>${text.replaceAll("_", " ")}</span>`;
}

/** A table; cells are nodes or texts. It scrolls by itself where it is too wide. */
export function Table({ caption, heads, rows, empty = "There is none." }) {
  if (!rows.length) return html`<p class="soft">${empty}</p>`;
  return html`<div class="wide" tabindex="0" role="region" aria-label=${caption}><table>
    <caption class="unseen">${caption}</caption>
    <thead><tr>${heads.map((head) => html`<th scope="col" class=${head.startsWith("#") ? "number" : ""}>${head ? head.replace(/^#/, "") : html`<span class="unseen">actions</span>`}</th>`)}</tr></thead>
    <tbody>${rows.map(({ key, cells }) => html`<tr key=${key}>${cells.map((cell, at) =>
      html`<td class=${heads[at]?.startsWith("#") ? "number" : ""}>${cell}</td>`)}</tr>`)}</tbody>
  </table></div>`;
}

/** Names and values, one below the other. */
export function Facts({ rows }) {
  return html`<dl>${rows.filter((row) => row && row[1] !== null && row[1] !== undefined && row[1] !== "").map(([name, value]) =>
    html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

/** A JSON text exactly as it is, or, if that is wanted, with indents. */
export function Json({ text, label = "JSON" }) {
  const [isIndented, set] = useState(false);
  if (!text) return null;
  return html`<div class="json">
    <pre tabindex="0" role="group" aria-label=${label}>${isIndented ? indented(text) : text}</pre>
    <button type="button" class="small" aria-pressed=${String(isIndented)} onClick=${() => set(!isIndented)}>Indent</button>
  </div>`;
}

/** Fields that become the parameters of the view's address. `fields`: name, label, and kind or list of choices. */
export function Filter({ view, of = [], fields, query, button = "Search" }) {
  const submit = (event) => {
    event.preventDefault();
    const given = new FormData(event.target);
    go(view, of, Object.fromEntries(fields.map(({ name }) => [name, String(given.get(name) ?? "").trim()])));
  };
  return html`<form class="filter" role="search" key=${JSON.stringify(query)} onSubmit=${submit}>
    ${fields.map((field) => html`<${Field} key=${field.name} ...${field} value=${query[field.name]} />`)}
    <button>${button}</button>
  </form>`;
}

/** A field of a form. What is typed stays: `value` is only what it begins with. */
export function Field({ name, label, choices, kind = "text", value, hint, required, rows }) {
  if (choices) {
    return html`<label>${label} <select name=${name}>${choices.map((choice) =>
      html`<option key=${choice} value=${choice} selected=${choice === (value ?? choices[0])}>${choice === "" ? "any" : choice.replaceAll("_", " ")}</option>`)}</select></label>`;
  }
  if (rows) return html`<label class="whole">${label} <textarea name=${name} rows=${rows} spellcheck=${false} required=${required} defaultValue=${value ?? ""}></textarea></label>`;
  return html`<label>${label} <input name=${name} type=${kind} placeholder=${hint} required=${required} autocomplete="off" spellcheck=${false} defaultValue=${value ?? ""} /></label>`;
}

/** Links to the first and to the next page of a list; `next` is the query that the server gives. */
export function Pages({ view, of = [], query, page }) {
  const cursors = ["after", "before"].filter((name) => query[name] !== undefined);
  const first = Object.fromEntries(Object.entries(query).filter(([name]) => !cursors.includes(name)));
  return html`<nav class="pages" aria-label="Pages">
    ${cursors.length > 0 && html`<a href=${href(view, of, first)}>First page</a>`}
    ${page.next && html`<a href=${href(view, of, page.next)}>Next page</a>`}
  </nav>`;
}

/** How many rows there are, as far as a page tells. */
export const rowsOf = (page) => `${page.data.length}${page.next ? "+" : ""}`;

const hearers = new Set();
let answer = null;

/** Shows the answer to an action above the view, where it stays whatever becomes of the row that was acted on. */
export function tellOf(text, isBad = false) {
  answer = text === null ? null : { text, isBad };
  hearers.forEach((hearer) => hearer());
}

/** The last answer to an action. */
export function Told() {
  const [, turn] = useState(0);
  useEffect(() => {
    const hearer = () => turn((last) => last + 1);
    hearers.add(hearer);
    return () => hearers.delete(hearer);
  }, []);
  return html`<div class="told"><p role="status" class=${answer?.isBad ? "bad" : ""}>${answer?.text ?? ""}</p>
    ${answer && html`<button type="button" class="small" onClick=${() => tellOf(null)}>Clear the answer</button>`}</div>`;
}

/** What `run()` does, with its answer above the view. */
export const doNow = (what, run, done) => run().then(({ message }) => { tellOf(`${what}: ${message}`); done(); }, (error) => tellOf(`${what}: ${error.message}`, true));

/**
 * A button that does something for which one has to type a name. Its dialog shows what `dry(body)` counts, and what the
 * server answers. `fields` go into the body. `run(body, say)` does it, if one request is not enough. A figure holds for
 * what was typed when it was counted: after a change it is to be counted again.
 */
export function Action({ label, about, name, method = "POST", path, fields = [], body = {}, dry, run: work, done = () => {}, kind = "" }) {
  const dialog = useRef(null);
  const typing = useRef(0);
  const [shown, show] = useState(null);
  const open = () => show({ typed: "", figure: null, isVoid: false, said: null, isBusy: false });
  const close = () => show(null);
  useEffect(() => {
    if (shown && !dialog.current.open) dialog.current.showModal();
  }, [shown === null]);

  const given = () => {
    const values = new FormData(dialog.current.querySelector("form"));
    const made = { ...body };
    for (const { name: field, read = (text) => text } of fields) {
      const text = String(values.get(field) ?? "").trim();
      if (text) made[field] = read(text);
    }
    return made;
  };
  const changed = (event) => {
    if (event.target.name === "typed-name") return;
    typing.current++;
    show((last) => last && { ...last, isVoid: last.isVoid || last.figure !== null, figure: null });
  };
  const tell = async (does) => {
    show((last) => ({ ...last, isBusy: true, said: null }));
    try {
      const change = await does();
      show((last) => last && { ...last, isBusy: false, ...change });
    } catch (error) {
      show((last) => last && { ...last, isBusy: false, said: error.message, isBad: true });
    }
  };
  const count = () => tell(async () => {
    const before = typing.current;
    const figure = await dry(given());
    return before === typing.current ? { figure, isVoid: false } : { figure: null, isVoid: true };
  });
  const say = (said) => show((last) => last && { ...last, said, isBad: false });
  const send = (all) => act(method, path, method === "DELETE" || Object.keys(all).length === 0 ? undefined : all);
  const run = (event) => {
    event.preventDefault();
    if (shown.isBusy || shown.isVoid) return;
    if (shown.typed !== name) return show((last) => ({ ...last, said: `Type ${name} to confirm.`, isBad: true }));
    tell(async () => {
      const what = label === name ? label : `${label} ${name}`;
      try {
        const { message } = await (work ?? send)(given(), say);
        tellOf(`${what}: ${message}`);
        done();
        return { said: message, isBad: false, isDone: true };
      } catch (error) {
        tellOf(`${what}: ${error.message}`, true);
        throw error;
      }
    });
  };
  return html`<button type="button" class=${kind} onClick=${open}>${label}</button>
    ${shown && html`<dialog ref=${dialog} onClose=${close} aria-label=${label}>
      <form onSubmit=${run} onInput=${changed} method="dialog">
        <h2>${label}</h2>
        ${about && html`<p>${about}</p>`}
        ${!shown.isDone && html`
          ${fields.map((field) => html`<${Field} key=${field.name} ...${field} />`)}
          ${dry && html`<p><button type="button" disabled=${shown.isBusy} onClick=${count}>${shown.isVoid ? "Count again" : "Count first"}</button> <span role="status" class="figure">${shown.isVoid ? "Count again: what was typed has changed." : shown.figure ?? ""}</span></p>`}
          <label><span>Type <b class="typed">${name}</b> to confirm</span>
            <input name="typed-name" autocomplete="off" spellcheck=${false} value=${shown.typed} onInput=${(event) => { const typed = event.target.value; show((last) => ({ ...last, typed })); }} />
          </label>`}
        <p role="status" class=${shown.isBad ? "bad" : ""}>${shown.said ?? ""}</p>
        <div class="buttons">
          ${!shown.isDone && html`<button class="danger" disabled=${shown.isBusy || shown.isVoid || shown.typed !== name}>${label}</button>`}
          <button type="button" onClick=${() => dialog.current.close()}>${shown.isDone ? "Close" : "Leave it"}</button>
        </div>
      </form>
    </dialog>`}`;
}

/** What a dry run has counted, in words. */
export const counted = (data) => `${data.exact === false ? "at least " : ""}${count(data.count)} would be touched`;
