// A choice of models: what is chosen, a field to search, and the catalogue below it as one list for the arrow keys.

import { foreign, h, icon, isolated, modelName, uniqueId, visible } from "./dom.js";
import { plural } from "./format.js";

/** More than anyone reads; the search finds the rest. */
const MOST_SHOWN = 100;

/**
 * A picker of model names: {element, input, chosen(), pending(), load(models), bound(fault), allFaulty()}. `onChange` hears of every
 * change; `fault` says why one may not be chosen.
 */
export function modelPicker({ chosen: already, describedBy, onChange }) {
  const chosen = new Set(already);
  let models = null;
  let isLoaded = false;
  let faultOf = () => null;
  let options = [];
  let active = -1;
  const listId = uniqueId("models");
  const chips = h("ul", { class: "chips", "aria-label": "Chosen models" });
  const status = h("p", { class: "hint", role: "status" });
  const input = h("input", {
    id: uniqueId("model-search"), type: "text", role: "combobox", autocomplete: "off", spellcheck: "false", autocapitalize: "none",
    placeholder: "Search models", "aria-label": "Search models", "aria-expanded": "true", "aria-autocomplete": "list",
    "aria-controls": listId, "aria-describedby": describedBy,
    oninput: () => drawList(), onkeydown: key,
  });
  const list = h("ul", { id: listId, class: "options", role: "listbox", "aria-label": "Models", "aria-multiselectable": "true" });

  function key(event) {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (options.length === 0) return;
      const step = event.key === "ArrowDown" ? 1 : -1;
      activate(active < 0 && step < 0 ? options.length - 1 : (active + step + options.length) % options.length);
    } else if (event.key === "Enter") {
      // Never the form's: a half-made choice is no reason to create.
      event.preventDefault();
      const at = active < 0 && input.value.trim() !== "" ? 0 : active;
      if (options[at]) toggle(options[at].id);
    } else if (event.key === "Escape" && input.value !== "") {
      event.preventDefault();
      input.value = "";
      drawList();
    } else if (event.key === "Backspace" && input.value === "" && chosen.size > 0) {
      toggle([...chosen].at(-1));
    }
  }

  function activate(at) {
    active = at;
    options.forEach(({ element }, index) => element.classList.toggle("active", index === at));
    if (at < 0) input.removeAttribute("aria-activedescendant");
    else {
      input.setAttribute("aria-activedescendant", options[at].element.id);
      options[at].element.scrollIntoView({ block: "nearest" });
    }
  }

  const aboutOf = (id) => models?.find((model) => model.id === id) ?? { id };

  function toggle(id) {
    if (!chosen.has(id) && faultOf(aboutOf(id))) return;
    if (chosen.has(id)) chosen.delete(id);
    else chosen.add(id);
    const wasActive = active >= 0;
    input.value = "";
    draw();
    if (wasActive) activate(options.findIndex((option) => option.id === id));
    onChange();
  }

  function drawChips() {
    const remove = (id) => () => {
      toggle(id);
      input.focus();
    };
    chips.replaceChildren(...[...chosen].map((id) => h("li", { class: "chip" }, modelName(id),
      h("button", { type: "button", class: "chip-remove", "aria-label": `Remove ${isolated(visible(id))}`, onclick: remove(id) }, icon("close")))));
    chips.hidden = chosen.size === 0;
  }

  function drawList() {
    const wanted = input.value.trim();
    const served = models ?? [];
    const found = served.filter(({ id, upstream }) =>
      [id, upstream].some((text) => text.toLowerCase().includes(wanted.toLowerCase())));
    const isNamed = wanted === "" || chosen.has(wanted) || served.some(({ id }) => id === wanted);
    const others = [...chosen].filter((id) => !served.some((model) => model.id === id) && id.toLowerCase().includes(wanted.toLowerCase()));
    const option = (id, about, isNew = false) => {
      const fault = faultOf(aboutOf(id));
      const note = fault ?? about;
      const element = h("li", { id: uniqueId("option"), role: "option", "aria-selected": String(chosen.has(id)), "aria-disabled": fault && !chosen.has(id) && "true",
        onpointerdown: (event) => event.preventDefault(), onclick: () => { toggle(id); input.focus(); } },
      h("span", { class: "tick", "aria-hidden": "true" }, icon(isNew ? "plus" : "check")),
      h("span", { class: "option-name" }, isNew && "Add ", modelName(id)), h("span", { class: "option-note" }, note));
      return { id, element };
    };
    options = [
      ...others.map((id) => option(id, models && "not served today")),
      ...found.slice(0, MOST_SHOWN).map(({ id, upstream }) => option(id, foreign(upstream))),
      ...(isNamed ? [] : [option(wanted, models && "not served today", true)]),
    ];
    list.replaceChildren(...options.map(({ element }) => element));
    list.hidden = options.length === 0;
    activate(-1);
    const hidden = found.length - MOST_SHOWN;
    status.textContent = !isLoaded ? "Loading the catalogue…"
      : models === null ? "The catalogue could not be loaded. Type a model's whole name and press Enter."
      : served.length === 0 ? "No upstream serves a model now. Type a model's whole name and press Enter."
      : [`${found.length === served.length ? plural(served.length, "model") : `${plural(found.length, "model")} found`}, ${chosen.size} chosen.`,
        hidden > 0 && `${hidden} more: search to see them.`].filter(Boolean).join(" ");
  }

  function draw() {
    drawChips();
    drawList();
  }
  draw();
  return {
    element: h("div", { class: "picker" }, chips,
      h("div", { class: "search-box" }, icon("search"), input), list, status),
    input,
    chosen: () => [...chosen],
    clear: () => {
      chosen.clear();
      draw();
    },
    pending: () => input.value.trim(),
    bound: (fault) => {
      faultOf = fault ?? (() => null);
      drawList();
    },
    allFaulty: () => [...chosen].every((id) => faultOf(aboutOf(id))),
    load: (loaded) => {
      models = loaded;
      isLoaded = true;
      draw();
    },
  };
}
