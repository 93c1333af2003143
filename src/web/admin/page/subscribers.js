// Who is connected, and the durable subscriptions.

import { get } from "./api.js";
import { Exact, source } from "./json.js";
import { Action, bytes, count, duration, Filter, href, html, Pages, rowsOf, State, Table, Time, useAsked, Waiting } from "./parts.js";

const LIMIT = 200;

function Sessions({ query }) {
  const { pattern, peer, kind, node, after } = query;
  const asked = useAsked((signal) => get("/admin/sessions", { pattern, peer, kind, node, after, limit: LIMIT }, signal), [JSON.stringify(query)], 5000);
  return html`
    <${Filter} view="subscribers" query=${query} fields=${[
      { name: "pattern", label: "Pattern" }, { name: "peer", label: "Peer" }, { name: "kind", label: "Kind", choices: ["", "websocket", "sse"] }, { name: "node", label: "Node", hint: "this one" },
    ]} />
    <${Waiting} asked=${asked} />
    ${Array.isArray(asked.value?.data) && html`
      <p class="soft" role="status">${rowsOf(asked.value)} shown.</p>
      <${Table} caption="Subscribers" heads=${["id", "kind", "peer", "subscriptions", "#lag", "#queue", "#up", ""]} empty="Nobody is connected."
        rows=${asked.value.data.map((one) => ({ key: one.id, cells: [source(one, "id"), one.kind, one.peer ?? "–", patterns(one), count(one.lag), bytes(one.queue_bytes), duration(one.uptime_seconds),
          html`<${Action} label="Disconnect" name=${source(one, "id")} about="It is told not to connect again." method="DELETE" path=${`/admin/sessions/${source(one, "id")}`} done=${asked.again} />`] }))} />
      <${Pages} view="subscribers" query=${query} page=${{ next: without(asked.value.next) }} />`}`;
}

function patterns(one) {
  const listed = (one.subscriptions ?? []).map((of) => (typeof of === "string" ? of : of.event_name ?? JSON.stringify(of)));
  const more = (one.subscription_count ?? listed.length) - listed.length;
  return `${listed.slice(0, 5).join(", ")}${more > 0 || listed.length > 5 ? ` and ${count(Math.max(more, 0) + Math.max(listed.length - 5, 0))} more` : ""}` || "–";
}

function without(next) {
  if (!next) return null;
  const all = new URLSearchParams(next);
  all.delete("limit");
  return all.toString();
}

function Durables() {
  const asked = useAsked((signal) => get("/admin/durables", {}, signal), [], 5000);
  return html`<${Waiting} asked=${asked} />
    ${asked.value && html`<${Table} caption="Durable subscriptions" heads=${["name", "pattern", "filter", "state", "#lag", "#floor", "#members", "#in flight", "#waiting", "#again", "dead", "since", ""]}
      rows=${asked.value.data.map((one) => ({ key: one.name, cells: [one.name, one.event_name, html`<code>${one.filter === null ? "" : source(one, "filter")}</code>`, html`<${State} of=${one.state} />`, count(one.lag), source(one, "floor"), count(one.members), count(one.in_flight), count(one.waiting), count(one.redelivered),
        html`<a href=${href("dead", [], { service: `durable/${one.name}` })}>Dead letters</a>`, html`<${Time} at=${one.created_at} />`,
        html`<div class="buttons">
          <${Action} label="Seek" name=${one.name} about="Its members get what follows. What they hold they can no longer acknowledge." path=${`/admin/durables/${encodeURIComponent(one.name)}/seek`} done=${asked.again}
            fields=${[{ name: "after", label: "After the event with this id, or earliest, or latest", required: true, read: (text) => (/^\d+$/.test(text) ? new Exact(text.replace(/^0+(?=\d)/, "")) : text) }]} />
          <${Action} label="Delete" name=${one.name} about="Its position and its dead events go with it." method="DELETE" path=${`/admin/durables/${encodeURIComponent(one.name)}`} done=${asked.again} />
        </div>`] }))} />`}`;
}

function Patterns() {
  const asked = useAsked((signal) => get("/admin/subscriptions", { limit: LIMIT }, signal), [], 5000);
  return html`<${Waiting} asked=${asked} />
    ${asked.value && html`<p class="soft">${rowsOf(asked.value)} shown.</p><${Table} caption="Patterns" heads=${["pattern", "#subscribers", "#websocket", "#sse"]} empty="Nobody has subscribed."
      rows=${asked.value.data.map((one) => ({ key: one.event_name, cells: [html`<a href=${href("subscribers", [], { pattern: one.event_name })}>${one.event_name}</a>`, count(one.subscribers), count(one.websocket), count(one.sse)] }))} />`}`;
}

const PARTS = { connected: "Connected", durable: "Durable subscriptions", patterns: "Patterns" };

export default function Subscribers({ query }) {
  const { show = "connected", ...rest } = query;
  return html`<nav class="pages" aria-label="Parts">${Object.entries(PARTS).map(([name, title]) =>
      html`<a href=${href("subscribers", [], name === "connected" ? {} : { show: name })} aria-current=${name === show ? "page" : null}>${title}</a>`)}</nav>
    ${show === "durable" ? html`<${Durables} />` : show === "patterns" ? html`<${Patterns} />` : html`<${Sessions} query=${rest} />`}`;
}
