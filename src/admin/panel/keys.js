// AI / API Keys: all keys, a page at a time, and what can be done to each.

import { ApiError, call, isNews } from "./api.js";
import { showCreated } from "./created.js";
import { foreign, h, icon, modelName, quoted, quotedText, visible } from "./dom.js";
import { count, expiryDay, expirySentence, fromNow, isSoon, lastDay, plural, timeElement, timeOfDay } from "./format.js";
import { openKeyForm } from "./key-form.js";
import { confirm, copyButton, openMenu, toast } from "./overlay.js";
import { offerNewToken } from "./new-token.js";
import { openRefusals } from "./refusals.js";
import { session } from "./session.js";
import { firstModel } from "./snippets.js";

const PAGE = 50;
const COLUMNS = ["Name", "Model access", "Allow from", "Expires", "State", "Last used", "Token", ""];
/** Whole tokens, those made elsewhere too, are long; who pastes one looks for its key. */
const TOKEN = /^kg_[0-9A-Za-z]{49}$/;

/** Draws the view. */
export function keysView(main, title) {
  /** Where each page up to this one begins; the first begins nowhere. */
  let places = [null];
  let next = null;
  let query = "";
  let total = null;
  let keys = [];
  let loading = null;

  const search = h("input", { id: "key-search", type: "search", placeholder: "Search name, account, ID or token ending",
    "aria-label": "Search keys", autocomplete: "off", spellcheck: "false", maxlength: "512", oninput: searched });
  const status = h("p", { class: "count", role: "status" });
  const body = h("tbody");
  const table = h("table", { class: "keys", role: "table" },
    h("caption", { class: "unseen" }, "API keys, newest first"),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, COLUMNS.map((name) =>
      h("th", { scope: "col", role: "columnheader" }, name || h("span", { class: "unseen" }, "Actions"))))), body);
  body.setAttribute("role", "rowgroup");
  const place = h("div", { class: "card table-card", "aria-busy": "true" }, table);
  const empty = h("div", { class: "card empty", hidden: true });
  const trouble = h("div", { class: "notice bad", role: "alert", hidden: true });
  const newer = h("button", { type: "button", class: "button small", onclick: () => turn(-1) }, icon("left"), "Newer");
  const older = h("button", { type: "button", class: "button small", onclick: () => turn(1) }, "Older", icon("right"));
  const pager = h("nav", { class: "pager", "aria-label": "Pages", hidden: true }, newer, older);
  const toolbar = h("div", { class: "toolbar" }, h("div", { class: "search-box", role: "search" }, icon("search"), search), status, pager);
  const create = h("button", { type: "button", class: "button primary", id: "create-key", onclick: openCreate }, icon("plus"), "Create API Key");

  const url = h("code", { translate: "no" }, session.url);
  const again = h("button", { type: "button", class: "button", onclick: () => load() }, icon("refresh"), "Refresh");
  main.append(
    h("header", { class: "page-head" },
      h("div", {}, h("p", { class: "crumb" }, "AI"), h("h1", { tabindex: "-1" }, title),
        h("p", { class: "lead" }, "Who may use which model, from where, and for how long.")),
      h("div", { class: "head-actions" }, again, create)),
    h("div", { class: "url-line card" }, h("span", { class: "url-name" }, "OpenAI Compatible URL"),
      url, copyButton(() => session.url, "OpenAI Compatible URL", { className: "button quiet small", shown: () => url })),
    toolbar,
    trouble, place, empty);
  skeleton(body);
  load();

  let typing;
  function searched() {
    clearTimeout(typing);
    const text = search.value.trim();
    if (TOKEN.test(text)) {
      // The token itself goes nowhere: its ending is what the list knows.
      search.value = text.slice(-4);
      toast("Only the token's last 4 characters are searched for; the token itself was not sent.");
    }
    typing = setTimeout(() => {
      const wanted = search.value.trim();
      if (wanted === query) return;
      query = wanted;
      places = [null];
      load();
    }, 200);
  }

  function turn(step) {
    const pressed = step > 0 ? older : newer;
    load(step > 0 ? [...places, next] : places.slice(0, -1)).then(() => {
      const { activeElement } = document;
      // A button at the end of its way takes no focus any more; the other one does.
      if (activeElement === document.body || (activeElement === pressed && pressed.disabled)) keepFocus(newer.disabled ? older : newer);
    });
  }

  /** Loads the page that begins at the last of `wantedPlaces`. The position moves when the answer comes, not before. */
  async function load(wantedPlaces = places) {
    loading?.abort();
    const turnOfThis = loading = new AbortController();
    const { signal } = turnOfThis;
    place.setAttribute("aria-busy", "true");
    const wanted = new URLSearchParams({ limit: PAGE });
    if (wantedPlaces.at(-1) !== null) wanted.set("after", wantedPlaces.at(-1));
    if (query !== "") wanted.set("query", query);
    try {
      const [page, standing] = await Promise.all([
        call("GET", `/api/keys?${wanted}`, undefined, { signal }),
        query === "" ? call("GET", "/api/status", undefined, { signal }) : null,
      ]);
      // Where the page's last key went, the page before it is the last one now.
      if (page.keys.length === 0 && wantedPlaces.length > 1) return load(wantedPlaces.slice(0, -1));
      places = wantedPlaces;
      ({ keys, next } = page);
      total = standing?.keys ?? null;
      trouble.hidden = true;
      draw();
    } catch (error) {
      if (isNews(error)) fail(error, wantedPlaces);
    } finally {
      if (loading === turnOfThis) place.setAttribute("aria-busy", "false");
    }
  }

  function fail(error, wantedPlaces) {
    trouble.replaceChildren(icon("warning"), h("span", {}, `The keys could not be loaded. ${error.message}`),
      h("button", { type: "button", class: "button small", onclick: () => load(wantedPlaces) }, "Try again"));
    trouble.hidden = false;
    place.hidden = keys.length === 0;
  }

  function draw() {
    const isEmpty = keys.length === 0;
    place.hidden = isEmpty;
    empty.hidden = !isEmpty;
    toolbar.hidden = isEmpty && query === "";
    pager.hidden = places.length === 1 && next === null;
    newer.disabled = places.length === 1;
    older.disabled = next === null;
    const first = (places.length - 1) * PAGE + 1;
    const range = `${count(first)}–${count(first + keys.length - 1)}`;
    const isWhole = places.length === 1 && next === null;
    status.textContent = isEmpty ? (query === "" ? "" : "No key found")
      : query !== "" ? (isWhole ? `${plural(keys.length, "key")} found` : `Keys ${range} of those found`)
      : isWhole ? plural(keys.length, "key") : `Keys ${range} of ${count(total)}`;
    const focused = document.activeElement?.closest("tbody tr");
    const wasIn = focused && body.contains(focused)
      && { id: focused.dataset.id, at: focused.rowIndex - 1, control: [...focused.querySelectorAll("button, input")].indexOf(document.activeElement) };
    if (isEmpty) drawEmpty();
    body.replaceChildren(...keys.map(row));
    // Whoever was on a row stays on it; where it is gone, on the one that took its place.
    if (wasIn) {
      const row = [...body.rows].find((row) => row.dataset.id === wasIn.id) ?? body.rows[Math.min(wasIn.at, body.rows.length - 1)];
      keepFocus(row ? [...row.querySelectorAll("button, input")].at(Math.max(0, wasIn.control)) : create);
    }
  }

  function drawEmpty() {
    empty.replaceChildren(...(query === ""
      ? [icon("key"), h("h2", {}, "No API keys yet"),
        h("p", {}, "Nobody can use a model before there is a key. Create one, hand over its bearer token and the URL above, and it works at once."),
        h("button", { type: "button", class: "button primary", onclick: openCreate }, icon("plus"), "Create API Key")]
      : [icon("search"), h("h2", {}, "No key found"),
        h("p", {}, "No name, account, ID or token ending contains ", quoted(query), "."),
        h("button", { type: "button", class: "button", onclick: () => {
          search.value = query = "";
          places = [null];
          search.focus();
          load();
        } }, "Show all keys")]));
  }

  function row(key) {
    const cell = (name, ...content) => h("td", { role: "cell", "data-label": name }, h("div", {}, content));
    const more = h("button", { type: "button", class: "icon-button", "aria-haspopup": "menu", "aria-expanded": "false",
      "aria-label": `Actions for ${quotedText(key.name)}`, onclick: () => menu(more, key) }, icon("more"));
    return h("tr", { role: "row", "data-id": key.id, class: key.state === "active" ? null : "dim" },
      h("th", { scope: "row", role: "rowheader" }, h("div", {},
        h("button", { type: "button", class: "link name", onclick: () => edit(key) }, foreign(key.name)),
        key.account && h("span", { class: "sub" }, foreign(key.account)))),
      cell("Model access", access(key.model_access)),
      cell("Allow from", networks(key.allow_from)),
      cell("Expires", expiry(key)),
      cell("State", state(key.state)),
      cell("Last used", key.last_used_at
        ? [timeElement(Date.parse(key.last_used_at), fromNow(Date.parse(key.last_used_at))), h("span", { class: "sub" }, plural(key.requests, "request"))]
        : h("span", { class: "muted", title: "Not since the gateway started" }, "–", h("span", { class: "unseen" }, "not since the gateway started"))),
      cell("Token", key.hint ? h("code", { class: "hint-code" }, h("span", { "aria-hidden": "true" }, "…"), foreign(key.hint)) : h("span", { class: "muted" }, "–", h("span", { class: "unseen" }, "made elsewhere"))),
      h("td", { role: "cell", class: "row-menu" }, more));
  }

  function menu(button, key) {
    const isDisabled = key.disabled;
    openMenu(button, `Actions for ${quotedText(key.name)}`, [
      { text: "Edit", icon: "edit", act: () => edit(key) },
      { text: isDisabled ? "Enable" : "Disable", icon: isDisabled ? "play" : "pause", act: () => switchKey(key, !isDisabled) },
      { text: "Recent refusals", icon: "info", act: () => openRefusals(key) },
      { text: "Delete", icon: "trash", danger: true, act: () => remove(key) },
    ]);
  }

  /** After a change the rows are new; whoever was on one is put back there. */
  async function reloadAt(id) {
    await load();
    if (document.activeElement !== document.body && document.activeElement !== main) return;
    const row = [...body.rows].find((row) => row.dataset.id === id);
    keepFocus(row?.querySelector(".row-menu button") ?? create);
  }

  function keepFocus(element) {
    if (!document.querySelector("dialog[open]")) (element?.disabled || element?.closest("[hidden]") ? create : element)?.focus({ preventScroll: true });
  }

  function openCreate() {
    openKeyForm({ address: session.client_address, onSaved: function shown({ key, token, url, warnings }, models) {
      search.value = query = "";
      places = [null];
      load().then(() => {
        [...body.rows].find((row) => row.dataset.id === key.id)?.classList.add("fresh");
      });
      showCreated({ name: key.name, token, url, warnings, model: firstModel(key.model_access, models),
        onUncopied: () => offerNewToken(key, (made) => shown(made, models)) });
    } });
  }

  function edit(key) {
    openKeyForm({ key, address: session.client_address, onSaved: (saved) => {
      toast([quoted(saved.name), " was saved.", stillRefused(saved)]);
      reloadAt(key.id);
    } });
  }

  async function switchKey(key, disabled) {
    try {
      const changed = await call("PATCH", `/api/keys/${encodeURIComponent(key.id)}`, { disabled });
      toast([quoted(key.name), disabled ? " is disabled: requests with it are refused." : [" is enabled again.", stillRefused(changed)]]);
    } catch (error) {
      if (!isNews(error)) return;
      if (error.inForce) toast([quoted(key.name), ` is disabled, but the key file does not say so yet: ${error.message}`], { bad: true });
      else toast([quoted(key.name), ` was not ${disabled ? "disabled" : "enabled"}. ${error.message}`], { bad: true });
    }
    await reloadAt(key.id);
  }

  function remove(key) {
    confirm({
      title: "Delete this API key?",
      body: [h("p", {}, quoted(key.name), key.hint && [", whose token ends in ", h("code", {}, foreign(key.hint)), ","],
        " stops working at once, in running requests too. This cannot be undone.")],
      ok: "OK",
      okLabel: `OK, delete ${quotedText(key.name)}`,
      act: async () => {
        try {
          await call("DELETE", `/api/keys/${encodeURIComponent(key.id)}`);
          toast([quoted(key.name), " was deleted."]);
        } catch (error) {
          if (error.inForce) toast([quoted(key.name), ` is deleted, but the key file does not say so yet: ${error.message}`], { bad: true });
          else if (error instanceof ApiError && error.status === 404) toast([quoted(key.name), " was deleted already."]);
          else throw Object.assign(error, { message: `Nothing was deleted. ${error.message}` });
        }
        reloadAt(null);
      },
    });
  }

  return { refresh: load, leave: () => loading?.abort() };
}

/** What stands in the way of a key that was just changed. */
function stillRefused({ state, expires_at: end }) {
  return state === "expired" ? ` It stays refused: it expired ${fromNow(Date.parse(end))}. Edit its expiration date to have it taken again.` : "";
}

function access({ mode, models }) {
  if (mode === "all") return "All";
  const shown = models.length > 3 ? models.slice(0, 2) : models;
  const names = shown.flatMap((model, at) => [h("span", { class: "model" }, modelName(model), at < models.length - 1 && ","), " "]);
  return h("span", { title: models.map(visible).join("\n") }, h("span", { class: "mode" }, mode === "inclusive" ? "Inclusive: " : "Exclusive: "), names,
    models.length > shown.length && h("span", { class: "muted" },`and ${models.length - shown.length} more`));
}

function networks(list) {
  if (list.length === 0) return h("span", { class: "muted" }, "Any address");
  const shown = list.length > 3 ? list.slice(0, 2) : list;
  return h("span", { title: list.join("\n") }, shown.map((network) => h("span", { class: "network" }, network)),
    list.length > shown.length && h("span", { class: "muted" }, `and ${list.length - shown.length} more`));
}

function expiry(key) {
  if (key.expires_at === null) return h("span", { class: "muted" }, "Never");
  const end = Date.parse(key.expires_at);
  const warns = key.state !== "expired" && isSoon(end);
  return [timeElement(end, lastDay(end), expirySentence(end)), !expiryDay(end) && h("span", { class: "sub" }, `${timeOfDay(end)} UTC`),
    h("span", { class: `sub${warns ? " soon" : ""}` }, warns && icon("warning"), fromNow(end))];
}

const STATES = { active: "Active", disabled: "Disabled", expired: "Expired" };

function state(name) {
  return h("span", { class: `state ${name}` }, STATES[name] ?? name);
}

function skeleton(body) {
  body.append(...Array.from({ length: 6 }, () => h("tr", { class: "ghost", "aria-hidden": "true" },
    COLUMNS.map(() => h("td", {}, h("span"))))));
}
