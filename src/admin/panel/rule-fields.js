// The fields of the rules that keys and accounts both have: a name, model access, and networks.
//
// `bound`, where an account has a say, tells a field what that allows (ceilings.js): {note, fault(one), isMoved}, or null.

import { h, icon, uniqueId, visible } from "./dom.js";
import { field } from "./field.js";
import { plural } from "./format.js";
import { modelPicker } from "./model-picker.js";
import { asIpv4, mayBecomeNetwork, parseNetwork } from "./networks.js";
import { confirm } from "./overlay.js";

const MAX_NAME = 100;
const MODES = [
  ["all", "All", "every model, those added later too."],
  ["inclusive", "Inclusive", "only the models chosen here."],
  ["exclusive", "Exclusive", "every model but those chosen here."],
];

/** A line of text: `what` it is, in a word; `required` is said where it is empty, null where it may be. */
export function textField({ what, label, hint, value, required = null, onChange = () => {}, ...attributes }) {
  const input = h("input", { id: uniqueId(what), type: "text", autocomplete: "off", dir: "auto", value: value ?? "",
    "aria-required": required && "true", oninput: () => {
      judge(false);
      onChange();
    }, ...attributes });
  const part = field({ label, optional: required === null, control: input, input, hint });
  const judge = (isDone) => {
    const { length } = [...input.value.trim()];
    return part.complain(length > MAX_NAME ? `The ${what} has ${length} characters; ${MAX_NAME} are the most.`
      : isDone && length === 0 ? required : "");
  };
  return { ...part, input, value: () => input.value.trim() || null, settle: () => judge(true) };
}

/** Which models `who` may use: `rules` has them, or is null for a new one. */
export function accessField(rules, who) {
  const already = rules?.model_access ?? { mode: "all" };
  let ceiling = null;
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
  const note = h("p");
  const part = field({ label: "Model Access Selection", input: select, hint: [hint, note],
    control: h("div", { class: "select" }, select, icon("left")) });
  const pickerPlace = h("div", {}, picker.element);
  part.element.append(pickerPlace);
  const draw = () => {
    pickerPlace.hidden = select.value === "all";
    hint.textContent = `${who} may use ${MODES.find(([mode]) => mode === select.value)[2]}`;
    note.textContent = ceiling?.note ?? "";
    // What the account refuses anyway may be excluded all the same.
    picker.bound(select.value === "inclusive" ? ceiling?.fault : null);
    part.complain("");
  };
  draw();
  const value = () => (select.value === "all" ? { mode: "all" } : { mode: select.value, models: picker.chosen() });
  return { ...part,
    load: picker.load,
    bound: (given) => {
      ceiling = given;
      draw();
    },
    pending: () => select.value !== "all" && picker.pending(),
    focus: () => (select.value === "all" ? select : picker.input).focus(),
    value,
    settle: () => {
      const { mode, models } = value();
      return part.complain(mode === "all" ? ""
        : models.length === 0 ? (picker.pending() !== "" ? "Choose one of the models found, or empty the search." : "Choose at least one model.")
        : mode === "inclusive" && hasSay(ceiling, rules?.model_access, value()) && picker.allFaulty() ? "The account allows none of these models; choose another." : "");
    } };
}

/** Whether an account has a say in a value: one that stays as it is, under the account that it has, is left alone. */
export const hasSay = (ceiling, before, value) => ceiling !== null && (ceiling.isMoved || JSON.stringify(before) !== JSON.stringify(value));

/** From where it may be used: `rules` has the networks, or is null for a new one. */
export function networksField(rules, address) {
  const networks = [...(rules?.allow_from ?? [])];
  let ceiling = null;
  const note = h("p");
  const list = h("ul", { class: "chips", "aria-label": "Allowed networks" });
  const said = h("p", { class: "hint", role: "status" });
  const input = h("input", { id: uniqueId("network"), type: "text", autocomplete: "off", spellcheck: "false", inputmode: "text",
    placeholder: "192.0.2.0/24", oninput: typed, onblur: judge, onkeydown: (event) => {
      if (event.key !== "Enter" || input.value.trim() === "") return;
      event.preventDefault();
      add();
    } });
  const own = asIpv4(address);
  const useOwn = h("button", { type: "button", class: "button quiet small", onclick: () => {
    if (part.complain(faultOf(own) ?? "")) take(`${own}/32`, own);
  } }, icon("location"), "Use my address", own && h("span", { class: "muted" }, ` ${own}`));
  const ownNote = own ? null
    : h("span", { class: "hint" }, address ? `You come from ${address}, which is IPv6 and can't be listed.`
      : "The gateway does not know the address you come from.");
  if (!own) useOwn.setAttribute("disabled", "");
  const part = field({ label: "Allow access from", optional: true, input,
    control: [list, h("div", { class: "with-button" }, input,
      h("button", { type: "button", class: "button", onclick: () => { add(); input.focus(); } }, "Add"))],
    below: h("div", { class: "own" }, useOwn, ownNote),
    hint: [said, note, h("p", {}, "Networks like 192.0.2.0/24 or single addresses; leave it empty to allow any address. "
      + "A key restricted to IPv4 networks can't be used over IPv6, and IPv6 networks can't be set.")] });

  const texts = () => input.value.split(/[\s,;]+/).filter((text) => text !== "");
  function typed() {
    said.textContent = "";
    const faulty = texts().find((text) => parseNetwork(text).fault && !mayBecomeNetwork(text));
    part.complain(faulty === undefined ? "" : parseNetwork(faulty).fault);
  }
  const faultOf = (text) => {
    const { fault, network } = parseNetwork(text);
    return fault ?? ceiling?.fault(network) ?? null;
  };
  /** Complains about what stands in the field, if anything is wrong with it. */
  function judge() {
    return part.complain(texts().map(faultOf).find((fault) => fault !== null) ?? "");
  }
  function add() {
    const given = texts();
    if (given.length === 0) return true;
    // What is right is taken, what is not stays to be mended.
    const faulty = given.filter(faultOf);
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
    bound: (given) => {
      ceiling = given;
      note.textContent = given?.note ?? "";
      judge();
    },
    settle: () => add() && part.complain(networks.length > 0 && hasSay(ceiling, rules?.allow_from, networks) && networks.every(faultOf)
      ? "The account allows none of these networks; add another." : "") };
}
