// The gateways that share the database: whether the newest keys are in force on each, and which is not seen any more.

import { call, isNews } from "./api.js";
import { foreign, h, icon, visible } from "./dom.js";
import { count, duration, fromNow, plural, timeElement } from "./format.js";

const COLUMNS = ["Gateway", "State", "Revision", "Lag", "In flight", "Started"];

/** Draws the view. */
export function fleetView(main, title) {
  let loading = null;
  const body = h("tbody", { role: "rowgroup" });
  const status = h("p", { class: "count", role: "status" });
  const trouble = h("div", { class: "notice bad", role: "alert", hidden: true });
  const card = h("div", { class: "card table-card", "aria-busy": "true" }, h("table", { class: "people", role: "table" }, h("caption", { class: "unseen" }, title),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, COLUMNS.map((name) => h("th", { scope: "col", role: "columnheader" }, name)))), body));
  const empty = h("div", { class: "card empty", hidden: true }, icon("fleet"), h("h2", {}, "This gateway has its own database."), h("p", {}, "Gateways that share one are listed here."));
  main.append(
    h("header", { class: "page-head" }, h("div", {}, h("h1", { tabindex: "-1" }, title), h("p", { class: "lead" }, "The gateways that share the database.")),
      h("button", { type: "button", class: "button", onclick: () => load() }, icon("refresh"), "Refresh")),
    h("div", { class: "toolbar" }, status), trouble, card, empty);
  load();

  async function load() {
    loading?.abort();
    const turnOfThis = loading = new AbortController();
    card.setAttribute("aria-busy", "true");
    try {
      const { revision, database, data } = await call("GET", "/api/fleet", undefined, { signal: turnOfThis.signal });
      empty.hidden = database !== null;
      card.hidden = database === null;
      status.textContent = database === null ? "" : plural(data.length, "gateway");
      trouble.hidden = database?.up !== false;
      if (!trouble.hidden) {
        const seen = database.read_at === null ? "The other gateways are not known." : `This is what was read last, ${fromNow(Date.parse(database.read_at))}.`;
        trouble.replaceChildren(icon("warning"), h("span", {}, `The database is away. ${seen} ${database.error}`));
      }
      body.replaceChildren(...data.map((gateway) => row(gateway, revision)));
    } catch (error) {
      if (!isNews(error)) return;
      trouble.replaceChildren(icon("warning"), h("span", {}, `The gateways could not be loaded. ${error.message}`), h("button", { type: "button", class: "button small", onclick: load }, "Try again"));
      trouble.hidden = false;
    } finally {
      if (loading === turnOfThis) card.setAttribute("aria-busy", "false");
    }
  }

  return { refresh: load, leave: () => loading?.abort() };
}

function row({ name, version, started_at: started, seen_at: seen, revision, behind, lag_seconds: lag, in_flight: running, state, is_this: isThis }, newest) {
  const cell = (name, ...content) => h("td", { role: "cell", "data-label": name }, h("div", {}, content));
  const time = (text) => timeElement(Date.parse(text), fromNow(Date.parse(text)));
  const words = state === "not_seen" ? ["Not seen since ", time(seen)] : state === "in_sync" ? newest === null ? "Seen" : "In sync"
    : behind === null ? "Keys from a file" : behind < 0 ? "Ahead of the database" : `Behind by ${plural(behind, "change")}`;
  const orNone = (value, words) => (value === null ? h("span", { class: "muted" }, "none") : words(value));
  return h("tr", { role: "row" },
    h("th", { scope: "row", role: "rowheader" }, h("div", {}, foreign(visible(name)), h("span", { class: "sub" }, `${version}${isThis ? ", this one" : ""}`))),
    cell("State", h("span", { class: `state ${state === "in_sync" ? "active" : "refused"}` }, h("span", {}, words))), cell("Revision", orNone(revision, count)),
    cell("Lag", orNone(lag, (seconds) => duration(seconds).join(" "))), cell("In flight", count(running)), cell("Started", time(started)));
}
