// The frame of the page: who looks, which view is shown, and how the views are reached.

import { render } from "./preact.js";
import { onRefused, setToken, takeToken, token } from "./api.js";
import { href, html, route, tellOf, Told, useEffect, useState } from "./parts.js";

/** The views with their titles, each in a file of its name that is loaded when it is looked at first. */
const VIEWS = {
  overview: "Overview",
  services: "Services",
  dead: "Dead letters",
  events: "Events",
  tail: "Live tail",
  explain: "Explain",
  subscribers: "Subscribers",
  sagas: "Sagas",
  types: "Event types",
  sync: "State sync",
  nodes: "Nodes",
  actors: "Actors",
  system: "System",
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

/** How long until a file that could not be loaded is tried again, in milliseconds. */
const LOAD_AGAIN = 5000;

let loads = 0;

/** Some browsers remember that an address could not be loaded; a fragment makes it another one, and is not sent. */
const load = (name) => import(`./${name}.js${loads ? `#${loads}` : ""}`);

function Shown({ at }) {
  const [loaded, set] = useState(null);
  const [turn, again] = useState(0);
  const title = Object.hasOwn(VIEWS, at.view) ? VIEWS[at.view] : undefined;
  useEffect(() => {
    let isWanted = true;
    let timer = 0;
    const failed = (error) => {
      loads++;
      if (!isWanted) return;
      set({ name: at.view, error });
      timer = setTimeout(() => again((last) => last + 1), LOAD_AGAIN);
    };
    if (title) load(at.view).then((view) => isWanted && set({ name: at.view, View: view.default }), failed);
    document.title = `${title ?? "Nothing here"} · Event Handler`;
    return () => {
      isWanted = false;
      clearTimeout(timer);
    };
  }, [at.view, turn]);
  const isThere = loaded?.name === at.view;
  return html`<main id="main" tabindex="-1" data-view=${isThere ? at.view : null}>
    <h1>${title ?? "Nothing here"}</h1>
    ${!title && html`<p>There is no view of this name.</p>`}
    ${isThere && loaded.error && html`<p class="bad" role="alert">${String(loaded.error)}</p>`}
    ${isThere && loaded.View && html`<${loaded.View} ...${at} key=${at.view} />`}
  </main>`;
}

function App() {
  const [at, go] = useState(route());
  const [isKnown, know] = useState(token() !== null);
  const [said, say] = useState(null);
  const [who, become] = useState(0);
  useEffect(() => {
    const moved = () => {
      if (takeToken()) {
        say(null);
        know(true);
        become((last) => last + 1);
      }
      go(route());
    };
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
      <${Told} />
      <button type="button" class="small" onClick=${() => { setToken(null); tellOf(null); know(false); }}>Forget the token</button>
    </header>
    <nav class="views" aria-label="Views">
      ${Object.entries(VIEWS).map(([name, title]) =>
        html`<a key=${name} href=${href(name)} aria-current=${name === at.view ? "page" : null}>${title}</a>`)}
    </nav>
    <${Shown} key=${who} at=${at} />`;
}

takeToken();
render(html`<${App} />`, document.getElementById("app"));
