// Would this pass? What the gateway would decide about a request with a key, and which rule decides.

import { call, catalogue, isNews } from "./api.js";
import { h, icon, modelName, quoted, uniqueId, visible } from "./dom.js";
import { openWindow, setBusy, windowHead } from "./overlay.js";
import { session } from "./session.js";

/** Opens the window for a key. */
export function openExplain(key) {
  const [title, modelId, fromId, atId, listId] = ["title", "model", "from", "at", "models"].map(uniqueId);
  const input = (id, attributes) => h("input", { id, autocomplete: "off", spellcheck: "false", ...attributes });
  const select = h("select", { id: modelId });
  const other = input(listId, { type: "text", "aria-label": "Another model's name" });
  const from = input(fromId, { type: "text", value: session.client_address ?? "127.0.0.1" });
  const at = input(atId, { type: "text", placeholder: "now; or a time like 2027-02-01T00:00:00Z" });
  const outcome = h("div", { role: "status" });
  const otherPlace = h("div", { hidden: true }, other);
  const fill = (models) => {
    const ids = [...new Set([...(models ?? []).map(({ id }) => id), ...(key.model_access.models ?? [])])];
    select.replaceChildren(...ids.map((id, index) => h("option", { value: `m${index}` }, visible(id))), h("option", { value: "" }, "Another name…"));
    select.onchange = () => { otherPlace.hidden = select.value !== ""; };
    select.onchange();
    return ids;
  };
  let ids = fill(null);
  let busy = false;
  openWindow({ kind: "reload", label: title, build: (close) => {
    const go = h("button", { type: "submit", class: "button primary" }, "Ask");
    const submit = async (event) => {
      event.preventDefault();
      if (busy) return;
      busy = true;
      setBusy(go, true);
      const model = select.value === "" ? other.value : ids[Number(select.value.slice(1))];
      try {
        const answer = await call("POST", "/api/explain", { key: key.id, model, from: from.value.trim(), ...(at.value.trim() === "" ? {} : { at: at.value.trim() }) });
        outcome.replaceChildren(h("div", { class: `notice ${answer.allowed ? "good" : "bad"}` }, icon(answer.allowed ? "check" : "warning"),
          h("div", {}, h("p", {}, h("strong", {}, answer.allowed ? "It would pass: " : "It would be refused: "), modelName(model), ` from ${from.value.trim()}.`),
            h("p", {}, visible(answer.reason)), answer.denial && h("p", {}, h("code", {}, answer.denial)))));
      } catch (error) {
        if (isNews(error)) outcome.replaceChildren(h("p", { class: "notice warn" }, icon("warning"), h("span", {}, error.message)));
      } finally {
        busy = false;
        setBusy(go, false);
      }
    };
    return h("form", { class: "bulk-form", novalidate: true, onsubmit: submit },
      windowHead(title, "Would this pass?", close, { about: quoted(key.name) }),
      h("div", { class: "bulk-body" },
        h("div", { class: "field" }, h("label", { for: modelId }, "Model"), h("div", { class: "select" }, select, icon("left")), otherPlace),
        h("div", { class: "field" }, h("label", { for: fromId }, "Client's address"), from),
        h("div", { class: "field" }, h("label", { for: atId }, "Time"), at),
        outcome),
      h("div", { class: "actions" }, h("button", { type: "button", class: "button", onclick: () => close() }, "Close"), go));
  } });
  select.focus();
  catalogue().then((models) => { ids = fill(models); });
}
