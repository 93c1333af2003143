// What is wrong comes first; then figures, and how they went.

import { get, readiness } from "./api.js";
import { bytes, count, duration, href, html, State, useAsked } from "./parts.js";
import { Plots } from "./plots.js";
import { useSamples } from "./samples.js";

const SOME = 100;

/** The answer, or why it cannot be had: an overview shows what there is, and says what it does not know. */
const maybe = (asked) => asked.then(({ data, body }) => ({ value: data ?? body }), (error) => ({ value: null, problem: error.status ?? error.message }));

/** What is asked besides the readiness, in this order. */
const PARTS = [{ name: "sagas", view: "sagas" }, { name: "state sync", view: "sync" }, { name: "nodes", view: "nodes" }, { name: "system", view: "system" }];

async function look(signal) {
  const [ready, ...asked] = await Promise.all([
    readiness(signal).catch((error) => ({ status: "unavailable", problem: error.message })),
    maybe(get("/sagas", { state: "needs_operator", limit: SOME }, signal)),
    maybe(get("/admin/sync", {}, signal)),
    maybe(get("/admin/nodes", {}, signal)),
    maybe(get("/system", {}, signal)),
  ]);
  const [sagas, sync, nodes, system] = asked.map(({ value }) => value);
  const unknown = asked.flatMap(({ problem }, at) => (problem === undefined ? [] : [{ ...PARTS[at], problem }]));
  return { ready, sagas, sync, nodes, system, unknown };
}

function problemsOf({ ready, sagas, sync, nodes, system, unknown }, services) {
  const found = [];
  const add = (kind, text, address) => found.push({ kind, text, address });
  if (ready.status !== "ok") add("bad", `This node is not ready: ${ready.problem ?? broken(ready.checks)}`, href("system"));
  for (const one of unknown) add("bad", `Not known: ${one.name} (${one.problem}).`, href(one.view));
  for (const one of services ?? []) {
    const waiting = one.pending ? `, ${count(one.pending)} waiting` : "";
    const since = one.oldest_pending_age_seconds ? `, the oldest for ${duration(one.oldest_pending_age_seconds)}` : "";
    const breaker = one.breaker;
    if (one.paused) add("warn", `${one.service} is paused (${one.paused})${waiting}${since}.`, href("services", [one.service]));
    else if (breaker === "open" || breaker === "forced_open") add("bad", `${one.service}: its breaker is ${breaker.replace("_", " ")}${waiting}${since}. ${one.last_error ?? ""}`, href("services", [one.service]));
    else if (breaker === "half_open") add("warn", `${one.service} is being tried again${waiting}${since}.`, href("services", [one.service]));
    else if (one.oldest_pending_age_seconds > 60) add("warn", `${one.service} is behind${waiting}${since}.`, href("services", [one.service]));
    if (one.dead) add("warn", `${one.service}: ${count(one.dead)} dead ${one.dead === 1 ? "delivery" : "deliveries"}.`, href("dead", [], { service: one.service }));
  }
  if (sagas?.length) add("bad", `${sagas.length >= SOME ? `${SOME}+` : sagas.length} ${sagas.length === 1 ? "saga needs" : "sagas need"} an operator.`, href("sagas", [], { state: "needs_operator" }));
  for (const one of sync ?? []) if (one.state === "diverged" || one.error) add("warn", `${one.service} and the entities of ${one.type}: ${one.error ?? one.state}.`, href("sync"));
  for (const one of nodes ?? []) if (one.state !== "up") add("warn", `Node ${one.name} is ${one.state}.`, href("nodes"));
  if (system && system.state !== "running") add("warn", `The state of the system is ${system.state}${system.reason ? `: ${system.reason}` : ""}.`, href("system"));
  return found.sort((one, other) => (one.kind === "bad" ? 0 : 1) - (other.kind === "bad" ? 0 : 1));
}

function broken(checks) {
  const bad = Object.entries(checks ?? {}).filter(([, check]) => check?.status && !["ok", "not_configured"].includes(check.status));
  const said = bad.map(([name, check]) => `${name} ${check.status}`);
  return [...(checks?.draining === true ? ["draining"] : []), ...said].join(", ") || "unknown";
}

export default function Overview() {
  const asked = useAsked(look, [], 15000);
  const live = useSamples();
  const now = live.last ?? {};
  const problems = asked.value ? problemsOf(asked.value, live.services) : [];
  return html`
    <section aria-label="Problems">
      ${asked.value && live.services && !live.problem && !problems.length && html`<ul class="problems"><li class="good">All is well.</li></ul>`}
      <div role="status"><ul class="problems">${problems.map((one) =>
        html`<li key=${one.address + one.text} class=${one.kind}>${one.text} <a href=${one.address}>Open</a></li>`)}</ul></div>
      ${live.problem && html`<p class="bad" role="alert">${live.problem}</p>`}
    </section>
    <section aria-label="Figures" class="tiles">
      <div class="tile"><b>${rate(now.published)}</b><span>published</span></div>
      <div class="tile"><b>${rate(now.pushed)}</b><span>pushed</span></div>
      <div class="tile"><b>${rate(now.delivered)}</b><span>delivered</span></div>
      <div class="tile"><b>${millis(now.publish_p99)}</b><span>publish, 99 %</span></div>
      <div class="tile"><b>${count(now.sessions)}</b><span>subscribers</span></div>
      <div class="tile"><b>${count(now.pending)}</b><span>waiting</span></div>
      <div class="tile"><b>${count(now.dead)}</b><span>dead</span></div>
      <div class="tile"><b>${bytes(now.queued)}</b><span>queued</span></div>
    </section>
    <${Plots} live=${live} />
    ${live.services?.length > 0 && html`<h2>Services</h2>
      <ul class="tree">${live.services.map((one) => html`<li key=${one.service} class="leaf">
        <a href=${href("services", [one.service])}>${one.service}</a> <${State} of=${one.paused ? "paused" : one.breaker} kind=${one.paused ? "warn" : undefined} /> ${count(one.pending)} waiting, ${count(one.dead)} dead</li>`)}</ul>`}
    <p class="soft">Figures are of this node, since the page was opened and up to 15 minutes before.</p>`;
}

const rate = (value) => (value === undefined ? "–" : `${value >= 100 ? Math.round(value).toLocaleString("en") : Number(value.toFixed(1))}/s`);
const millis = (value) => (value === undefined || value === null ? "–" : value < 1000 ? `${Number(value.toPrecision(2))} ms` : `${(value / 1000).toFixed(1)} s`);
