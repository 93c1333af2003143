// Instances of sagas: the list, one with its journal, and what operators tell them.

import { act, get, Refusal } from "./api.js";
import { Exact, source } from "./json.js";
import { Action, count, Facts, Filter, href, html, Json, Pages, rowsOf, State, Table, Time, useAsked, Waiting } from "./parts.js";

const STATES = ["", "needs_operator", "running", "waiting", "compensating", "queued", "completed", "compensated", "aborted"];

const VERBS = {
  retry: ["Retry", "The step is tried again.", ["needs_operator", "running", "waiting"]],
  skip: ["Skip", "The step counts as done, with the result that you give.", ["needs_operator"]],
  compensate: ["Compensate", "What was done is undone, in reverse order.", ["running", "waiting", "needs_operator"]],
  abort: ["Abort", "It ends as it is. Nothing is undone.", ["queued", "running", "waiting", "compensating", "needs_operator"]],
  pause: ["Pause", "No step begins until it is resumed.", ["queued", "running", "waiting", "compensating", "needs_operator"]],
  resume: ["Resume", "It goes on.", ["queued", "running", "waiting", "compensating", "needs_operator"]],
};

const REASON = { name: "reason", label: "Reason", required: true };
const RESULT = { name: "result", label: "Result (JSON)", read: (text) => new Exact(text) };
const kind = (state) => (["running", "waiting", "compensating", "queued"].includes(state) ? "warn" : undefined);

function Verbs({ saga, again }) {
  const fits = ([verb, [, , states]]) => states.includes(saga.state) && (verb !== "pause" || !saga.paused) && (verb !== "resume" || saga.paused);
  return html`<div class="buttons">${Object.entries(VERBS).filter(fits).map(([verb, [label, about]]) =>
    html`<${Action} key=${verb} label=${label} about=${about} name=${saga.name} path=${`/sagas/${encodeURIComponent(saga.id)}/${verb}`} fields=${verb === "skip" ? [REASON, RESULT] : [REASON]} done=${again} />`)}</div>`;
}

/** What an entry of the journal has besides its number, time and kind. */
function rest(entry) {
  const hidden = ["n", "at", "kind", "step"];
  return Object.keys(entry).filter((name) => !hidden.includes(name)).map((name) => html`<span key=${name}><span class="soft">${name} </span><code>${typeof entry[name] === "string" ? entry[name] : source(entry, name)}</code> </span>`);
}

function One({ id }) {
  const asked = useAsked((signal) => get(`/sagas/${encodeURIComponent(id)}`, {}, signal), [id], 3000);
  const saga = asked.value?.data;
  if (!saga) return html`<div key="waiting"><p><a href=${href("sagas")}>All instances</a></p><${Waiting} asked=${asked} /></div>`;
  return html`<div key="shown"><p><a href=${href("sagas")}>All instances</a></p>
    <h2>${saga.name} <${State} of=${saga.state} kind=${kind(saga.state)} /> ${saga.paused && html`<${State} of="paused" kind="warn" />`}</h2>
    <${Verbs} saga=${saga} again=${asked.again} />
    ${saga.error && html`<p class="bad">${saga.error}</p>`}
    <${Facts} rows=${[["id", saga.id], ["version", count(saga.version)], ["correlation", source(saga, "correlation")], ["started", html`<${Time} at=${saga.started_at} />`], ["changed", html`<${Time} at=${saga.updated_at} />`], ["deadline", saga.deadline_at && html`<${Time} at=${saga.deadline_at} />`]]} />
    ${saga.waiting_for?.length > 0 && html`<h3>Waits for</h3><ul>${saga.waiting_for.map((one) => html`<li>${one.for}${one.event ? ` ${one.event}` : ""}${one.step ? `, for ${one.step}` : ""}${one.until && html`, until <${Time} at=${one.until} />`}</li>`)}</ul>`}
    <h3>Steps</h3>
    <${Table} caption="Steps" heads=${["step", "state", "#attempts", "started", "error"]}
      rows=${(saga.steps ?? []).map((step) => ({ key: step.name, cells: [step.name, html`<${State} of=${step.state} kind=${["running", "waiting", "compensating"].includes(step.state) ? "warn" : undefined} />`, count(step.attempts), html`<${Time} at=${step.started_at} />`, step.error ?? ""] }))} />
    <h3>Journal</h3>
    <ol class="line">${(saga.journal ?? []).map((entry) => html`<li key=${entry.n}><${Time} at=${entry.at} /> <b>${entry.kind.replaceAll("_", " ")}</b>${entry.step ? ` ${entry.step}` : ""} ${rest(entry)}</li>`)}</ol>
    <h3>Began with</h3>
    <${Json} text=${source(saga, "trigger")} label="Trigger" /></div>`;
}

/** Tells all that match, however many requests that takes: how many were told, and how many it does not fit. */
async function tellMany(verb, body, progress = () => {}) {
  let [told, unfit, after] = [0, 0, undefined];
  for (;;) {
    try {
      const { data } = await act("POST", `/admin/sagas/${verb}`, { ...body, after });
      told += data.count;
      unfit += data.unfit;
      if (data.next === null || data.next === undefined) return { told, unfit };
      after = new Exact(source(data, "next"));
    } catch (error) {
      told += error.body?.count ?? 0;
      throw told ? new Refusal(error.status, `${count(told)} ${body.dry_run ? "counted" : "told"}, then: ${error.message}`, error.body) : error;
    }
    progress(told);
  }
}

/** Orders for all that match the filter. */
function Many({ query, again }) {
  const body = Object.fromEntries(["name", "state", "started_before"].filter((name) => query[name]).map((name) => [name, query[name]]));
  if (query.correlation) {
    try {
      body.correlation = new Exact(String(query.correlation));
    } catch {
      return html`<p class="bad">The correlation is not JSON.</p>`;
    }
  }
  if (!Object.keys(body).length) return html`<p class="soft">Filter them to tell many the same.</p>`;
  const dry = (verb) => (given) => tellMany(verb, { reason: "counted", ...given, dry_run: true })
    .then(({ told, unfit }) => `${count(told)} would be told, to ${count(unfit)} it does not fit`);
  const run = (verb) => (given, say) => tellMany(verb, given, (told) => say(`${count(told)} told so far`))
    .then(({ told, unfit }) => ({ message: `${count(told)} told${unfit ? `, to ${count(unfit)} it does not fit` : ""}.` }));
  return html`<div class="buttons">${["retry", "skip", "compensate", "abort", "pause", "resume"].map((verb) =>
    html`<${Action} key=${verb} label=${`${VERBS[verb][0]} all that match`} about=${VERBS[verb][1]} name=${query.name || "sagas"} path=${`/admin/sagas/${verb}`} body=${body} dry=${dry(verb)} run=${run(verb)} fields=${verb === "skip" ? [REASON, RESULT] : [REASON]} done=${again} />`)}</div>`;
}

function All({ query }) {
  const asked = useAsked((signal) => get("/sagas", { limit: 100, ...query }, signal), [JSON.stringify(query)], 5000);
  return html`
    <${Filter} view="sagas" query=${query} fields=${[
      { name: "name", label: "Saga" }, { name: "state", label: "State", choices: STATES }, { name: "correlation", label: "Correlation (JSON)", hint: '"a1"' }, { name: "started_before", label: "Started before", hint: "2026-01-31T12:00:00Z" },
    ]} />
    <${Many} query=${query} again=${asked.again} />
    <${Waiting} asked=${asked} />
    ${asked.value && html`
      <p class="soft" role="status">${rowsOf(asked.value)} shown, the newest first.</p>
      <${Table} caption="Instances" heads=${["id", "saga", "#version", "correlation", "state", "started", "changed"]} empty="No instance matches."
        rows=${asked.value.data.map((one) => ({ key: one.id, cells: [html`<a href=${href("sagas", [one.id])}>${one.id}</a>`, one.name, count(one.version), html`<code>${source(one, "correlation")}</code>`,
          html`<${State} of=${one.state} kind=${kind(one.state)} />${one.paused && html` <${State} of="paused" kind="warn" />`}`, html`<${Time} at=${one.started_at} />`, html`<${Time} at=${one.updated_at} />`] }))} />
      <${Pages} view="sagas" query=${query} page=${asked.value} />`}`;
}

export default function Sagas({ of, query }) {
  return of[0] ? html`<${One} key=${of[0]} id=${of[0]} />` : html`<${All} query=${query} />`;
}
