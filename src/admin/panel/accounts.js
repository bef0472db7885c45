// AI / Accounts: whose keys there are, and what they may have at most: all accounts, a page at a time, and one by itself.

import { ApiError, call, isNews } from "./api.js";
import { openAccountForm } from "./account-form.js";
import { keysOf, sharedWords } from "./ceilings.js";
import { foreign, h, icon, quoted, quotedText, uniqueId } from "./dom.js";
import { dateAndTime, plural } from "./format.js";
import { access, networks } from "./key-row.js";
import { peopleOf } from "./members.js";
import { confirm, openMenu, toast } from "./overlay.js";
import { session } from "./session.js";
import { usageReport } from "./usage-report.js";

const PAGE = 100;
const COLUMNS = ["Account", "Keys", "Model access", "Allow from", "Limits and budgets", "Longest life", "State"];
const pathOf = ({ id }) => `/api/accounts/${encodeURIComponent(id)}`;
const pageOf = ({ id }) => `#/accounts/${encodeURIComponent(id)}`;
const nameOf = ({ id, name }) => name ?? id;
const none = (text) => h("span", { class: "muted" }, text);
const daysOf = ({ max_key_days: days }) => (days === null ? none("Any") : plural(days, "day"));
const stateOf = ({ disabled }) => h("span", { class: `state ${disabled ? "disabled" : "active"}` }, disabled ? "Disabled" : "Active");
const keysLink = (account) => h("a", { href: `#/keys?account=${encodeURIComponent(account.id)}` }, keysOf(account));

/** Draws the list. `place` keeps where the page begins. */
export function accountsView(main, title, place) {
  let accounts = null;
  let next = null;
  let loading = null;
  const after = () => place.parameters().get("after");
  const status = h("p", { class: "count", role: "status" });
  const body = h("tbody", { role: "rowgroup" });
  const card = h("div", { class: "card table-card", "aria-busy": "true" }, h("table", { class: "accounts", role: "table" },
    h("caption", { class: "unseen" }, "Accounts"),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, COLUMNS.map((name) => h("th", { scope: "col", role: "columnheader" }, name)),
      h("th", { scope: "col", role: "columnheader", class: "row-menu" }, h("span", { class: "unseen" }, "Actions")))), body));
  const empty = h("div", { class: "card empty", hidden: true });
  const trouble = h("div", { class: "notice bad", role: "alert", hidden: true });
  const first = h("button", { type: "button", class: "button small", onclick: () => turn(null, first, more) }, icon("left"), "First");
  const more = h("button", { type: "button", class: "button small", onclick: () => turn(next, more, first) }, "Next", icon("right"));
  const pager = h("nav", { class: "pager", "aria-label": "Pages", hidden: true }, first, more);
  const openCreate = () => openAccountForm({ address: session.client_address, onSaved: (made) => {
    toast([quoted(nameOf(made)), " was created."]);
    location.hash = pageOf(made);
  } });
  const create = h("button", { type: "button", class: "button primary", onclick: openCreate }, icon("plus"), "Create account");
  main.append(
    h("header", { class: "page-head" },
      h("div", {}, h("p", { class: "crumb" }, "AI"), h("h1", { tabindex: "-1" }, title),
        h("p", { class: "lead" }, "Whose keys they are, and what keys of an account may have at most.")),
      h("div", { class: "head-actions" }, h("button", { type: "button", class: "button", onclick: () => load() }, icon("refresh"), "Refresh"), create)),
    h("div", { class: "toolbar" }, status, pager), trouble, card, empty);
  body.append(...Array.from({ length: 4 }, () => h("tr", { class: "ghost", "aria-hidden": "true" }, Array.from({ length: COLUMNS.length + 1 }, () => h("td", {}, h("span"))))));
  load();

  async function turn(begin, pressed, other) {
    place.remember(new URLSearchParams(begin === null ? [] : [["after", begin]]), null, false);
    await load();
    if (pressed.disabled && [document.body, pressed].includes(document.activeElement)) other.focus();
  }

  async function load() {
    loading?.abort();
    const turnOfThis = loading = new AbortController();
    card.setAttribute("aria-busy", "true");
    try {
      const wanted = new URLSearchParams([["limit", PAGE], ...(after() === null ? [] : [["after", after()]])]);
      ({ accounts, next } = await call("GET", `/api/accounts?${wanted}`, undefined, { signal: turnOfThis.signal }));
      trouble.hidden = true;
      draw();
    } catch (error) {
      if (!isNews(error)) return;
      trouble.replaceChildren(icon("warning"), h("span", {}, `The accounts could not be loaded. ${error.message}`),
        h("button", { type: "button", class: "button small", onclick: load }, "Try again"));
      trouble.hidden = false;
      card.hidden = accounts === null;
    } finally {
      if (loading === turnOfThis) card.setAttribute("aria-busy", "false");
    }
  }

  function draw() {
    const isEmpty = accounts.length === 0;
    card.hidden = isEmpty;
    empty.hidden = !isEmpty;
    pager.hidden = after() === null && next === null;
    first.disabled = after() === null;
    more.disabled = next === null;
    status.textContent = isEmpty ? "" : `${plural(accounts.length, "account")}${pager.hidden ? "" : " on this page"}`;
    const focused = document.activeElement?.closest?.("tr")?.dataset.id;
    body.replaceChildren(...accounts.map((account) => row(account, reloadAt)));
    if (focused && document.activeElement === document.body) focusRow(focused);
    if (isEmpty) {
      empty.replaceChildren(icon("accounts"), h("h2", {}, after() === null ? "No accounts yet" : "No further account"),
        h("p", {}, "An account is what its keys may have at most. A key belongs to it by naming its ID."));
    }
  }

  /** After a change the rows are new; whoever was on one is put back there. */
  async function reloadAt(id) {
    await load();
    if ([document.body, main].includes(document.activeElement)) focusRow(id);
  }

  function focusRow(id) {
    const found = [...body.rows].find((row) => row.dataset.id === id);
    (found?.querySelector(".row-menu button") ?? create).focus({ preventScroll: true });
  }

  return { refresh: load, arrive: load, leave: () => loading?.abort() };
}

function row(account, onChanged) {
  const cell = (name, ...content) => h("td", { role: "cell", "data-label": name }, h("div", {}, content));
  const more = h("button", { type: "button", class: "icon-button", "aria-haspopup": "menu", "aria-expanded": "false",
    "aria-label": `Actions for ${quotedText(nameOf(account))}`, onclick: () => menu(more, account, onChanged) }, icon("more"));
  return h("tr", { role: "row", "data-id": account.id, class: account.disabled && "dim" },
    h("th", { scope: "row", role: "rowheader" }, h("div", {}, h("a", { class: "link name", href: pageOf(account) }, foreign(nameOf(account))),
      account.name && h("span", { class: "sub" }, account.id))),
    cell("Keys", keysLink(account)),
    cell("Model access", access(account.model_access)),
    cell("Allow from", networks(account.allow_from)),
    cell("Limits and budgets", sharedWords(account) ?? none("None")),
    cell("Longest life", daysOf(account)),
    cell("State", stateOf(account)),
    h("td", { role: "cell", class: "row-menu" }, more));
}

/** What can be done to an account. `onChanged` hears that it, or for null that none any more, has this ID. */
function menu(button, account, onChanged) {
  openMenu(button, `Actions for ${quotedText(nameOf(account))}`, [
    { text: "Edit…", icon: "edit", act: () => edit(account, onChanged) },
    { text: "Keys", icon: "key", act: () => { location.hash = keysLink(account).hash; } },
    { text: "Activity", icon: "activity", act: () => { location.hash = `#/activity?key=${encodeURIComponent(account.id)}`; } },
    { text: account.disabled ? "Enable" : "Disable", icon: account.disabled ? "play" : "pause", act: () => turnOff(account, !account.disabled, onChanged) },
    { text: "Delete…", icon: "trash", danger: true, act: () => remove(account, onChanged) },
  ]);
}

function edit(account, onChanged) {
  openAccountForm({ account, address: session.client_address, onSaved: (saved) => {
    toast([quoted(nameOf(saved)), " was saved."]);
    onChanged(saved.id);
  } });
}

async function turnOff(account, disabled, onChanged) {
  const name = quoted(nameOf(account));
  try {
    await call("PATCH", pathOf(account), { disabled });
    toast([name, disabled ? " is disabled: all of its keys are refused." : " is enabled again."]);
  } catch (error) {
    if (!isNews(error)) return;
    toast(error.inForce ? [name, ` is disabled, but the database does not say so yet: ${error.message}`]
      : [name, ` was not ${disabled ? "disabled" : "enabled"}. ${error.message}`], { bad: true });
  }
  onChanged(account.id);
}

/** Where keys go with it, their number has to be typed in. */
function remove(account, onChanged) {
  let { keys } = account;
  const name = quoted(nameOf(account));
  const [id, label] = [uniqueId("number"), h("label")];
  label.htmlFor = id;
  const number = h("input", { id, type: "text", inputmode: "numeric", autocomplete: "off" });
  const ask = h("div", { class: "field" }, label, number);
  const draw = () => {
    ask.hidden = keys === 0;
    label.textContent = `To delete ${plural(keys, "key")} with it, type how many`;
  };
  draw();
  confirm({
    title: "Delete this account?",
    body: [h("p", {}, name, " and all of its keys stop working at once, in running requests too. This cannot be undone."), ask],
    ok: "Delete", okLabel: `Delete ${quotedText(nameOf(account))}`,
    act: async () => {
      if (keys > 0 && number.value.replaceAll(/[\s,.]/g, "") !== String(keys)) {
        number.focus();
        throw new Error(`Type ${keys}, the number of its keys.`);
      }
      try {
        await call("DELETE", `${pathOf(account)}?keys=${keys}`);
        toast([name, keys > 0 ? ` was deleted, and ${plural(keys, "key")} with it.` : " was deleted."]);
      } catch (error) {
        if (error.keys !== null && error.status === 409) {
          keys = error.keys;
          draw();
          number.value = "";
          throw new Error(`Nothing was deleted: it has ${plural(keys, "key")} now.`);
        }
        if (!(error instanceof ApiError && error.status === 404)) throw error;
        toast([name, " was deleted already."]);
      }
      onChanged(null);
    },
  });
}

/** Draws the page of the account that the address names. */
export function accountPage(main, _, place) {
  let account = null;
  let loading = null;
  const report = usageReport({ onChange: (control) => {
    place.remember(report.parameters(), null, false);
    if (control === "range") report.load([["account", place.id()]]);
  }, onLoaded: () => {} });
  const name = h("h1", { tabindex: "-1" }, "Account");
  const about = h("p", { class: "lead" });
  const facts = h("dl", { class: "card key-facts", hidden: true });
  const change = h("button", { type: "button", class: "button", onclick: () => edit(account, load) }, icon("edit"), "Edit");
  const more = h("button", { type: "button", class: "icon-button", "aria-haspopup": "menu", "aria-expanded": "false", "aria-label": "Actions for this account",
    onclick: () => menu(more, account, (id) => (id === null ? leave() : load())) }, icon("more"));
  const trouble = h("div", { class: "notice bad", role: "alert", hidden: true });
  const leave = () => { location.hash = "#/accounts"; };
  let people = null;
  const peoplePlace = h("section", { class: "account-people", hidden: true });
  /** The people of the account of this ID. */
  function drawPeople(id) {
    if (peoplePlace.dataset.account !== id) {
      people?.leave();
      people = peopleOf(id);
      peoplePlace.dataset.account = id;
      peoplePlace.replaceChildren(h("header", {}, h("h2", {}, "Members"), people.invite), ...people.element);
    }
    people.load();
  }
  main.append(
    h("header", { class: "page-head" }, h("div", {}, h("p", { class: "crumb" }, h("a", { href: "#/accounts" }, "Accounts")), name, about),
      h("div", { class: "head-actions" }, h("button", { type: "button", class: "button", onclick: () => load() }, icon("refresh"), "Refresh"), change, more)),
    trouble, facts, peoplePlace, h("div", { class: "usage-controls" }, report.controls), ...report.element);
  arrive();

  function arrive() {
    report.take(place.parameters());
    load();
  }

  async function load() {
    loading?.abort();
    loading = new AbortController();
    const { signal } = loading;
    const id = place.id();
    report.load([["account", id]]);
    try {
      account = await call("GET", pathOf({ id }), undefined, { signal });
      trouble.hidden = true;
    } catch (error) {
      if (!isNews(error)) return;
      account = null;
      trouble.replaceChildren(icon("warning"), h("span", {}, error.status === 404 && error.code === null
        ? "There is no account with this ID. What its keys used is still shown." : `The account could not be loaded. ${error.message}`));
      trouble.hidden = false;
    }
    change.hidden = more.hidden = facts.hidden = peoplePlace.hidden = account === null;
    name.replaceChildren(account ? foreign(nameOf(account)) : "Account");
    about.replaceChildren(h("code", {}, id));
    if (account === null) return;
    drawPeople(id);
    const fact = (term, ...words) => h("div", {}, h("dt", {}, term), h("dd", {}, words));
    facts.replaceChildren(fact("State", stateOf(account)), fact("Keys", keysLink(account)), fact("Model access", access(account.model_access)),
      fact("Allow from", networks(account.allow_from)), fact("Longest life of a key", daysOf(account)),
      fact("Limits and budgets of all keys together", sharedWords(account) ?? none("None")),
      fact("Created", dateAndTime(new Date(account.created_at))));
  }

  return { refresh: load, arrive, leave: () => {
    loading?.abort();
    people?.leave();
    report.leave();
  } };
}
