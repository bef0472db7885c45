// Elements, made without ever parsing a text as markup: whatever a key or a model is called, it stays text.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes, listeners (`onclick`, …) and children; null and false are left out. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for a drawing. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A text that others chose: its writing direction, and any control for it, ends with it. */
export function foreign(text, attributes = {}) {
  return h("bdi", attributes, text);
}

/** The same where only a plain text can stand, such as a label: U+2068 and U+2069 isolate it. */
export function isolated(text) {
  return `\u2068${text}\u2069`;
}

/** A text with the characters spelled out that nobody sees, or that turn the writing direction: \u202e. */
export const visible = (text) => text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\u115f\u1160\u3164\uffa0]/gu,
  (character) => `\\u${character.codePointAt(0).toString(16).padStart(4, "0")}`);

/** A model's name, which an upstream chose. */
export const modelName = (id) => foreign(visible(id));

/** A name in a sentence. */
export const quoted = (name) => ["“", foreign(name), "”"];
/** The same in a label. */
export const quotedText = (name) => `“${isolated(name)}”`;

let lastId = 0;
/** An id that no other element has. */
export function uniqueId(prefix) {
  lastId += 1;
  return `${prefix}-${lastId}`;
}

const ICONS = {
  key: "M15.5 14a5.5 5.5 0 1 0-5.2-3.7L3 17.6V21h3.4l1.1-1.1v-2h2v-2h2l1.2-1.2A5.5 5.5 0 0 0 15.5 14ZM16.5 7.5h.01",
  accounts: "M9 11.5a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7ZM2.5 20a6.5 6.5 0 0 1 13 0M16 4.8a3.5 3.5 0 0 1 0 6.4M18.5 14.5A6.5 6.5 0 0 1 21.5 20",
  person: "M12 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8ZM4.5 20.5a7.5 7.5 0 0 1 15 0",
  models: "M12 3l8 4.5v9L12 21l-8-4.5v-9L12 3ZM4.3 7.6 12 12l7.7-4.4M12 12v8.8",
  dashboard: "M4 20V10M10 20V4M16 20v-7M21 20H3",
  usage: "M4 19h16M6.5 15V9.5M11 15V5M15.5 15v-3.5M20 15V8",
  fleet: "M4 4h16v6H4V4ZM4 14h16v6H4v-6ZM8 7h.01M8 17h.01",
  device: "M4 5h16v11H4V5ZM9 20h6M12 16v4",
  activity: "M4 6h10M4 12h16M4 18h7M18 4v4M15.5 16v4",
  plus: "M12 5v14M5 12h14",
  search: "M10.5 17a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13ZM20 20l-4.8-4.8",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  copy: "M9 9h10a1 1 0 0 1 1 1v10a1 1 0 0 1-1 1H9a1 1 0 0 1-1-1V10a1 1 0 0 1 1-1ZM4.5 15.5V4a1 1 0 0 1 1-1h10.5",
  check: "M5 12.5l4.5 4.5L19 7.5",
  close: "M6 6l12 12M18 6 6 18",
  warning: "M12 4 2.8 20h18.4L12 4ZM12 10v4.5M12 17.3h.01",
  info: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18ZM12 11v5.5M12 7.7h.01",
  signOut: "M14 4h4a2 2 0 0 1 2 2v12a2 2 0 0 1-2 2h-4M10 8l-4 4 4 4M6 12h9",
  refresh: "M20 5v5h-5M4 19v-5h5M19.3 10A8 8 0 0 0 5.4 7.4M4.7 14a8 8 0 0 0 13.9 2.6",
  edit: "M4 20h4L19 9l-4-4L4 16v4ZM13 7l4 4",
  pause: "M8 5v14M16 5v14",
  play: "M7 5l12 7-12 7V5Z",
  trash: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v5.5M14 11v5.5",
  download: "M12 4v11M7 10.5l5 5 5-5M5 20h14",
  left: "M15 5l-7 7 7 7",
  right: "M9 5l7 7-7 7",
  location: "M12 21s7-6.2 7-11.5a7 7 0 0 0-14 0C5 14.8 12 21 12 21ZM12 12a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5Z",
};

/** One of a few, all of them in sight: {element, value(), set(value)}. `options` are [value, text]. */
export function segments({ label, options, onChange }) {
  const name = uniqueId("segments");
  const radios = options.map(([value, text]) => {
    const id = uniqueId("segment");
    const radio = h("input", { type: "radio", name, id, value, onchange: () => onChange(value) });
    return { radio, element: [radio, h("label", { for: id }, text)] };
  });
  return {
    element: h("div", { class: "segments", role: "radiogroup", "aria-label": label }, radios.map(({ element }) => element)),
    value: () => radios.find(({ radio }) => radio.checked)?.radio.value,
    set: (value) => {
      for (const { radio } of radios) radio.checked = radio.value === value;
    },
  };
}

/** A small drawing that says nothing to a screen reader; the text beside it does. */
export function icon(name) {
  return svg("svg", { class: `icon icon-${name}`, viewBox: "0 0 24 24", "aria-hidden": "true", focusable: "false" },
    svg("path", { d: ICONS[name] }));
}
