// Reads JSON without losing what JavaScript's numbers cannot hold: a number that they may not hold stays a text, and the
// text of every member of an object can be asked for.

const texts = new WeakMap();

/** What is nested deeper than this stays a text. */
const MAX_DEPTH = 500;

/** The value of a JSON text. Throws a SyntaxError when it is none. */
export function parse(text) {
  let at = 0;
  let depth = 0;

  function fail() {
    throw new SyntaxError(`not JSON at character ${at}`);
  }

  function space() {
    while (at < text.length && " \n\r\t".includes(text[at])) at++;
  }

  function string() {
    const start = at++;
    while (text[at] !== '"') {
      if (at >= text.length) fail();
      at += text[at] === "\\" ? 2 : 1;
    }
    at++;
    return JSON.parse(text.slice(start, at));
  }

  function word(expected, value) {
    if (!text.startsWith(expected, at)) fail();
    at += expected.length;
    return value;
  }

  function number() {
    const found = /-?\d+(\.\d+)?([eE][+-]?\d+)?/y;
    found.lastIndex = at;
    const [source] = found.exec(text) ?? fail();
    at += source.length;
    // So many digits come back as they were.
    return source.length <= 15 && !/e/i.test(source) ? Number(source) : source;
  }

  function members(close, one) {
    at++;
    space();
    for (let isFirst = true; text[at] !== close; isFirst = false) {
      if (!isFirst) {
        if (text[at] !== ",") fail();
        at++;
        space();
      }
      one();
      space();
      if (at >= text.length) fail();
    }
    at++;
  }

  function object() {
    const made = {};
    const source = new Map();
    members("}", () => {
      if (text[at] !== '"') fail();
      const name = string();
      space();
      if (text[at] !== ":") fail();
      at++;
      space();
      const start = at;
      const member = value();
      source.set(name, text.slice(start, at));
      // A member called __proto__ is a member like others.
      Object.defineProperty(made, name, { value: member, enumerable: true, configurable: true, writable: true });
    });
    texts.set(made, source);
    return made;
  }

  function array() {
    const made = [];
    members("]", () => made.push(value()));
    return made;
  }

  /** Goes to the end of an object or an array, and returns its text. */
  function skipped() {
    const start = at;
    let open = 0;
    do {
      if (at >= text.length) fail();
      if (text[at] === '"') string();
      else {
        if (text[at] === "{" || text[at] === "[") open++;
        else if (text[at] === "}" || text[at] === "]") open--;
        at++;
      }
    } while (open > 0);
    return text.slice(start, at);
  }

  function nested(made) {
    if (depth === MAX_DEPTH) return skipped();
    depth++;
    const found = made();
    depth--;
    return found;
  }

  function value() {
    switch (text[at]) {
      case "{": return nested(object);
      case "[": return nested(array);
      case '"': return string();
      case "t": return word("true", true);
      case "f": return word("false", false);
      case "n": return word("null", null);
      default: return number();
    }
  }

  space();
  const found = value();
  space();
  if (at < text.length) fail();
  return found;
}

/** The text of a member of an object that `parse` has made, as it was sent. */
export function source(object, name) {
  return texts.get(object)?.get(name) ?? "";
}

/** A JSON text that goes into another one as it is. Throws a SyntaxError when it is none. */
export class Exact {
  constructor(text) {
    JSON.parse(text);
    this.text = text.trim();
  }
}

/** The JSON text of a value, in which there may be exact texts. */
export function written(value) {
  if (value instanceof Exact) return value.text;
  if (Array.isArray(value)) return `[${value.map(written).join(",")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const given = Object.entries(value).filter(([, one]) => one !== undefined);
  return `{${given.map(([name, one]) => `${JSON.stringify(name)}:${written(one)}`).join(",")}}`;
}

/** A JSON text with line breaks and indents; what stands between them stays as it is. */
export function indented(text) {
  let depth = 0;
  const line = () => "\n" + "  ".repeat(Math.min(depth, 30));
  const out = [];
  for (const [token] of text.matchAll(/"[^"\\]*(?:\\.[^"\\]*)*"|[{}[\],:]|[^\s{}[\],:"]+/g)) {
    const last = out[out.length - 1];
    if (token === "{" || token === "[") {
      out.push(token);
      depth++;
      out.push(line());
    } else if (token === "}" || token === "]") {
      depth--;
      // What is empty stays on its line.
      if (/^\n/.test(last ?? "") && /^[{[]$/.test(out[out.length - 2] ?? "")) out.pop();
      else out.push(line());
      out.push(token);
    } else if (token === ",") {
      out.push(token, line());
    } else {
      out.push(token === ":" ? ": " : token);
    }
  }
  return out.join("");
}
