// Who was refused in the last hour, and why: on the dashboard for all, and in a window for one key.

import { call, isNews } from "./api.js";
import { foreign, h, icon, quoted, uniqueId } from "./dom.js";
import { count, fromNow, plural, timeElement } from "./format.js";
import { openWindow, windowHead } from "./overlay.js";

const MOST_SHOWN = 20;
const NONE = "No request was refused in the last hour.";

/** The refusals of the last hour; of one key, where it is given. */
export const recentRefusals = (keyId, options) =>
  call("GET", `/api/refusals?limit=${MOST_SHOWN}${keyId === undefined ? "" : `&key=${encodeURIComponent(keyId)}`}`, undefined, options);

/** A table of them. Those with an unknown token have none; the column is left out for one key. */
export function refusalTable({ refusals, left_out: leftOut }, { ofOneKey = false } = {}) {
  if (refusals.length === 0) return h("p", { class: "muted calm" }, icon("check"), NONE);
  const columns = [!ofOneKey && "Key", "Address", "Reason", "Requests", "Last"].filter(Boolean);
  const row = (refusal) => {
    const last = Date.parse(refusal.last_at);
    return h("tr", {},
      !ofOneKey && h("td", {}, refusal.key === null ? h("span", { class: "muted" }, "unknown token")
        : [foreign(refusal.name ?? "deleted"), h("span", { class: "sub" }, h("code", {}, refusal.key))]),
      h("td", {}, refusal.client_address ?? h("span", { class: "muted" }, "unknown")),
      h("td", {}, h("code", {}, refusal.reason)),
      h("td", { class: "number" }, count(refusal.count)),
      h("td", {}, timeElement(last, fromNow(last))));
  };
  return [h("div", { class: "table-card scroll", tabindex: "0", role: "region", "aria-label": "Recent refusals" }, h("table", {},
    h("thead", {}, h("tr", {}, columns.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, refusals.map(row)))),
  leftOut > 0 && h("p", { class: "muted" }, `and ${count(leftOut)} more`)];
}

/** Opens the window of one key. */
export function openRefusals(key) {
  const title = uniqueId("title");
  const content = h("div", { class: "reload-body", "aria-live": "polite" }, h("p", { class: "muted working" }, "Loading…"));
  openWindow({ kind: "reload", label: title, build: (close) => {
    recentRefusals(key.id).then((found) => {
      const all = found.refusals.reduce((sum, { count: some }) => sum + some, 0);
      content.replaceChildren(h("p", {}, quoted(key.name), `: ${plural(all, "request")} refused in the last hour. `,
        "A request with an unknown token counts for no key; one with a disabled key counts for it, as ", h("code", {}, "invalid_api_key"), "."),
      ...[refusalTable(found, { ofOneKey: true })].flat().filter(Boolean));
    }, (error) => {
      if (isNews(error)) content.replaceChildren(h("p", { class: "notice bad", role: "alert" }, icon("warning"), h("span", {}, error.message)));
    });
    return [windowHead(title, "Recent refusals", close), content,
      h("div", { class: "actions" }, h("button", { type: "button", class: "button", autofocus: true, onclick: close }, "Close"))];
  } });
}
