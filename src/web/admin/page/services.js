// The services that events are delivered to, and what operators tell them.

import { act, get } from "./api.js";
import { source } from "./json.js";
import { Action, count, doNow, duration, Facts, href, html, Json, State, Table, Time, useAsked, Waiting } from "./parts.js";

const EVERY = 3000;

const COMMANDS = {
  pause: "Nothing is sent until it is resumed. What comes meanwhile waits.",
  open: "The breaker is kept open: nothing is sent until it is reset or closed.",
  close: "The breaker is kept closed: everything is sent, whatever the service answers.",
  reset: "The breaker forgets what it has counted, and works as configured again.",
};

/** Why the next delivery is not sent; what is not here needs no word. */
const WAITS = {
  draining: "this node drains",
  breaker: "its breaker is open",
  concurrency: "as many as it may have are under way",
  rate: "its rate is limited",
  budget: "only retries wait, and their budget is spent",
  retry_after: "it has asked for time",
  resources: "this machine has no room for a connection",
  retry: "all that waits is to be tried again later",
  store: "the store is slow or away",
  starting: "its client starts",
};

const isOpen = (one) => ["open", "forced_open", "half_open"].includes(one.breaker?.state);

/** Why nothing is sent now, if so. */
function why(one) {
  if (one.paused) return `paused: ${one.paused}`;
  if (one.state === "standby") return "another node delivers to it";
  if (one.state !== "active") return one.state;
  if (isOpen(one)) return `its breaker is ${one.breaker.state.replace("_", " ")}`;
  return one.pending ? WAITS[one.waits_for] ?? "" : "";
}

function Buttons({ one, again }) {
  const resume = () => doNow(`Resume ${one.service}`, () => act("POST", `/admin/services/${encodeURIComponent(one.service)}/resume`), again);
  return html`<div class="buttons">
    ${one.paused && html`<button type="button" onClick=${resume}>Resume</button>`}
    ${Object.entries(COMMANDS).filter(([name]) => name !== "pause" || !one.paused).map(([name, about]) =>
      html`<${Action} key=${name} label=${name[0].toUpperCase() + name.slice(1)} about=${about} name=${one.service} path=${`/admin/services/${encodeURIComponent(one.service)}/${name}`} done=${again} />`)}
  </div>`;
}

function One({ name }) {
  const asked = useAsked((signal) => get(`/admin/services/${encodeURIComponent(name)}`, {}, signal), [name], EVERY);
  const one = asked.value?.data;
  if (!one) return html`<div key="waiting"><${Waiting} asked=${asked} /></div>`;
  const breaker = one.breaker ?? {};
  const errors = one.last_errors ?? [];
  return html`<div key="shown">
    <p><a href=${href("services")}>All services</a></p>
    <${Waiting} asked=${asked} />
    <h2>${one.service} <${State} of=${breaker.state ?? one.state} /></h2>
    <${Buttons} one=${one} again=${asked.again} />
    <${Facts} rows=${[
      ["not sent, because", why(one)], ["address", one.url], ["state", one.state],
      ["waiting", count(one.pending)], ["oldest", one.oldest_pending_id && html`<a href=${href("events", [source(one, "oldest_pending_id")])}>${source(one, "oldest_pending_id")}</a> (${duration(one.oldest_pending_age_seconds)})`],
      ["dead", html`<a href=${href("dead", [], { service: one.service })}>${count(one.dead)}</a>`],
      ["in flight", `${count(one.in_flight)} of ${count(one.concurrency)}`], ["delivered", `${count(one.rate)}/s`],
      ["next attempt", one.next_attempt_at && html`<${Time} at=${one.next_attempt_at} />`],
      ["open until", breaker.open_until && html`<${Time} at=${breaker.open_until} />`],
      ["failures", breaker.calls !== undefined && `${count(breaker.failures)} of ${count(breaker.calls)} calls, ${count(breaker.consecutive_failures)} in a row`],
      ["slow", breaker.calls !== undefined && `${count(breaker.slow)} of ${count(breaker.calls)} calls`],
      ["openings", breaker.openings && count(breaker.openings)], ["signed", one.signed ? "yes" : "no"],
    ]} />
    <h3>Waiting by priority</h3>
    <${Facts} rows=${["high", "normal", "low", "replay"].map((lane) => [lane, count(one.pending_by_priority?.[lane])])} />
    <h3>Last errors</h3>
    ${errors.length ? html`<ol class="line">${errors.map((error) => html`<li class="bad">${words(error)}</li>`)}</ol>` : html`<p class="soft">There is none.</p>`}
    <h3>Routes and options</h3>
    <${Json} text=${source(one, "routes")} label="Routes" />
    <${Json} text=${source(one, "options")} label="Options" /></div>`;
}

/** An error of a service in one line. */
function words(error) {
  const id = source(error, "event_id");
  return html`<${Time} at=${error.at} /> ${String(error.error)}${id && html`, event <a href=${href("events", [id])}>${id}</a>`}`;
}

function Orphans({ orphans, names, again }) {
  if (!orphans?.length) return null;
  return html`<h2>Not configured any more</h2>
    <${Table} caption="Deliveries of services that are not configured" heads=${["service", "#waiting", "#dead", ""]}
      rows=${orphans.map((one) => ({ key: one.service, cells: [one.service, count(one.pending), count(one.dead), html`<div class="buttons">
        <${Action} label="Move" about="All its deliveries, dead ones included, go to another service." name=${one.service} path="/admin/deliveries/move" body=${{ from: one.service }}
          fields=${[{ name: "to", label: "To", choices: names }]} dry=${(body) => act("POST", "/admin/deliveries/move", { ...body, dry_run: true }).then(({ data }) => `${count(data.count)} would be moved`)} done=${again} />
        <${Action} label="Cancel" about="What still waits is given up." name=${one.service} path="/admin/deliveries/cancel" body=${{ service: one.service }}
          dry=${(body) => act("POST", "/admin/deliveries/cancel", { ...body, dry_run: true }).then(({ data }) => `${count(data.count)} would be cancelled`)} done=${again} />
      </div>`] }))} />`;
}

function All() {
  const asked = useAsked((signal) => get("/admin/services", {}, signal), [], EVERY);
  const all = asked.value?.data ?? [];
  return html`<${Waiting} asked=${asked} />
    ${asked.value && html`<${Table} caption="Services" empty="No service is configured."
      heads=${["service", "breaker", "not sent, because", "#waiting", "#high", "#normal", "#low", "#replay", "#oldest", "#dead", "#per second", ""]}
      rows=${all.map((one) => {
        const lanes = one.pending_by_priority ?? {};
        return { key: one.service, cells: [
          html`<a href=${href("services", [one.service])}>${one.service}</a>`, html`<${State} of=${one.breaker?.state ?? one.state} />`, why(one),
          count(one.pending), count(lanes.high), count(lanes.normal), count(lanes.low), count(lanes.replay), duration(one.oldest_pending_age_seconds),
          html`<a href=${href("dead", [], { service: one.service })}>${count(one.dead)}</a>`, count(one.rate), html`<${Buttons} one=${one} again=${asked.again} />`] };
      })} />`}
    <${Orphans} orphans=${asked.value?.body.orphaned} names=${all.map((one) => one.service)} again=${asked.again} />`;
}

export default function Services({ of }) {
  return of[0] ? html`<${One} key=${of[0]} name=${of[0]} />` : html`<${All} />`;
}
