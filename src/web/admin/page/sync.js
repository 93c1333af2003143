// How far services agree with the entities that they keep a copy of.

import { act, get } from "./api.js";
import { source } from "./json.js";
import { Action, count, doNow, href, html, State, Table, Time, useAsked, Waiting } from "./parts.js";

function Check({ service, again }) {
  const check = () => doNow(`Check ${service}`, () => act("POST", `/admin/sync/${encodeURIComponent(service)}/check`), again);
  const path = `/admin/sync/${encodeURIComponent(service)}/repair`;
  return html`<div class="buttons"><button type="button" onClick=${check}>Check</button>
    <${Action} label="Repair" name=${service} path=${path} done=${again} about="It is compared, and what differs is delivered to it again." />
    <${Action} label="Repair what is ahead too" name=${service} path=${path} body=${{ ahead: true }} done=${again} about="What the service has in a later version gets a new version with the value that stands here." /></div>`;
}

export default function Sync() {
  const asked = useAsked((signal) => get("/admin/sync", {}, signal), [], 3000);
  return html`<${Waiting} asked=${asked} />
    ${asked.value && html`<${Table} caption="State of copies" empty="No service keeps a copy of entities." heads=${["service", "type", "state", "#as of", "#lag", "#missing", "#stale", "#extra", "#ahead", "checked", "next", "error", ""]}
      rows=${asked.value.data.map((one) => ({ key: `${one.service} ${one.type}`, cells: [html`<a href=${href("services", [one.service])}>${one.service}</a>`, one.type, html`<${State} of=${one.state} kind=${one.state === "unknown" ? "plain" : undefined} />`,
        one.as_of === null ? "–" : source(one, "as_of"), count(one.lag), count(one.differences.missing), count(one.differences.stale), count(one.differences.extra), count(one.differences.ahead),
        html`<${Time} at=${one.checked_at} />`, html`<${Time} at=${one.next_check_at} />`, one.error ?? "", html`<${Check} service=${one.service} again=${asked.again} />`] }))} />`}`;
}
