// Where the person who looks is signed in.

import { call, isNews } from "./api.js";
import { foreign, h, icon, visible } from "./dom.js";
import { dateAndTime, fromNow, plural, timeElement } from "./format.js";
import { confirm, toast } from "./overlay.js";
import { session } from "./session.js";

const COLUMNS = ["Browser", "Address", "Signed in", "Last used"];
const BROWSERS = [["Edg", "Edge"], ["OPR", "Opera"], ["Firefox", "Firefox"], ["Chrome", "Chrome"], ["Safari", "Safari"]];
const SYSTEMS = [["Android", "Android"], ["iPhone|iPad", "iOS"], ["Windows", "Windows"], ["Mac OS", "macOS"], ["Linux", "Linux"]];

/** Draws the view. */
export function sessionsView(main, title, _, { signOut }) {
  let loading = null;
  const body = h("tbody", { role: "rowgroup" });
  const status = h("p", { class: "count", role: "status" });
  const trouble = h("div", { class: "notice bad", role: "alert", hidden: true });
  const card = h("div", { class: "card table-card", "aria-busy": "true" }, h("table", { class: "people", role: "table" }, h("caption", { class: "unseen" }, title),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, COLUMNS.map((name) => h("th", { scope: "col", role: "columnheader" }, name)),
      h("th", { scope: "col", role: "columnheader", class: "row-menu" }, h("span", { class: "unseen" }, "Actions")))), body));
  main.append(
    h("header", { class: "page-head" }, h("div", {}, h("h1", { tabindex: "-1" }, title), h("p", { class: "lead" }, "Where ", foreign(session.principal.email), " is signed in. End what you do not know.")),
      h("div", { class: "head-actions" }, h("button", { type: "button", class: "button", onclick: () => load() }, icon("refresh"), "Refresh"))),
    h("div", { class: "toolbar" }, status), trouble, card);
  load();

  async function load() {
    loading?.abort();
    const turnOfThis = loading = new AbortController();
    card.setAttribute("aria-busy", "true");
    try {
      const { sessions } = await call("GET", "/api/sessions", undefined, { signal: turnOfThis.signal });
      trouble.hidden = true;
      status.textContent = plural(sessions.length, "session");
      body.replaceChildren(...sessions.map(row));
    } catch (error) {
      if (!isNews(error)) return;
      trouble.replaceChildren(icon("warning"), h("span", {}, `The sessions could not be loaded. ${error.message}`), h("button", { type: "button", class: "button small", onclick: load }, "Try again"));
      trouble.hidden = false;
    } finally {
      if (loading === turnOfThis) card.setAttribute("aria-busy", "false");
    }
  }

  function row({ id, created_at: began, used_at: used, address, user_agent: agent, current }) {
    const cell = (name, ...content) => h("td", { role: "cell", "data-label": name }, h("div", {}, content));
    const time = (text) => timeElement(Date.parse(text), fromNow(Date.parse(text)), dateAndTime(Date.parse(text)));
    const name = browserName(agent);
    return h("tr", { role: "row", "data-id": id },
      h("th", { scope: "row", role: "rowheader" }, h("div", { title: agent && visible(agent) }, name, current && h("span", { class: "sub" }, "this one"))),
      cell("Address", address ?? h("span", { class: "muted" }, "unknown")), cell("Signed in", time(began)), cell("Last used", time(used)),
      h("td", { role: "cell", class: "row-menu" }, current
        ? h("button", { type: "button", class: "button small", onclick: signOut }, "Sign out")
        : h("button", { type: "button", class: "button small", "aria-label": `End the session of ${name}, used ${fromNow(Date.parse(used))}`, onclick: () => end(id, name) }, "End…")));
  }

  function end(id, name) {
    confirm({ title: "End this session?", ok: "End it", body: h("p", {}, `${name} is signed out at once.`), act: async () => {
      try {
        await call("DELETE", `/api/sessions/${encodeURIComponent(id)}`);
      } catch (error) {
        if (error.status !== 404) throw error;
      }
      toast("The session was ended.");
      load();
    } });
  }

  return { refresh: load, leave: () => loading?.abort() };
}

function browserName(agent) {
  const found = (names) => names.find(([word]) => new RegExp(word).test(agent ?? ""))?.[1];
  const [browser, system] = [found(BROWSERS), found(SYSTEMS)];
  return browser ? `${browser}${system ? ` on ${system}` : ""}` : agent ? visible(agent).slice(0, 40) : "Unknown browser";
}
