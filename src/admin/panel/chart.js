// Bars by minute, stacked, drawn by hand in SVG: sixty of them need no library. The pointer and the arrow keys go
// through the minutes; who sees no drawing reads the summary, and the table below it.

import { h, svg } from "./dom.js";
import { count, timeOfDay } from "./format.js";

const HEIGHT = 190;
const EDGE = { top: 10, right: 4, bottom: 24, left: 44 };

/**
 * A chart: {element, update(minutes, series)}. `series` are [{name, tone, value(minute)}], the lowest first; `tone`
 * numbers a colour of the style sheet.
 */
export function barChart({ label, empty }) {
  const drawing = svg("svg", { class: "chart", "aria-hidden": "true", focusable: "false" });
  const readout = h("div", { class: "readout", hidden: true });
  const spoken = h("p", { class: "unseen", role: "status" });
  const frame = h("div", { class: "chart-frame", tabindex: "0", role: "application", "aria-label": label, "aria-roledescription": "chart" }, drawing, readout);
  let minutes = [];
  let series = [];
  let at = null;
  let bars = [];

  const total = (minute) => series.reduce((sum, { value }) => sum + value(minute), 0);

  function draw() {
    const width = frame.clientWidth;
    if (width === 0) return;
    drawing.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    drawing.setAttribute("width", width);
    drawing.setAttribute("height", HEIGHT);
    const top = niceTop(Math.max(...minutes.map(total), 0));
    const [inner, tall] = [width - EDGE.left - EDGE.right, HEIGHT - EDGE.top - EDGE.bottom];
    const y = (value) => EDGE.top + tall * (1 - value / top);
    const step = inner / minutes.length;
    const thick = Math.max(2, step * 0.72);
    const lines = [0, top / 2, top].map((value) => [
      svg("line", { class: value === 0 ? "axis" : "grid", x1: EDGE.left, x2: width - EDGE.right, y1: y(value), y2: y(value) }),
      svg("text", { class: "tick-text", x: EDGE.left - 8, y: y(value) + 4, "text-anchor": "end" }, short(value)),
    ]);
    const ages = (width < 420 ? [60, 30, 0] : [60, 45, 30, 15, 0]).map((age) => svg("text", { class: "tick-text",
      x: EDGE.left + inner * (1 - age / 60), y: HEIGHT - 6,
      "text-anchor": age === 60 ? "start" : age === 0 ? "end" : "middle" }, age === 0 ? "now" : age === 60 ? "1 h ago" : `${age} min`));
    bars = minutes.map((minute, index) => {
      const x = EDGE.left + step * index + (step - thick) / 2;
      let below = 0;
      const parts = series.map(({ tone, value }) => {
        const size = value(minute);
        if (size === 0) return null;
        const [from, to] = [y(below), y(below + size)];
        below += size;
        // However few they are, there is something to see.
        return svg("rect", { class: `tone-${tone}`, x, y: Math.min(to, from - 1.5), width: thick, height: Math.max(1.5, from - to), rx: Math.min(1.5, thick / 3) });
      });
      return svg("g", { class: "bar" }, svg("rect", { class: "bar-back", x: EDGE.left + step * index, y: EDGE.top, width: step, height: tall }), parts);
    });
    const isSilent = minutes.every((minute) => total(minute) === 0);
    drawing.replaceChildren(...lines.flat(), ...bars, ...ages,
      ...(isSilent ? [svg("text", { class: "chart-empty", x: EDGE.left + inner / 2, y: EDGE.top + tall / 2, "text-anchor": "middle" }, empty)] : []));
    point(at, { speak: false });
  }

  function point(index, { speak }) {
    at = index === null || minutes.length === 0 ? null : Math.max(0, Math.min(minutes.length - 1, index));
    bars.forEach((bar, other) => bar.classList.toggle("pointed", other === at));
    readout.hidden = at === null;
    if (at === null) return;
    const minute = minutes[at];
    const present = series.filter(({ value }) => value(minute) > 0).toReversed();
    readout.replaceChildren(h("p", { class: "readout-time" }, `${timeOfDay(Date.parse(minute.at))} UTC`),
      ...(present.length === 0 ? [h("p", { class: "muted" }, "None")] : present.map(({ name, tone, value }) =>
        h("p", {}, h("span", { class: `swatch tone-${tone}` }), h("span", {}, name), h("span", { class: "number" }, count(value(minute)))))));
    const x = EDGE.left + ((frame.clientWidth - EDGE.left - EDGE.right) / minutes.length) * (at + 0.5);
    const isRight = x > frame.clientWidth / 2;
    readout.style.left = isRight ? "" : `${x + 10}px`;
    readout.style.right = isRight ? `${frame.clientWidth - x + 10}px` : "";
    if (speak) spoken.textContent = [`${timeOfDay(Date.parse(minute.at))} UTC`, ...(present.length === 0 ? ["none"] : present.map(({ name, value }) => `${name} ${count(value(minute))}`))].join(", ");
  }

  frame.addEventListener("pointermove", (event) => {
    const box = frame.getBoundingClientRect();
    const share = (event.clientX - box.left - EDGE.left) / (box.width - EDGE.left - EDGE.right);
    point(share < 0 || share > 1 ? null : Math.floor(share * minutes.length), { speak: false });
  });
  frame.addEventListener("pointerleave", () => point(null, { speak: false }));
  frame.addEventListener("blur", () => point(null, { speak: false }));
  frame.addEventListener("keydown", (event) => {
    const last = minutes.length - 1;
    const to = { ArrowLeft: at === null ? last : at - 1, ArrowRight: at === null ? last : at + 1, Home: 0, End: last }[event.key];
    if (event.key === "Escape") point(null, { speak: false });
    if (to === undefined) return;
    event.preventDefault();
    point(to, { speak: true });
  });
  const sizes = new ResizeObserver(draw);
  sizes.observe(frame);

  return {
    element: h("div", { class: "chart-place" }, frame, spoken),
    update: (newMinutes, newSeries) => {
      minutes = newMinutes;
      series = newSeries;
      draw();
    },
    leave: () => sizes.disconnect(),
  };
}

/** The least round number that is no less, with a half that is a whole number. */
function niceTop(most) {
  for (let power = 1; ; power *= 10) {
    const fit = [2, 4, 6, 8, 10, 12, 16].map((step) => step * power).find((top) => top >= most);
    if (fit) return fit;
  }
}

const compact = new Intl.NumberFormat("en-US", { notation: "compact" });
const short = (value) => compact.format(value);
