// AI / API Keys: all keys, a page at a time, and what can be done to each, or to several.

import { call, isNews } from "./api.js";
import { showCreated } from "./created.js";
import { foreign, h, icon, quoted } from "./dom.js";
import { count, plural } from "./format.js";
import { editKey, keyMenu, lazily } from "./key-actions.js";
import { keyFilters } from "./key-filters.js";
import { openKeyForm } from "./key-form.js";
import { COLUMNS, keyRow } from "./key-row.js";
import { makerWords, membersOf } from "./makers.js";
import { offerNewToken } from "./new-token.js";
import { copyButton } from "./overlay.js";
import { session } from "./session.js";
import { firstModel } from "./snippets.js";
import { account, isPerson, mayChange, mayCreate, nameOf } from "./who.js";

const PAGE = 50;

/** Draws the view. `place` keeps the filters, the order and the position in the address. */
export function keysView(main, title, place) {
  /** Where each page up to this one begins; the first begins nowhere. */
  let places = [null];
  let next = null;
  let total = null;
  let keys = [];
  /** The people of the account that is looked at, by their ids. */
  let members = new Map();
  let loading = null;
  /** The selected keys by id, on other pages too. */
  const selected = new Map();

  const filters = keyFilters({ onChange: (isTyped) => {
    remember([null], isTyped);
    load([null]);
  } });
  const status = h("p", { class: "count", role: "status" });
  const body = h("tbody", { role: "rowgroup" });
  const selectAll = h("input", { type: "checkbox", "aria-label": "Select all keys of this page", onchange: () => {
    for (const key of keys.filter(mayChange)) {
      if (selectAll.checked) selected.set(key.id, key);
      else selected.delete(key.id);
    }
    for (const box of body.querySelectorAll(".row-select input")) box.checked = selectAll.checked;
    drawSelection();
  } });
  const heads = COLUMNS.map(({ name, sort }) => ({ sort, element: h("th", { scope: "col", role: "columnheader" }, sort
    ? h("button", { type: "button", class: "sort", onclick: () => turnOrder(sort) }, name, h("span", { class: "sort-mark", "aria-hidden": "true" })) : name) }));
  const caption = h("caption", { class: "unseen" }, "API keys");
  const table = h("table", { class: "keys", role: "table" }, caption,
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" },
      h("th", { scope: "col", role: "columnheader", class: "row-select" }, selectAll), heads.map(({ element }) => element),
      h("th", { scope: "col", role: "columnheader", class: "row-menu" }, h("span", { class: "unseen" }, "Actions")))), body);
  const card = h("div", { class: "card table-card", "aria-busy": "true" }, table);
  const empty = h("div", { class: "card empty", hidden: true });
  const trouble = h("div", { class: "notice bad", role: "alert", hidden: true });
  const pagers = ["Pages", "Pages, below the list"].map((label) => {
    const newer = h("button", { type: "button", class: "button small", onclick: () => turn(-1, newer, older) }, icon("left"), "Newer");
    const older = h("button", { type: "button", class: "button small", onclick: () => turn(1, older, newer) }, "Older", icon("right"));
    return { newer, older, element: h("nav", { class: "pager", "aria-label": label, hidden: true }, newer, older) };
  });
  const toolbar = h("div", { class: "toolbar" }, filters.searchBox, status, pagers[0].element);
  const foot = h("div", { class: "table-foot" }, pagers[1].element);
  const create = h("button", { type: "button", class: "button primary", id: "create-key", hidden: !mayCreate(), onclick: openCreate }, icon("plus"), "Create API Key");
  const url = h("code", { translate: "no" }, session.url);
  const again = h("button", { type: "button", class: "button", onclick: () => load() }, icon("refresh"), "Refresh");
  const csv = h("button", { type: "button", class: "button", onclick: async () => {
    (await lazily(() => import("./csv.js")))?.saveCsv({ wanted: filters.request(), button: csv });
  } }, icon("download"), "CSV");
  const number = h("p", { role: "status" });
  const bulk = h("div", { class: "card bulk", role: "group", "aria-label": "Selected keys", hidden: true }, number,
    [["disable", "Disable"], ["enable", "Enable"], ["extend", "Extend"], ["delete", "Delete"]].map(([action, text]) =>
      h("button", { type: "button", class: "button small", onclick: () => openBulk(action) }, `${text}…`)),
    h("button", { type: "button", class: "button quiet small", onclick: () => {
      selected.clear();
      draw();
      filters.search.focus();
    } }, "Select none"));

  main.append(
    h("header", { class: "page-head" },
      h("div", {}, h("p", { class: "crumb" }, "AI"), h("h1", { tabindex: "-1" }, title),
        h("p", { class: "lead" }, isPerson() ? ["What the programs of ", foreign(nameOf(account())), " use, and for how long."] : "Who may use which model, from where, and for how long.")),
      h("div", { class: "head-actions" }, csv, again, create)),
    h("div", { class: "url-line card" }, h("span", { class: "url-name" }, "OpenAI Compatible URL"),
      url, copyButton(() => session.url, "OpenAI Compatible URL", { className: "button quiet small", shown: () => url })),
    toolbar, filters.element, trouble, bulk, card, empty, foot);
  skeleton(body);
  arrive();

  /** Shows what the address says. */
  function arrive() {
    filters.take(place.parameters());
    const kept = history.state?.places;
    load(Array.isArray(kept) && String(kept.length) === place.parameters().get("page") ? kept : [null]);
  }

  function remember(wantedPlaces, isReplaced) {
    const parameters = filters.parameters();
    if (wantedPlaces.length > 1) parameters.set("page", wantedPlaces.length);
    place.remember(parameters, { places: wantedPlaces }, isReplaced);
  }

  function turnOrder(sort) {
    const other = sort.startsWith("-") ? sort.slice(1) : `-${sort}`;
    filters.set("sort", filters.values().sort === sort ? other : sort);
  }

  async function turn(step, pressed, other) {
    const wantedPlaces = step > 0 ? [...places, next] : places.slice(0, -1);
    if (!await load(wantedPlaces)) return;
    remember(places, false);
    const { activeElement } = document;
    // A button at the end of its way takes no focus any more; the other one does.
    if (activeElement === document.body || (activeElement === pressed && pressed.disabled)) keepFocus(pressed.disabled ? other : pressed);
  }

  /** Loads the page that begins at the last of `wantedPlaces`. The position moves when the answer comes, not before. */
  async function load(wantedPlaces = places) {
    loading?.abort();
    const turnOfThis = loading = new AbortController();
    const { signal } = turnOfThis;
    card.setAttribute("aria-busy", "true");
    const wanted = filters.request();
    wanted.set("limit", PAGE);
    if (wantedPlaces.at(-1) !== null) wanted.set("after", wantedPlaces.at(-1));
    try {
      const [page, standing, people] = await Promise.all([
        call("GET", `/api/keys?${wanted}`, undefined, { signal }),
        filters.isFiltered() || isPerson() ? null : call("GET", "/api/status", undefined, { signal }),
        isPerson() ? membersOf(account().id, { signal }) : members,
      ]);
      // Where the page's last key went, the page before it is the last one now.
      if (page.keys.length === 0 && wantedPlaces.length > 1) return await load(wantedPlaces.slice(0, -1));
      places = wantedPlaces;
      ({ keys, next } = page);
      total = standing?.keys ?? null;
      members = people;
      for (const key of keys) if (selected.has(key.id)) selected.set(key.id, key);
      trouble.hidden = true;
      draw();
      return true;
    } catch (error) {
      if (isNews(error)) fail(error, wantedPlaces);
      return false;
    } finally {
      if (loading === turnOfThis) card.setAttribute("aria-busy", "false");
    }
  }

  function fail(error, wantedPlaces) {
    trouble.replaceChildren(icon("warning"), h("span", {}, `The keys could not be loaded. ${error.message}`),
      h("button", { type: "button", class: "button small", onclick: () => load(wantedPlaces) }, "Try again"));
    trouble.hidden = false;
    card.hidden = keys.length === 0;
  }

  function draw() {
    const isEmpty = keys.length === 0;
    const isFiltered = filters.isFiltered();
    card.hidden = isEmpty;
    empty.hidden = !isEmpty;
    toolbar.hidden = filters.element.hidden = isEmpty && !isFiltered;
    csv.hidden = isEmpty;
    for (const { newer, older, element } of pagers) {
      element.hidden = places.length === 1 && next === null;
      newer.disabled = places.length === 1;
      older.disabled = next === null;
    }
    const first = (places.length - 1) * PAGE + 1;
    const range = `${count(first)}–${count(first + keys.length - 1)}`;
    const isWhole = places.length === 1 && next === null;
    status.textContent = isEmpty ? (isFiltered ? "No key found" : "")
      : isFiltered ? (isWhole ? `${plural(keys.length, "key")} found` : `Keys ${range} of those found`)
      : isWhole ? plural(keys.length, "key") : total === null ? `Keys ${range}` : `Keys ${range} of ${count(total)}`;
    drawOrder();
    const focused = document.activeElement?.closest("tbody tr");
    const wasIn = focused && body.contains(focused)
      && { id: focused.dataset.id, at: focused.rowIndex - 1, control: [...focused.querySelectorAll("button, input")].indexOf(document.activeElement) };
    if (isEmpty) drawEmpty();
    body.replaceChildren(...keys.map((key) => keyRow(key, { maker: isPerson() ? makerWords(key, members) : null, isSelected: selected.has(key.id), onSelect: select,
      onEdit: (key) => editKey(key, reloadAt), onMenu: (button, key) => keyMenu(button, key, reloadAt) })));
    drawSelection();
    // Whoever was on a row stays on it; where it is gone, on the one that took its place.
    if (wasIn) {
      const row = [...body.rows].find((row) => row.dataset.id === wasIn.id) ?? body.rows[Math.min(wasIn.at, body.rows.length - 1)];
      keepFocus(row ? [...row.querySelectorAll("button, input")].at(Math.max(0, wasIn.control)) : create);
    }
  }

  function drawOrder() {
    const { sort } = filters.values();
    for (const head of heads) {
      const isThis = head.sort && head.sort.replace("-", "") === sort.replace("-", "");
      if (isThis) head.element.setAttribute("aria-sort", sort.startsWith("-") ? "descending" : "ascending");
      else head.element.removeAttribute("aria-sort");
    }
  }

  function drawEmpty() {
    const { query } = filters.values();
    empty.replaceChildren(...(filters.isFiltered()
      ? [icon("search"), h("h2", {}, "No key found"),
        h("p", {}, query === "" ? "No key meets the filters." : ["No name, account, ID, token ending, model or network contains ", quoted(query), "."]),
        h("button", { type: "button", class: "button", onclick: () => {
          filters.clear();
          filters.search.focus();
        } }, "Show all keys")]
      : isPerson() ? [icon("key"), h("h2", {}, "No API keys yet"),
        h("p", {}, mayCreate() ? "Create a key, and your programs can use the models at once." : "When a member or an owner of the account creates a key, you see it here."),
        ...(mayCreate() ? [h("button", { type: "button", class: "button primary", onclick: openCreate }, icon("plus"), "Create API Key")] : [])]
      : [icon("key"), h("h2", {}, "No API keys yet"),
        h("p", {}, "Nobody can use a model before there is a key. Create one, hand over its bearer token and the URL above, and it works at once."),
        h("button", { type: "button", class: "button primary", onclick: openCreate }, icon("plus"), "Create API Key")]));
  }

  function select(key, isSelected) {
    if (isSelected) selected.set(key.id, key);
    else selected.delete(key.id);
    drawSelection();
  }

  function drawSelection() {
    const most = keys.filter(mayChange).length;
    const here = keys.filter(({ id }) => selected.has(id)).length;
    selectAll.hidden = most === 0;
    selectAll.checked = most > 0 && here === most;
    selectAll.indeterminate = here > 0 && here < most;
    const hadFocus = bulk.contains(document.activeElement);
    bulk.hidden = selected.size === 0;
    if (hadFocus && bulk.hidden) keepFocus(filters.search);
    number.textContent = selected.size === 0 ? "" : `${plural(selected.size, "key")} selected${here < selected.size ? `, ${count(selected.size - here)} of them not on this page` : ""}`;
  }

  let isOpening = false;
  async function openBulk(action) {
    // While its code loads, Enter or a second click must not open it twice.
    if (isOpening) return;
    isOpening = true;
    (await lazily(() => import("./bulk.js")))?.openBulk({ action, keys: [...selected.values()], onDone: (done) => {
      for (const { id } of done) selected.delete(id);
      reloadAt(null);
    } });
    isOpening = false;
  }

  /** After a change the rows are new; whoever was on one is put back there. */
  async function reloadAt(id) {
    await load();
    if (document.activeElement !== document.body && document.activeElement !== main) return;
    const row = [...body.rows].find((row) => row.dataset.id === id);
    keepFocus(row?.querySelector(".row-menu button") ?? create);
  }

  function keepFocus(element) {
    if (!document.querySelector("dialog[open]")) (element?.disabled || element?.closest("[hidden]") ? (create.hidden ? main : create) : element)?.focus({ preventScroll: true });
  }

  function openCreate() {
    openKeyForm({ address: session.client_address, onSaved: function shown({ key, token, url, warnings }, models) {
      filters.reset();
      remember([null], false);
      load([null]).then(() => {
        [...body.rows].find((row) => row.dataset.id === key.id)?.classList.add("fresh");
      });
      showCreated({ name: key.name, token, url, warnings, model: firstModel(key.model_access, models),
        onUncopied: () => offerNewToken(key, (made) => shown(made, models)) });
    } });
  }

  return { refresh: () => load(), arrive, leave: () => loading?.abort() };
}

function skeleton(body) {
  body.append(...Array.from({ length: 6 }, () => h("tr", { class: "ghost", "aria-hidden": "true" },
    Array.from({ length: COLUMNS.length + 2 }, () => h("td", {}, h("span"))))));
}
