// AI / On-Demand Models: the catalogue, whether it can be served, and how many keys may use it.

import { call, isNews } from "./api.js";
import { foreign, h, icon, isolated, modelName, quoted, visible } from "./dom.js";
import { count, plural } from "./format.js";
import { copyButton } from "./overlay.js";
import { account, isPerson, nameOf } from "./who.js";

const columns = () => ["Model", "Upstream", "Replicas", isPerson() ? "Your keys that may use it" : "Keys that may use it"];

/** Draws the view. */
export function modelsView(main, title) {
  let models = null;
  let loading = null;
  const search = h("input", { type: "search", placeholder: "Search models", "aria-label": "Search models", autocomplete: "off", spellcheck: "false", oninput: () => draw() });
  const status = h("p", { class: "count", role: "status" });
  const body = h("tbody", { role: "rowgroup" });
  const place = h("div", { class: "card table-card", "aria-busy": "true" }, h("table", { class: "models", role: "table" },
    h("caption", { class: "unseen" }, "Models"),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, columns().map((name) => h("th", { scope: "col", role: "columnheader" }, name)))), body));
  const empty = h("div", { class: "card empty", hidden: true });
  const trouble = h("div", { class: "notice bad", role: "alert", hidden: true });
  const toolbar = h("div", { class: "toolbar" }, h("div", { class: "search-box", role: "search" }, icon("search"), search), status);
  const again = h("button", { type: "button", class: "button", onclick: () => load() }, icon("refresh"), "Refresh");
  main.append(
    h("header", { class: "page-head" },
      h("div", {}, h("p", { class: "crumb" }, "AI"), h("h1", { tabindex: "-1" }, title),
        h("p", { class: "lead" }, isPerson() ? ["The models that ", foreign(nameOf(account())), " may use, and how they stand."]
          : "The catalogue: every model that an upstream serves, and how it stands.")), again),
    toolbar, trouble, place, empty);
  body.append(...Array.from({ length: 4 }, () => h("tr", { class: "ghost", "aria-hidden": "true" }, columns().map(() => h("td", {}, h("span"))))));
  load();

  async function load() {
    loading?.abort();
    const turnOfThis = loading = new AbortController();
    place.setAttribute("aria-busy", "true");
    try {
      const { signal } = turnOfThis;
      const id = isPerson() ? encodeURIComponent(account().id) : null;
      const [catalogue, standing] = await Promise.all([call("GET", id === null ? "/api/models" : `/api/models?account=${id}`, undefined, { signal }),
        id === null ? call("GET", "/api/status", undefined, { signal }) : {}]);
      const untried = new Map((standing.upstreams ?? []).map(({ name, replicas }) => [name, replicas.filter(({ tried }) => tried === false).length]));
      models = catalogue.models.map((model) => ({ ...model, untried: untried.get(model.upstream) ?? 0 }));
      trouble.hidden = true;
      draw();
    } catch (error) {
      if (!isNews(error)) return;
      trouble.replaceChildren(icon("warning"), h("span", {}, `The models could not be loaded. ${error.message}`),
        h("button", { type: "button", class: "button small", onclick: load }, "Try again"));
      trouble.hidden = false;
      place.hidden = models === null;
    } finally {
      if (loading === turnOfThis) place.setAttribute("aria-busy", "false");
    }
  }

  function draw() {
    const wanted = search.value.trim();
    const found = models.filter(({ id, upstream }) => [id, upstream].some((text) => text.toLowerCase().includes(wanted.toLowerCase())));
    toolbar.hidden = models.length === 0;
    place.hidden = found.length === 0;
    empty.hidden = found.length > 0;
    status.textContent = wanted === "" ? plural(models.length, "model") : `${plural(found.length, "model")} found`;
    body.replaceChildren(...found.map(row));
    if (found.length > 0) return;
    empty.replaceChildren(...(models.length === 0
      ? isPerson() ? [icon("models"), h("h2", {}, "No model now"), h("p", {}, "No model that the account may use is served now. Ask whoever runs this gateway.")]
      : [icon("models"), h("h2", {}, "No upstream serves a model now"),
        h("p", {}, "Models appear here as soon as an upstream names them. The dashboard and ", h("code", {}, "keygate status"), " say how each upstream stands; the log says why one does not answer.")]
      : [icon("search"), h("h2", {}, "No model found"), h("p", {}, "No model or upstream contains ", quoted(wanted), ".")]));
  }

  return { refresh: load, leave: () => loading?.abort() };
}

function row({ id, upstream, replicas, healthy, untried, keys }) {
  const name = modelName(id);
  const cell = (name, ...content) => h("td", { role: "cell", "data-label": name }, h("div", {}, content));
  const isUntried = replicas > 0 && untried === replicas;
  const health = isUntried ? "partly" : healthy === 0 ? "down" : healthy < replicas ? "partly" : "up";
  // A dot for each replica, where they can be told apart at a glance.
  const dots = replicas <= 12 && h("span", { class: "dots", "aria-hidden": "true" },
    Array.from({ length: replicas }, (_, at) => h("span", { class: at < healthy ? "dot up" : "dot down" })));
  const words = replicas === 0 ? "none" : isUntried ? "Not tried yet"
    : untried > 0 ? `${count(healthy)} of ${count(replicas)} healthy, ${count(untried)} not tried yet`
    : healthy === replicas ? (replicas === 1 ? "Healthy" : `All ${count(replicas)} healthy`)
    : healthy === 0 ? (replicas === 1 ? "Down" : `All ${count(replicas)} down`) : `${count(healthy)} of ${count(replicas)} healthy`;
  return h("tr", { role: "row" },
    h("th", { scope: "row", role: "rowheader" }, h("div", { class: "model-name" }, name,
      copyButton(() => id, `model name ${isolated(visible(id))}`, { shown: () => name, className: "button quiet small bare" }))),
    cell("Upstream", foreign(upstream)),
    cell("Replicas", h("span", { class: `health ${health}` }, dots, words)),
    cell(columns()[3], h("span", { class: "number" }, count(keys))));
}
