// AI / Activity: who changed what, newest first, of all keys or of one, and whether the rows are as they were written.

import { call, isNews } from "./api.js";
import { foreign, h, icon, visible } from "./dom.js";
import { dateAndTime, fromNow, plural, timeElement } from "./format.js";
import { isPerson, ofAccount } from "./who.js";

const PAGE = 50;
const columns = () => ["Time", "Who", "Action", isPerson() ? "Key or person" : "Key", "Change"];
const ACTIONS = {
  create: "Created", change: "Changed", rotate: "Token rotated", expire_previous: "Old token ended", reset_budgets: "Budgets begun anew", delete: "Deleted", create_account: "Account created", change_account: "Account changed", delete_account: "Account deleted",
  invite: "Invited", revoke_invitation: "Invitation revoked", accept_invitation: "Invitation accepted", reset_password: "Link for a new password", change_member: "Role changed", remove_member: "Member removed", lose_member: "Member left",
  reload: "Key file loaded", forced_drop: "Key file loaded with force",
  not_written: "Not written", differs_at_start: "Key file differs at start", sign_in: "Signed in", sign_in_failed: "Sign-in failed", sign_out: "Signed out", make_sign_in_link: "Sign-in link made",
  cut: "Old rows deleted", rows_lost: "Rows lost",
};
const VIA = { socket: "admin socket", panel: "panel", api: "admin token", file: "key file", gateway: "gateway" };

/** Draws the view. `place` keeps the filters in the address. */
export function activityView(main, title, place) {
  let rows = [];
  let next = null;
  let loading = null;
  const field = (label, name, hint) => h("input", { type: "search", "aria-label": label, placeholder: hint, name, autocomplete: "off", spellcheck: "false", onchange: apply });
  const key = field("Key", "key", "Key id");
  const actor = field("Who", "actor", isPerson() ? "Who, an e-mail address" : "Who, like uid 1000");
  const action = h("select", { "aria-label": "Action", onchange: apply }, h("option", { value: "" }, "All actions"),
    Object.entries(ACTIONS).map(([name, text]) => h("option", { value: name }, text)));
  const status = h("p", { class: "count", role: "status" });
  const chain = h("p", { class: "muted chain", role: "status" });
  const body = h("tbody", { role: "rowgroup" });
  const card = h("div", { class: "card table-card", "aria-busy": "true" }, h("table", { class: "activity", role: "table" },
    h("caption", { class: "unseen" }, "Activity"),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, columns().map((name) => h("th", { scope: "col", role: "columnheader" }, name)))), body));
  const empty = h("div", { class: "card empty", hidden: true });
  const trouble = h("div", { class: "notice bad", role: "alert", hidden: true });
  const more = h("button", { type: "button", class: "button", hidden: true, onclick: () => load(next) }, "Load more");
  main.append(
    h("header", { class: "page-head" },
      h("div", {}, h("p", { class: "crumb" }, "AI"), h("h1", { tabindex: "-1" }, title), h("p", { class: "lead" }, "Who changed what, newest first."), chain),
      h("button", { type: "button", class: "button", onclick: () => load() }, icon("refresh"), "Refresh")),
    h("div", { class: "toolbar" }, h("div", { class: "search-box" }, icon("search"), key), actor, action, status),
    trouble, card, empty, h("p", { class: "more" }, more));
  arrive();

  function arrive() {
    const parameters = place.parameters();
    for (const [input, name] of [[key, "key"], [actor, "actor"], [action, "action"]]) input.value = parameters.get(name) ?? "";
    load();
  }

  function wanted() {
    const parameters = new URLSearchParams();
    for (const [input, name] of [[key, "key"], [actor, "actor"], [action, "action"]]) {
      if (input.value.trim() !== "") parameters.set(name, input.value.trim());
    }
    return parameters;
  }

  function apply() {
    place.remember(wanted(), null, true);
    load();
  }

  async function load(after = null) {
    loading?.abort();
    const turnOfThis = loading = new AbortController();
    const { signal } = turnOfThis;
    card.setAttribute("aria-busy", "true");
    if (after === null && !isPerson()) verify(signal);
    const parameters = new URLSearchParams([...wanted(), ...ofAccount()]);
    parameters.set("limit", PAGE);
    if (after !== null) parameters.set("after", after);
    try {
      const page = await call("GET", `/api/audit?${parameters}`, undefined, { signal });
      const first = page.rows[0]?.n;
      rows = after === null ? page.rows : [...rows, ...page.rows];
      next = page.next;
      trouble.hidden = true;
      draw();
      // What was added begins here; the button may be gone.
      if (after !== null) body.querySelector(`[data-n="${first}"]`)?.focus();
    } catch (error) {
      if (!isNews(error)) return;
      trouble.replaceChildren(icon("warning"), h("span", {}, `The activity could not be loaded. ${error.message}`),
        h("button", { type: "button", class: "button small", onclick: () => load(after) }, "Try again"));
      trouble.hidden = false;
      card.hidden = rows.length === 0;
    } finally {
      if (loading === turnOfThis) card.setAttribute("aria-busy", "false");
    }
  }

  async function verify(signal) {
    try {
      const { intact, intact_to: to, broken, waiting, lost } = await call("GET", "/api/audit/verify", undefined, { signal });
      chain.className = intact && lost === 0 ? "muted chain" : "notice bad chain";
      chain.replaceChildren(icon(intact ? "check" : "warning"), h("span", {},
        intact ? `Intact up to row ${to}.` : `Broken at row ${broken.n}: ${broken.message}.`,
        waiting > 0 && ` ${plural(waiting, "row")} wait for the database.`, lost > 0 && ` ${plural(lost, "row")} were lost.`));
    } catch {
      // The list says what is wrong.
      chain.replaceChildren();
    }
  }

  function draw() {
    card.hidden = rows.length === 0;
    empty.hidden = rows.length > 0;
    more.hidden = next === null;
    status.textContent = `${plural(rows.length, "change")}${next === null ? "" : " shown"}`;
    body.replaceChildren(...rows.map(row));
    if (rows.length === 0) empty.replaceChildren(icon("activity"), h("h2", {}, "No changes found"),
      h("p", {}, wanted().size === 0 ? isPerson() ? "Changes of the keys and the members of the account appear here." : "Changes of keys, reloads and sign-ins appear here." : "No change fits these filters."));
  }

  return { refresh: () => load(), leave: () => loading?.abort(), arrive };
}

function row(change) {
  const { n, at, actor, via, action, target, address } = change;
  const cell = (name, ...content) => h("td", { role: "cell", "data-label": name }, h("div", {}, content));
  const time = Date.parse(at);
  return h("tr", { role: "row", "data-n": n, tabindex: "-1" },
    h("th", { scope: "row", role: "rowheader" }, h("div", {}, timeElement(time, fromNow(time)), h("span", { class: "sub" }, dateAndTime(time)))),
    cell("Who", foreign(visible(actor)), h("span", { class: "sub" }, [VIA[via] ?? via, address].filter(Boolean).join(", "))),
    cell("Action", h("span", { class: action === "sign_in_failed" || action === "rows_lost" ? "soon" : null }, ACTIONS[action] ?? visible(action))),
    cell(columns()[3], target ? h("a", { href: `#/activity?key=${encodeURIComponent(target)}` }, h("code", {}, visible(target))) : h("span", { class: "muted" }, "–")),
    cell("Change", differences(change)));
}

/** Each field that changed: what it was, and what it is. */
function differences({ action, before, after }) {
  if (action === "reload" || action === "forced_drop") return reloaded(before, after);
  const names = Object.keys(after ?? before ?? {});
  if (names.length === 0) return h("span", { class: "muted" }, "–");
  return h("ul", { class: "differences" }, names.map((name) => h("li", {}, h("span", { class: "muted" }, `${visible(name)}: `),
    before && name in before && h("span", { class: after ? "was" : null }, value(before[name])),
    before && after && name in before && name in after && [h("span", { "aria-hidden": "true" }, " → "), h("span", { class: "unseen" }, " is now ")],
    after && name in after && value(after[name]))));
}

function reloaded(before, after) {
  const { added = 0, changed = 0, removed = 0 } = after?.counts ?? {};
  const ids = Object.keys({ ...before?.removed, ...after?.added, ...after?.changed });
  return [`${added} added, ${changed} changed, ${removed} removed`,
    h("span", { class: "sub" }, ids.slice(0, 10).map((id, at) => [at > 0 && ", ", h("code", {}, visible(id))]), ids.length > 10 && ` and ${ids.length - 10} more`)];
}

function value(what) {
  if (what === null || (Array.isArray(what) && what.length === 0)) return h("span", { class: "muted" }, "none");
  if (what?.mode) return foreign(visible(what.models ? `${what.mode}: ${what.models.join(", ")}` : what.mode));
  if (Array.isArray(what) && what.every((one) => typeof one === "string")) return foreign(visible(what.join(", ")));
  if (typeof what === "string") return foreign(visible(what));
  return h("code", {}, visible(JSON.stringify(what)));
}
