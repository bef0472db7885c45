// AI / Dashboard: the last hour, drawn; how the keys stand; the last reload, and the next.

import { call, isNews } from "./api.js";
import { barChart } from "./chart.js";
import { foreign, h, icon, quotedText } from "./dom.js";
import { count, dateAndTime, duration, fromNow, plural, timeElement, timeOfDay } from "./format.js";
import { openKeyForm } from "./key-form.js";
import { toast } from "./overlay.js";
import { recentRefusals, refusalTable } from "./refusals.js";
import { openReload } from "./reload.js";
import { session } from "./session.js";

const EVERY = 5_000;
/** Updates stop once nobody has touched anything this long: looking at itself must not keep a session alive. */
const IDLE = 15 * 60_000;
const MOST_EXPIRING = 6;

/** Why requests are refused, in groups that can be told apart by colour; codes not named here are in the last. */
const REASONS = [
  { name: "Key not valid", tone: 2, codes: ["invalid_api_key"] },
  { name: "No key sent", tone: 3, codes: ["missing_api_key"] },
  { name: "Key expired", tone: 4, codes: ["expired_api_key"] },
  { name: "Address not allowed", tone: 5, codes: ["ip_not_authorized"] },
  { name: "Model not available", tone: 6, codes: ["model_not_found"] },
  { name: "Upstream or gateway failed", tone: 7, codes: ["upstream_unavailable", "upstream_unreachable", "upstream_timeout",
    "upstream_rejected", "not_ready", "shutting_down", "overloaded", "internal_error"] },
  { name: "Request not taken", tone: 8, codes: null },
];
const NAMED = new Set(["allowed", ...REASONS.flatMap(({ codes }) => codes ?? [])]);

/** Draws the view. */
export function dashboardView(main, title) {
  let loading = null;
  let timer = null;
  let touched = Date.now();
  let isPaused = false;
  let seesAll = false;

  const tile = (name) => {
    const value = h("p", { class: "tile-value" }, "–");
    const note = h("p", { class: "tile-note" });
    return { value, note, element: h("div", { class: "card tile" }, h("h2", {}, name), value, note) };
  };
  const tiles = { requests: tile("Requests a minute"), flight: tile("In flight"), overhead: tile("Gateway overhead"), keys: tile("Keys") };
  const minutesOfHour = { nameOf: ({ at }) => `${timeOfDay(Date.parse(at))} UTC`,
    ticks: (_, isNarrow) => (isNarrow ? [60, 30, 0] : [60, 45, 30, 15, 0]).map((age) => (
      { at: 1 - age / 60, text: age === 0 ? "now" : age === 60 ? "1 h ago" : `${age} min` })) };
  const allowed = barChart({ ...minutesOfHour, label: "Allowed requests by minute over the last hour; arrow keys go through the minutes", empty: "No request was allowed in the last hour" });
  const refused = barChart({ ...minutesOfHour, label: "Refused requests by minute and reason over the last hour; arrow keys go through the minutes", empty: "No request was refused in the last hour" });
  const allowedTotal = h("p", { class: "chart-total" });
  const refusedTotal = h("p", { class: "chart-total" });
  const peak = h("p", { class: "legend muted" });
  const legend = h("ul", { class: "legend" });
  const numbers = h("tbody");
  const refusals = h("div", { class: "refusals" });
  const expiring = h("div", { class: "expiring" });
  const keyStates = h("div", { class: "key-states" });
  const lastReload = h("div", { class: "last-reload" });
  const trouble = h("div", { class: "notice bad", role: "alert", hidden: true });
  const fresh = h("p", { class: "fresh-line" });
  const card = (name, content, aside) => h("section", { class: "card panel-card" }, h("header", {}, h("h2", {}, name), aside), content);

  main.append(
    h("header", { class: "page-head" },
      h("div", {}, h("p", { class: "crumb" }, "AI"), h("h1", { tabindex: "-1" }, title),
        h("p", { class: "lead" }, "The last hour, as the gateway decided.")), fresh),
    trouble,
    h("div", { class: "tiles" }, Object.values(tiles).map(({ element }) => element)),
    h("div", { class: "charts" },
      card("Allowed", [allowed.element, peak], allowedTotal),
      card("Refused, by reason", [refused.element, legend], refusedTotal)),
    h("details", { class: "numbers" }, h("summary", {}, "The same as a table"),
      h("div", { class: "card table-card scroll", tabindex: "0", role: "region", "aria-label": "Requests of the last hour by outcome" }, h("table", {},
        h("thead", {}, h("tr", {}, ["Outcome", "Last minute", "Last hour"].map((name) => h("th", { scope: "col" }, name)))), numbers))),
    card("Recent refusals", refusals),
    h("div", { class: "charts" },
      card("Keys that expire within 7 days", expiring),
      h("div", { class: "stack" }, card("Keys by state", keyStates),
        card("Last reload", lastReload, h("button", { type: "button", class: "button small", onclick: () => openReload({ onReloaded: load }) }, icon("refresh"), "Reload…")))));

  const touch = () => {
    touched = Date.now();
    if (isPaused) {
      isPaused = false;
      load();
    }
  };
  const seen = () => document.visibilityState === "visible" && load();
  for (const event of ["pointerdown", "pointermove", "keydown", "wheel"]) addEventListener(event, touch, { passive: true });
  document.addEventListener("visibilitychange", seen);
  load();

  function later() {
    clearTimeout(timer);
    timer = setTimeout(() => {
      if (document.visibilityState !== "visible") return;
      if (Date.now() - touched > IDLE) {
        isPaused = true;
        fresh.textContent = "Paused: move the pointer or press a key to go on";
        return;
      }
      load();
    }, EVERY);
  }

  async function load() {
    loading?.abort();
    const turnOfThis = loading = new AbortController();
    clearTimeout(timer);
    try {
      const { signal } = turnOfThis;
      const [overview, found] = await Promise.all([call("GET", "/api/overview", undefined, { signal }), recentRefusals(undefined, { signal })]);
      draw(overview);
      replace(refusals, ...[refusalTable(found)].flat().filter(Boolean));
      trouble.hidden = true;
      later();
    } catch (error) {
      if (!isNews(error)) return;
      // The same trouble is told once, not every few seconds.
      const text = `The numbers could not be loaded. ${error.message}`;
      if (trouble.hidden || trouble.lastChild?.textContent !== text) trouble.replaceChildren(icon("warning"), h("span", {}, text));
      trouble.hidden = false;
      later();
    }
  }

  function draw(overview) {
    const { minutes } = overview;
    const of = (minute, code) => minute.outcomes[code] ?? 0;
    const all = (minute) => Object.values(minute.outcomes).reduce((sum, value) => sum + value, 0);
    const hour = (value) => minutes.reduce((sum, minute) => sum + value(minute), 0);
    const allowedOf = (minute) => of(minute, "allowed");
    const series = REASONS.map(({ name, tone, codes }) => ({ name, tone, value: (minute) => codes
      ? codes.reduce((sum, code) => sum + of(minute, code), 0)
      : Object.entries(minute.outcomes).reduce((sum, [code, value]) => sum + (NAMED.has(code) ? 0 : value), 0) }));
    const present = series.map((one) => ({ ...one, total: hour(one.value) })).filter(({ total }) => total > 0);

    // The current minute is not over; the one before it is whole.
    const whole = minutes.at(-2) ?? minutes.at(-1);
    set(tiles.requests, whole ? count(all(whole)) : "–", `${count(hour(all))} in the last hour`);
    set(tiles.flight, count(overview.in_flight), plural(overview.connections, "open connection"));
    const { p50, p99 } = overview.overhead_seconds;
    set(tiles.overhead, p50 === null ? "–" : measure(p50), p99 === null ? "no request yet" : [h("span", {}, "median; 99 % within "), measure(p99)]);
    const { active, disabled, expired } = overview.keys;
    set(tiles.keys, count(active + disabled + expired), `${count(active)} active`);

    allowed.update(minutes, [{ name: "Allowed", tone: 1, value: allowedOf }]);
    refused.update(minutes, present);
    peak.textContent = `At most ${plural(Math.max(0, ...minutes.map(allowedOf)), "request")} in one minute`;
    allowedTotal.textContent = count(hour(allowedOf));
    refusedTotal.textContent = count(hour((minute) => all(minute) - allowedOf(minute)));
    legend.replaceChildren(...present.map(({ name, tone, total }) =>
      h("li", {}, h("span", { class: `swatch tone-${tone}` }), h("span", {}, name), h("span", { class: "number" }, count(total)))));
    const codes = [...new Set(minutes.flatMap(({ outcomes }) => Object.keys(outcomes)))].sort((one, other) =>
      hour((minute) => of(minute, other)) - hour((minute) => of(minute, one)));
    numbers.replaceChildren(...codes.map((code) => h("tr", {}, h("th", { scope: "row" }, h("code", {}, code)),
      h("td", { class: "number" }, count(of(whole, code))), h("td", { class: "number" }, count(hour((minute) => of(minute, code)))))));

    drawStates({ active, disabled, expired });
    drawExpiring(overview);
    drawReload(overview);
    fresh.textContent = `As of ${overview.now.slice(11, 19)} UTC, every 5 seconds`;
  }

  function drawStates(states) {
    const total = states.active + states.disabled + states.expired;
    const names = { active: "Active", disabled: "Disabled", expired: "Expired" };
    const bar = h("div", { class: "state-bar", "aria-hidden": "true" }, Object.entries(states).filter(([, value]) => value > 0).map(([name, value]) => {
      const part = h("span", { class: `state-part ${name}` });
      part.style.flexGrow = String(value / total);
      return part;
    }));
    replace(keyStates, bar, h("ul", { class: "legend" }, Object.entries(states).map(([name, value]) =>
      h("li", {}, h("span", { class: `swatch state-${name}` }), h("span", {}, names[name]), h("span", { class: "number" }, count(value))))));
  }

  function drawExpiring({ expiring: list, expiring_count: total }) {
    if (total === 0) {
      replace(expiring, h("p", { class: "muted calm" }, icon("check"), "No key expires within the next 7 days."));
      return;
    }
    const shown = seesAll ? list : list.slice(0, MOST_EXPIRING);
    const item = (key) => h("li", { "data-id": key.id },
      h("span", { class: "expiring-name" }, h("button", { type: "button", class: "link name", "aria-label": `Edit ${quotedText(key.name)}`, onclick: () => edit(key.id) }, foreign(key.name)),
        key.account && h("span", { class: "sub" }, foreign(key.account))),
      timeElement(Date.parse(key.expires_at), fromNow(Date.parse(key.expires_at))));
    replace(expiring, h("ul", { class: "expiring-list" }, shown.map(item)),
      !seesAll && list.length > MOST_EXPIRING && h("button", { type: "button", class: "button quiet small", onclick: () => {
        seesAll = true;
        drawExpiring({ expiring: list, expiring_count: total });
      } }, total > list.length ? `Show the first ${count(list.length)} of ${count(total)}` : `Show all ${count(total)}`),
      seesAll && total > list.length && h("p", { class: "muted" }, `and ${count(total - list.length)} more`));
  }

  function drawReload({ last_reload: last, generation }) {
    const isGood = last.result === "ok";
    replace(lastReload, h("p", {}, h("span", { class: `state ${isGood ? "active" : "expired"}` }, isGood ? "OK" : RESULTS[last.result] ?? last.result),
      " ", timeElement(Date.parse(last.at), fromNow(Date.parse(last.at)), dateAndTime(Date.parse(last.at)))),
    h("p", { class: "reload-message", dir: "auto" }, last.message), h("p", { class: "muted" }, `Generation ${count(generation)}`));
  }

  async function edit(id) {
    try {
      const key = await call("GET", `/api/keys/${encodeURIComponent(id)}`);
      openKeyForm({ key, address: session.client_address, onSaved: (saved) => {
        toast(["“", foreign(saved.name), "” was saved."]);
        load();
      } });
    } catch (error) {
      if (isNews(error)) toast(error.message, { bad: true });
    }
  }

  return { refresh: load, leave: () => {
    loading?.abort();
    clearTimeout(timer);
    allowed.leave();
    refused.leave();
    for (const event of ["pointerdown", "pointermove", "keydown", "wheel"]) removeEventListener(event, touch);
    document.removeEventListener("visibilitychange", seen);
  } };
}

const RESULTS = { faulty: "Faulty", dropped: "Refused: would drop too many", failed: "Failed" };

function set({ value, note }, text, below) {
  value.replaceChildren(...[text].flat());
  note.replaceChildren(...[below].flat());
}

function measure(seconds) {
  const [value, unit] = duration(seconds);
  return h("span", { class: "measure" }, value, h("span", { class: "unit" }, ` ${unit}`));
}

/** New content, unless it is the same as it was: whoever is on a button there stays on it. */
function replace(element, ...children) {
  const content = h("div", {}, ...children);
  if (element.firstChild?.isEqualNode(content)) return;
  const at = [...element.querySelectorAll("button")].indexOf(document.activeElement);
  element.replaceChildren(content);
  if (at >= 0) element.querySelectorAll("button")[at]?.focus({ preventScroll: true });
}
