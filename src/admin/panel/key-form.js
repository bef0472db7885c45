// The form of a key.

import { call, catalogue, now } from "./api.js";
import { bounds, roomFault, summary } from "./ceilings.js";
import { foreign, h, icon, quoted, uniqueId } from "./dom.js";
import { dateAndTime, dayFromToday, endOfDay, expiryDate, expiryDay, fromNow, plural } from "./format.js";
import { field } from "./field.js";
import { openForm } from "./form.js";
import { allowanceFields } from "./key-limits.js";
import { copyButton } from "./overlay.js";
import { state } from "./key-row.js";
import { endOldToken, hasOldToken, oldTokenUse } from "./rotate.js";
import { accessField, hasSay, networksField, textField } from "./rule-fields.js";
import { account as ownAccount, accounts, isPerson, mayCreate, nameOf } from "./who.js";

/**
 * Opens the form of a key, or of a new one. `onSaved` gets the gateway's answer, and the catalogue, once the form is closed;
 * `onEnded` hears that the key's old token was ended while it is open.
 */
export function openKeyForm({ key = null, address, onSaved, onEnded = () => {} }) {
  let models = null;
  const parts = {
    name: textField({ what: "name", label: "Name", value: key?.name, required: "Give the key a name.", autofocus: true,
      hint: "What the key is for, so that you know it again. For example: web site." }),
    account: (isPerson() ? ownAccountField : accountField)(key, (account, isMoved) => {
      const allowed = account && bounds(account, { createdAt: key ? Date.parse(key.created_at ?? 0) : now(), isMoved });
      for (const name of ["model_access", "allow_from", "expires_at"]) parts[name].bound(allowed && allowed[name]);
    }),
    model_access: accessField(key, "The key"),
    allow_from: networksField(key, address),
    expires_at: expiryField(key),
    ...allowanceFields(key),
  };
  openForm({
    what: "key", title: key ? "Edit API Key" : "Create API Key", about: key && quoted(key.name), path: "/api/keys", present: () => key, parts,
    facts: key && facts(key, (present) => {
      // What is saved next is meant for the key without that token.
      key = present;
      onEnded();
    }),
    unsure: "What you typed is still here. If the list shows the key all the same, delete it: its token was never shown.",
    reopen: (present) => openKeyForm({ key: present, address, onSaved, onEnded }),
    onSaved: (answer) => onSaved(answer, models),
  });
  parts.account.load();
  catalogue().then((loaded) => {
    models = loaded;
    parts.model_access.load(loaded);
  });
}

/** What a key is, besides what can be changed about it. */
function facts(key, onEnded) {
  const id = h("code", { translate: "no" }, key.id);
  const fact = (name, value) => [h("dt", {}, name), h("dd", {}, value)];
  const old = hasOldToken(key) && fact("Old token", [key.previous.hint && ["ends in ", h("code", {}, foreign(key.previous.hint)), ", "],
    `works until ${dateAndTime(new Date(key.previous.not_after))}, ${oldTokenUse(key)} `,
    h("button", { type: "button", class: "button small", onclick: () => endOldToken(key, (present) => {
      for (const part of old) part.remove();
      onEnded(present);
    }) }, "End old token now")]);
  return h("dl", { class: "facts" },
    key.refused_by_account && fact("State", state(key)),
    fact("ID", [id, " ", copyButton(() => key.id, "ID", { className: "button quiet small bare", shown: () => id })]),
    key.hint && fact("Token ends in", h("code", {}, foreign(key.hint))),
    key.created_at && fact("Created", dateAndTime(new Date(key.created_at))),
    fact("Last used", key.last_used_at
      ? `${fromNow(Date.parse(key.last_used_at))}, ${plural(key.requests, "request")} since the gateway started`
      : "not since the gateway started"),
    old);
}

/** The account's id, or any text as a label. `onAccount` gets the account of that id, null where there is none, and whether the key has another. */
function accountField(key, onAccount) {
  const before = key?.account ?? null;
  const known = new Map();
  const listId = uniqueId("accounts");
  const list = h("datalist", { id: listId });
  const note = h("p", { role: "status" });
  let [isWhole, timer, shown] = [false, null, undefined];
  const part = textField({ what: "account", label: "Account", value: before, list: listId, spellcheck: "false",
    hint: [note, h("p", {}, "Whom the key belongs to. The search finds it.")], onChange: () => {
      clearTimeout(timer);
      const id = part.value();
      if (isWhole || id === null || known.has(id)) show();
      else timer = setTimeout(find, 300);
    } });
  part.element.append(list);
  const isMoved = () => part.value() !== before;
  function show() {
    const account = known.get(part.value()) ?? null;
    note.textContent = account ? summary(account) : part.value() !== null && known.size > 0 ? "No account has this ID, so it is a label alone." : "";
    if (account === shown) return;
    shown = account;
    onAccount(account, isMoved());
  }
  /** One that is not among the first. */
  async function find() {
    const id = part.value();
    await call("GET", `/api/accounts/${encodeURIComponent(id)}`).then((account) => known.set(id, account), () => {});
    if (id === part.value()) show();
  }
  return { ...part,
    load: async () => {
      const page = await call("GET", "/api/accounts?limit=1000").catch(() => ({ accounts: [], next: null }));
      for (const account of page.accounts) known.set(account.id, account);
      isWhole = page.next === null;
      list.append(...page.accounts.map(({ id, name }) => h("option", { value: id }, name)));
      if (isWhole || part.value() === null || known.has(part.value())) show();
      else find();
    },
    settle: () => part.settle() && part.complain((shown && isMoved() && roomFault(shown)) || "") };
}

/** For persons: that of the key, or for a new one of those where they may create keys. */
function ownAccountField(key, onAccount) {
  const choices = accounts().filter(({ id }) => (key ? id === key.account : mayCreate(id)));
  const note = h("p", { role: "status" });
  let shown = null;
  const [only] = choices;
  const input = choices.length > 1
    ? h("select", { id: uniqueId("account"), onchange: () => part.load() }, choices.map((one) => h("option", { value: one.id }, nameOf(one))))
    : h("input", { id: uniqueId("account"), type: "text", readonly: true, dir: "auto", value: only ? nameOf(only) : key?.account ?? "" });
  const value = () => (choices.length > 1 ? input.value : only?.id ?? key?.account);
  if (choices.length > 1 && choices.some(({ id }) => id === ownAccount().id)) input.value = ownAccount().id;
  const part = { ...field({ label: "Account", input, hint: note, control: choices.length > 1 ? h("div", { class: "select" }, input, icon("left")) : input }),
    value,
    load: async () => {
      const id = value();
      const found = await call("GET", `/api/accounts/${encodeURIComponent(id)}`).catch(() => null);
      if (id !== value()) return;
      shown = found;
      note.textContent = found ? summary(found) : "";
      part.complain("");
      onAccount(found, key === null);
    },
    settle: () => part.complain((key === null && shown && roomFault(shown)) || "") };
  return part;
}

/** `bound` tells it until when the account lets the key live: {end, lastDay, note, isMoved}, or null. */
function expiryField(key) {
  let ceiling = null;
  const already = key?.expires_at ?? null;
  const alreadyDay = already && expiryDay(already);
  const group = uniqueId("expiry");
  const choices = [
    ["never", "Never"], ["30", "30 days"], ["90", "90 days"], ["365", "365 days"], ["date", "On a date"],
    ...(already && !alreadyDay ? [["keep", expiryDate(already)]] : []),
  ];
  const day = h("input", { id: uniqueId("day"), type: "date", "aria-label": "Last day, UTC", min: dayFromToday(0), max: "9999-12-30",
    value: alreadyDay ?? "", oninput: () => {
      pick("date");
      draw();
      part.complain("");
    } });
  const radios = choices.map(([value, text]) => {
    const radio = h("input", { type: "radio", name: group, value, id: uniqueId("choice"), onchange: () => {
      if (/^\d+$/.test(value)) day.value = dayOf(Number(value));
      draw();
      part.complain("");
      if (value === "date") day.focus();
    } });
    return { value, radio, element: [radio, h("label", { for: radio.id }, text)] };
  });
  const picked = () => radios.find(({ radio }) => radio.checked).value;
  const pick = (value) => { radios.find((choice) => choice.value === value).radio.checked = true; };
  pick(already === null ? "never" : alreadyDay ? "date" : "keep");
  const hint = h("p", { role: "status" });
  const note = h("p");
  /** So many days from now, or one less where that day's end would be just beyond what the account allows. */
  const dayOf = (days) => [dayFromToday(days), dayFromToday(days - 1)].find((text) => !isBeyond(endOfDay(text))) ?? dayFromToday(days);
  const isBeyond = (end) => ceiling !== null && end > ceiling.end;
  const dayPlace = h("div", { class: "day" }, day);
  const part = field({ label: "Expiration date", input: day, group: true, hint: [hint, note],
    control: [h("div", { class: "segments" }, radios.map(({ element }) => element)), dayPlace] });
  const draw = () => {
    const choice = picked();
    dayPlace.hidden = choice === "never" || choice === "keep";
    const isPast = day.value !== "" && endOfDay(day.value) <= now();
    hint.textContent = choice === "never" ? "The key is valid until you disable or delete it."
      : choice === "keep" ? `Valid until ${dateAndTime(new Date(already))}, as it is now.`
      : day.value === "" ? "Valid through the end of the day you choose, UTC."
      : isPast ? "" : `Valid through ${expiryDate(endOfDay(day.value))}, to the end of that day, UTC (${fromNow(endOfDay(day.value))}).`;
  };
  draw();
  const value = () => {
    const choice = picked();
    if (choice === "never") return null;
    // Unchanged, it is written as it was, so that saving something else does not count as a change of this.
    return choice === "keep" || day.value === alreadyDay ? already : day.value;
  };
  return { ...part,
    focus: () => (dayPlace.hidden ? radios[0].radio : day).focus(),
    value,
    bound: (given) => {
      ceiling = given;
      note.textContent = given?.note ?? "";
      day.max = given?.lastDay ?? "9999-12-30";
      for (const { value: choice, radio } of radios.filter(({ value }) => value !== "date")) {
        const [isNever, isKept] = [choice === "never", choice === "keep"];
        const isAsBefore = key !== null && !given?.isMoved && (isKept || (isNever && already === null));
        const end = isNever ? Infinity : isKept ? Date.parse(already) : endOfDay(dayOf(Number(choice)));
        radio.disabled = !isAsBefore && isBeyond(end);
      }
      // A new key lives as long as it may, where "Never" was nobody's choice.
      if (key === null && picked() === "never" && given !== null) {
        pick("date");
        day.value = given.lastDay;
      }
      draw();
      part.complain("");
    },
    settle: () => {
      const choice = picked();
      const end = choice === "never" ? Infinity : choice === "keep" ? Date.parse(already) : endOfDay(day.value);
      if (hasSay(ceiling, already, value()) && isBeyond(end)) return part.complain(ceiling.note);
      if (choice === "never" || choice === "keep" || (already && day.value === alreadyDay)) return part.complain("");
      if (day.value === "") return part.complain(day.validity.badInput ? "Complete the date." : "Choose the last day.");
      return part.complain(endOfDay(day.value) <= now() ? "This day has passed; choose today or a later one." : "");
    } };
}
