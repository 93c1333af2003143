// Dead deliveries, by service and reason; redrives and their progress.

import { act, get } from "./api.js";
import { Exact, source } from "./json.js";
import { Action, count, counted, Filter, href, html, Pages, rowsOf, State, Table, Time, useAsked, Waiting } from "./parts.js";

const LIMIT = 100;

const redrive = (body) => act("POST", "/admin/deliveries/redrive", { ...body, dry_run: true }).then(({ data }) => counted(data));

/** How many of the rows of this page have each reason. */
function Reasons({ rows }) {
  const reasons = new Map();
  for (const one of rows) {
    const key = `${one.service}\n${one.dead_reason ?? one.last_error ?? "unknown"}`;
    reasons.set(key, (reasons.get(key) ?? 0) + 1);
  }
  if (!reasons.size) return null;
  const sorted = [...reasons].sort((one, other) => other[1] - one[1]).slice(0, 20);
  return html`<h2>Reasons on this page</h2><${Table} caption="Reasons" heads=${["service", "reason", "#deliveries"]}
    rows=${sorted.map(([key, number]) => ({ key, cells: [...key.split(/\n(.*)/s).slice(0, 2), count(number)] }))} />`;
}

function Jobs({ asked }) {
  return html`<h2>Redrives and replays</h2><${Waiting} asked=${asked} />
    ${asked.value && html`<${Table} caption="Jobs" empty="None was started yet."
      heads=${["job", "kind", "service", "state", "#made", "#next id", "#up to id", "begun", ""]}
      rows=${asked.value.data.map((job) => ({ key: job.id, cells: [source(job, "id"), job.kind, job.service ?? "–", html`<${State} of=${job.state} kind=${job.state === "running" ? "warn" : undefined} />`,
        count(job.made), source(job, "next_id"), source(job, "to"), html`<${Time} at=${job.created_at} />`,
        job.state === "running" && html`<${Action} label="Cancel" about="The deliveries that it has made stay." name=${String(job.id)} method="DELETE" path=${`/admin/jobs/${source(job, "id")}`} done=${asked.again} />`] }))} />`}`;
}

export default function Dead({ query }) {
  const { service, before } = query;
  const asked = useAsked((signal) => get("/admin/deliveries", { state: "dead", service, before, limit: LIMIT }, signal), [service, before], 10000);
  const jobs = useAsked((signal) => get("/admin/jobs", { limit: 20 }, signal), [], 2000);
  const names = useAsked((signal) => get("/admin/services", {}, signal), []);
  const again = () => { asked.again(); jobs.again(); };
  const known = (names.value?.data ?? []).map((one) => one.service);
  const choices = ["", ...new Set([...known, ...(service ? [service] : [])])];
  return html`
    <${Filter} view="dead" query=${query} button="Show" fields=${[{ name: "service", label: "Service", choices }]} />
    <${Waiting} asked=${asked} />
    ${asked.value && html`
      ${service && html`<div class="buttons"><${Action} label="Redrive all that match" name=${service} about=${`Dead deliveries of ${service} are tried again.`} path="/admin/deliveries/redrive" body=${{ service }} dry=${redrive} done=${again}
        fields=${[{ name: "event_name", label: "Event name or pattern (all)" }, { name: "since", label: "Published since (RFC 3339)" }, { name: "until", label: "Published before (RFC 3339)" }]} /></div>`}
      <${Table} caption=${`Dead deliveries, ${rowsOf(asked.value)}`} heads=${["event", "name", "service", "reason", "answer", "#attempts", "published", "ended", ""]} empty="No delivery is dead."
        rows=${asked.value.data.map((one) => ({ key: `${one.service} ${one.event_id}`, cells: [
          html`<a href=${href("events", [source(one, "event_id")])}>${source(one, "event_id")}</a>`, one.event_name ?? "–", one.service, one.dead_reason ?? one.last_error ?? "–", one.http_status ?? "–",
          count(one.attempts), html`<${Time} at=${one.created_at} />`, html`<${Time} at=${one.finished_at} />`,
          html`<${Action} label="Redrive" name=${one.service} about=${`Event ${source(one, "event_id")} is delivered to ${one.service} again.`} path="/admin/deliveries/redrive" body=${{ service: one.service, event_id: new Exact(source(one, "event_id")) }} dry=${redrive} done=${again} />`] }))} />
      <${Pages} view="dead" query=${query} page=${{ next: asked.value.next && withoutState(asked.value.next) }} />
      <${Reasons} rows=${asked.value.data} />`}
    <${Jobs} asked=${jobs} />`;
}

/** The query of the next page without what this view says itself. */
function withoutState(next) {
  const all = new URLSearchParams(next);
  all.delete("state");
  all.delete("limit");
  return all.toString();
}
