// What the page asks of the server. The token stays in this tab, and goes in a header.

import { parse, written } from "./json.js";

const KEY = "token";

/** How long an answer may take, in seconds: to a question, and to an order. */
const READ_WITHIN = 15;
const ACT_WITHIN = 60;

const base = location.pathname.replace(/\/admin\/?$/, "");
const refused = new Set();

/** An answer that is none of success. */
export class Refusal extends Error {
  constructor(status, message, body) {
    super(message);
    this.status = status;
    this.body = body;
  }
}

export const token = () => sessionStorage.getItem(KEY);

export function setToken(value) {
  if (value) sessionStorage.setItem(KEY, value);
  else sessionStorage.removeItem(KEY);
}

/**
 * Takes the token out of the fragment of the address, if it is there, and says whether it was. It is seen in the address no
 * more, but the browser may keep the address that was opened in its history.
 */
export function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!given) return false;
  setToken(given);
  history.replaceState(null, "", location.pathname);
  return true;
}

/** Has `told` called whenever the server does not take the token. */
export function onRefused(told) {
  refused.add(told);
  return () => refused.delete(told);
}

/** What `work(signal)` answers, unless that takes too long or `signal` ends it. */
async function within(seconds, signal, late, work) {
  const ends = new AbortController();
  const end = () => ends.abort();
  let isLate = false;
  const timer = setTimeout(() => { isLate = true; end(); }, seconds * 1000);
  if (signal?.aborted) end();
  signal?.addEventListener("abort", end);
  try {
    return await work(ends.signal);
  } catch (error) {
    throw isLate ? new Error(`No answer within ${seconds} s${late}.`) : error;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", end);
  }
}

async function send(path, options = {}) {
  const headers = new Headers(options.headers);
  if (token()) headers.set("Authorization", `Bearer ${token()}`);
  if (options.body !== undefined) headers.set("Content-Type", "application/json");
  const answer = await fetch(base + path, { ...options, headers, cache: "no-store", credentials: "omit", redirect: "error" });
  if (answer.ok) return answer;
  let body = null;
  try {
    body = parse(await answer.text());
  } catch {
    // Something in between has answered.
  }
  const error = new Refusal(answer.status, body?.message ?? `the answer is ${answer.status}`, body);
  if (answer.status === 401) refused.forEach((told) => told(error.message));
  throw error;
}

/** The answer to a GET: its `data`, the whole body, and the query of the next page, if there is one. */
export async function get(path, query = {}, signal = undefined) {
  const [answer, body] = await within(READ_WITHIN, signal, "", async (ends) => {
    const given = await send(withQuery(path, query), { signal: ends });
    return [given, parse(await given.text())];
  });
  const next = /<\?([^>]*)>; rel="next"/.exec(answer.headers.get("Link") ?? "")?.[1] ?? null;
  const prev = /<\?([^>]*)>; rel="prev"/.exec(answer.headers.get("Link") ?? "")?.[1] ?? null;
  return { data: body.data, body, next, prev };
}

/** The answer to a request that does something; `body` is an object, in which there may be exact texts, or a JSON text. */
export function act(method, path, body) {
  const text = body === undefined || typeof body === "string" ? body : written(body);
  return within(ACT_WITHIN, undefined, ", it may be done all the same", async (signal) => {
    const answer = await send(path, { method, body: text, signal });
    return parse(await answer.text());
  });
}

/** The readiness of this node with its checks, whether it is ready or not. */
export const readiness = (signal) => get("/health/ready", {}, signal).then(({ body }) => body, (error) => {
  if (error.body?.checks) return error.body;
  throw error;
});

export function withQuery(path, query) {
  const given = typeof query === "string" ? query : search(query);
  return given ? `${path}?${given}` : path;
}

/** The parameters that are given, encoded; a list is given once for each of its members. */
export function search(query) {
  const all = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const one of [value].flat()) if (one !== undefined && one !== null && one !== "") all.append(name, one);
  }
  return all.toString();
}

/**
 * Reads server-sent events until `signal` ends it, and calls `received(event, data, id)` for each; `data` is empty where
 * only a position is told. Returns when the server ends the stream. Fails when nothing comes for `silence` milliseconds.
 */
export async function stream(path, query, signal, received, { silence, opened = () => {} }) {
  const ends = new AbortController();
  const end = () => ends.abort();
  let [timer, isSilent] = [0, false];
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => { isSilent = true; end(); }, silence);
  };
  signal.addEventListener("abort", end);
  heard();
  try {
    const answer = await send(withQuery(path, query), { signal: ends.signal });
    opened(answer);
    await read(answer, heard, received);
  } catch (error) {
    throw isSilent ? new Error(`nothing has come for ${silence / 1000} s`) : error;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", end);
  }
}

async function read(answer, heard, received) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    heard();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      let [event, data, id] = ["message", null, null];
      for (const line of block.split("\n")) {
        if (line.startsWith("data: ")) data = data === null ? line.slice(6) : `${data}\n${line.slice(6)}`;
        else if (line.startsWith("event: ")) event = line.slice(7);
        else if (line.startsWith("id: ")) id = line.slice(4);
      }
      if (data !== null || id !== null) received(event, data ?? "", id);
    }
  }
}
