// Whom an event would reach, and why not the others. Nothing is stored.

import { act } from "./api.js";
import { count, Field, go, href, html, State, Table, useAsked, Waiting } from "./parts.js";

const yes = (gets) => html`<${State} of=${gets ? "gets it" : "does not"} kind=${gets ? "good" : "plain"} />`;

function sessions(list) {
  return list.map((one, at) => ({ key: one.id ?? at, cells: [one.id ?? "–", one.kind ?? "–", one.peer ?? "–", one.event_name ?? one.pattern ?? "–", one.why_not].filter((cell) => cell !== undefined) }));
}

function Answer({ query }) {
  const { event_name, payload = "{}", source, key } = query;
  const asked = useAsked(async () => {
    const given = Object.entries({ event_name, source, key }).filter(([, value]) => value);
    // The payload goes as it was written.
    const fields = given.map(([name, value]) => `${JSON.stringify(name)}:${JSON.stringify(value)}`);
    return (await act("POST", "/admin/explain", `{${[...fields, `"payload":${payload.trim() || "{}"}`].join(",")}}`)).data;
  }, [JSON.stringify(query)]);
  const found = asked.value;
  return html`<${Waiting} asked=${asked} />${found && html`
    <h2>Services</h2>
    <${Table} caption="Services" empty="No service is configured." heads=${["service", "verdict", "route", "why not", "waits for"]}
      rows=${found.services.map((one) => ({ key: one.service, cells: [html`<a href=${href("services", [one.service])}>${one.service}</a>`, yes(one.gets), one.route ?? "–", one.why_not ?? "", one.waits_for ?? ""] }))} />
    <h2>Durable subscriptions</h2>
    <${Table} caption="Durable subscriptions" heads=${["name", "verdict", "why not"]}
      rows=${found.durables.map((one) => ({ key: one.durable, cells: [html`<a href=${href("subscribers", [], { show: "durable" })}>${one.durable}</a>`, yes(one.gets), one.why_not ?? ""] }))} />
    <h2>Subscribers of this node: ${count(found.sessions.count)} get it</h2>
    <${Table} caption="Subscribers that get it" heads=${["id", "kind", "peer", "pattern"]} rows=${sessions(found.sessions.listed)} />
    <h2>${count(found.sessions.others_count)} others do not</h2>
    <${Table} caption="Subscribers that do not get it" heads=${["id", "kind", "peer", "pattern", "why not"]} rows=${sessions(found.sessions.others_listed)} />`}`;
}

export default function Explain({ query }) {
  const submit = (event) => {
    event.preventDefault();
    go("explain", [], Object.fromEntries([...new FormData(event.target)].map(([name, value]) => [name, value.trim()])));
  };
  return html`<form class="filter" key=${JSON.stringify(query)} onSubmit=${submit}>
      <${Field} name="event_name" label="Event name" required value=${query.event_name} />
      <${Field} name="source" label="Source" hint="api" value=${query.source} />
      <${Field} name="key" label="Key" value=${query.key} />
      <${Field} name="payload" label="Payload (JSON)" rows=${4} value=${query.payload ?? "{}"} />
      <button>Explain</button>
    </form>
    ${query.event_name && html`<${Answer} key=${JSON.stringify(query)} query=${query} />`}`;
}
