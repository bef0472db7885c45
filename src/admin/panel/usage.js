// AI / Usage: who used which model, when and how much, over all keys or those that are asked for.

import { call, catalogue, isNews } from "./api.js";
import { foreign, h, icon, modelName, segments, visible } from "./dom.js";
import { count } from "./format.js";
import { lazily } from "./key-actions.js";
import { keyPageOf } from "./key-row.js";
import { sumOf, sumsTable, usageReport } from "./usage-report.js";
import { isPerson, ofAccount } from "./who.js";

const MOST_ROWS = 100;
const FILTERS = ["key", "account", "model"];
const GROUPS = [["model", "Model"], ["key", "Key"], ["account", "Account"], ["upstream", "Upstream"]];

/** Draws the view. `place` keeps the range and the filters in the address. */
export function usageView(main, title, place) {
  let loading = null;
  let typing = null;
  let suggesting = null;
  let loaded = null;
  let suggested = [];

  const report = usageReport({ onChange: (control) => {
    remember();
    if (control === "range") load();
    else drawGroups();
  }, onLoaded: (found) => {
    loaded = found;
    addModels((found?.rows ?? []).map(({ model }) => model));
    groups.hidden = csv.hidden = found === null;
    loadGroups();
  } });
  /** What is typed counts after a moment, and not before `ready`. */
  const typed = (ready) => {
    clearTimeout(typing);
    const turnOfThis = typing = setTimeout(async () => {
      await ready;
      if (typing === turnOfThis) changed();
    }, 300);
  };
  const suggestions = h("datalist", { id: "usage-keys" });
  const input = (label, attributes) => h("input", { type: "search", "aria-label": label, placeholder: label, autocomplete: "off", spellcheck: "false", maxlength: "512", ...attributes });
  const key = input("Key's name or ID", { list: "usage-keys", oninput: () => typed(suggest()), onfocus: suggest });
  const account = input("Whole account", { oninput: () => typed() });
  const model = h("select", { "aria-label": "Model", onchange: changed }, h("option", { value: "" }, "Any model"));
  const controls = { key, account, model };
  // A person looks at one account, and knows no upstreams.
  const groupings = GROUPS.filter(([value]) => !isPerson() || value === "model" || value === "key");
  const by = segments({ label: "Sums by", options: groupings, onChange: () => {
    remember();
    loadGroups();
  } });
  const again = h("button", { type: "button", class: "button", onclick: () => load() }, icon("refresh"), "Refresh");
  const csv = h("button", { type: "button", class: "button", onclick: async () => {
    const wanted = report.request(asked());
    // All keys of a long range are more than one answer holds; the table is by model then, as the chart is.
    wanted.set("group_by", { model: "model", key: "key,account,model" }[by.value()] ?? `${by.value()},model`);
    if (by.value() === "key" || by.value() === "account") wanted.set("bucket_width", "all");
    wanted.delete("limit");
    (await lazily(() => import("./csv.js")))?.saveUsage({ path: `/api/usage?${wanted}`, name: "usage.csv", button: csv });
  } }, icon("download"), "CSV");
  const sums = h("div", { "aria-live": "off" });
  const groups = h("section", { class: "card panel-card" }, h("header", {}, h("h2", {}, "Sums by"), by.element), sums);

  main.append(
    h("header", { class: "page-head" },
      h("div", {}, h("p", { class: "crumb" }, "AI"), h("h1", { tabindex: "-1" }, title),
        h("p", { class: "lead" }, "Who used which model, when and how much. Days are UTC.")),
      h("div", { class: "head-actions" }, csv, again)),
    h("div", { class: "usage-controls" }, report.controls),
    h("div", { class: "filters", role: "group", "aria-label": "Filters" }, key, suggestions, !isPerson() && account, h("div", { class: "select" }, model, icon("left"))),
    ...report.element, groups);
  catalogue().then((models) => addModels((models ?? []).map(({ id }) => id)));
  arrive();

  function arrive() {
    clearTimeout(typing);
    typing = null;
    const parameters = place.parameters();
    report.take(parameters);
    by.set(groupings.some(([value]) => value === parameters.get("by")) ? parameters.get("by") : "model");
    addModels([parameters.get("model")].filter(Boolean));
    for (const name of FILTERS) controls[name].value = parameters.get(name) ?? "";
    load();
  }

  function addModels(ids) {
    const there = new Set([...model.options].map(({ value }) => value));
    for (const id of new Set(ids)) if (!there.has(id)) model.append(h("option", { value: id }, visible(id)));
  }

  function asked() {
    return [...filters(), ...ofAccount()];
  }

  function filters() {
    return FILTERS.filter((name) => name !== "account" || !isPerson()).map((name) => [name, name === "key" ? keyId() : controls[name].value.trim()]).filter(([, value]) => value !== "");
  }

  /** The id that is typed, or that of the one suggested key whose whole name is typed. */
  function keyId() {
    const text = key.value.trim();
    const named = suggested.filter(({ id, name }) => id === text || name === text);
    return named.length === 1 ? named[0].id : text;
  }

  function remember(isReplaced = false) {
    const group = by.value() === "model" ? [] : [["by", by.value()]];
    place.remember(new URLSearchParams([...report.parameters(), ...group, ...filters()]), null, isReplaced);
  }

  function changed() {
    remember(true);
    load();
  }

  /** Keys whose name or id holds what is typed. */
  async function suggest() {
    suggesting?.abort();
    suggesting = new AbortController();
    try {
      const found = await call("GET", `/api/keys?${new URLSearchParams([["query", key.value.trim()], ["limit", 20], ["sort", "-last_used_at"], ...ofAccount()])}`, undefined, { signal: suggesting.signal });
      suggested = found.keys;
      suggestions.replaceChildren(...found.keys.map(({ id, name }) => h("option", { value: id }, visible(name))));
    } catch {
      // Without suggestions an id can still be typed.
    }
  }

  function load() {
    return report.load(asked());
  }

  async function loadGroups() {
    loading?.abort();
    if (loaded === null || by.value() === "model") return drawGroups();
    const turnOfThis = loading = new AbortController();
    const wanted = report.request(asked());
    wanted.set("bucket_width", "all");
    wanted.set("group_by", by.value());
    wanted.delete("limit");
    try {
      const answer = await call("GET", `/api/usage?${wanted}`, undefined, { signal: turnOfThis.signal });
      loaded.groups = { by: by.value(), rows: answer.data.flatMap(({ results }) => results), names: answer.names ?? {} };
      drawGroups();
    } catch (error) {
      if (isNews(error)) sums.replaceChildren(h("p", { class: "notice bad", role: "alert" }, icon("warning"), h("span", {}, error.message)));
    }
  }

  function drawGroups() {
    if (loaded === null) return;
    const group = by.value();
    const { rows, names = {} } = group === "model" ? loaded : loaded.groups?.by === group ? loaded.groups : { rows: [] };
    const size = (one) => one.sums[report.measure()] ?? 0;
    const all = [...Map.groupBy(rows, (row) => row[group])].map(([id, some]) => ({ id, name: nameOf(group, id, names), sums: sumOf(some) }))
      .sort((one, other) => size(other) - size(one));
    const [, text] = GROUPS.find(([value]) => value === group);
    sums.replaceChildren(...(all.length === 0 ? [h("p", { class: "muted" }, "Nothing was used in this time.")]
      : [sumsTable({ label: `Usage by ${group}`, name: text, rows: all.slice(0, MOST_ROWS), total: sumOf(rows), currency: loaded.currency }),
        all.length > MOST_ROWS && h("p", { class: "muted" }, `and ${count(all.length - MOST_ROWS)} more, which the CSV has`)].filter(Boolean)));
  }

  return { refresh: load, arrive, leave: () => {
    clearTimeout(typing);
    typing = null;
    loading?.abort();
    suggesting?.abort();
    report.leave();
  } };
}

/** The first cell of a row of sums. */
function nameOf(group, id, names) {
  if (group === "model") return modelName(id);
  if (group === "key") {
    return [h("a", { href: keyPageOf(id) }, names[id] === undefined ? "deleted key" : foreign(names[id])), h("span", { class: "sub" }, h("code", {}, id))];
  }
  return id === null || id === "" ? h("span", { class: "muted" }, "no account") : foreign(visible(id));
}
