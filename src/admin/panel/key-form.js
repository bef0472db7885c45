// The pane in which a key is made or changed. Invariant: whatever the gateway answers, what was typed stays typed;
// only creating, saving, or a deliberate "Discard" puts it away.

import { ApiError, call, catalogue, isNews, now } from "./api.js";
import { foreign, h, icon, quoted, uniqueId } from "./dom.js";
import { dateAndTime, dayFromToday, endOfDay, expiryDate, expiryDay, fromNow, plural } from "./format.js";
import { field } from "./field.js";
import { allowanceFields } from "./key-limits.js";
import { modelPicker } from "./model-picker.js";
import { asIpv4, mayBecomeNetwork, parseNetwork } from "./networks.js";
import { confirm, copyButton, openWindow, setBusy, windowHead } from "./overlay.js";
import { endOldToken, hasOldToken, oldTokenUse } from "./rotate.js";

const MAX_NAME = 100;
const MODES = [
  ["all", "All", "The key may use every model, those added later too."],
  ["inclusive", "Inclusive", "The key may use only the models chosen here."],
  ["exclusive", "Exclusive", "The key may use every model but those chosen here."],
];

/**
 * Opens the pane on a key, or on a new one. `onSaved` gets the gateway's answer, and the catalogue, once the pane is closed;
 * `onEnded` hears that the key's old token was ended while it is open.
 */
export function openKeyForm({ key = null, address, onSaved, onEnded = () => {} }) {
  const title = uniqueId("title");
  const parts = {
    name: nameField(key),
    model_access: accessField(key),
    allow_from: networksField(key, address),
    expires_at: expiryField(key),
    account: accountField(key),
    ...allowanceFields(key),
  };
  const before = values(parts);
  const trouble = h("div", { class: "notice bad", role: "alert", hidden: true });
  const verb = key ? "Save" : "Create";
  const go = h("button", { type: "submit", class: "button primary" }, verb);
  const doubt = h("div", { class: "doubt", hidden: true });
  const actions = h("div", { class: "actions" });
  let busy = false;
  let models = null;

  const isChanged = () => JSON.stringify(values(parts)) !== JSON.stringify(before)
    || Object.values(parts).some((part) => part.pending?.());
  const mayClose = () => {
    if (busy) return false;
    if (!isChanged()) return true;
    actions.hidden = true;
    doubt.hidden = false;
    doubt.querySelector("button").focus();
    return false;
  };

  openWindow({
    kind: "pane", label: title, mayClose,
    build: (close) => {
      const attempt = () => mayClose() && close();
      actions.append(h("button", { type: "button", class: "button", onclick: attempt }, "Cancel"), go);
      doubt.append(
        h("p", {}, key ? "Discard your changes?" : "Discard what you typed?"),
        h("button", { type: "button", class: "button", onclick: () => {
          doubt.hidden = true;
          actions.hidden = false;
          go.focus();
        } }, "Keep editing"),
        h("button", { type: "button", class: "button danger", onclick: close }, "Discard"));
      const submit = async (event) => {
        event.preventDefault();
        if (busy) return;
        trouble.hidden = true;
        const faulty = Object.values(parts).filter((part) => !part.settle());
        if (faulty.length > 0) {
          faulty[0].focus();
          return;
        }
        const wanted = values(parts);
        if (key && !isChanged()) {
          close();
          return;
        }
        busy = true;
        setBusy(go, true);
        try {
          const answer = key
            ? await call("PATCH", `/api/keys/${encodeURIComponent(key.id)}`, changes(before, wanted), { revision: key.revision })
            : await call("POST", "/api/keys", wanted);
          busy = false;
          close();
          onSaved(answer, models);
        } catch (error) {
          busy = false;
          if (isNews(error)) complain(error);
        } finally {
          setBusy(go, false);
        }
      };
      const complain = (error) => {
        // A faulty key file names fields too, but of its own lines.
        const name = error.faults ? null : error.field?.split(/[.[]/)[0];
        const part = parts[name];
        if (part) {
          const message = error.message.startsWith(`${error.field}: `) ? error.message.slice(error.field.length + 2) : error.message;
          part.complain(sentence(message));
          part.focus();
          return;
        }
        if (error.status === 412) {
          changedMeanwhile();
          return;
        }
        trouble.replaceChildren(icon("warning"), h("div", {},
          h("p", {}, h("strong", {}, key ? "Nothing was changed. " : error instanceof ApiError ? "No key was created. " : ""), error.message),
          !key && !(error instanceof ApiError) && h("p", {}, "What you typed is still here. If the list shows the key all the same, delete it: its token was never shown.")));
        trouble.hidden = false;
        trouble.scrollIntoView({ block: "nearest" });
      };
      /** What was typed stays until the present values are asked for. */
      const changedMeanwhile = () => {
        const load = h("button", { type: "button", class: "button", onclick: async () => {
          setBusy(load, true);
          try {
            const present = await call("GET", `/api/keys/${encodeURIComponent(key.id)}`);
            close();
            openKeyForm({ key: present, address, onSaved, onEnded });
          } catch (error) {
            setBusy(load, false);
            if (isNews(error)) complain(error);
          }
        } }, "Load the present values");
        trouble.replaceChildren(icon("warning"), h("div", {},
          h("p", {}, h("strong", {}, "Nothing was saved. "), "This key was changed meanwhile, in another window or by somebody else. "
            + "Loading the present values replaces what you typed."),
          load));
        trouble.hidden = false;
        load.focus();
      };
      return h("form", { class: "pane-form", novalidate: true, onsubmit: submit },
        windowHead(title, key ? "Edit API Key" : "Create API Key", attempt, { about: key && quoted(key.name) }),
        h("div", { class: "pane-body" },
          key && facts(key, (present) => {
            // What is saved next is meant for the key without that token.
            key = present;
            onEnded();
          }),
          Object.values(parts).map((part) => part.element)),
        h("footer", { class: "pane-foot" }, trouble, actions, doubt));
    },
  });
  parts.name.focus();
  catalogue().then((loaded) => {
    models = loaded;
    parts.model_access.load(loaded);
  });
}

function values(parts) {
  return Object.fromEntries(Object.entries(parts).map(([name, part]) => [name, part.value()]));
}

function changes(before, wanted) {
  return Object.fromEntries(Object.entries(wanted).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(before[name])));
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

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
    fact("ID", [id, " ", copyButton(() => key.id, "ID", { className: "button quiet small bare", shown: () => id })]),
    key.hint && fact("Token ends in", h("code", {}, foreign(key.hint))),
    key.created_at && fact("Created", dateAndTime(new Date(key.created_at))),
    fact("Last used", key.last_used_at
      ? `${fromNow(Date.parse(key.last_used_at))}, ${plural(key.requests, "request")} since the gateway started`
      : "not since the gateway started"),
    old);
}

function nameField(key) {
  const input = h("input", { id: uniqueId("name"), type: "text", autocomplete: "off", "aria-required": "true", dir: "auto",
    value: key?.name ?? "", autofocus: true, oninput: () => {
      const length = [...input.value.trim()].length;
      part.complain(length > MAX_NAME ? tooLong("name", length) : "");
    } });
  const part = field({ label: "Name", control: input, input, hint: "What the key is for, so that you know it again. For example: web site." });
  return { ...part,
    value: () => input.value.trim(),
    settle: () => {
      const length = [...input.value.trim()].length;
      return part.complain(length === 0 ? "Give the key a name." : length > MAX_NAME ? tooLong("name", length) : "");
    } };
}

function accountField(key) {
  const input = h("input", { id: uniqueId("account"), type: "text", autocomplete: "off", dir: "auto", value: key?.account ?? "",
    oninput: () => part.settle() });
  const settle = () => {
    const length = [...input.value.trim()].length;
    return field_.complain(length > MAX_NAME ? tooLong("account", length) : "");
  };
  const field_ = field({ label: "Account", optional: true, control: input, input, hint: "Whom the key belongs to. The search finds it." });
  const part = { ...field_, value: () => input.value.trim() || null, settle };
  return part;
}

const tooLong = (what, length) => `The ${what} has ${length} characters; ${MAX_NAME} are the most.`;

function accessField(key) {
  const already = key?.model_access ?? { mode: "all" };
  const select = h("select", { id: uniqueId("access"), onchange: changed },
    MODES.map(([mode, name]) => h("option", { value: mode }, name)));
  select.value = already.mode;
  const picker = modelPicker({ chosen: already.models ?? [], onChange: () => part.complain("") });
  const hint = h("p");
  /** The mode that the models were chosen for: in the other one the same list means the opposite. */
  let listMode = already.mode === "all" ? null : already.mode;
  let mode = already.mode;
  function changed() {
    const to = select.value;
    if (to !== "all" && listMode !== null && to !== listMode && picker.chosen().length > 0) {
      const number = picker.chosen().length;
      select.value = mode;
      confirm({
        title: "Empty the list of models?",
        body: h("p", {}, listMode === "inclusive" ? `The ${plural(number, "model")} in the list may be used. As Exclusive the same list would mean that they may not.`
          : `The ${plural(number, "model")} in the list may not be used. As Inclusive the same list would mean that only they may.`,
        " Choose the models anew."),
        ok: `Change to ${MODES.find(([name]) => name === to)[1]}, and empty the list`,
        act: () => {
          picker.clear();
          take(to);
        },
      });
    } else take(to);
  }
  function take(to) {
    select.value = mode = to;
    if (to !== "all") listMode = to;
    draw();
  }
  const part = field({ label: "Model Access Selection", input: select, hint,
    control: h("div", { class: "select" }, select, icon("left")) });
  const pickerPlace = h("div", {}, picker.element);
  part.element.append(pickerPlace);
  const draw = () => {
    pickerPlace.hidden = select.value === "all";
    hint.textContent = MODES.find(([mode]) => mode === select.value)[2];
    part.complain("");
  };
  draw();
  return { ...part,
    load: picker.load,
    pending: () => select.value !== "all" && picker.pending(),
    focus: () => (select.value === "all" ? select : picker.input).focus(),
    value: () => (select.value === "all" ? { mode: "all" } : { mode: select.value, models: picker.chosen() }),
    settle: () => part.complain(select.value === "all" ? ""
      : picker.chosen().length > 0 ? ""
      : picker.pending() !== "" ? "Choose one of the models found, or empty the search." : "Choose at least one model.") };
}

function networksField(key, address) {
  const networks = [...(key?.allow_from ?? [])];
  const list = h("ul", { class: "chips", "aria-label": "Allowed networks" });
  const said = h("p", { class: "hint", role: "status" });
  const input = h("input", { id: uniqueId("network"), type: "text", autocomplete: "off", spellcheck: "false", inputmode: "text",
    placeholder: "192.0.2.0/24", oninput: typed, onblur: () => judge(false), onkeydown: (event) => {
      if (event.key !== "Enter" || input.value.trim() === "") return;
      event.preventDefault();
      add();
    } });
  const own = asIpv4(address);
  const useOwn = h("button", { type: "button", class: "button quiet small", onclick: () => {
    take(`${own}/32`, own);
    said.textContent ||= "";
  } }, icon("location"), "Use my address", own && h("span", { class: "muted" }, ` ${own}`));
  const ownNote = own ? null
    : h("span", { class: "hint" }, address ? `You come from ${address}, which is IPv6 and can't be listed.`
      : "The gateway does not know the address you come from.");
  if (!own) useOwn.setAttribute("disabled", "");
  const part = field({ label: "Allow access from", optional: true, input,
    control: [list, h("div", { class: "with-button" }, input,
      h("button", { type: "button", class: "button", onclick: () => { add(); input.focus(); } }, "Add"))],
    below: h("div", { class: "own" }, useOwn, ownNote),
    hint: [said, h("p", {}, "Networks like 192.0.2.0/24 or single addresses; leave it empty to allow any address. "
      + "A key restricted to IPv4 networks can't be used over IPv6, and IPv6 networks can't be set.")] });

  const texts = () => input.value.split(/[\s,;]+/).filter((text) => text !== "");
  function typed() {
    said.textContent = "";
    const faulty = texts().find((text) => parseNetwork(text).fault && !mayBecomeNetwork(text));
    part.complain(faulty === undefined ? "" : parseNetwork(faulty).fault);
  }
  /** Complains about what stands in the field, if anything is wrong with it. */
  function judge() {
    const faulty = texts().find((text) => parseNetwork(text).fault);
    return part.complain(faulty === undefined ? "" : parseNetwork(faulty).fault);
  }
  function add() {
    const given = texts();
    if (given.length === 0) return true;
    // What is right is taken, what is not stays to be mended.
    const faulty = given.filter((text) => parseNetwork(text).fault);
    for (const text of given.filter((text) => !faulty.includes(text))) take(parseNetwork(text).network, text);
    input.value = faulty.join(" ");
    return judge();
  }
  function take(network, text) {
    if (networks.includes(network)) {
      said.textContent = `${network} is already listed.`;
      return;
    }
    networks.push(network);
    said.textContent = network === "0.0.0.0/0" ? "0.0.0.0/0 allows every IPv4 address, and no IPv6 address."
      : network.split("/")[0] === text.split("/")[0] ? `${network} was added.`
      : `${text} was added as ${network}, the network it lies in.`;
    draw();
  }
  function draw() {
    list.replaceChildren(...networks.map((network) => h("li", { class: "chip" }, h("span", {}, network),
      h("button", { type: "button", class: "chip-remove", "aria-label": `Remove ${network}`, onclick: () => {
        networks.splice(networks.indexOf(network), 1);
        said.textContent = `${network} was removed.`;
        draw();
        input.focus();
      } }, icon("close")))));
    list.hidden = networks.length === 0;
  }
  draw();
  return { ...part,
    pending: () => input.value.trim(),
    value: () => [...networks],
    settle: () => add() };
}

function expiryField(key) {
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
      if (/^\d+$/.test(value)) day.value = dayFromToday(Number(value));
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
  const dayPlace = h("div", { class: "day" }, day);
  const part = field({ label: "Expiration date", input: day, group: true, hint,
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
  return { ...part,
    focus: () => (dayPlace.hidden ? radios[0].radio : day).focus(),
    value: () => {
      const choice = picked();
      if (choice === "never") return null;
      // Unchanged, it is written as it was, so that saving something else does not count as a change of this.
      return choice === "keep" || day.value === alreadyDay ? already : day.value;
    },
    settle: () => {
      const choice = picked();
      if (choice === "never" || choice === "keep" || (already && day.value === alreadyDay)) return part.complain("");
      if (day.value === "") return part.complain(day.validity.badInput ? "Complete the date." : "Choose the last day.");
      return part.complain(endOfDay(day.value) <= now() ? "This day has passed; choose today or a later one." : "");
    } };
}
