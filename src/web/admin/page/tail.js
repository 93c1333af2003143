// Events as they are stored. However many come, the page paints ten times a second at most, and keeps 500 rows.

import { stream } from "./api.js";
import { parse, source } from "./json.js";
import { count, Filter, href, html, useEffect, useRef, useState } from "./parts.js";

const MAX_ROWS = 500;
const PAINT_EVERY = 100;
const SHOWN = 400;

/** A stream without events has a comment every 20 seconds, unless it is configured otherwise. */
const MAX_SILENCE = 60000;

/** How the event begins that says that not everything since the position comes. */
const GAP = '{"event_name":"$sys.stream.gap"';

/** The events that have come and are not painted yet; older ones are left out when there are too many. */
class Arrived {
  waiting = [];
  skipped = 0;

  add(data) {
    this.waiting.push(data);
    if (this.waiting.length < 2 * MAX_ROWS) return;
    this.skipped += this.waiting.length - MAX_ROWS;
    this.waiting = this.waiting.slice(-MAX_ROWS);
  }

  take() {
    if (this.waiting.length > MAX_ROWS) this.skipped += this.waiting.length - MAX_ROWS;
    const taken = this.waiting.slice(-MAX_ROWS);
    this.waiting = [];
    return taken.map(row).reverse();
  }
}

function row(data) {
  const event = parse(data);
  const payload = source(event, "payload");
  return { id: source(event, "id"), name: String(event.event_name), payload: payload.length > SHOWN ? `${payload.slice(0, SHOWN)}…` : payload };
}

function Tail({ patterns, filter }) {
  const [shown, show] = useState({ rows: [], skipped: 0, paints: 0 });
  const [said, say] = useState("connecting");
  const [isPaused, pause] = useState(false);
  const paused = useRef(false);
  const arrived = useRef(new Arrived());
  const [gap, miss] = useState("");
  paused.current = isPaused;
  useEffect(() => {
    let ends = new AbortController();
    let timer = 0;
    const paint = () => {
      timer = 0;
      if (paused.current || ends.signal.aborted) return;
      const rows = arrived.current.take();
      show((last) => ({ rows: [...rows, ...last.rows].slice(0, MAX_ROWS), skipped: arrived.current.skipped, paints: last.paints + 1 }));
    };
    let [after, begun, log] = [];
    const received = (event, data, id) => {
      if (id) after = id;
      if (!data.startsWith("{")) return;
      if (data.startsWith(GAP)) return miss(`a gap: not all that came after event ${begun} is there any more`);
      arrived.current.add(data);
      timer ||= setTimeout(paint, PAINT_EVERY);
    };
    const run = async () => {
      const mine = ends;
      for (let isFirst = true; !mine.signal.aborted; isFirst = false) {
        if (!isFirst) await new Promise((done) => setTimeout(done, 2000));
        if (mine.signal.aborted) return;
        try {
          begun = after;
          const query = { event_name: patterns, filter, named: "false", after, log_id: after && log };
          await stream("/events/stream", query, mine.signal, received, {
            silence: MAX_SILENCE,
            opened: (answer) => { log = answer.headers.get("Event-Log") ?? log; say("live"); },
          });
          say("the stream has ended, connecting again");
        } catch (error) {
          if (mine.signal.aborted) return;
          say(error.message);
          if (error.status >= 400 && error.status < 500) return;
        }
      }
    };
    const seen = () => {
      ends.abort();
      if (document.hidden) return say("stopped while the tab is hidden");
      ends = new AbortController();
      run();
    };
    document.addEventListener("visibilitychange", seen);
    run();
    return () => {
      document.removeEventListener("visibilitychange", seen);
      ends.abort();
      clearTimeout(timer);
    };
  }, []);
  const toggle = () => {
    pause(!isPaused);
    if (!isPaused) return;
    const rows = arrived.current.take();
    show((last) => ({ rows: [...rows, ...last.rows].slice(0, MAX_ROWS), skipped: arrived.current.skipped, paints: last.paints + 1 }));
  };
  return html`<div class="buttons">
      <button type="button" aria-pressed=${String(isPaused)} onClick=${toggle}>Pause</button>
      <button type="button" onClick=${() => { arrived.current = new Arrived(); miss(""); show({ rows: [], skipped: 0, paints: 0 }); }}>Clear</button>
      <span role="status">${isPaused ? "paused" : said}</span>
      <span class="soft" data-paints=${shown.paints}>${shown.skipped > 0 && `${count(shown.skipped)} skipped`}</span>
      <span role="status" class="bad">${gap}</span>
    </div>
    <ol class="tail" tabindex="0" aria-label="Events as they come, the newest first">${shown.rows.map((one) => html`<li key=${one.id}>
      <a href=${href("events", [one.id])}>${one.id}</a><b>${one.name}</b>${one.payload}</li>`)}</ol>`;
}

export default function LiveTail({ query }) {
  const patterns = String(query.event_name ?? ">").split(/[\s,]+/).filter(Boolean);
  return html`
    <${Filter} view="tail" query=${query} button="Follow" fields=${[
      { name: "event_name", label: "Names or patterns", hint: ">" }, { name: "filter", label: "Filter on the payload (JSON)", hint: '{"n":[{"exists":true}]}' },
    ]} />
    <${Tail} key=${JSON.stringify(query)} patterns=${patterns} filter=${query.filter} />`;
}
