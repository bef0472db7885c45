// Usage over a span of time: sums, a chart by model, and the same as a table. For all keys, or for some: the views that
// show it say which.

import { call, isNews, now } from "./api.js";
import { barChart } from "./chart.js";
import { foreign, h, icon, segments, visible } from "./dom.js";
import { count, date, millionths, money, plural, short, timeOfDay } from "./format.js";

const [HOUR, DAY] = [3600, 86_400];
/** Spans up to now, in whole hours or days, UTC. */
const RANGES = {
  "24h": { text: "24 h", many: 24, width: HOUR, bucket: "1h", unit: "hour" },
  "7d": { text: "7 days", many: 7, width: DAY, bucket: "1d", unit: "day" },
  "30d": { text: "30 days", many: 30, width: DAY, bucket: "1d", unit: "day" },
  "90d": { text: "90 days", many: 90, width: DAY, bucket: "1d", unit: "day" },
};
const MEASURES = { tokens: "Tokens", requests: "Requests", cost: "Cost" };
const FIRST = { range: "30d", measure: "tokens" };
/** Models beyond these are drawn as one: there are no more colours that can be told apart. */
const TONES = [1, 3, 5, 4, 6, 2, 7];
const OTHERS = 8;

/** Sums of several rows: counts that no row knows stay null. */
export function sumOf(rows) {
  const sum = (value) => rows.reduce((total, row) => (value(row) === null ? total : (total ?? 0) + value(row)), null);
  const [input, output] = [sum((row) => row.input_tokens), sum((row) => row.output_tokens)];
  return {
    requests: sum((row) => row.num_model_requests) ?? 0, errors: sum((row) => row.num_errors) ?? 0,
    atLeast: sum((row) => row.num_at_least) ?? 0, unknown: sum((row) => row.num_unknown) ?? 0,
    input, output, cached: sum((row) => row.input_cached_tokens), reasoning: sum((row) => row.output_reasoning_tokens),
    tokens: input === null && output === null ? null : (input ?? 0) + (output ?? 0),
    audio: sum((row) => millionths(row.audio_seconds)), images: sum((row) => row.images), cost: sum((row) => millionths(row.cost)),
  };
}

/** A number in a cell: a dash where nobody knows it. */
export const known = (value, write = count) => (value === null ? h("span", { class: "muted", title: "not known" }, "–") : write(value));

/** A table of sums. `name` heads its first column; `rows` are [{name, sums}]; `total`, where given, stands at its foot. */
export function sumsTable({ label, name, rows, total, currency }) {
  const all = [...rows.map(({ sums }) => sums), ...(total ? [total] : [])];
  const columns = [["Requests", (sums) => count(sums.requests)], ["Errors", (sums) => count(sums.errors)],
    ["Input tokens", (sums) => known(sums.input)], ["of them cached", (sums) => known(sums.cached)], ["Output tokens", (sums) => known(sums.output)],
    ["Audio", (sums) => known(sums.audio, spanOf), "audio"], ["Images", (sums) => known(sums.images), "images"],
    ["Cost", (sums) => known(sums.cost, (value) => money(value, currency)), "cost"]]
    .filter(([, , only]) => !only || all.some((sums) => sums[only] !== null));
  const cells = (sums) => columns.map(([, write]) => h("td", { class: "number" }, write(sums)));
  return h("div", { class: "table-card scroll", tabindex: "0", role: "region", "aria-label": label }, h("table", { class: "sums" },
    h("thead", {}, h("tr", {}, [name, ...columns.map(([text]) => text)].map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, h("th", { scope: "row" }, row.name), cells(row.sums)))),
    total && h("tfoot", {}, h("tr", {}, h("th", { scope: "row" }, "Total"), cells(total)))));
}

/** Millionths of a second: "1 h 2 min". */
function spanOf(value) {
  const seconds = Math.round(value / 1_000_000);
  const [hours, minutes] = [Math.floor(seconds / HOUR), Math.floor((seconds % HOUR) / 60)];
  return hours > 0 ? `${count(hours)} h ${minutes} min` : minutes > 0 ? `${minutes} min ${seconds % 60} s` : `${seconds} s`;
}

/**
 * The report: {element, controls, load(filters), take(parameters), parameters(), request(filters), measure(), leave()}.
 * `onChange` hears that a control was used; `onLoaded` gets {rows, currency} of what was loaded.
 */
export function usageReport({ onChange, onLoaded = () => {} }) {
  let loading = null;
  let answer = null;

  const range = segments({ label: "Range", options: Object.entries(RANGES).map(([value, { text }]) => [value, text]), onChange: () => onChange("range") });
  const measure = segments({ label: "Show", options: Object.entries(MEASURES), onChange: () => {
    draw();
    onChange("measure");
  } });
  const tile = (name) => {
    const [value, note] = [h("p", { class: "tile-value" }, "–"), h("p", { class: "tile-note" })];
    return { value, note, element: h("div", { class: "card tile" }, h("h2", {}, name), value, note) };
  };
  const tiles = { requests: tile("Requests"), input: tile("Input tokens"), output: tile("Output tokens"), cost: tile("Cost") };
  const chart = barChart({ label: "Usage by model over time; arrow keys go through the hours or days", empty: "Nothing was used in this time",
    nameOf: spanName, ticks });
  const title = h("h2", {}, "Tokens");
  const chartTotal = h("p", { class: "chart-total" });
  const legend = h("ul", { class: "legend" });
  const doubt = h("p", { class: "muted doubtful", hidden: true });
  const trouble = h("div", { class: "notice bad", role: "alert", hidden: true });
  const none = h("div", { class: "card empty", hidden: true }, icon("usage"), h("h2", {}, "Usage is not kept"),
    h("p", {}, "This gateway has no database. Set ", h("code", {}, "[database] url = \"sqlite:keygate.db\""), " in its config and start it again; usage is kept from then on."));
  const numbers = h("div");
  const table = h("details", { class: "numbers" }, h("summary", {}, "The same as a table"), numbers);
  const content = h("div", { class: "usage-report", "aria-busy": "true" },
    h("div", { class: "tiles" }, Object.values(tiles).map(({ element }) => element)),
    h("section", { class: "card panel-card" }, h("header", {}, title, chartTotal), chart.element, legend, doubt), table);

  function spanName({ start }) {
    const [from, { width }] = [start * 1000, RANGES[range.value()]];
    return width === DAY ? date(from) : `${date(from)}, ${timeOfDay(from)} to ${timeOfDay(from + width * 1000)} UTC`;
  }

  /** The same in a table, whose range is in sight. */
  function shortName({ start }) {
    const day = date(start * 1000);
    return RANGES[range.value()].width === DAY ? day : `${day.replace(/ \d+$/, "")}, ${timeOfDay(start * 1000)}`;
  }

  function ticks(bars, isNarrow) {
    const { width } = RANGES[range.value()];
    const text = ({ start }) => (width === DAY ? date(start * 1000).replace(/ \d+$/, "") : timeOfDay(start * 1000));
    if (bars.length === 0) return [];
    const shares = isNarrow ? [0, 1] : [0, 1 / 3, 2 / 3, 1];
    return shares.map((at) => ({ at, text: text(bars[Math.min(bars.length - 1, Math.round(at * (bars.length - 1)))]) }));
  }

  /** What the gateway is asked for: whole hours or days up to this one. */
  function request(filters) {
    const { many, width, bucket } = RANGES[range.value()];
    const end = (Math.floor(now() / 1000 / width) + 1) * width;
    return new URLSearchParams([...filters, ["start_time", end - many * width], ["bucket_width", bucket], ["limit", many]]);
  }

  async function load(filters) {
    loading?.abort();
    const turnOfThis = loading = new AbortController();
    content.setAttribute("aria-busy", "true");
    try {
      const wanted = request(filters);
      wanted.set("group_by", "model");
      answer = await call("GET", `/api/usage?${wanted}`, undefined, { signal: turnOfThis.signal });
      trouble.hidden = none.hidden = true;
      content.hidden = false;
      draw();
      onLoaded({ rows: answer.data.flatMap(({ results }) => results), currency: answer.currency });
    } catch (error) {
      if (!isNews(error)) return;
      const isUnkept = error.code === "usage_unavailable" && error.status === 404;
      trouble.replaceChildren(icon("warning"), h("span", {}, `The usage could not be loaded. ${error.message}`),
        h("button", { type: "button", class: "button small", onclick: () => load(filters) }, "Try again"));
      trouble.hidden = isUnkept;
      none.hidden = !isUnkept;
      content.hidden = isUnkept || answer === null;
      if (isUnkept) onLoaded(null);
    } finally {
      if (loading === turnOfThis) content.setAttribute("aria-busy", "false");
    }
  }

  function draw() {
    if (answer === null) return;
    const { currency } = answer;
    const bars = answer.data.map(({ start_time: start, results }) => ({ start, results, byModel: new Map(results.map((row) => [row.model, sumOf([row])])) }));
    const rows = bars.flatMap(({ results }) => results);
    const total = sumOf(rows);
    set(tiles.requests, count(total.requests), total.errors > 0 ? `${plural(total.errors, "error")} among them` : "");
    set(tiles.input, total.input === null ? "–" : short(total.input), total.input === null ? "" : total.cached === null ? count(total.input) : `${count(total.input)}; ${count(total.cached)} cached`);
    set(tiles.output, total.output === null ? "–" : short(total.output), total.output === null ? "" : total.reasoning === null ? count(total.output) : `${count(total.output)}; ${count(total.reasoning)} reasoning`);
    set(tiles.cost, total.cost === null ? "–" : money(total.cost, currency), total.cost === null ? "no price is set" : "at the prices when it was used");

    const [of, { unit }] = [measure.value(), RANGES[range.value()]];
    const write = of === "cost" ? { long: (value) => money(value, currency), short: (value) => short(value / 1_000_000) } : { long: count, short };
    const sizeOf = (sums) => sums?.[of] ?? 0;
    const models = Map.groupBy(rows, ({ model }) => model);
    const ordered = [...models].map(([model, some]) => ({ model, total: sizeOf(sumOf(some)) })).filter(({ total }) => total > 0)
      .sort((one, other) => other.total - one.total);
    const [named, rest] = [ordered.slice(0, ordered.length > TONES.length + 1 ? TONES.length : ordered.length), ordered.length > TONES.length + 1 ? ordered.slice(TONES.length) : []];
    const series = named.map(({ model, total }, at) => ({ name: visible(model), tone: TONES[at] ?? OTHERS, total, value: ({ byModel }) => sizeOf(byModel.get(model)) }));
    if (rest.length > 0) {
      series.push({ name: plural(rest.length, "other model"), tone: OTHERS, total: rest.reduce((sum, { total }) => sum + total, 0),
        value: ({ byModel }) => rest.reduce((sum, { model }) => sum + sizeOf(byModel.get(model)), 0) });
    }
    title.textContent = `${MEASURES[of]} by ${unit} and model`;
    chartTotal.textContent = total[of] === null ? "" : write.long(total[of]);
    chart.update(bars, series, write);
    legend.replaceChildren(...series.map(({ name, tone, total: some }) =>
      h("li", {}, h("span", { class: `swatch tone-${tone}` }), foreign(name), h("span", { class: "number" }, write.long(some)))));
    doubt.hidden = total.atLeast + total.unknown === 0;
    doubt.textContent = `Of ${plural(total.requests, "request")}, ${count(total.atLeast)} used at least what is counted: their streams were cut, or their upstream did not say. Of ${count(total.unknown)} nothing is known.`;
    const days = bars.toReversed().flatMap((bar) => bar.results.map((row) => ({ name: [shortName(bar), h("span", { class: "sub" }, foreign(visible(row.model)))], sums: sumOf([row]) })));
    numbers.replaceChildren(days.length === 0 ? h("p", { class: "muted" }, "Nothing was used in this time.")
      : sumsTable({ label: `Usage by ${unit} and model`, name: unit === "day" ? "Day, model" : "Hour, model", rows: days, total, currency }));
  }

  return {
    element: [trouble, none, content], controls: [range.element, measure.element], load, request, measure: () => measure.value(),
    rangeText: () => RANGES[range.value()].text,
    /** What the address says. */
    take: (parameters) => {
      range.set(parameters.get("range") in RANGES ? parameters.get("range") : FIRST.range);
      measure.set(parameters.get("show") in MEASURES ? parameters.get("show") : FIRST.measure);
    },
    /** The same for the address. */
    parameters: () => [["range", range.value(), FIRST.range], ["show", measure.value(), FIRST.measure]]
      .filter(([, value, first]) => value !== first).map(([name, value]) => [name, value]),
    leave: () => {
      loading?.abort();
      chart.leave();
    },
  };
}

function set({ value, note }, text, below) {
  value.textContent = text;
  note.textContent = below;
}
