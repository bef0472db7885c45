// A field of a form.

import { h, icon, uniqueId } from "./dom.js";

/** A field: its label, what is written below it, its fault, and how to complain. */
export function field({ label, hint, control, input, optional = false, group = false, below = null }) {
  const [faultId, hintId] = [uniqueId("fault"), uniqueId("hint")];
  const fault = h("p", { id: faultId, class: "fault", role: "alert" });
  const described = h("div", { id: hintId, class: "hint" }, hint);
  input.setAttribute("aria-describedby", `${faultId} ${hintId}`);
  const mark = optional && h("span", { class: "optional" }, " optional");
  const name = group ? h("legend", {}, label, mark) : h("label", { for: input.id }, label, mark);
  const element = h(group ? "fieldset" : "div", { class: "field" }, name, control, fault, below, described);
  const complain = (text) => {
    fault.replaceChildren(...(text ? [icon("warning"), h("span", {}, text)] : []));
    element.classList.toggle("faulty", Boolean(text));
    if (text) input.setAttribute("aria-invalid", "true");
    else input.removeAttribute("aria-invalid");
    return !text;
  };
  return { element, complain, described, focus: () => input.focus() };
}
