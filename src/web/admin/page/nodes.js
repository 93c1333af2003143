// The nodes that share the store, and what each does for all.

import { get } from "./api.js";
import { source } from "./json.js";
import { count, href, html, State, Table, Time, useAsked, Waiting } from "./parts.js";

export default function Nodes() {
  const asked = useAsked((signal) => get("/admin/nodes", {}, signal), [], 3000);
  return html`<${Waiting} asked=${asked} />
    ${asked.value && html`<${Table} caption="Nodes" heads=${["name", "state", "version", "#end of log", "#lag", "started", "last seen", "holds"]}
      rows=${asked.value.data.map((one) => ({ key: one.name, cells: [html`<a href=${href("actors", [], { node: one.name })}>${one.name}</a>`, html`<${State} of=${one.state} kind=${one.state === "draining" ? "warn" : undefined} />`, one.version,
        source(one, "end_of_log"), count(one.lag), html`<${Time} at=${one.started_at} />`, html`<${Time} at=${one.last_seen} />`, one.holds.join(", ") || "–"] }))} />`}`;
}
