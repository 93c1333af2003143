// The state of the whole system, and of this node.

import { get, readiness } from "./api.js";
import { source } from "./json.js";
import { Action, Facts, html, Json, State, Time, useAsked, Waiting } from "./parts.js";

const FIELDS = [
  { name: "reason", label: "Reason" },
  { name: "barrier", label: "Services that have to agree first, with commas", read: (text) => text.split(",").map((name) => name.trim()).filter(Boolean) },
  { name: "timeout", label: "Time for that", hint: "30s" },
  { name: "on_timeout", label: "Then", choices: ["revert", "proceed"] },
];

const CHANGES = {
  running: "Everything works as ever.",
  maintenance: "Publishes that the configuration names are refused. It outlives restarts, and holds for all nodes.",
  draining: "Every node drains: it takes no subscribers and publishes any more.",
};

export default function System() {
  const asked = useAsked((signal) => get("/system", {}, signal), [], 3000);
  const parts = useAsked(readiness, [], 5000);
  const system = asked.value?.data;
  return html`<${Waiting} asked=${asked} />
    ${system && html`
      <h2>All nodes <${State} of=${system.state} kind=${system.state === "running" ? "good" : "warn"} /></h2>
      <${Facts} rows=${[["since", html`<${Time} at=${system.since} />`], ["reason", system.reason], ["change under way", system.transition], ["waits for", system.waiting_for.join(", ")]]} />
      <div class="buttons">${Object.entries(CHANGES).filter(([state]) => state !== system.state).map(([state, about]) =>
        html`<${Action} key=${state} label=${`Set ${state}`} about=${about} name=${state} method="PUT" path="/system" body=${{ state }} fields=${FIELDS} done=${asked.again} />`)}</div>`}
    <h2>This node</h2>
    <div class="buttons">
      <${Action} label="Drain this node" name="drain" about="Its subscribers are told to connect elsewhere." path="/admin/drain" done=${parts.again} />
      <${Action} label="Take the draining back" name="undrain" about="It takes subscribers and publishes again." method="DELETE" path="/admin/drain" done=${parts.again} />
    </div>
    <${Waiting} asked=${parts} />
    ${parts.value && Object.entries(parts.value.checks ?? {}).map(([name, check]) => html`<div key=${name} class="card"><h2>${name} ${check?.status && html`<${State} of=${check.status} />`}</h2><${Json} text=${source(parts.value.checks, name)} label=${name} /></div>`)}`;
}
