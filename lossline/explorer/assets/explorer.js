// The explorer: reads the controls, and lets Vega-Lite draw the checkpoints they ask for.
"use strict";

const MOST_DRAWN = 1500; // of more points, an even share is drawn
const COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7a7a7a", "#882255", "#999933", "#44AA99", "#AA4499", "#117733", "#CC6677", "#332288"];
const SHAPES = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "triangle-left"];
const GOLDEN = 0.6180339887498949;

// Checkpoints on both sets, of the runs that the filter admits.
function chosenPoints(study, state) {
  const { checkpoints: at, facts, runs } = study;
  const xs = study.losses[state.unit][state.x], ys = study.losses[state.unit][state.y];
  if (!xs || !ys) return [];
  const words = state.filter.toLowerCase().split(/\s+/).filter(Boolean);
  const level = (fact, run) => facts[fact]?.levels[facts[fact].of[run]] ?? "";
  const admitted = runs.map((name, run) => {
    const text = [name, ...Object.keys(facts).map((fact) => `${fact}=${level(fact, run)}`)].join(" ").toLowerCase();
    return words.every((word) => text.includes(word));
  });
  const last = new Map();
  const points = [];
  xs.forEach((x, i) => {
    const y = ys[i], run = at.run[i];
    if (x === null || y === null || !admitted[run]) return;
    const point = { run: runs[run], step: at.step[i], N: at.N?.[i], D: at.D?.[i], C: at.C?.[i], x, y,
      color: level(state.color, run), marker: level(state.marker, run), last: false };
    points.push(point);
    last.set(run, point);
  });
  for (const point of last.values()) point.last = true;
  return points;
}

function evenShare(points, kept) {
  if (points.length <= MOST_DRAWN) return points;
  const share = MOST_DRAWN / points.length;
  return points.filter((point, i) => (i * GOLDEN) % 1 < share || point.run === kept);
}

function traceRows(study, state) {
  return study.traces.filter((t) => t.unit === state.unit && t.x === state.x && t.y === state.y).flatMap((t) => {
    const [x, y, low, high] = t.values;
    const name = Object.values(t.group).join(", ");
    return x.map((value, i) => ({ x: value, y: y[i], low: low[i], high: high[i], name, color: t.group[state.color] ?? "" }));
  });
}

// Each prediction stands at the checkpoint that was measured.
function predictionRows(study, state, points) {
  const p = study.predictions, rows = [];
  (p.run_id ?? []).forEach((run, i) => {
    if (p.unit[i] !== state.unit || p.x_set[i] !== state.x || p.y_set[i] !== state.y) return;
    const own = points.filter((point) => point.run === run);
    if (!own.length) return;
    const near = own.reduce((a, b) => (Math.abs(a.y - p.measured[i]) <= Math.abs(b.y - p.measured[i]) ? a : b));
    rows.push({ run, x: near.x, measured: p.measured[i], predicted: p.predicted[i], low: p.low[i], high: p.high[i], color: near.color });
  });
  return rows;
}

function limits(values) {
  const low = values.reduce((a, b) => Math.min(a, b), Infinity), high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const margin = 0.05 * (high - low) || 0.05 * Math.abs(high) || 1;
  return [low - margin, high + margin];
}

// Ticks at powers of ten, if there are two.
function decades([low, high]) {
  const values = [];
  for (let power = Math.ceil(Math.log10(low)); 10 ** power <= high; power++) values.push(10 ** power);
  return values.length > 1 ? { values } : { tickCount: 3 };
}

function looks(study, state, points) {
  const levels = study.facts[state.color]?.levels ?? [""];
  const own = study.colors[state.color];
  const color = own ? { domain: levels, range: levels.map((level) => own[level] ?? "#7a7a7a") }
    : levels.length > COLORS.length ? { domain: levels, scheme: "viridis" } : { domain: levels, range: COLORS };
  const marks = state.marker ? study.facts[state.marker].levels : [""];
  const legend = { orient: "bottom", columns: state.narrow ? 2 : 6, symbolLimit: 40 };
  const words = (fact) => fact.replaceAll("_", " ");
  return {
    color: { field: "color", type: "nominal", scale: color, title: words(state.color), legend },
    shape: { field: "marker", type: "nominal", scale: { domain: marks, range: marks.map((_, i) => SHAPES[i % SHAPES.length]) },
      title: words(state.marker), legend: marks.length > 1 ? legend : null },
  };
}

function spec(study, state, points, drawn) {
  const words = study.units[state.unit];
  const look = looks(study, state, points);
  const compute = points.some((point) => point.C) ? ["C", "training FLOPs"] : ["D", "training tokens"];
  const loss = (field, set) => ({ field, type: "quantitative", title: `loss on ${set} (${words})`,
    scale: { domain: limits(points.map((point) => point[field])), zero: false, nice: false } });
  const sizes = points.map((point) => point[compute[0]]).filter((size) => size > 0);
  const ends = sizes.length ? [sizes.reduce((a, b) => Math.min(a, b)) / 1.4, sizes.reduce((a, b) => Math.max(a, b)) * 1.4] : [1, 10];
  const scale = { field: compute[0], type: "quantitative", title: compute[1], scale: { type: "log", domain: ends, nice: false }, axis: { format: "~e", labelOverlap: "greedy", labelSeparation: 8, ...decades(ends) } };
  const x = loss("x", state.x), y = loss("y", state.y);
  const number = (field, title, format) => ({ field, type: "quantitative", title, format });
  const tooltip = [{ field: "run", title: "run" }, number("step", "step", ","), number("N", "N (parameters)", ".3s"), number("D", "D (tokens)", ".3s"),
    number("C", "C (FLOPs)", ".3e"), number("x", `loss on ${state.x}`, ".4f"), number("y", `loss on ${state.y}`, ".4f"),
    { field: "color", title: look.color.title }, ...(state.marker && state.marker !== state.color ? [{ field: "marker", title: look.shape.title }] : [])];
  const isFollowed = "followed === '' || datum.run === followed";
  let panels = 0;
  const panel = (across, up, width, height, below = []) => ({
    width, height, layer: [...below,
      { params: [{ name: `zoom${panels++}`, select: { type: "interval", zoom: "wheel![event.ctrlKey || event.shiftKey]" }, bind: "scales" }], mark: { type: "point", filled: true, clip: true, cursor: "pointer" },
        encoding: { x: across, y: up, ...look, tooltip, opacity: { condition: { test: isFollowed, value: 0.75 }, value: 0.08 },
          size: { condition: { test: "datum.last", value: 60 }, value: 20 } } },
      { transform: [{ filter: "datum.run === followed" }], mark: { type: "line", clip: true, strokeWidth: 1.5, point: false, color: state.ink, tooltip: null },
        encoding: { x: across, y: up, order: { field: "step" } } }] });
  const below = [], hue = { field: "color", type: "nominal", scale: look.color.scale, legend: look.color.legend, title: look.color.title };
  const traces = traceRows(study, state);
  if (traces.length) {
    const data = { values: traces };
    below.push({ data, mark: { type: "area", opacity: { expr: "band ? 0.18 : 0" }, clip: true, tooltip: null }, encoding: { x: { ...x }, y: { ...y, field: "low" }, y2: { field: "high" }, detail: { field: "name" }, color: hue } });
    below.push({ data, mark: { type: "line", opacity: { expr: "band ? 1 : 0" }, strokeWidth: 1.6, clip: true, tooltip: null }, encoding: { x, y, detail: { field: "name" }, color: hue } });
  }
  const held = state.held_out ? predictionRows(study, state, points) : [];
  if (held.length) {
    const data = { values: held };
    const tip = [{ field: "run" }, ...["measured", "predicted", "low", "high"].map((name) => number(name, name, ".4f"))];
    below.push({ data, mark: { type: "rule", clip: true }, encoding: { x, y: { ...y, field: "low" }, y2: { field: "high" }, color: { value: state.ink } } });
    below.push({ data, mark: { type: "tick", orient: "horizontal", clip: true, size: 12, thickness: 2 }, encoding: { x, y: { ...y, field: "predicted" }, color: { value: state.ink }, tooltip: tip } });
  }
  const room = state.width - 150;
  const [wide, small] = state.narrow ? [state.width - 70, 170] : [Math.round(room * 0.62), 165];
  const side = state.narrow ? wide : Math.round(room * 0.38);
  const main = panel(x, y, wide, state.narrow ? 280 : 410, below);
  const others = [panel(scale, y, side, small), panel(scale, x, side, small)];
  return {
    data: { name: "points", values: drawn }, params: [{ name: "followed", value: state.run }, { name: "band", value: state.band }],
    description: summary(study, state, points, drawn),
    ...(state.narrow ? { vconcat: [main, ...others] } : { hconcat: [main, { vconcat: others }] }),
    config: { background: "transparent", view: { stroke: null }, font: "Inter, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif",
      axis: { labelColor: state.ink, titleColor: state.ink, gridColor: state.rule, domainColor: state.ink, tickColor: state.ink, titleFontWeight: "normal" },
      legend: { labelColor: state.ink, titleColor: state.ink, symbolOpacity: 1, symbolBaseFillColor: state.ink, symbolBaseStrokeColor: state.ink } },
  };
}

function summary(study, state, points, drawn) {
  const count = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
  if (!points.length) return `No run has losses on ${state.x} and ${state.y} in ${study.units[state.unit]}, or the filter admits none.`;
  const runs = new Set(points.map((point) => point.run)).size;
  const range = (key) => `${Math.min(...drawn.map((p) => p[key])).toFixed(3)} to ${Math.max(...drawn.map((p) => p[key])).toFixed(3)}`;
  let words = `${count(points.length, "checkpoint")} of ${count(runs, "run")}: loss on ${state.x} ${range("x")}, on ${state.y} ${range("y")} ${study.units[state.unit]}.`;
  if (drawn.length < points.length) words += ` An even share of ${drawn.length.toLocaleString("en")} is drawn.`;
  if (study.left_out) words += ` ${study.left_out.toLocaleString("en")} more checkpoints are only in the table.`;
  const own = points.filter((point) => point.run === state.run);
  if (own.length) words += ` Following ${state.run}: ${count(own.length, "checkpoint")}, last loss ${own.at(-1).x.toFixed(4)} and ${own.at(-1).y.toFixed(4)}.`;
  return words;
}

async function explore() {
  const place = document.getElementById("explorer"), form = document.getElementById("controls");
  const chart = document.getElementById("chart"), shown = document.getElementById("shown");
  if (!place || !window.vegaEmbed || !window.DecompressionStream) return;
  const study = JSON.parse(await inflate(document.getElementById("study").textContent));
  const dark = matchMedia("(prefers-color-scheme: dark)");
  place.hidden = false;
  let view = null, points = [], turn = 0;

  function read() {
    const style = getComputedStyle(document.body), data = Object.fromEntries(new FormData(form));
    return { filter: "", run: "", ...data, band: form.band.checked, held_out: form.held_out.checked, width: place.clientWidth, narrow: place.clientWidth < 640,
      ink: style.getPropertyValue("--ink").trim(), rule: style.getPropertyValue("--rule").trim() };
  }

  async function draw() {
    const mine = ++turn, state = read();
    points = chosenPoints(study, state);
    const drawn = evenShare(points, state.run);
    shown.textContent = summary(study, state, points, drawn);
    view?.finalize();
    view = null;
    chart.replaceChildren();
    if (!points.length) return;
    const made = await vegaEmbed(chart, spec(study, state, points, drawn), { actions: false, renderer: "canvas", tooltip: { theme: dark.matches ? "dark" : "light" } });
    if (mine !== turn) return made.finalize();
    view = made;
    view.view.addEventListener("click", (_, item) => follow(item?.datum?.run ?? ""));
    window.explorerView = view.view;
  }

  // Following needs no new chart: a parameter of the view says which run.
  async function follow(run) {
    form.run.value = run;
    const state = read();
    shown.textContent = summary(study, state, points, evenShare(points, run));
    await view?.view.signal("followed", study.runs.includes(run) ? run : "").runAsync();
  }

  const toggleBand = () => view?.view.signal("band", form.band.checked).runAsync();

  async function saveAs(kind) {
    const { x, y } = read(), name = fileName(`${y}-against-${x}`);
    const columns = ["run", "step", "N", "D", "C", "x", "y"];
    if (kind === "csv") return saveText(`${name}.csv`, csv([["run", "step", "N", "D", "C", `loss on ${x}`, `loss on ${y}`], ...points.map((p) => columns.map((key) => p[key]))]), "text/csv");
    if (!view) return;
    if (kind === "svg") return saveText(`${name}.svg`, await view.view.toSVG(), "image/svg+xml");
    save(`${name}.png`, await view.view.toImageURL("png", 2));
  }

  let waiting;
  const soon = (pause) => { clearTimeout(waiting); waiting = setTimeout(draw, pause); };
  form.addEventListener("submit", (event) => event.preventDefault());
  const actions = { run: () => follow(form.run.value), band: toggleBand, filter: () => soon(80) };
  form.addEventListener("input", (event) => (actions[event.target.name] ?? (() => soon(0)))());
  form.addEventListener("reset", () => setTimeout(draw));
  for (const saver of form.querySelectorAll("[data-save]")) saver.addEventListener("click", () => saveAs(saver.dataset.save));
  dark.addEventListener("change", draw);
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; soon(150); } });
  await draw();
}

explore();
