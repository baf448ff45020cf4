// Pictures: a curve with its band and marks, the stop rule's bound, several runs in one, by uPlot.

import { number } from "./dom.js";

export const COLOURS = ["--accent", "--orange", "--good", "--violet"];
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const finite = (values) => values.filter((value) => value !== null && value !== undefined);

function axes(height) {
  const plain = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
  return [
    { ...plain, space: 60, size: 26, values: (_, ticks) => ticks.map((t) => (Number.isInteger(t) ? String(t) : "")) },
    { ...plain, size: height > 150 ? 52 : 44, space: height > 150 ? 34 : 20, values: (_, ticks) => ticks.map((t) => number(t)) },
  ];
}

// A plot that is built with its first data, follows the width of its place, and opens a step that is clicked.
function plotted(place, { height, label, onstep, series, bands = [], draw = () => {}, y, x = (_, low, high) => [low, high] }) {
  let plot = null;
  const build = (data) => {
    plot = new uPlot({
      width: place.clientWidth || 300, height, bands,
      scales: { x: { time: false, range: x }, y: { range: y } },
      axes: axes(height),
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
      legend: { show: false },
      series: [{}, ...series(data)],
      hooks: { draw: [draw] },
    }, data, place);
    plot.root.setAttribute("role", "img");
    plot.root.setAttribute("aria-label", label);
    if (onstep) plot.over.addEventListener("click", () => plot.cursor.idx !== null && plot.cursor.idx !== undefined && onstep(plot.data[0][plot.cursor.idx]));
  };
  const resize = new ResizeObserver(() => plot && plot.setSize({ width: place.clientWidth, height }));
  resize.observe(place);
  return {
    update(data) { if (plot) plot.setData(data); else build(data); },
    destroy() { resize.disconnect(); plot?.destroy(); },
  };
}

function padded(low, high, extra) {
  const least = Math.min(low ?? 0, ...extra), most = Math.max(high ?? 1, ...extra);
  const room = (most - least || Math.abs(most) || 1) * 0.06;
  return [least - room, most + room];
}

function stroke(plot, from, to, { dash = [], width = 2, name }) {
  const { ctx } = plot;
  ctx.strokeStyle = colour(name);
  ctx.lineWidth = width * devicePixelRatio;
  ctx.setLineDash(dash.map((part) => part * devicePixelRatio));
  ctx.beginPath();
  ctx.moveTo(...from);
  ctx.lineTo(...to);
  ctx.stroke();
}

function dot(plot, x, y, name) {
  plot.ctx.fillStyle = colour(name);
  plot.ctx.beginPath();
  plot.ctx.arc(x, y, 4 * devicePixelRatio, 0, 7);
  plot.ctx.fill();
}

// An estimate with its interval: upright, and lying where the step is uncertain too.
function estimate(plot, { step, steps, mean, low, high }, name) {
  const x = plot.valToPos(step, "x", true), y = plot.valToPos(mean, "y", true);
  stroke(plot, [x, plot.valToPos(low, "y", true)], [x, plot.valToPos(high, "y", true)], { name });
  if (steps) stroke(plot, [plot.valToPos(steps[0], "x", true), y], [plot.valToPos(steps[1], "x", true), y], { name });
  dot(plot, x, y, name);
}

function level(plot, value, name, dash) {
  const y = plot.valToPos(value, "y", true), { left, width } = plot.bbox;
  stroke(plot, [left, y], [left + width, y], { name, dash, width: 1 });
}

// What else is known of the reward: {evaluations, checkpoints, restarts, base, forecast}, as it is at the time of drawing.
function marks(known) {
  return (plot) => {
    const { ctx } = plot, { top, height, left, width } = plot.bbox, { evaluations = [], checkpoints = [], restarts = [], base = null, forecast = null } = known();
    ctx.save();
    ctx.rect(left, top, width, height);
    ctx.clip();
    if (base !== null) level(plot, base, "--soft", [4, 4]);
    for (const step of restarts) { const x = plot.valToPos(step + 0.5, "x", true); stroke(plot, [x, top], [x, top + height], { name: "--soft", dash: [2, 3], width: 1 }); }
    for (const step of checkpoints) { const x = plot.valToPos(step, "x", true); stroke(plot, [x, top + height - 7 * devicePixelRatio], [x, top + height], { name: "--soft" }); }
    for (const found of evaluations) estimate(plot, found, "--orange");
    if (forecast) estimate(plot, forecast, "--violet");
    ctx.restore();
  };
}

// column: {mean, low, high} over the same steps (from 0). Returns {update, destroy}.
export function curve(place, { height = 150, known = () => ({}), onstep = null, label = "" }) {
  const extra = () => {
    const { evaluations = [], base = null, forecast = null } = known();
    return finite([base, ...[...evaluations, ...(forecast ? [forecast] : [])].flatMap((found) => [found.low, found.high])]);
  };
  const found = plotted(place, {
    height, label, onstep,
    series: (data) => [{ stroke: "transparent" }, { stroke: "transparent" }, { stroke: colour("--accent"), width: 2, points: { show: data[0].length < 40, size: 5 } }],
    bands: [{ series: [2, 1], fill: colour("--band") }],
    y: (_, low, high) => padded(low, high, extra()),
    x: (_, low, high) => [low, low + 1.01 * Math.max(1, Math.max(high, known().forecast?.steps[1] ?? high) - low)],
    draw: marks(known),
  });
  return { ...found, update: (steps, column) => found.update([steps.map((step) => step + 1), column.low, column.high, column.mean]) };
}

// The gain that the stop rule could still not rule out, look by look, against what it must be below.
export function bound(place, { height = 120, levels, steps, label }) {
  const found = plotted(place, {
    height, label,
    series: (data) => [{ stroke: colour("--violet"), width: 2, points: { show: data[0].length < 60, size: 5 } }],
    x: () => [1, Math.max(2, steps())],
    y: (_, low, high) => padded(Math.min(0, low ?? 0), Math.min(high ?? 1, 5 * levels.delta || 1), finite(Object.values(levels))),
    draw: (plot) => {
      plot.ctx.save();
      level(plot, levels.delta, "--good", [6, 4]);
      if (levels.certifiable !== null && levels.certifiable !== undefined) level(plot, levels.certifiable, "--soft", [2, 3]);
      plot.ctx.restore();
    },
  });
  return { ...found, update: (looks) => found.update([looks.map((look) => look.step), looks.map((look) => look.bound)]) };
}

// Several runs: parts are [{step, values}], a colour each, on the steps of all of them.
export function overlay(place, { height = 260, label = "" }) {
  const found = plotted(place, {
    height, label,
    series: (data) => data.slice(1).map((_, k) => ({ stroke: colour(COLOURS[k]), width: 2, spanGaps: true, points: { show: false } })),
    y: (_, low, high) => padded(low, high, []),
  });
  return { ...found, update: (parts) => found.update(uPlot.join(parts.map(({ step, values }) => [step.map((s) => s + 1), values]))) };
}
