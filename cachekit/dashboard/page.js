// The page of `cachekit dashboard`. Whatever the server sends is put in as text, never as markup.
"use strict";

const SPAN = 300; // seconds that the charts show at most
const SHORTEST = 30; // and at least
const TIERS = ["memory", "redis", "file"];
const NONE = "\u2013";
const HEIGHT = 170;
const EDGE = { left: 54, right: 6, top: 8, bottom: 18 };

const moments = [];
let paused = false;
let cursor = null; // seconds before the newest moment, or null

const $ = (id) => document.getElementById(id);

function element(name, text = "", classes = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (classes) made.className = classes;
  return made;
}

function drawing(name, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

// -- numbers ------------------------------------------------------------------------------------------

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

function count(number) {
  if (number == null) return NONE;
  if (number >= 1e6) return (number / 1e6).toPrecision(3) + "M";
  if (number >= 1e5) return (number / 1e3).toPrecision(3) + "k";
  if (number > 0 && number < 10 && !Number.isInteger(number)) return number.toFixed(1);
  return grouped.format(number);
}

const rate = (number) => (number == null ? NONE : count(number) + "/s");
const share = (number) => (number == null ? NONE : (100 * number).toFixed(1) + "%");

function bytes(number) {
  if (number == null) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (number >= 1024 && unit < units.length - 1) {
    number /= 1024;
    unit += 1;
  }
  return (unit && number < 100 ? number.toFixed(1) : grouped.format(number)) + " " + units[unit];
}

function duration(seconds) {
  if (seconds == null) return NONE;
  if (seconds < 0) return "over 86 s"; // beyond the last bucket
  if (seconds >= 1) return seconds.toPrecision(3) + " s";
  if (seconds >= 1e-3) return (seconds * 1e3).toPrecision(3) + " ms";
  return (seconds * 1e6).toPrecision(3) + " \u00b5s";
}

function span(seconds) {
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]])
    if (seconds >= 2 * length) return Math.round(seconds / length) + " " + unit;
  return Math.max(0, Math.round(seconds)) + " s";
}

// -- charts -------------------------------------------------------------------------------------------

const tier = (moment, name) => moment.tiers.find((one) => one.tier === name);
const ofTier = (name, key) => (moment) => tier(moment, name)?.[key] ?? null;
const removed = (cause) => (moment) =>
  moment.tiers.reduce((sum, one) => (one[cause] == null ? sum : (sum ?? 0) + one[cause]), null);

const CHARTS = [
  {
    title: "Requests, by the tier that served them", format: rate, stacked: true,
    series: [
      ...TIERS.map((name, number) => [name, ofTier(name, "hits"), number]),
      ["missed", (moment) => moment.misses, 3],
    ],
  },
  {
    title: "Hit rate", format: share, most: 1,
    series: [
      ["requests", (moment) => moment.hit_rate, 4],
      ...TIERS.map((name, number) => [name, ofTier(name, "hit_rate"), number]),
    ],
  },
  {
    title: "Load duration", format: duration,
    series: [["median", (moment) => moment.load_p50, 0], ["99 of 100", (moment) => moment.load_p99, 1]],
  },
  {
    title: "Entries removed, by cause", format: rate, stacked: true,
    series: ["evicted", "expired", "invalidated", "deleted"].map((cause, number) => [cause, removed(cause), number]),
  },
];

function shownSeries(chart) {
  // A tier that the cache does not have needs no line. A tier has one colour in all charts.
  return chart.series
    .map(([name, value, number]) => ({ name, value, number }))
    .filter(({ name }) => !TIERS.includes(name) || moments.some((moment) => tier(moment, name)));
}

function shownSpan() {
  if (!moments.length) return SPAN;
  return Math.min(SPAN, Math.max(SHORTEST, moments[moments.length - 1].time - moments[0].time));
}

function rounded(most) {
  if (!(most > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= most * 0.999);
}

function draw(chart) {
  const { svg, legend } = chart.parts;
  const width = Math.max(200, svg.clientWidth);
  const series = shownSeries(chart);
  const newest = moments.length ? moments[moments.length - 1].time : 0;
  const left = EDGE.left, right = width - EDGE.right, top = EDGE.top, bottom = HEIGHT - EDGE.bottom;
  const length = shownSpan();
  const x = (moment) => right - ((newest - moment.time) / length) * (right - left);
  const layers = moments.map((moment) => {
    let below = 0;
    return series.map(({ value }) => {
      const number = value(moment);
      if (!chart.stacked) return [0, number];
      const from = below;
      below += Math.max(0, number ?? 0);
      return [from, number == null ? null : below];
    });
  });
  const numbers = layers.flat().map(([, to]) => to).filter((to) => to != null);
  const most = chart.most ?? rounded(Math.max(0, ...numbers));
  const y = (number) => bottom - (Math.min(Math.max(number, 0), most) / most) * (bottom - top);

  const drawn = [];
  for (const part of [0, 0.5, 1]) {
    drawn.push(drawing("line", { x1: left, x2: right, y1: y(part * most), y2: y(part * most), class: "grid" }));
    drawn.push(drawing("text", { x: left - 6, y: y(part * most) + 4, "text-anchor": "end" }, part ? chart.format(part * most) : "0"));
  }
  drawn.push(drawing("text", { x: left, y: HEIGHT - 4 }, span(length) + " ago"));
  drawn.push(drawing("text", { x: right, y: HEIGHT - 4, "text-anchor": "end" }, "now"));
  series.forEach(({ number }, index) => {
    let path = "", area = [];
    const close = () => {
      if (chart.stacked && area.length > 1) {
        const points = [...area.map(([at, , to]) => [at, to]), ...area.reverse().map(([at, from]) => [at, from])];
        drawn.push(drawing("path", { d: "M" + points.map((point) => point.join(" ")).join("L") + "Z", class: `area line${number}` }));
      }
      area = [];
    };
    moments.forEach((moment, at) => {
      const [from, to] = layers[at][index];
      // A gap: no figure, or no look for a while.
      if (to == null || (at && moment.time - moments[at - 1].time > 5)) close();
      if (to == null) return;
      const move = !path || (at && (layers[at - 1][index][1] == null || moment.time - moments[at - 1].time > 5));
      path += `${move ? "M" : "L"}${x(moment).toFixed(1)} ${y(to).toFixed(1)}`;
      area.push([x(moment).toFixed(1), y(from).toFixed(1), y(to).toFixed(1)]);
    });
    close();
    if (path && !chart.stacked) drawn.push(drawing("path", { d: path, class: `line${number}` }));
  });
  let shown = moments[moments.length - 1];
  if (cursor !== null && moments.length) {
    shown = moments.reduce((best, one) =>
      Math.abs(newest - one.time - cursor) < Math.abs(newest - best.time - cursor) ? one : best);
    drawn.push(drawing("line", { x1: x(shown), x2: x(shown), y1: top, y2: bottom, class: "cursor" }));
  }
  svg.replaceChildren(...drawn);
  legend.replaceChildren(...series.map(({ name, value, number }) => {
    const entry = element("span");
    const figure = shown ? value(shown) : null;
    entry.append(element("span", "", `key key${number}`), name + " ", element("b", chart.format(figure)));
    return entry;
  }));
  if (cursor !== null && shown) legend.append(element("span", span(newest - shown.time) + " ago"));
  const said = [...legend.children].map((entry) => entry.textContent);
  svg.setAttribute("aria-label", chart.title + ": " + said.join(", "));
}

function makeCharts() {
  for (const chart of CHARTS) {
    const figure = element("div", "", "chart");
    const svg = drawing("svg", { role: "img", tabindex: "0" });
    const legend = element("div", "", "legend");
    figure.append(element("h2", chart.title), legend, svg);
    $("charts").append(figure);
    chart.parts = { svg, legend };
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const part = (event.clientX - box.left - EDGE.left) / (box.width - EDGE.left - EDGE.right);
      cursor = (1 - Math.min(1, Math.max(0, part))) * shownSpan();
      CHARTS.forEach(draw);
    });
    svg.addEventListener("pointerleave", () => point(null));
    svg.addEventListener("blur", () => point(null));
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: 5, ArrowRight: -5 }[event.key];
      if (event.key === "Escape") point(null);
      if (!step) return;
      event.preventDefault();
      point(Math.min(shownSpan(), Math.max(0, (cursor ?? 0) + step)));
    });
  }
}

function point(at) {
  cursor = at;
  CHARTS.forEach(draw);
}

// -- tiles and tables ---------------------------------------------------------------------------------

function tiles(moment) {
  const memory = tier(moment, "memory"), lower = moment.tiers.filter((one) => one.tier !== "memory");
  const tile = (label, value, more) => {
    const made = element("div", "", "tile");
    made.append(element("div", label, "label"), element("div", value, "value"), element("div", more, "more"));
    return made;
  };
  return [
    tile("Requests", rate(moment.requests), count(moment.totals.requests) + " in all"),
    tile("Hit rate", share(moment.hit_rate), share(moment.totals.hit_rate) + " of all time"),
    tile("Loads", rate(moment.loads), count(moment.totals.loads) + " in all, " + count(moment.totals.load_errors) + " failed"),
    tile("Load duration", duration(moment.load_p99), "99 of 100 take no longer"),
    tile("Memory", bytes(memory?.size), memory?.size_limit ? "of " + bytes(memory.size_limit) : count(memory?.entries) + " entries"),
    ...lower.map((one) => tile(one.tier === "file" ? "Files" : "Redis", one.up ? bytes(one.size) : "out",
      one.up ? (one.size_limit ? "of " + bytes(one.size_limit) : count(one.entries) + " entries")
        : count(one.pending) + " invalidations pending")),
    ...(moment.prefetches ? [tile("Prefetched", count(moment.prefetches.begun), count(moment.prefetches.hit) + " used, "
      + count(moment.prefetches.late) + " late, " + count(moment.prefetches.wasted) + " wasted")] : []),
  ];
}

function table(id, header, rows) {
  const head = element("tr");
  head.append(...header.map((name) => {
    const cell = element("th", name);
    cell.scope = "col";
    return cell;
  }));
  const thead = element("thead"), tbody = element("tbody");
  thead.append(head);
  tbody.append(...rows.map((cells) => {
    const row = element("tr");
    row.append(...cells.map((cell) => (cell instanceof Node ? cell : element("td", cell))));
    return row;
  }));
  $(id).replaceChildren(thead, tbody);
}

function used(number, limit) {
  const cell = element("td", bytes(number) + (limit ? " of " + bytes(limit) : ""));
  if (limit) {
    const meter = element("meter");
    meter.max = limit;
    meter.value = number ?? 0;
    meter.setAttribute("aria-label", share((number ?? 0) / limit) + " used");
    cell.append(meter);
  }
  return cell;
}

function tables(moment) {
  table("tiers",
    ["", "state", "lookups", "hit rate", "median", "99 of 100", "entries", "size", "evicted", "expired", "invalidated", "errors", "outages"],
    moment.tiers.map((one) => [
      one.tier,
      element("td", one.up ? "up" : one.pending ? `out, ${count(one.pending)} pending` : "out", one.up ? "" : "critical"),
      rate(one.lookups), share(one.hit_rate), duration(one.p50), duration(one.p99),
      count(one.entries) + (one.entries_limit ? " of " + count(one.entries_limit) : ""),
      used(one.size, one.size_limit),
      rate(one.evicted), rate(one.expired), rate(one.invalidated), rate(one.errors), count(one.outages),
    ]));
  table("processes",
    ["", "pid", "requests", "hit rate", "loads", "memory", "caches", "age", "seen", "health"],
    moment.processes.map((one) => [
      one.program, String(one.pid), rate(one.requests), share(one.hit_rate), rate(one.loads), bytes(one.size),
      count(one.caches), span(moment.time - one.started), span(moment.time - one.written) + " ago",
      element("td", one.status, one.status),
    ]));
}

function sizes(moment) {
  $("sizes-section").hidden = !moment.sizes.length;
  table("sizes", ["", "hit rate in memory", "give or take", "against now", "lookups"],
    moment.sizes.flatMap((one) => {
      const shown = one.unit === "bytes" ? bytes : (number) => count(number) + " entries";
      const now = one.rates.find((other) => other.size === one.size);
      return one.rates.map((other) => [
        element("td", shown(other.size) + (other === now ? " (now)" : ""), other === now ? "now" : ""),
        share(other.rate), share(other.plus_minus), now && other !== now ? points(other.rate - now.rate) : "",
        other === now ? count(one.requests) : "",
      ]);
    }));
}

function points(difference) {
  return (difference < 0 ? "\u2212" : "+") + (100 * Math.abs(difference)).toFixed(1) + " points";
}

function reasons(moment) {
  return moment.reasons.map((one) => {
    const made = element("div", "", "reason " + one.status);
    const times = one.count > 1 ? ` (${count(one.count)} processes)` : "";
    made.append(element("b", one.message + times), element("span", one.remedy));
    return made;
  });
}

function show() {
  const moment = moments[moments.length - 1];
  if (!moment) return;
  const empty = !moment.processes.length && !moment.ended;
  $("live").hidden = false;
  $("live").className = empty ? "empty" : "";
  $("state").textContent = empty ? "waiting" : moment.status;
  $("state").className = empty ? "pill" : "pill " + moment.status;
  const one = moment.processes.length === 1 ? "1 process" : count(moment.processes.length) + " processes";
  $("processes-line").textContent = one + (moment.ended ? `, ${count(moment.ended)} ended` : "");
  document.title = `${moment.status === "healthy" ? "" : "\u26a0 "}${share(moment.hit_rate)} cachekit`;
  $("empty").hidden = !empty;
  $("reasons").replaceChildren(...reasons(moment));
  $("tiles").replaceChildren(...tiles(moment));
  tables(moment);
  sizes(moment);
  CHARTS.forEach(draw);
}

// -- figures from the server --------------------------------------------------------------------------

function add(more) {
  const newest = more[more.length - 1], shown = moments[moments.length - 1];
  // The clock of the host was set back.
  if (newest && shown && newest.time < shown.time) moments.length = 0;
  for (const moment of more) {
    const last = moments[moments.length - 1];
    if (!last || moment.time > last.time) moments.push(moment);
  }
  while (moments.length > 1 && moments[0].time < moments[moments.length - 1].time - SPAN) moments.shift();
  if (!paused) show();
}

function lost(text) {
  $("state").textContent = text;
  $("state").className = "pill critical";
}

async function poll() {
  try {
    const answer = await fetch("figures");
    if (answer.ok) add(await answer.json());
    else lost(answer.status === 401 || answer.status === 403 ? "not allowed any more" : "no figures");
  } catch {
    lost("no connection");
  }
  setTimeout(poll, 2000);
}

function listen() {
  const events = new EventSource("events");
  let opened = false;
  events.onopen = () => { opened = true; };
  events.onmessage = (event) => add(JSON.parse(event.data));
  events.onerror = () => {
    if (opened && events.readyState !== EventSource.CLOSED) {
      lost("no connection"); // it tries again by itself
      return;
    }
    events.close(); // a server without streams
    poll();
  };
}

function pause() {
  paused = !paused;
  $("pause").textContent = paused ? "Go on" : "Pause";
  $("pause").setAttribute("aria-pressed", String(paused));
  if (!paused) show();
}

makeCharts();
$("pause").addEventListener("click", pause);
document.addEventListener("keydown", (event) => {
  if (event.key === " " && event.target === document.body) {
    event.preventDefault();
    pause();
  }
});
window.addEventListener("resize", () => CHARTS.forEach(draw));
listen();
