// The frame of the page: who looks, which view is shown, and how the views are reached.

import { render } from "./preact.js";
import { onRefused, setToken, takeToken, token } from "./api.js";
import { href, html, route, useEffect, useRef, useState } from "./parts.js";

/** The views, each in a file that is loaded when it is looked at first. */
const VIEWS = {
  overview: ["Overview", () => import("./overview.js")],
  services: ["Services", () => import("./services.js")],
  dead: ["Dead letters", () => import("./dead.js")],
  events: ["Events", () => import("./events.js")],
  tail: ["Live tail", () => import("./tail.js")],
  explain: ["Explain", () => import("./explain.js")],
  subscribers: ["Subscribers", () => import("./subscribers.js")],
  sagas: ["Sagas", () => import("./sagas.js")],
  types: ["Event types", () => import("./types.js")],
  sync: ["State sync", () => import("./sync.js")],
  nodes: ["Nodes", () => import("./nodes.js")],
  actors: ["Actors", () => import("./actors.js")],
  system: ["System", () => import("./system.js")],
};

function Login({ said, done }) {
  const submit = (event) => {
    event.preventDefault();
    setToken(new FormData(event.target).get("token").trim());
    done();
  };
  return html`<main class="login">
    <h1>Event Handler</h1>
    <form onSubmit=${submit}>
      <label>Admin token <input name="token" type="password" autocomplete="off" required autofocus /></label>
      <button>Open</button>
    </form>
    <p role="alert" class="bad">${said ?? ""}</p>
    <p class="soft">It stays in this tab. Without ADMIN_TOKEN it is in the file admin.token beside the data.</p>
  </main>`;
}

function Shown({ at }) {
  const [loaded, set] = useState(null);
  const main = useRef(null);
  const [title, load] = VIEWS[at.view] ?? [];
  useEffect(() => {
    let isWanted = true;
    if (load) load().then((view) => isWanted && set({ name: at.view, View: view.default }), (error) => isWanted && set({ name: at.view, error }));
    document.title = `${title ?? "Nothing here"} · Event Handler`;
    return () => { isWanted = false; };
  }, [at.view]);
  const isThere = loaded?.name === at.view;
  return html`<main id="main" tabindex="-1" ref=${main} data-view=${isThere ? at.view : null}>
    <h1>${title ?? "Nothing here"}</h1>
    ${!load && html`<p>There is no view of this name.</p>`}
    ${isThere && loaded.error && html`<p class="bad" role="alert">${String(loaded.error)}</p>`}
    ${isThere && loaded.View && html`<${loaded.View} ...${at} key=${at.view} />`}
  </main>`;
}

function App() {
  const [at, go] = useState(route());
  const [isKnown, know] = useState(token() !== null);
  const [said, say] = useState(null);
  useEffect(() => {
    const moved = () => go(route());
    addEventListener("hashchange", moved);
    const end = onRefused((message) => {
      setToken(null);
      say(message);
      know(false);
    });
    return () => {
      removeEventListener("hashchange", moved);
      end();
    };
  }, []);
  const skip = (event) => {
    event.preventDefault();
    document.getElementById("main").focus();
  };
  if (!isKnown) return html`<${Login} key="login" said=${said} done=${() => { say(null); know(true); }} />`;
  return html`
    <a class="skip" href="#main" onClick=${skip}>To the content</a>
    <header>
      <p class="name">Event Handler</p>
      <button type="button" class="small" onClick=${() => { setToken(null); know(false); }}>Forget the token</button>
    </header>
    <nav class="views" aria-label="Views">
      ${Object.entries(VIEWS).map(([name, [title]]) =>
        html`<a key=${name} href=${href(name)} aria-current=${name === at.view ? "page" : null}>${title}</a>`)}
    </nav>
    <${Shown} at=${at} />`;
}

takeToken();
render(html`<${App} />`, document.getElementById("app"));
