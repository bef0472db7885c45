// What the list of keys shows: the search, the filters and the order, as controls and as the parameters of the address.

import { catalogue, now } from "./api.js";
import { h, icon, visible } from "./dom.js";
import { toast } from "./overlay.js";
import { isPerson, ofAccount } from "./who.js";

const DAY = 86_400_000;
/** Whole tokens, those made elsewhere too, are long; who pastes one looks for its key. */
const TOKEN = /^kg_[0-9A-Za-z]{49}$/;
const STATES = [["", "Any state"], ["active", "Active"], ["disabled", "Disabled"], ["expired", "Expired"]];
const EXPIRIES = [["", "Any expiry"], ["7", "Expires within 7 days"], ["30", "Expires within 30 days"], ["90", "Expires within 90 days"]];
const UNUSED = [["", "Used or not"], ["30d", "Not used for 30 days"], ["90d", "Not used for 90 days"], ["365d", "Not used for a year"]];
export const NEWEST_FIRST = "-created_at";
const ORDERS = [[NEWEST_FIRST, "Newest first"], ["created_at", "Oldest first"], ["name", "Name, A to Z"], ["-name", "Name, Z to A"],
  ["account", "Account, A to Z"], ["-account", "Account, Z to A"], ["expires_at", "First to expire"], ["-expires_at", "Last to expire"],
  ["-last_used_at", "Last used"], ["last_used_at", "Longest unused"], ["-requests", "Most requests"], ["requests", "Fewest requests"]];
/** A person looks at one account, which is not a filter. */
const names = () => ALL_NAMES.filter((name) => name !== "account" || !isPerson());
const ALL_NAMES = ["query", "state", "account", "model", "expires", "unused_for", "sort"];

/** The controls: {element, search, values(), take(parameters), parameters(), request(), isFiltered(), set(name, value), clear()}.
 *  `onChange` hears of a change, and whether it is one step of typing. */
export function keyFilters({ onChange }) {
  let typing;
  const typed = () => {
    clearTimeout(typing);
    const text = search.value.trim();
    if (TOKEN.test(text)) {
      // The token itself goes nowhere: its ending is what the list knows.
      search.value = text.slice(-4);
      toast("Only the token's last 4 characters are searched for; the token itself was not sent.");
    }
    typing = setTimeout(() => changed(true), 200);
  };
  const search = h("input", { id: "key-search", type: "search", placeholder: "Search name, account, ID, model, network",
    "aria-label": "Search keys", autocomplete: "off", spellcheck: "false", maxlength: "512", oninput: typed });
  const select = (label, options) => {
    const element = h("select", { "aria-label": label, onchange: () => changed(false) });
    element.append(...options.map(([value, text]) => h("option", { value }, text)));
    return element;
  };
  const account = h("input", { type: "search", "aria-label": "Whole account", placeholder: "Whole account", autocomplete: "off", spellcheck: "false", maxlength: "512", oninput: typed });
  const controls = { query: search, state: select("State", STATES), account, model: select("Model", [["", "Any model"]]),
    expires: select("Expiry", EXPIRIES), unused_for: select("Use", UNUSED), sort: select("Order", ORDERS) };
  const values = () => Object.fromEntries(names().map((name) => [name, controls[name].value.trim()]));
  let last = JSON.stringify(values());
  function changed(isTyped) {
    const text = JSON.stringify(values());
    if (text === last) return;
    last = text;
    onChange(isTyped);
  }
  /** Sets a control; a select gets what it does not offer, such as a model that nobody serves today. */
  function put(name, value) {
    const control = controls[name];
    if (control === controls.model && value !== "" && ![...control.options].some((option) => option.value === value)) addModel(value);
    control.value = value;
    if (control.value !== value) control.selectedIndex = 0;
  }
  const addModel = (id) => controls.model.append(h("option", { value: id }, visible(id)));
  catalogue().then((models) => {
    const known = new Set([...controls.model.options].map(({ value }) => value));
    for (const { id } of models ?? []) if (!known.has(id)) addModel(id);
  });
  const wrapped = (name) => h("div", { class: "select" }, controls[name], icon("left"));
  return {
    search,
    searchBox: h("div", { class: "search-box", role: "search" }, icon("search"), search),
    element: h("div", { class: "filters", role: "group", "aria-label": "Filters" },
      wrapped("state"), wrapped("model"), wrapped("expires"), wrapped("unused_for"), !isPerson() && account, wrapped("sort")),
    values,
    /** What the address says. */
    take: (parameters) => {
      clearTimeout(typing);
      for (const name of names()) put(name, parameters.get(name) ?? (name === "sort" ? NEWEST_FIRST : ""));
      last = JSON.stringify(values());
    },
    /** The same for the address. */
    parameters: () => new URLSearchParams(Object.entries(values()).filter(([name, value]) => value !== (name === "sort" ? NEWEST_FIRST : ""))),
    /** What the gateway is asked for. */
    request: () => {
      const { expires, sort, ...others } = values();
      const wanted = new URLSearchParams(Object.entries(others).filter(([, value]) => value !== "").concat(ofAccount()));
      if (expires !== "") {
        wanted.set("expires_before", `${new Date(now() + Number(expires) * DAY).toISOString().slice(0, 19)}Z`);
        // Those that expired already are not asked for, unless by their state.
        if (others.state === "") wanted.set("state", "active");
      }
      if (sort !== NEWEST_FIRST) wanted.set("sort", sort);
      return wanted;
    },
    isFiltered: () => Object.entries(values()).some(([name, value]) => name !== "sort" && value !== ""),
    set: (name, value) => {
      put(name, value);
      changed(false);
    },
    clear: () => {
      clearTimeout(typing);
      const { sort } = values();
      for (const name of names()) put(name, name === "sort" ? sort : "");
      changed(false);
    },
    /** Newest first and all of them, as whoever made a key wants to see it, without telling anybody. */
    reset: () => {
      clearTimeout(typing);
      for (const name of names()) put(name, name === "sort" ? NEWEST_FIRST : "");
      last = JSON.stringify(values());
    },
  };
}
