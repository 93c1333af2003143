"use strict";
// Shows /openapi.json and /asyncapi.json. Whatever is shown is set as text, so none of it can become a part of the page.

const by = (id) => document.getElementById(id);
const base = location.pathname.replace(/\/docs\/?$/, "");
const MAX_ROWS = 400;
const MAX_DEPTH = 6;
const MAX_EVENTS = 100;

// Numbers stay the text that they are, where the browser can do that.
const parse = (text) =>
  JSON.rawJSON
    ? JSON.parse(text, (_, value, { source } = {}) =>
        typeof value === "number" && String(value) !== source ? JSON.rawJSON(source) : value)
    : JSON.parse(text);
const write = (value, indent) => JSON.stringify(value, null, indent) ?? "";

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") made.className = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== undefined && child !== null));
  return made;
}

const token = () => by("token").value || null;

function ask(path, options = {}) {
  const headers = new Headers(options.headers);
  if (token()) headers.set("Authorization", `Bearer ${token()}`);
  return fetch(base + path, { ...options, headers });
}

/// What a reference leads to. Schemas in another format lie one level deeper.
function resolved(owner, value) {
  for (let hops = 0; value?.$ref !== undefined && hops < 20; hops++) {
    if (typeof value.$ref !== "string" || !value.$ref.startsWith("#")) break;
    const parts = decodeURIComponent(value.$ref.slice(1)).split("/").slice(1);
    const step = (at, part) => {
      const name = part.replaceAll("~1", "/").replaceAll("~0", "~");
      return at !== null && typeof at === "object" && Object.hasOwn(at, name) ? at[name] : undefined;
    };
    const found = parts.reduce(step, owner);
    if (found === undefined) break;
    value = found;
  }
  return value?.schemaFormat ? resolved(owner, value.schema) : value;
}

function kindOf(owner, schema) {
  if (schema === true || schema === undefined) return "any";
  if (schema === false) return "nothing";
  const found = resolved(owner, schema);
  if (found === true || found === undefined || found === null) return "any";
  if (found === false) return "nothing";
  if (found.const !== undefined) return write(found.const);
  if (Array.isArray(found.enum)) return found.enum.map((value) => write(value)).join(" | ");
  const kinds = [].concat(found.type ?? []);
  if (kinds.length) return kinds.join(" | ") + (found.format ? ` (${found.format})` : "");
  for (const [name, between] of [["anyOf", " | "], ["oneOf", " | "], ["allOf", " & "]]) {
    if (Array.isArray(found[name])) return found[name].map((one) => shallow(owner, one)).join(between);
  }
  return found.properties ? "object" : "any";
}

/// The kind of a part, without looking into its own parts.
function shallow(owner, schema) {
  const name = typeof schema?.$ref === "string" ? schema.$ref.split("/").pop() : null;
  return name ?? (Array.isArray(schema?.anyOf) || Array.isArray(schema?.oneOf) ? "…" : kindOf(owner, schema));
}

const BOUNDS = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength",
  "pattern", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties", "default"];

function schemaTable(owner, schema) {
  const body = element("tbody");
  const add = (name, schema, isRequired, depth, above) => {
    if (body.rows.length >= MAX_ROWS) return;
    const found = resolved(owner, schema);
    const isObject = found !== null && typeof found === "object";
    const bounds = isObject ? BOUNDS.filter((bound) => found[bound] !== undefined) : [];
    const about = [schema?.description ?? found?.description, bounds.map((bound) => `${bound}: ${write(found[bound])}`).join(", ")];
    body.append(element("tr", {},
      element("td", { class: `d${Math.min(depth, MAX_DEPTH)}` }, element("code", {}, name), isRequired ? " *" : ""),
      element("td", {}, element("code", {}, kindOf(owner, schema))),
      element("td", {}, about.filter((text) => typeof text === "string" && text).join(" — "))));
    if (!isObject || depth >= MAX_DEPTH || above.includes(found)) return;
    const within = [...above, found];
    const required = Array.isArray(found.required) ? found.required : [];
    for (const [name, of] of Object.entries(found.properties ?? {})) add(name, of, required.includes(name), depth + 1, within);
    for (const [name, of] of Object.entries(found.patternProperties ?? {})) add(`/${name}/`, of, false, depth + 1, within);
    for (const [key, name] of [["items", "[ ]"], ["additionalProperties", "{ }"], ["contains", "[…]"], ["not", "not"]]) {
      if (found[key] !== null && typeof found[key] === "object" && !Array.isArray(found[key])) add(name, found[key], false, depth + 1, within);
    }
    for (const key of ["anyOf", "oneOf", "allOf", "prefixItems"]) {
      const parts = Array.isArray(found[key]) ? found[key] : [];
      const isTold = (part) => part !== null && typeof part === "object" && (part.$ref || part.properties || part.items);
      if (parts.some(isTold)) parts.forEach((part, at) => add(`${key} ${at + 1}`, part, false, depth + 1, within));
    }
  };
  add("·", schema, false, 0, []);
  if (body.rows.length >= MAX_ROWS) body.append(element("tr", {}, element("td", { colspan: 3 }, "There is more, see the document.")));
  return table(["name", "type", ""], body);
}

function table(heads, body) {
  const head = element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text)));
  return element("table", {}, element("thead", {}, head), body);
}

function rows(heads, rows) {
  return table(heads, element("tbody", {}, ...rows.map((row) =>
    element("tr", {}, ...row.map((cell) => element("td", {}, cell ?? ""))))));
}

const code = (value, indent = 2) => element("pre", {}, typeof value === "string" ? value : write(value, indent));
const paragraphs = (text) => String(text ?? "").split("\n\n").filter(Boolean).map((part) => element("p", {}, part));

function showOperation(owner, operation) {
  const parts = paragraphs(operation.description);
  if (operation.parameters?.length) {
    parts.push(element("h3", {}, "Parameters"), rows(["name", "in", "type", ""], operation.parameters.map((parameter) =>
      [element("code", {}, parameter.name, parameter.required ? " *" : ""), parameter.in,
        element("code", {}, kindOf(owner, parameter.schema)), parameter.description])));
  }
  for (const [media, { schema }] of Object.entries(operation.requestBody?.content ?? {})) {
    parts.push(element("h3", {}, `Body: ${media}`), schemaTable(owner, schema));
  }
  for (const [status, answer] of Object.entries(operation.responses)) {
    const { description, content, headers } = resolved(owner, answer);
    parts.push(element("h3", {}, `Answer ${status}`), element("pre", {}, description));
    if (headers) parts.push(element("p", {}, "Headers: ", Object.keys(headers).join(", ")));
    if (Number(status) >= 400) continue;
    for (const [media, { schema }] of Object.entries(content ?? {})) {
      parts.push(element("p", {}, element("code", {}, media)), schemaTable(owner, schema));
    }
  }
  return parts;
}

/// The fields of the bodies of an operation and of its answers, to be searched.
function bodies(owner, operation) {
  const answers = Object.entries(operation.responses).filter(([status]) => Number(status) < 400);
  const contents = [operation.requestBody, ...answers.map(([, answer]) => resolved(owner, answer))];
  const schemas = contents.flatMap((one) => Object.values(one?.content ?? {})).map(({ schema }) => schema);
  return schemas.flatMap((schema) => [schema, schema.properties?.data]).map((schema) => write(resolved(owner, schema)));
}

function showMessage(owner, message) {
  const parts = [...paragraphs(message.summary), ...paragraphs(message.description)];
  const type = message["x-event-type"];
  if (type) {
    const told = [["version", type.version], ["owner", type.owner], ["deprecated", type.deprecated || null]];
    parts.push(rows(["", ""], told.filter(([, value]) => value !== null && value !== undefined).map(([name, value]) => [name, String(value)])));
  }
  parts.push(schemaTable(owner, message.payload));
  for (const { payload } of message.examples ?? []) {
    const fill = element("button", { type: "button" }, "Try this");
    fill.addEventListener("click", () => tryWith(message.name, payload));
    parts.push(element("h3", {}, "Example"), code(payload), fill);
  }
  if (type) parts.push(usage(message.name));
  return parts;
}

/// Who publishes events of a type and who receives them, asked for when somebody wants to know.
function usage(name) {
  const button = element("button", { type: "button" }, "Who publishes and receives");
  const shown = element("div", { role: "status" });
  button.addEventListener("click", async () => {
    try {
      const answer = await ask(`/event-types/${encodeURIComponent(name)}/usage`);
      const { data, message } = parse(await answer.text());
      if (!answer.ok) return shown.replaceChildren(message);
      shown.replaceChildren(
        rows(["published by", "events", "last"], (data.publishers ?? []).map((one) => [one.source, write(one.count), one.last_at])),
        rows(["received by", "kind"], (data.receivers ?? []).map((one) => [one.name, one.kind])),
        element("p", {}, `Violations: ${write(data.violations)}`),
        ...(data.unreachable ?? []).map((node) => element("p", {}, `Node ${node} did not answer: its subscribers and violations are left out.`)));
    } catch (error) {
      shown.replaceChildren(String(error));
    }
  });
  return element("p", {}, button, shown);
}

function tryWith(name, payload) {
  const form = by("publish");
  form.elements.event_name.value = name;
  form.elements.payload.value = write(payload, 2);
  by("try").scrollIntoView();
  form.elements.event_name.focus();
}

// What can be found, in order: { id, title, words, item, link }.
let items = [];

function item(id, heading, words, show) {
  const made = element("details", { id, class: "item" }, element("summary", {}, ...heading));
  made.addEventListener("toggle", () => {
    if (made.open && made.children.length === 1) made.append(element("div", {}, ...show()));
  });
  return { id, item: made, words: words.join(" ").toLowerCase() };
}

function section(id, title, about, found) {
  if (!found.length) return;
  by("shown").append(element("section", { id, class: "made", "data-title": title },
    element("h2", {}, title), element("p", { class: "soft" }, about ?? ""), ...found.map(({ item }) => item)));
  const links = found.map((one) => {
    one.link = element("a", { href: `#${encodeURIComponent(one.id)}` }, one.title);
    return one.link;
  });
  by("contents").append(element("div", {}, element("b", {}, title), ...links));
  items.push(...found);
}

function showAll(openapi, asyncapi) {
  items = [];
  by("contents").replaceChildren();
  document.querySelectorAll("section.made").forEach((made) => made.remove());
  const types = Object.entries(asyncapi.components.messages).filter(([, message]) => message["x-event-type"]);
  const fields = (message) => write(message) + write(resolved(asyncapi, message.payload));
  section("types", "Event types", "What the catalogue says of payloads.", types
    .filter(([key]) => key.startsWith("payload."))
    .map(([key, message]) => ({ title: message.name, ...item(key,
      [element("code", {}, message.name), " ", element("span", { class: "soft" }, message.description ?? "")],
      [message.name, fields(message)], () => showMessage(asyncapi, message)) })));
  for (const tag of openapi.tags) {
    const found = [];
    for (const [path, methods] of Object.entries(openapi.paths)) {
      for (const [method, operation] of Object.entries(methods)) {
        if (operation.tags[0] !== tag.name) continue;
        found.push({ title: operation.summary, ...item(operation.operationId,
          [element("span", { class: "method" }, method.toUpperCase()), element("code", {}, path), " ",
            element("span", { class: "soft" }, operation.summary)],
          [method, path, write(operation), ...bodies(openapi, operation)], () => showOperation(openapi, operation)) });
      }
    }
    section(`tag-${tag.name}`, tag.name, tag.description, found);
  }
  for (const [name, channel] of Object.entries(asyncapi.channels)) {
    const found = Object.entries(channel.messages).map(([key, reference]) => [key, resolved(asyncapi, reference)]);
    section(`channel-${name}`, channel.address, channel.description, found
      .filter(([, message]) => !message["x-event-type"])
      .map(([key, message]) => ({ title: key, ...item(`${name}-${key}`,
        [element("code", {}, key), " ", element("span", { class: "soft" }, message.summary ?? "")],
        [key, fields(message)], () => showMessage(asyncapi, message)) })));
  }
  search();
  openNamed();
}

function search() {
  const wanted = by("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const one of items) {
    const isFound = wanted.every((word) => one.words.includes(word));
    one.item.hidden = one.link.hidden = !isFound;
    count += isFound;
  }
  for (const group of [...document.querySelectorAll("section.made"), ...by("contents").children]) {
    group.hidden = !group.querySelector(".item:not([hidden]), a:not([hidden])");
  }
  by("said").textContent = wanted.length ? `${count} found` : `${count} entries`;
}

function openNamed() {
  const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (named?.tagName !== "DETAILS") return;
  named.open = true;
  named.scrollIntoView();
  named.querySelector("summary").focus();
}

async function load() {
  try {
    const [openapi, asyncapi] = await Promise.all(["/openapi.json", "/asyncapi.json"].map(async (path) => {
      const answer = await ask(path);
      const body = parse(await answer.text());
      if (!answer.ok) throw new Error(body.message);
      return body;
    }));
    showAll(openapi, asyncapi);
  } catch (error) {
    by("said").textContent = error.message;
  }
}

async function publish(event) {
  event.preventDefault();
  const { event_name, payload } = event.target.elements;
  const said = by("published");
  said.hidden = false;
  try {
    // The payload goes as it was written.
    const body = `{"event_name":${write(event_name.value)},"payload":${payload.value.trim() || "{}"}}`;
    const answer = await ask("/publish", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    said.textContent = `${answer.status} ${answer.headers.get("Event-Id") ?? ""}\n${await answer.text()}`;
  } catch (error) {
    said.textContent = error.message;
  }
}

let subscription = null;

async function subscribe(event) {
  event.preventDefault();
  subscription?.abort();
  const mine = (subscription = new AbortController());
  const told = (text) => {
    if (subscription === mine) by("stream").textContent = text;
  };
  by("stop").disabled = false;
  told("connecting");
  try {
    const pattern = encodeURIComponent(event.target.elements.event_name.value);
    const answer = await ask(`/events/stream?event_name=${pattern}`, { signal: mine.signal });
    if (!answer.ok) return told((await answer.json()).message);
    told("live");
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ;) {
      const { done, value } = await reader.read();
      if (done) break;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      blocks.forEach(received);
    }
    told("the stream has ended");
  } catch (error) {
    told(mine.signal.aborted ? "stopped" : error.message);
  }
}

function received(block) {
  const field = (name) => block.split("\n").filter((line) => line.startsWith(`${name}: `)).map((line) => line.slice(name.length + 2)).join("\n");
  if (!field("event")) return;
  by("events").prepend(element("li", {}, element("b", {}, field("id")), " ", field("event"), " ", element("code", {}, field("data"))));
  while (by("events").children.length > MAX_EVENTS) by("events").lastChild.remove();
}

by("words").addEventListener("input", search);
by("search").addEventListener("submit", (event) => event.preventDefault());
by("token").addEventListener("change", () => {
  // The token stays in this tab.
  if (token()) sessionStorage.setItem("token", token());
  else sessionStorage.removeItem("token");
  load();
});
by("publish").addEventListener("submit", publish);
by("subscribe").addEventListener("submit", subscribe);
by("stop").addEventListener("click", () => {
  subscription?.abort();
  by("stop").disabled = true;
});
addEventListener("hashchange", openNamed);
addEventListener("keydown", (event) => {
  const isTyping = /^(INPUT|TEXTAREA)$/.test(event.target.tagName);
  if (event.key === "/" && !isTyping) {
    event.preventDefault();
    by("words").focus();
  } else if (event.key === "Escape" && event.target === by("words")) {
    by("words").value = "";
    search();
  }
});
by("token").value = sessionStorage.getItem("token") ?? "";
load();
