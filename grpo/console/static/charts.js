// Pictures: a curve with its band, by uPlot.

import { number } from "./dom.js";

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const finite = (values) => values.filter((value) => value !== null && value !== undefined);

function axes(height) {
  const plain = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
  return [
    { ...plain, space: 60, size: 26, values: (_, ticks) => ticks.map((t) => (Number.isInteger(t) ? String(t) : "")) },
    { ...plain, size: height > 150 ? 52 : 44, space: height > 150 ? 34 : 26, values: (_, ticks) => ticks.map((t) => number(t)) },
  ];
}

// Held-out means with their intervals, and checkpoints as marks on the axis.
function marks(evaluations, checkpoints) {
  return (plot) => {
    const { ctx } = plot;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = colour("--orange");
    ctx.lineWidth = 2 * devicePixelRatio;
    for (const found of evaluations) {
      const x = plot.valToPos(found.step, "x", true);
      ctx.beginPath();
      ctx.moveTo(x, plot.valToPos(found.low, "y", true));
      ctx.lineTo(x, plot.valToPos(found.high, "y", true));
      ctx.stroke();
      ctx.beginPath();
      ctx.arc(x, plot.valToPos(found.mean, "y", true), 4 * devicePixelRatio, 0, 7);
      ctx.fill();
    }
    ctx.fillStyle = colour("--soft");
    for (const step of checkpoints) {
      const x = plot.valToPos(step, "x", true);
      ctx.fillRect(x - devicePixelRatio, plot.bbox.top + plot.bbox.height - 6 * devicePixelRatio, 2 * devicePixelRatio, 6 * devicePixelRatio);
    }
    ctx.restore();
  };
}

// series: [{label, steps, mean, low, high, colour}] on the same steps. Returns {update, destroy}.
export function curve(place, { height = 150, evaluations = [], checkpoints = [], onstep = null, label = "" }) {
  let plot = null;
  const build = (data, extra) => {
    const options = {
      width: place.clientWidth || 300,
      height,
      scales: { x: { time: false }, y: { range: (_, low, high) => padded(low, high, extra) } },
      axes: axes(height),
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
      legend: { show: false },
      series: [{}, { stroke: "transparent" }, { stroke: "transparent" }, { stroke: colour("--accent"), width: 2, points: { show: data[0].length < 40, size: 5 } }],
      bands: [{ series: [2, 1], fill: colour("--band") }],
      hooks: { draw: [marks(evaluations, checkpoints)] },
    };
    plot = new uPlot(options, data, place);
    plot.root.setAttribute("role", "img");
    plot.root.setAttribute("aria-label", label);
    if (onstep) plot.over.addEventListener("click", () => plot.cursor.idx !== null && plot.cursor.idx !== undefined && onstep(plot.data[0][plot.cursor.idx]));
  };
  const resize = new ResizeObserver(() => plot && plot.setSize({ width: place.clientWidth, height }));
  resize.observe(place);
  return {
    update(steps, column) {
      const data = [steps.map((step) => step + 1), column.low, column.high, column.mean];
      const extra = evaluations.flatMap((found) => [found.low, found.high]);
      if (plot) plot.setData(data);
      else build(data, finite(extra));
    },
    destroy() {
      resize.disconnect();
      plot?.destroy();
    },
  };
}

function padded(low, high, extra) {
  const least = Math.min(low ?? 0, ...extra), most = Math.max(high ?? 1, ...extra);
  const room = (most - least || Math.abs(most) || 1) * 0.06;
  return [least - room, most + room];
}
