// Events: the search, and one event with its payload as it is stored and what became of it.

import { act, get } from "./api.js";
import { Exact, source } from "./json.js";
import { Action, count, counted, duration, Facts, Filter, href, html, Json, Pages, rowsOf, State, Table, Time, useAsked, Waiting } from "./parts.js";

const SHOWN = 160;

/** What was given besides the fields that every event has. */
const MORE = ["priority", "key", "metadata", "traceparent"];

function Search({ query }) {
  const asked = useAsked((signal) => get("/events", { order: "desc", limit: 100, ...query }, signal), [JSON.stringify(query)]);
  return html`
    <form class="filter" onSubmit=${(event) => { event.preventDefault(); const id = new FormData(event.target).get("id").trim(); if (id) location.hash = href("events", [id]); }}>
      <label>Id <input name="id" inputmode="numeric" autocomplete="off" /></label><button>Open</button>
    </form>
    <${Filter} view="events" query=${query} fields=${[
      { name: "event_name", label: "Name or pattern", hint: "auction.>" }, { name: "key", label: "Key" }, { name: "source", label: "Source" },
      { name: "status", label: "Status", choices: ["", "processed", "pending", "failed"] },
      { name: "since", label: "Since", hint: "2026-01-31T12:00:00Z" }, { name: "until", label: "Until", hint: "2026-01-31T12:00:00Z" },
    ]} />
    <${Waiting} asked=${asked} />
    ${asked.value && html`
      <p class="soft" role="status">${rowsOf(asked.value)} shown, the newest first. The Event Handler's own events are found by <a href=${href("events", [], { event_name: "$sys.>" })}>$sys.></a>.</p>
      <${Table} caption="Events" heads=${["id", "name", "status", "source", "key", "stored", "payload"]} empty="No event matches."
        rows=${asked.value.data.map((one) => ({ key: source(one, "id"), cells: [
          html`<a href=${href("events", [source(one, "id")])}>${source(one, "id")}</a>`, one.event_name, html`<${State} of=${one.status} kind=${one.status === "pending" ? "warn" : undefined} />`, one.source, one.key ?? "",
          html`<${Time} at=${one.created_at} />`, html`<code>${cut(source(one, "payload"))}</code>`] }))} />
      <${Pages} view="events" query=${query} page=${asked.value} />`}`;
}

const cut = (text) => (text.length > SHOWN ? `${text.slice(0, SHOWN)}…` : text);

/** Each thing that happened to an event, in order. */
function happened({ committed_at: committed, pushed_to: pushed, deliveries, durables }) {
  const all = [{ at: committed, kind: "good", text: "stored" }];
  if (pushed !== null) all.push({ at: committed, text: `pushed to ${count(pushed)} ${pushed === 1 ? "subscriber" : "subscribers"} of this node` });
  for (const one of deliveries) {
    for (const attempt of one.attempts) {
      const answer = attempt.http_status ? `answered ${attempt.http_status}` : attempt.error ?? "no answer";
      const took = attempt.took_ms === null ? "" : ` after ${duration(attempt.took_ms / 1000)}`;
      const said = attempt.answer ? `: ${attempt.answer}` : "";
      all.push({ at: attempt.at, kind: attempt.outcome === "delivered" ? "good" : "bad", text: `${one.service}, attempt ${attempt.attempt}: ${answer}${took}${said}` });
    }
    if (one.state === "dead") all.push({ at: null, kind: "bad", text: `${one.service}: dead, ${one.reason ?? "no reason is known"}` });
    if (one.state === "pending") all.push({ at: one.next_attempt_at, text: `${one.service}: ${one.next_attempt_at ? "to be tried then" : "waits"}` });
  }
  for (const one of durables ?? []) all.push({ at: null, kind: one.state === "dead" ? "bad" : "", text: `durable ${one.durable}: ${one.state.replace("_", " ")}${one.deliveries ? `, given ${count(one.deliveries)} times` : ""}` });
  const when = (one) => (one.at ? Date.parse(one.at) : Infinity);
  return all.map((one, place) => ({ ...one, place })).sort((one, other) => when(one) - when(other) || one.place - other.place);
}

function One({ id }) {
  const asked = useAsked((signal) => get(`/events/${encodeURIComponent(id)}/trace`, {}, signal), [id], 3000);
  const names = useAsked((signal) => get("/admin/services", {}, signal), []);
  const trace = asked.value?.data;
  if (!trace) return html`<div key="waiting"><p><a href=${href("events")}>Search</a></p><${Waiting} asked=${asked} /></div>`;
  const event = trace.event;
  const exact = source(event, "id");
  const services = (names.value?.data ?? []).map((one) => one.service);
  const dead = trace.deliveries.filter((one) => one.state === "dead");
  const dry = (path) => (body) => act("POST", path, { ...body, dry_run: true }).then(({ data }) => counted(data));
  return html`<div key="shown">
    <p><a href=${href("events")}>Search</a></p>
    <h2>${event.event_name} <${State} of=${event.status} kind=${event.status === "pending" ? "warn" : undefined} /></h2>
    <div class="buttons">
      ${services.length > 0 && html`<${Action} label="Replay" name=${event.event_name} about="It is delivered to the service again, whether it had it or not." path="/admin/replay" body=${{ from: new Exact(exact), to: new Exact(exact), event_name: event.event_name }}
        fields=${[{ name: "service", label: "Service", choices: services }]} dry=${dry("/admin/replay")} done=${asked.again} />`}
      ${dead.length > 0 && html`<${Action} label="Redrive" name=${event.event_name} about=${`Its dead deliveries are tried again: ${dead.map((one) => one.service).join(", ")}.`} path="/admin/deliveries/redrive" body=${{ event_id: new Exact(exact) }} dry=${dry("/admin/deliveries/redrive")} done=${asked.again} />`}
    </div>
    <${Facts} rows=${[["id", exact], ["source", event.source], ["stored", html`<${Time} at=${event.created_at} />`], ...MORE.map((name) => [name, event[name] === undefined ? null : typeof event[name] === "string" ? event[name] : source(event, name)])]} />
    <h3>Payload</h3>
    <${Json} text=${source(event, "payload")} label="Payload" />
    <h3>Time line</h3>
    <ol class="line">${happened(trace).map((one) => html`<li class=${one.kind}>${one.at && html`<${Time} at=${one.at} /> `}${one.text}</li>`)}</ol></div>`;
}

export default function Events({ of, query }) {
  return of[0] ? html`<${One} key=${of[0]} id=${of[0]} />` : html`<${Search} query=${query} />`;
}
