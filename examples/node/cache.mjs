// A local cache of all entities of a type, equal to the server's, whatever goes away.
//
//     node cache.mjs [URL [TYPE]]     # ws://127.0.0.1:4300/ws  auction
//
// TOKEN in the environment is sent if it is there.

import { stayConnected } from "./connection.mjs";

const [url = "ws://127.0.0.1:4300/ws", type = "auction"] = process.argv.slice(2);
const event_name = `state.${type}.changed`;

/** By key: the version and the value of each entity. */
const cache = new Map();
/** From where to go on: the last event that is in the cache, and which log it is of. None before there is a whole cache. */
let position;

/** Your work: the cache has changed. Without a value the entity was deleted. */
function changed(key, version, value) {
  console.log(JSON.stringify({ key, version, value }));
}

/** What changed while a snapshot was sent may come twice: the greater version counts. */
function take(key, version, value) {
  if (version <= (cache.get(key)?.version ?? 0)) return;
  if (value === undefined) cache.delete(key);
  else cache.set(key, { version, value });
  changed(key, version, value);
}

function subscribe(say) {
  if (position) say({ id: 1, action: "subscribe", event_name, envelope: "full", ...position });
  else takeSnapshot(say);
}

function takeSnapshot(say) {
  position = undefined;
  cache.clear();
  console.log("from the beginning");
  say({ id: 1, action: "subscribe", event_name, snapshot: true });
}

stayConnected(url, subscribe, (frame, say) => {
  switch (frame.type) {
    case "entity":
      take(frame.key, frame.version, frame.value);
      break;
    case "snapshot_begin":
      cache.clear();
      break;
    case "snapshot_end":
      position = { after: frame.as_of, log_id: frame.log_id };
      console.log(`whole as of ${frame.as_of}`);
      break;
    case "event":
      take(frame.payload.key, frame.id, frame.payload.value);
      position.after = frame.id;
      break;
    case "subscribed":
      // The log no longer reaches back that far, or it is another one.
      if (!frame.recovered) takeSnapshot(say);
      break;
    case "error":
      console.error(frame.error.message);
      process.exit(1);
  }
});
