// The catalogue of event types.

import { get } from "./api.js";
import { source } from "./json.js";
import { Action, count, Facts, href, html, Json, State, Table, Time, useAsked, Waiting } from "./parts.js";

const at = (name) => `/event-types/${encodeURIComponent(name)}`;

/** A server without a catalogue has no such path. */
function Missing({ asked }) {
  return asked.error?.status === 404 ? html`<p>This server has no catalogue of event types.</p>` : html`<${Waiting} asked=${asked} />`;
}

function All() {
  const asked = useAsked((signal) => get("/event-types", {}, signal), []);
  const rows = asked.value?.data ?? [];
  return html`<${Missing} asked=${asked} />
    ${asked.value && html`<${Table} caption="Event types" empty="No event type is registered." heads=${["name", "#version", "mode", "compatibility", "owner", "description"]}
      rows=${rows.map((one) => ({ key: one.name, cells: [html`<a href=${href("types", [one.name])}>${one.name}</a>`, count(one.version), html`<${State} of=${one.mode ?? "enforce"} />`, one.compatibility ?? "", one.owner ?? "", one.description ?? ""] }))} />`}`;
}

function Usage({ name }) {
  const asked = useAsked((signal) => get(`${at(name)}/usage`, {}, signal), [name]);
  const usage = asked.value?.data;
  if (asked.error?.status === 404) return null;
  return html`<h3>The last day</h3><${Waiting} asked=${asked} />${usage && html`
    <p>${count(usage.violations)} violations.</p>
    ${(usage.unreachable ?? []).map((node) => html`<p key=${node}>Node ${node} did not answer: its subscribers and violations are left out.</p>`)}
    <${Table} caption="Publishers" heads=${["published by", "#events", "last"]} rows=${(usage.publishers ?? []).map((one) => ({ key: one.source, cells: [one.source, count(one.count), html`<${Time} at=${one.last_at} />`] }))} />
    <h3>Receivers</h3>
    <${Table} caption="Receivers" heads=${["kind", "name"]} rows=${(usage.receivers ?? []).map((one) => ({ key: `${one.kind} ${one.name}`, cells: [one.kind, one.name] }))} />`}`;
}

function Versions({ name }) {
  const asked = useAsked((signal) => get(`${at(name)}/versions`, {}, signal), [name]);
  return html`<h3>Versions</h3><${Waiting} asked=${asked} />${asked.value?.data.map((one) => html`<div key=${one.version}>
    <p>${count(one.version)}, since <${Time} at=${one.created_at} /></p><${Json} text=${source(one, "schema")} label=${`Schema of version ${one.version}`} /></div>`)}`;
}

function One({ name }) {
  const asked = useAsked((signal) => get(at(name), {}, signal), [name]);
  const type = asked.value?.data;
  return html`<p><a href=${href("types")}>All event types</a></p>
    <${Missing} asked=${asked} />
    ${type && html`<h2>${type.name} <${State} of=${type.mode ?? "enforce"} /></h2>
      <div class="buttons"><${Action} label="Delete" name=${type.name} method="DELETE" path=${at(name)} about="Events of this name are judged no more." /></div>
      <${Facts} rows=${[["version", count(type.version)], ["owner", type.owner], ["compatibility", type.compatibility], ["strict", type.strict ? "yes" : "no"], ["deprecated", type.deprecated ? "yes" : "no"], ["description", type.description]]} />
      <h3>Schema</h3><${Json} text=${source(type, "schema")} label="Schema" />
      <${Versions} name=${name} />
      <${Usage} name=${name} />`}`;
}

export default function Types({ of }) {
  return of[0] ? html`<${One} key=${of[0]} name=${of[0]} />` : html`<${All} />`;
}
