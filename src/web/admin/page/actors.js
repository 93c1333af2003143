// The actor tree: what each is, what waits for it, and what it says of itself.

import { get } from "./api.js";
import { source } from "./json.js";
import { count, duration, Filter, html, Json, State, useAsked, Waiting } from "./parts.js";

const MAX_CHILDREN = 200;

function line(actor) {
  const { name, state, restarts, mailbox, uptime_seconds: uptime } = actor;
  return html`<b>${name}</b> <${State} of=${state} kind=${state === "running" ? "good" : "bad"} />
    ${restarts > 0 && html` <${State} of=${`${count(restarts)} restarts`} kind="warn" />`}
    <span class="soft"> mailbox ${count(mailbox.depth)} of ${count(mailbox.capacity)}, up ${duration(uptime)}</span>`;
}

function Actor({ actor, depth }) {
  const children = actor.children.slice(0, MAX_CHILDREN);
  return html`<li><details open=${depth === 0}>
    <summary>${line(actor)}</summary>
    <${Json} text=${source(actor, "details")} label=${`What ${actor.name} says`} />
    ${children.length > 0 && html`<ul>${children.map((child) => html`<${Actor} key=${child.name} actor=${child} depth=${depth + 1} />`)}</ul>`}
    ${actor.children.length > MAX_CHILDREN && html`<p class="soft">${count(actor.children.length - MAX_CHILDREN)} more are under Subscribers.</p>`}
  </details></li>`;
}

export default function Actors({ query }) {
  const node = query.node ?? "";
  const asked = useAsked((signal) => get("/admin/actors", { node }, signal), [node], 5000);
  return html`
    <${Filter} view="actors" query=${query} button="Show" fields=${[{ name: "node", label: "Node", hint: "this one" }]} />
    <${Waiting} asked=${asked} />
    ${asked.value?.data.nodes && html`<p class="soft">Name one node.</p>`}
    ${asked.value?.data.name && html`<ul class="tree"><${Actor} actor=${asked.value.data} depth=${0} /></ul>`}`;
}
