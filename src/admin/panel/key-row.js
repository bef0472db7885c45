// A key as a row of the list.

import { now } from "./api.js";
import { refusalWords } from "./ceilings.js";
import { nearlySpent } from "./key-limits.js";
import { foreign, h, icon, modelName, quotedText, visible } from "./dom.js";
import { date, dateAndTime, expiryDay, expirySentence, fromNow, isSoon, lastDay, plural, timeElement, timeOfDay } from "./format.js";
import { hasOldToken, oldTokenUse } from "./rotate.js";
import { isPerson, mayChange } from "./who.js";

/** The columns, with what each can be sorted by. */
export const COLUMNS = [
  { name: "Name", sort: "name" }, { name: "Model access" }, { name: "Allow from" }, { name: "Expires", sort: "expires_at" }, { name: "State" },
  { name: "Last used", sort: "-last_used_at" }, { name: "Token" },
];

/** The address of a key's own page. */
export const keyPageOf = (id) => `#/key?id=${encodeURIComponent(id)}`;

/** The row of a key, with what can be done on it. `maker`: who created it, or null. */
export function keyRow(key, { maker, isSelected, onSelect, onEdit, onMenu }) {
  const cell = (name, ...content) => h("td", { role: "cell", "data-label": name }, h("div", {}, content));
  const more = h("button", { type: "button", class: "icon-button", "aria-haspopup": "menu", "aria-expanded": "false",
    "aria-label": `Actions for ${quotedText(key.name)}`, onclick: () => onMenu(more, key) }, icon("more"));
  const select = h("input", { type: "checkbox", "aria-label": `Select ${quotedText(key.name)}`, onchange: () => onSelect(key, select.checked) });
  select.checked = isSelected;
  return h("tr", { role: "row", "data-id": key.id, class: key.state === "active" && !key.refused_by_account ? null : "dim" },
    h("td", { role: "cell", class: "row-select" }, mayChange(key) && select),
    h("th", { scope: "row", role: "rowheader" }, h("div", {},
      mayChange(key) ? h("button", { type: "button", class: "link name", onclick: () => onEdit(key) }, foreign(key.name))
        : h("a", { class: "link name", href: keyPageOf(key.id) }, foreign(key.name)),
      maker && h("span", { class: "sub" }, "by ", maker), key.account && !isPerson() && h("span", { class: "sub" }, foreign(key.account)),
      nearlySpent(key) && h("span", { class: "sub soon" }, icon("warning"), nearlySpent(key)))),
    cell("Model access", access(key.model_access)),
    cell("Allow from", networks(key.allow_from)),
    cell("Expires", expiry(key)),
    cell("State", state(key)),
    cell("Last used", key.last_used_at
      ? [timeElement(Date.parse(key.last_used_at), fromNow(Date.parse(key.last_used_at))), h("span", { class: "sub" }, plural(key.requests, "request"))]
      : h("span", { class: "muted", title: "Not since the gateway started" }, "–", h("span", { class: "unseen" }, "not since the gateway started"))),
    cell("Token", key.hint ? h("code", { class: "hint-code" }, h("span", { "aria-hidden": "true" }, "…"), foreign(key.hint)) : h("span", { class: "muted" }, "–", h("span", { class: "unseen" }, "made elsewhere")),
      hasOldToken(key) && oldToken(key)),
    h("td", { role: "cell", class: "row-menu" }, more));
}

export function access({ mode, models }) {
  if (mode === "all") return "All";
  const shown = models.length > 3 ? models.slice(0, 2) : models;
  const names = shown.flatMap((model, at) => [h("span", { class: "model" }, modelName(model), at < models.length - 1 && ","), " "]);
  return h("span", { title: models.map(visible).join("\n") }, h("span", { class: "mode" }, mode === "inclusive" ? "Inclusive: " : "Exclusive: "), names,
    models.length > shown.length && h("span", { class: "muted" },`and ${models.length - shown.length} more`));
}

function oldToken(key) {
  const end = Date.parse(key.previous.not_after);
  return [h("span", { class: "sub" }, "old one until ", timeElement(end, date(end), `The old token works until ${dateAndTime(end)}, ${oldTokenUse(key)}`)),
    h("span", { class: "sub" }, oldTokenUse(key, "not used since"))];
}

export function networks(list) {
  if (list.length === 0) return h("span", { class: "muted" }, "Any address");
  const shown = list.length > 3 ? list.slice(0, 2) : list;
  return h("span", { title: list.join("\n") }, shown.map((network) => h("span", { class: "network" }, network)),
    list.length > shown.length && h("span", { class: "muted" }, `and ${list.length - shown.length} more`));
}

function expiry(key) {
  if (key.ends_at === null) return h("span", { class: "muted" }, "Never");
  const end = Date.parse(key.ends_at);
  const warns = key.state !== "expired" && isSoon(end);
  return [timeElement(end, lastDay(end), expirySentence(end)), !expiryDay(end) && h("span", { class: "sub" }, `${timeOfDay(end)} UTC`),
    h("span", { class: `sub${warns ? " soon" : ""}` }, warns && icon("warning"), fromNow(end)),
    key.ends_at !== key.expires_at && h("span", { class: "sub" }, "by its account")];
}

const STATES = { active: "Active", disabled: "Disabled", expired: "Expired" };

/** The key's own state where that refuses it, else whether its account does. */
export function state(key) {
  const own = key.disabled ? "disabled" : key.expires_at !== null && Date.parse(key.expires_at) <= now() ? "expired" : null;
  const chip = (name, text) => h("span", { class: `state ${name}` }, text);
  if (own || !key.refused_by_account) return chip(own ?? key.state, STATES[own ?? key.state] ?? key.state);
  return [chip("refused", "Refused by its account"), h("span", { class: "sub" }, refusalWords(key))];
}
