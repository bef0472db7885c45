// Bars over time, stacked, drawn by hand in SVG: ninety of them need no library. The pointer and the arrow keys go
// through the bars; who sees no drawing reads the summary, and the table below it.

import { foreign, h, isolated, svg } from "./dom.js";
import { count, short } from "./format.js";

const HEIGHT = 190;
const EDGE = { top: 10, right: 4, bottom: 24, left: 44 };

/**
 * A chart: {element, update(bars, series, numbers), leave()}. A bar is what stands for a span of time: `nameOf(bar)` is
 * that span in words, and `ticks(bars, isNarrow)` are the texts of the axis, [{at, text}] with `at` from 0 to 1. `series`
 * are [{name, tone, value(bar)}], the lowest first; `tone` numbers a colour of the style sheet. `numbers` write a value:
 * {long, short}, `short` for the axis.
 */
export function barChart({ label, empty, nameOf, ticks }) {
  const drawing = svg("svg", { class: "chart", "aria-hidden": "true", focusable: "false" });
  const readout = h("div", { class: "readout", hidden: true });
  const spoken = h("p", { class: "unseen", role: "status" });
  const frame = h("div", { class: "chart-frame", tabindex: "0", role: "application", "aria-label": label, "aria-roledescription": "chart" }, drawing, readout);
  let bars = [];
  let series = [];
  let numbers = { long: count, short };
  let at = null;
  let drawn = [];

  const total = (bar) => series.reduce((sum, { value }) => sum + value(bar), 0);

  function draw() {
    const width = frame.clientWidth;
    if (width === 0) return;
    drawing.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    drawing.setAttribute("width", width);
    drawing.setAttribute("height", HEIGHT);
    const top = niceTop(Math.max(...bars.map(total), 0));
    const [inner, tall] = [width - EDGE.left - EDGE.right, HEIGHT - EDGE.top - EDGE.bottom];
    const y = (value) => EDGE.top + tall * (1 - value / top);
    const step = inner / bars.length;
    const thick = Math.max(2, step * 0.72);
    const lines = [0, top / 2, top].map((value) => [
      svg("line", { class: value === 0 ? "axis" : "grid", x1: EDGE.left, x2: width - EDGE.right, y1: y(value), y2: y(value) }),
      svg("text", { class: "tick-text", x: EDGE.left - 8, y: y(value) + 4, "text-anchor": "end" }, numbers.short(value)),
    ]);
    const texts = ticks(bars, width < 420).map(({ at: share, text }) => svg("text", { class: "tick-text",
      x: EDGE.left + inner * share, y: HEIGHT - 6,
      "text-anchor": share === 0 ? "start" : share === 1 ? "end" : "middle" }, text));
    drawn = bars.map((bar, index) => {
      const x = EDGE.left + step * index + (step - thick) / 2;
      let below = 0;
      const parts = series.map(({ tone, value }) => {
        const size = value(bar);
        if (size === 0) return null;
        const [from, to] = [y(below), y(below + size)];
        below += size;
        // However few they are, there is something to see.
        return svg("rect", { class: `tone-${tone}`, x, y: Math.min(to, from - 1.5), width: thick, height: Math.max(1.5, from - to), rx: Math.min(1.5, thick / 3) });
      });
      return svg("g", { class: "bar" }, svg("rect", { class: "bar-back", x: EDGE.left + step * index, y: EDGE.top, width: step, height: tall }), parts);
    });
    const isSilent = bars.every((bar) => total(bar) === 0);
    drawing.replaceChildren(...lines.flat(), ...drawn, ...texts,
      ...(isSilent ? [svg("text", { class: "chart-empty", x: EDGE.left + inner / 2, y: EDGE.top + tall / 2, "text-anchor": "middle" }, empty)] : []));
    point(at, { speak: false });
  }

  function point(index, { speak }) {
    at = index === null || bars.length === 0 ? null : Math.max(0, Math.min(bars.length - 1, index));
    drawn.forEach((bar, other) => bar.classList.toggle("pointed", other === at));
    readout.hidden = at === null;
    if (at === null) return;
    const bar = bars[at];
    const present = series.filter(({ value }) => value(bar) > 0).toReversed();
    readout.replaceChildren(h("p", { class: "readout-time" }, nameOf(bar)),
      ...(present.length === 0 ? [h("p", { class: "muted" }, "None")] : present.map(({ name, tone, value }) =>
        h("p", {}, h("span", { class: `swatch tone-${tone}` }), h("span", {}, foreign(name)), h("span", { class: "number" }, numbers.long(value(bar)))))));
    const x = EDGE.left + ((frame.clientWidth - EDGE.left - EDGE.right) / bars.length) * (at + 0.5);
    const isRight = x > frame.clientWidth / 2;
    readout.style.left = isRight ? "" : `${x + 10}px`;
    readout.style.right = isRight ? `${frame.clientWidth - x + 10}px` : "";
    if (speak) spoken.textContent = [nameOf(bar), ...(present.length === 0 ? ["none"] : present.map(({ name, value }) => `${isolated(name)} ${numbers.long(value(bar))}`))].join(", ");
  }

  frame.addEventListener("pointermove", (event) => {
    const box = frame.getBoundingClientRect();
    const share = (event.clientX - box.left - EDGE.left) / (box.width - EDGE.left - EDGE.right);
    point(share < 0 || share > 1 ? null : Math.floor(share * bars.length), { speak: false });
  });
  frame.addEventListener("pointerleave", () => point(null, { speak: false }));
  frame.addEventListener("blur", () => point(null, { speak: false }));
  frame.addEventListener("keydown", (event) => {
    const last = bars.length - 1;
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
    update: (newBars, newSeries, newNumbers = numbers) => {
      bars = newBars;
      series = newSeries;
      numbers = newNumbers;
      draw();
    },
    leave: () => sizes.disconnect(),
  };
}

/** The least round number that is no less, with a half that is a whole number. */
function niceTop(most) {
  if (most <= 8) return [2, 4, 6, 8].find((top) => top >= most);
  for (let power = 1; ; power *= 10) {
    const fit = [10, 12, 16, 20, 24, 30, 40, 50, 60, 80].map((step) => step * power).find((top) => top >= most);
    if (fit) return fit;
  }
}
