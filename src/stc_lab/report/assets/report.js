"use strict";
// The page works on what is written in it: figures (plotly), rows of tables, texts to search. Nothing is loaded.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const searchable = JSON.parse(document.getElementById("searchable").textContent);
  const byId = (id) => document.getElementById(id);
  const LEGEND_ROW_PX = 20;
  const phone = window.matchMedia("(max-width: 600px)");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const state = { benchmark: byId("benchmark").value, cost: byId("cost").value, words: [] };

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const matches = (run) => state.words.every((word) => (searchable[run] || "").includes(word));
  const copy = (value) => JSON.parse(JSON.stringify(value));

  function dress(layout) {
    const axis = { gridcolor: color("--line"), zerolinecolor: color("--line"), linecolor: color("--line") };
    const plain = {
      ...layout, modebar: { bgcolor: "rgba(0,0,0,0)", color: color("--muted"), activecolor: color("--accent") },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true,
      font: { color: color("--ink"), family: "system-ui, sans-serif", size: phone.matches ? 11 : 13 },
      hoverlabel: { align: "left", bgcolor: color("--soft"), bordercolor: color("--line"),
                    font: { color: color("--ink"), size: phone.matches ? 10 : 12 } },
    };
    for (const name of Object.keys(plain)) {
      if (/^[xy]axis/.test(name)) plain[name] = { ...axis, ...plain[name] };
    }
    return plain;
  }

  // On a phone a legend has one entry a row: the figure grows by what does not fit below its axis.
  function growForLegend(figure) {
    const names = figure.data.filter((trace) => trace.name && trace.showlegend !== false);
    const grown = 60 + LEGEND_ROW_PX * names.length - figure.layout.margin.b;
    if (!phone.matches || grown <= 0) return;
    figure.layout.margin = { ...figure.layout.margin, b: figure.layout.margin.b + grown };
    figure.layout.height += grown;
  }

  function draw(id, figure) {
    const place = byId(id);
    place.closest("section").hidden = !figure;
    if (!figure) return;
    if (figure.layout.legend) growForLegend(figure);
    const config = {
      responsive: true, displaylogo: false, displayModeBar: phone.matches ? false : "hover",
      modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    };
    Plotly.react(place, figure.data, dress(figure.layout), config);
  }

  // Lines that are always drawn stay; of the others only the points that the filter leaves.
  function drawFrontier() {
    const figure = copy(figures.frontier[state.benchmark]?.[state.cost] ?? null);
    for (const trace of figure?.data ?? []) {
      if (!trace.customdata || trace.meta?.always) continue;
      const kept = trace.customdata.map((run, index) => (matches(run) ? index : -1)).filter((index) => index >= 0);
      if (!kept.length) trace.visible = "legendonly";
      else if (kept.length < trace.customdata.length) trace.selectedpoints = kept;
    }
    draw("frontier", figure);
  }

  // Figures with a row per run: rows that the filter drops are taken out of every trace.
  function drawRows(id, figure) {
    const shown = copy(figure ?? null);
    if (shown) {
      const runs = figures.rows[state.benchmark];
      const kept = runs.map((run, index) => (matches(run) ? index : -1)).filter((index) => index >= 0);
      const take = (values) => kept.map((index) => values[index]);
      for (const trace of shown.data) {
        for (const name of trace.type === "heatmap" ? ["z", "y", "customdata"] : ["x", "y"]) {
          trace[name] = take(trace[name]);
        }
      }
      shown.layout.height -= figures.row_height * (runs.length - kept.length);
    }
    draw(id, shown);
  }

  function drawAll() {
    const of = (name) => figures[name][state.benchmark];
    drawFrontier();
    drawRows("tasks", of("tasks"));
    drawRows("stages-frame", of("stages_frame"));
    drawRows("stages-question", of("stages_question"));
  }

  function showRows() {
    const baseline = byId("baseline")?.value;
    for (const row of document.querySelectorAll("[data-run]")) {
      const here = !row.dataset.benchmark || row.dataset.benchmark === state.benchmark;
      const chosen = !row.dataset.baseline || row.dataset.baseline === baseline;
      row.hidden = !(here && chosen && matches(row.dataset.run));
    }
    const shown = document.querySelectorAll("#runs tbody tr:not([hidden])").length;
    byId("count").textContent = `${shown} runs shown`;
  }

  function update() {
    showRows();
    drawAll();
  }

  // Empty cells go last, whichever way the column is sorted.
  function compare(left, right, sign) {
    if (left === right) return 0;
    if (left === "") return 1;
    if (right === "") return -1;
    const [a, b] = [Number(left), Number(right)];
    return sign * (Number.isNaN(a) || Number.isNaN(b) ? left.localeCompare(right) : a - b);
  }

  function sortTable(header) {
    const table = header.closest("table");
    const ascending = header.getAttribute("aria-sort") !== "ascending";
    const column = [...header.parentNode.children].indexOf(header);
    const key = (row) => row.children[column].dataset.value ?? row.children[column].textContent.trim();
    const rows = [...table.tBodies[0].rows].sort((a, b) => compare(key(a), key(b), ascending ? 1 : -1));
    table.tBodies[0].append(...rows);
    for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  }

  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => sortTable(button.closest("th")));
  }
  for (const name of ["benchmark", "cost"]) {
    byId(name).addEventListener("change", (event) => { state[name] = event.target.value; update(); });
  }
  byId("baseline")?.addEventListener("change", showRows);
  byId("filter").addEventListener("input", (event) => {
    state.words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    update();
  });
  byId("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    drawAll();
  });
  dark.addEventListener("change", drawAll);
  phone.addEventListener("change", drawAll);
  update();
  document.documentElement.dataset.ready = "true";
})();
